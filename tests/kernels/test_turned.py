"""Training in bases that turn again and again is the training of the same model in bases that never turn."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from interlock.kernels import basis, muon
from interlock.kernels.errors import Overflow
from interlock.kernels.initial import initial_state
from interlock.kernels.stage import Stage
from interlock.kernels.state import StageShape, StageState

WIDTH, CONTEXT, ROWS = 32, 32, 8
ROUNDS, TURN_EVERY = 60, 5
LARGEST_GAP = 1e-4  # nats a byte

SHAPES = [
    StageShape(width=WIDTH, heads=2, layers=1, hidden=64, first=True),
    StageShape(width=WIDTH, heads=2, layers=1, hidden=64, mlp="swiglu"),
    StageShape(width=WIDTH, heads=2, layers=1, hidden=64, last=True),
]


def text() -> np.ndarray:
    """Real text: a module of the standard library."""
    return np.frombuffer(inspect.getsource(inspect).encode(), np.uint8).astype(np.int64)


def losses(seed: int, *, turned: bool) -> list[float]:
    """Mean loss in nats a byte before each of the rounds' steps."""
    data, rng = text(), np.random.default_rng(seed)
    bridge = basis.quantise_bridge(basis.haar(b"b" * 32, WIDTH))
    states = [initial_state(s, bytes([seed, i] * 16), bridge=None if s.first else bridge) for i, s in enumerate(SHAPES)]
    stages = [Stage(shape, context=CONTEXT) for shape in SHAPES]
    found = []
    for number in range(ROUNDS):
        at = rng.integers(0, len(data) - CONTEXT - 1, ROWS)
        windows = np.stack([data[i : i + CONTEXT + 1] for i in at])
        loss, gradients = train(stages, states, windows[:, :-1], windows[:, 1:])
        found.append(loss)
        for i, gradient in enumerate(gradients):
            states[i] = step(states[i], gradient)
        if turned and number % TURN_EVERY == TURN_EVERY - 1:
            turns = [basis.quantise_turn(basis.haar(bytes([number, i] * 16), WIDTH)) for i in range(len(SHAPES))]
            states = [
                basis.turn(muon.grow_grids(state), turns[i], turn_before=turns[i - 1] if i else None)
                for i, state in enumerate(states)
            ]
    return found


def train(
    stages: list[Stage], states: list[StageState], tokens: np.ndarray, targets: np.ndarray
) -> tuple[float, list[dict[str, np.ndarray]]]:
    """One batch forward and backward through all stages: its mean loss, and every stage's gradients."""
    for stage, state in zip(stages, states, strict=True):
        scaled = None if state.bridge is None else (state.bridge * 2.0**-29).astype(np.float32)
        stage.load(muon.weights(state), scaled)
    source, forwards = tokens, []
    for stage in stages:
        forwards.append(stage.forward(source, targets=targets if stage.shape.last else None))
        source = forwards[-1].output
    loss = forwards[-1].loss
    assert loss is not None
    gradient = stages[-1].backward(forwards[-1], scale=1.0 / loss.count)
    for stage, forward in zip(stages[-2::-1], forwards[-2::-1], strict=True):
        gradient = stage.backward(forward, gradient)
    found = [stage.gradients() for stage in stages]
    for stage in stages:
        stage.clear()
    return loss.nats / loss.count, found


def step(state: StageState, gradients: dict[str, np.ndarray]) -> StageState:
    """The exact step; exponents that are not known yet are set first, from the same gradients."""
    if any(tensor.sum_exponent is None for tensor in state.tensors.values()):
        state = muon.measure(state, *summed(state, gradients))
    return muon.step(state, *summed(state, gradients), rate=0.02)


def summed(
    state: StageState, gradients: dict[str, np.ndarray], lift: int = 0
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Gradient sums and their exponents; what does not fit is lifted, as after a void."""
    known = {name: tensor.sum_exponent for name, tensor in state.tensors.items()}
    exponents = {name: (muon.FIRST_EXPONENT if e is None else e) + lift for name, e in known.items()}
    try:
        return {n: muon.add_sums([muon.encode_sum(g, exponents[n])]) for n, g in gradients.items()}, exponents
    except Overflow as overflow:
        return summed(state, gradients, lift + overflow.bits + 1)


@pytest.mark.parametrize("seed", range(3))
def test_sixty_rounds_in_turning_bases_stay_within_a_ten_thousandth_of_a_nat(seed: int) -> None:
    turned, plain = losses(seed, turned=True), losses(seed, turned=False)
    assert plain[-1] < 0.75 * plain[0], "nothing was learnt, so that nothing could differ"
    gap = max(abs(a - b) for a, b in zip(turned, plain, strict=True))
    print(gap, plain[0], plain[-1])
    assert 0 < gap <= LARGEST_GAP
