"""A stage's whole state as bytes, in the safetensors format: what a newcomer gets from a replica of its stage.

    NAME.weight, NAME.momentum (int32), NAME.second (float64, of embedding and head), bridge (int32)

and in the metadata, as decimal numbers, `round` and for each tensor `NAME` its grid, the exponents of its momentum and
of its gradient sums (or "none").

Source: https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import re

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from interlock.kernels.basis import verify_bridge
from interlock.kernels.errors import OutOfRange
from interlock.kernels.state import Int32, StageShape, StageState, TensorState

GRID_MAX, EXPONENT_MAX, ROUND_MAX = 64, 1024, 2**40
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,12}")


def pack(state: StageState) -> bytes:
    """The bytes of a state."""
    arrays: dict[str, npt.NDArray[np.int32] | npt.NDArray[np.float64]] = {}
    told = {"round": str(state.round)}
    if state.bridge is not None:
        arrays["bridge"] = state.bridge
    for name, tensor in state.tensors.items():
        arrays[f"{name}.weight"], arrays[f"{name}.momentum"] = tensor.weight, tensor.momentum
        if tensor.second is not None:
            arrays[f"{name}.second"] = tensor.second
        exponent = "none" if tensor.sum_exponent is None else str(tensor.sum_exponent)
        told[name] = f"{tensor.grid} {tensor.momentum_exponent} {exponent}"
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, metadata=told)


def unpack(data: bytes, shape: StageShape, *, epoch_rounds: int) -> StageState:
    """Read a state strictly.

    Args:
        epoch_rounds: the manifest's: after so many rounds this stage and the one before it turn, and the bridge with
            both.

    Raises:
        OutOfRange: these are not the bytes of a state of this shape.
    """
    try:
        arrays = load(data)
        told = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise OutOfRange(f"not a stage's state: {error}") from None
    specs = shape.tensors()
    if set(told) != {"round", *(spec.name for spec in specs)}:
        raise OutOfRange("a state whose metadata are of another shape")
    d = shape.width
    bridge = None if shape.first else _int32(arrays.pop("bridge", None), "bridge", (d, d))
    round = _number(told["round"], "round", ROUND_MAX)
    if bridge is not None:
        verify_bridge(bridge, turned=2 * max(0, round // epoch_rounds))
    tensors: dict[str, TensorState] = {}
    for spec in specs:
        size, name = (spec.rows, spec.columns), spec.name
        grid, momentum_exponent, exponent = _numbers(told[name], name)
        second = None
        if spec.kind != "matrix":
            second = arrays.pop(f"{name}.second", None)
            if second is None or second.dtype != np.float64 or second.shape != (spec.rows,):
                raise OutOfRange(f"{name}: no second moments, or not {spec.rows}")
            if not np.all(np.isfinite(second) & (second >= 0)):
                raise OutOfRange(f"{name}: a second moment is no positive number")
        tensors[name] = TensorState(
            weight=_int32(arrays.pop(f"{name}.weight", None), f"{name}.weight", size),
            grid=grid,
            momentum=_int32(arrays.pop(f"{name}.momentum", None), f"{name}.momentum", size),
            momentum_exponent=momentum_exponent,
            second=second,
            sum_exponent=exponent,
        )
    if arrays:
        raise OutOfRange(f"a state with arrays of another shape: {sorted(arrays)[:3]}")
    return StageState(shape=shape, round=round, tensors=tensors, bridge=bridge)


def _int32(array: npt.NDArray[np.int32] | None, name: str, shape: tuple[int, int]) -> Int32:
    if array is None or array.dtype != np.int32 or array.shape != shape:
        got = "nothing" if array is None else f"{array.dtype} {array.shape}"
        raise OutOfRange(f"{name}: expected int32 {shape}, got {got}")
    return array


def _numbers(text: str, name: str) -> tuple[int, int, int | None]:
    parts = text.split(" ")
    if len(parts) != 3:
        raise OutOfRange(f"{name}: expected grid and two exponents")
    exponent = None if parts[2] == "none" else _number(parts[2], name, EXPONENT_MAX)
    return _number(parts[0], name, GRID_MAX), _number(parts[1], name, EXPONENT_MAX), exponent


def _number(text: str, name: str, limit: int) -> int:
    if _NUMBER.fullmatch(text) is None or abs(int(text)) > limit:
        raise OutOfRange(f"{name}: expected a number up to {limit}, got {text[:20]!r}")
    return int(text)
