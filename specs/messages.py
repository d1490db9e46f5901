"""Random messages of any class: a Hypothesis strategy from the types that a message declares."""

from __future__ import annotations

import functools
import re
from typing import Any

import msgspec
from hypothesis import strategies as st
from msgspec import inspect as mi

LIST_MAX, BYTES_MAX = 3, 40


@functools.cache
def messages(kind: Any) -> st.SearchStrategy[Any]:
    """Instances of a class, or of any in a union, within what its fields allow."""
    return _strategy(mi.type_info(kind))


def _strategy(info: mi.Type) -> st.SearchStrategy[Any]:
    match info:
        case mi.NoneType():
            return st.none()
        case mi.BoolType():
            return st.booleans()
        case mi.IntType(gt=gt, ge=ge, lt=lt, le=le):
            low = ge if ge is not None else gt + 1 if gt is not None else -(2**63)
            high = le if le is not None else lt - 1 if lt is not None else 2**63 - 1
            return st.integers(low, high)
        case mi.FloatType(gt=gt, ge=ge, le=le):
            least = gt if gt is not None else ge
            return st.floats(least, le, exclude_min=gt is not None, allow_nan=False, allow_infinity=False)
        case mi.StrType(min_length=low, max_length=high, pattern=pattern):
            size = BYTES_MAX if high is None else min(high, BYTES_MAX)
            text = st.text(st.characters(codec="utf-8"), min_size=low or 0, max_size=size)
            return text if pattern is None else text.filter(re.compile(pattern).search)
        case mi.BytesType(min_length=low, max_length=high):
            least = low or 0
            size = max(least, BYTES_MAX if high is None else min(high, BYTES_MAX))
            return st.binary(min_size=least, max_size=size)
        case mi.LiteralType(values=values):
            return st.sampled_from(values)
        case mi.VarTupleType(item_type=item, min_length=low, max_length=high):
            size = LIST_MAX if high is None else min(high, LIST_MAX)
            return st.lists(_strategy(item), min_size=low or 0, max_size=max(low or 0, size)).map(tuple)
        case mi.TupleType(item_types=items):
            return st.tuples(*map(_strategy, items))
        case mi.UnionType(types=types):
            return st.one_of(*map(_strategy, types))
        case mi.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: _strategy(field.type) for field in fields})
        case mi.Metadata(type=inner):
            return _strategy(inner)
    raise TypeError(f"no strategy for {type(info).__name__}")


def classes(kinds: Any) -> tuple[type[msgspec.Struct], ...]:
    """The message classes in a union."""
    info = mi.type_info(kinds)
    types = info.types if isinstance(info, mi.UnionType) else (info,)
    return tuple(one.cls for one in types if isinstance(one, mi.StructType))
