"""Options that a dataclass names: one definition makes the dataclass, its options, their defaults and their help."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer


def flatten(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take dataclasses: their fields become options of its own.

    A field is `name: Annotated[type, "help"] = default`, or has a typer option or argument in place of the text; one
    without either is no option and keeps its default.
    """
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if isinstance(parameter.annotation, type) and is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            parameters += _options(parameter.annotation)
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def flat(**given: Any) -> None:
        made = {name: kind(**{o.name: given.pop(o.name) for o in _options(kind)}) for name, kind in groups.items()}
        command(**made, **given)

    del flat.__wrapped__  # typer is to see these parameters, not the command's
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return flat


def _options(kind: type) -> list[inspect.Parameter]:
    found, hints = [], get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        if get_origin(hints[field.name]) is not Annotated:
            continue
        base: Any
        base, option = get_args(hints[field.name])
        if get_origin(base) is Literal:  # another value is a numbered error of the command, like every impossible one
            base = type(get_args(base)[0])
        annotation = Annotated[base, typer.Option(help=option) if isinstance(option, str) else option]
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        found.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        )
    return found
