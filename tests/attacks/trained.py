"""A small model trained with the program's own kernels, in secret bases that turn, and what every member had of it.

Three stages, one replica each, on source text of Python's standard library. Each epoch ends with a turn. What is kept
is what an attacker may have stolen: all stages' states after each epoch. Bridges belong to the stage that applies them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from interlock.kernels import basis, muon
from interlock.kernels.errors import Overflow
from interlock.kernels.initial import initial_state
from interlock.kernels.stage import Stage
from interlock.kernels.state import Int32, StageShape, StageState
from interlock.protocols import corpus

Float32: TypeAlias = npt.NDArray[np.float32]
Float64: TypeAlias = npt.NDArray[np.float64]
Int64: TypeAlias = npt.NDArray[np.int64]

STAGES = 3


@dataclass(frozen=True)
class Size:
    """How large the model is and how long it learns: `epochs` of `rounds`, `rows` texts of `context` bytes a round."""

    width: int = 64
    context: int = 64
    rows: int = 16
    rounds: int = 60
    epochs: int = 3
    rate: float = 0.02

    @property
    def shapes(self) -> list[StageShape]:
        """One of each stage."""
        common: dict[str, Any] = dict(width=self.width, heads=4, layers=1, hidden=2 * self.width)
        return [StageShape(**common, first=i == 0, last=i == STAGES - 1) for i in range(STAGES)]


FULL = Size()
SHORT = Size(width=32, context=48, rows=16, rounds=40)


@dataclass(frozen=True)
class Epoch:
    """All stages' states when an epoch ended, and the turns that came after it (None after the last)."""

    states: tuple[StageState, ...]
    turns: tuple[Int32, ...] | None


@dataclass(frozen=True)
class Trained:
    """A finished run. first: states before the first round. loss: of the whole model, nats a byte, held out."""

    size: Size
    text: corpus.Corpus
    first: tuple[StageState, ...]
    epochs: tuple[Epoch, ...]
    loss: float
    unigram: float

    @property
    def tokens(self) -> int:
        """Bytes that the run trained on."""
        return self.size.rounds * self.size.epochs * self.size.rows * self.size.context

    def share(self, loss: float) -> float:
        """What of the distance from knowing bytes' frequencies to the whole model a loss is: 0 to 1, or below 0."""
        return (self.unigram - loss) / (self.unigram - self.loss)


MODULES = (
    "argparse", "difflib", "doctest", "fractions", "heapq", "imaplib", "inspect", "mailbox", "optparse",
    "pickletools", "platform", "plistlib", "shutil", "smtplib", "statistics", "subprocess", "tarfile", "typing",
)  # fmt: skip


@cache
def source_text() -> corpus.Corpus:
    """The source text of some modules of Python's standard library."""
    found = []
    for name in MODULES:
        spec = find_spec(name)
        assert spec is not None and spec.origin is not None
        found += corpus.documents(f"{name}.py", Path(spec.origin).read_bytes())
    return corpus.split(found, validation_bytes=60_000)


def unigram_loss(text: corpus.Corpus) -> float:
    """Nats a byte of knowing only how often each byte occurs."""
    counts = np.bincount(np.frombuffer(text.train, np.uint8), minlength=256) + 1.0
    held = np.bincount(np.frombuffer(text.validation, np.uint8), minlength=256)
    return float(-(held * np.log(counts / counts.sum())).sum() / held.sum())


class Model:
    """Stages in a row, each with its own weights and the bridge that it applies to what it receives."""

    def __init__(
        self, size: Size, states: Sequence[StageState], bridges: Sequence[Float64 | None] | None = None
    ) -> None:
        """bridges: None for the ones in the states."""
        self.size = size
        self.stages = [Stage(shape, context=size.context) for shape in size.shapes]
        own = [real_bridge(state) for state in states]
        self.bridges = list(own if bridges is None else bridges)
        for stage, state, bridge in zip(self.stages, states, self.bridges, strict=True):
            stage.load(muon.weights(state), None if bridge is None else bridge.astype(np.float32))

    def loss(self, tokens: Int64, targets: Int64) -> float:
        """Mean nats a byte."""
        stream: Any = tokens
        for stage in self.stages[:-1]:
            stream = stage.evaluate(stream).output
        found = self.stages[-1].evaluate(stream, targets=targets).loss
        assert found is not None
        return found.nats / found.count

    def validate(self, text: corpus.Corpus) -> float:
        """Mean nats a byte over the held-out text."""
        count = min(corpus.window_count(len(text.validation), self.size.context), 384)
        return self.loss(*corpus.batch(text.validation, range(count), self.size.context))

    def gradients(self, tokens: Int64, targets: Int64) -> float:
        """Forward and backward: weight gradients stay in the stages; gives the mean loss."""
        source: Any = tokens
        forwards = []
        for stage in self.stages:
            forwards.append(stage.forward(source, targets=targets if stage.shape.last else None))
            source = forwards[-1].output
        loss = forwards[-1].loss
        assert loss is not None
        gradient = self.stages[-1].backward(forwards[-1], scale=1.0 / loss.count)
        for stage, forward in zip(self.stages[-2::-1], forwards[-2::-1], strict=True):
            gradient = stage.backward(forward, gradient)
        return loss.nats / loss.count


def real_bridge(state: StageState) -> Float64 | None:
    """A state's bridge as real numbers."""
    return None if state.bridge is None else np.ldexp(state.bridge.astype(np.float64), -basis.BRIDGE_GRID)


def batches(text: corpus.Corpus, size: Size, *, seed: int) -> Any:
    """Endless batches of the training text, drawn with a seed."""
    rng, count = np.random.default_rng(seed), corpus.window_count(len(text.train), size.context)
    while True:
        yield corpus.batch(text.train, rng.integers(0, count, size.rows), size.context)


@cache
def train(size: Size = FULL) -> Trained:
    """Train it."""
    text, states = source_text(), first_states(size)
    first, found, fed = tuple(states), [], batches(text, size, seed=1)
    model = Model(size, states)
    done, total = 0, size.rounds * size.epochs
    for epoch in range(size.epochs):
        for _ in range(size.rounds):
            _load(model, states)
            model.gradients(*next(fed))
            rate = size.rate * min(1.0, 3 * (total - done) / total)
            states = [_step(stage, state, rate) for stage, state in zip(model.stages, states, strict=True)]
            done += 1
        last = epoch == size.epochs - 1
        seeds = [bytes([epoch, i] * 16) for i in range(STAGES)]
        turns = None if last else tuple(basis.quantise_turn(basis.haar(seed, size.width)) for seed in seeds)
        found.append(Epoch(tuple(states), turns))
        if turns is not None:
            states = [
                basis.turn(muon.grow_grids(state), turns[i], turn_before=turns[i - 1] if i else None)
                for i, state in enumerate(states)
            ]
    loss = Model(size, states).validate(text)
    return Trained(size, text, first, tuple(found), loss, unigram_loss(text))


def first_states(size: Size) -> list[StageState]:
    """Every stage's state before the first round, each from seeds of its own group."""
    found = []
    for i, shape in enumerate(size.shapes):
        first = None if shape.first else basis.quantise_bridge(basis.haar(bytes([98, i] * 16), size.width))
        found.append(initial_state(shape, group_seed(i), bridge=first))
    return found


def group_seed(stage: int) -> bytes:
    """The seed of a stage's first weights, which its members drew together."""
    return bytes([119, stage] * 16)


def _load(model: Model, states: Sequence[StageState]) -> None:
    for stage, state in zip(model.stages, states, strict=True):
        bridge = real_bridge(state)
        stage.load(muon.weights(state), None if bridge is None else bridge.astype(np.float32))


def _step(stage: Stage, state: StageState, rate: float) -> StageState:
    """One exact step; exponents that are not known yet are set first, from the same gradients."""
    gradients = stage.gradients()
    stage.clear()
    if any(tensor.sum_exponent is None for tensor in state.tensors.values()):
        state = muon.measure(state, *_summed(state, gradients))
    return muon.step(state, *_summed(state, gradients), rate=rate)


def _summed(state: StageState, gradients: dict[str, Float32], lift: int = 0) -> tuple[dict[str, Int64], dict[str, int]]:
    """Gradient sums and their exponents; what does not fit is lifted, as after a void."""
    known = {name: tensor.sum_exponent for name, tensor in state.tensors.items()}
    exponents = {name: (muon.FIRST_EXPONENT if e is None else e) + lift for name, e in known.items()}
    try:
        return {n: muon.add_sums([muon.encode_sum(g, exponents[n])]) for n, g in gradients.items()}, exponents
    except Overflow as overflow:
        return _summed(state, gradients, lift + overflow.bits + 1)
