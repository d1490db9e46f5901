"""A stage's state as bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from interlock.kernels import basis
from interlock.kernels.errors import KernelError
from interlock.kernels.initial import initial_state
from interlock.kernels.state import StageShape, StageState
from interlock.protocols.service.shard import pack
from interlock.protocols.service.shard import unpack as read

SHAPES = [
    StageShape(width=8, heads=2, layers=1, hidden=16, mlp=mlp, first=first, last=last)  # type: ignore[arg-type]
    for mlp in ("relu2", "swiglu")
    for first, last in ((True, False), (False, False), (False, True))
]


EPOCH_ROUNDS = 10


def unpack(data: bytes, shape: StageShape) -> StageState:
    """Read a state of a run that turns every ten rounds."""
    return read(data, shape, epoch_rounds=EPOCH_ROUNDS)


def state(shape: StageShape, seed: bytes = b"s" * 32) -> StageState:
    """A state as it begins."""
    bridge = None if shape.first else basis.quantise_bridge(basis.haar(seed, shape.width))
    return initial_state(shape, seed, bridge=bridge)


def changed(data: bytes, change: Any) -> bytes:
    """The same bytes with other arrays and metadata."""
    arrays = load(data)
    told = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    change(arrays, told)
    return save(arrays, metadata=told)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_state_comes_back_with_its_digest(shape: StageShape) -> None:
    for seed in (b"a" * 32, b"b" * 32):
        whole = state(shape, seed)
        assert unpack(pack(whole), shape).digest() == whole.digest()


def test_a_bridge_that_was_turned_often_is_as_straight_as_it_can_be() -> None:
    """Turns are on a grid, and what each is off by stays in the bridge."""
    shape = StageShape(width=32, heads=2, layers=1, hidden=16, mlp="relu2", first=False, last=True)
    turned, epochs = state(shape), 60
    for number in range(epochs):
        own, before = (basis.quantise_turn(basis.haar(bytes([number, which]) * 16, shape.width)) for which in range(2))
        turned = basis.turn(turned, own, turn_before=before)
    turned = replace(turned, round=epochs * EPOCH_ROUNDS)
    assert unpack(pack(turned), shape).digest() == turned.digest()
    with pytest.raises(KernelError, match="bridge"):
        unpack(pack(replace(turned, round=0)), shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_state_of_another_shape_is_refused(shape: StageShape) -> None:
    for other in SHAPES:
        if other != shape:
            with pytest.raises(KernelError):
                unpack(pack(state(other)), shape)


def _drop(name: str) -> Any:
    return lambda arrays, told: arrays.pop(name)


WRONG: dict[str, Any] = dict(
    no_weight=_drop("layer0.query.weight"),
    no_momentum=_drop("layer0.up.momentum"),
    no_bridge=_drop("bridge"),
    no_second=_drop("head.second"),
    more=lambda arrays, told: arrays.update(other=np.zeros(3, np.int32)),
    kind=lambda arrays, told: arrays.update({"head.weight": arrays["head.weight"].astype(np.int64)}),
    size=lambda arrays, told: arrays.update({"head.weight": arrays["head.weight"][1:]}),
    bent=lambda arrays, told: arrays.update(bridge=arrays["bridge"] * 2),
    negative=lambda arrays, told: arrays.update({"head.second": arrays["head.second"] - 1}),
    nan=lambda arrays, told: arrays.update({"head.second": arrays["head.second"] * np.nan}),
    no_round=lambda arrays, told: told.pop("round"),
    round=lambda arrays, told: told.update(round="1e3"),
    far=lambda arrays, told: told.update(round=str(2**50)),
    grid=lambda arrays, told: told.update(head="1000 0 none"),
    words=lambda arrays, told: told.update(head="22 0"),
    hole=lambda arrays, told: told.update(head="22  none"),
    stranger=lambda arrays, told: told.update(who="me"),
)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_state_with_one_thing_wrong_is_refused(wrong: str) -> None:
    shape = SHAPES[2]
    with pytest.raises(KernelError):
        unpack(changed(pack(state(shape)), WRONG[wrong]), shape)


@given(st.integers(0, 4000), st.binary(max_size=40))
def test_bytes_that_are_no_state_are_refused_or_another_state(at: int, what: bytes) -> None:
    data = pack(state(SHAPES[2]))
    mangled = data[:at] + what + data[at + len(what) :]
    try:
        unpack(mangled, SHAPES[2])
    except KernelError:
        return
    assert len(mangled) == len(data)
