"""Stolen stages put together again: without bridges, with old ones, and with bridges found in three ways.

What a glued model is worth is its loss on held-out text, between that of knowing only how often each byte occurs
(unigram) and that of the whole model. An attack counts as won when it covers half of that distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from interlock.kernels.stage import Stage
from interlock.kernels.state import StageState
from interlock.protocols import corpus

from . import trained
from .attack import Cost, Found
from .bases import error, procrustes, state_bytes
from .trained import FULL, STAGES, Float32, Float64, Model, Size, Trained, batches, real_bridge

STEPS, TRIES = 10, 32  # of matching two clouds
WON = 0.5  # of the distance from the unigram's loss to the model's


def _found(
    run: Trained, loss: float, what: str, cost: Cost, *, control: bool | None = None, **measures: float
) -> Found:
    share = run.share(loss)
    return Found(
        won=share > WON,
        recovered=f"{what}: loss {loss:.2f} (model {run.loss:.2f}, unigram {run.unigram:.2f})",
        measures={"loss": loss, "share": share, **measures},
        cost=cost,
        control=control,
    )


def _one_epoch(run: Trained) -> list[StageState]:
    return list(run.epochs[-1].states)


def _three_epochs(run: Trained) -> list[StageState]:
    return [run.epochs[i].states[i] for i in range(STAGES)]


def _stolen(states: Sequence[StageState]) -> Cost:
    return Cost(seen_bytes=sum(map(state_bytes, states)))


def sent(stage: Stage, inputs: Any) -> Float32:
    """What a stage that is not the last sends for these inputs."""
    output = stage.evaluate(inputs).output
    assert output is not None
    return output


def everything(*, size: Size = FULL) -> Found:
    """All stages and bridges of one epoch: the model."""
    run = trained.train(size)
    states = _one_epoch(run)
    cost = _stolen(states)
    with cost.clock():
        model = Model(size, states)
    loss = model.validate(run.text)
    return _found(run, loss, "the model", cost)


def different_epochs(*, size: Size = FULL) -> Found:
    """Stages of three epochs, each with the bridge that it had then."""
    run = trained.train(size)
    states = _three_epochs(run)
    cost = _stolen(states)
    with cost.clock():
        model = Model(size, states)
    control = everything(size=size).won
    return _found(run, model.validate(run.text), "worse than no model", cost, control=control)


def no_bridges(*, size: Size = FULL) -> Found:
    """Stages of one epoch without their bridges; tried with none, and with bases matched by the weights alone.

    The weights' guess: the axes along which a stage's output varies most are those that the next stage reads most.
    """
    run = trained.train(size)
    states = _one_epoch(run)
    cost, d = _stolen(states), size.width
    inputs, _ = next(batches(run.text, size, seed=3))
    with cost.clock():
        bridges: list[Float64 | None] = [None]
        model = Model(size, states, [None, *[np.eye(d)] * (STAGES - 1)])
        stream: Any = inputs
        for before, after in zip(model.stages, states[1:], strict=False):
            stream = sent(before, stream)
            read = [_weight(after, t.name) for t in after.shape.tensors() if t.side == "reads" and t.kind == "matrix"]
            bridge = axes(np.concatenate(read)) @ axes(_flat(stream)).T
            bridges.append(bridge)
            stream = (stream @ bridge.T).astype(np.float32)
    cost.tokens = inputs.size
    losses = [model.validate(run.text), Model(size, states, bridges).validate(run.text)]
    control = everything(size=size).won
    return _found(run, min(losses), "worse than no model", cost, control=control, matched=losses[1])


def _weight(state: StageState, name: str) -> Float64:
    tensor = state.tensors[name]
    return np.ldexp(tensor.weight.astype(np.float64), -tensor.grid)


# -- unpaired activations ------------------------------------------------------------------------------------------


def axes(cloud: Float64) -> Float64:
    """The axes of a cloud of rows, by their second moments, each with the sign that makes its skewness positive."""
    _, found = np.linalg.eigh(cloud.T @ cloud)
    found = found[:, ::-1]
    signed: Float64 = found * np.where((((cloud @ found) ** 3).sum(0)) < 0, -1.0, 1.0)
    return signed


@dataclass(frozen=True)
class Turn:
    """A turn of one cloud onto another. rest: mean square distance to the nearest point, of the mean square."""

    matrix: Float64
    rest: float


def align(cloud: Float64, onto: Float64, start: Float64, *, points: int, rng: np.random.Generator) -> Turn:
    """Turn a cloud onto another one of which no point is known to be the same: nearest points, Procrustes, again.

    Source: Besl and McKay, "A method for registration of 3-D shapes", IEEE TPAMI 14 (1992).
    """
    found, rest = start, 0.0
    there = onto[rng.permutation(len(onto))[: 2 * points]].astype(np.float32)
    squares = (there * there).sum(1)
    for _ in range(STEPS):
        here = cloud[rng.permutation(len(cloud))[:points]]
        turned = (here @ found.T).astype(np.float32)
        distances = squares - 2 * turned @ there.T
        nearest = np.argmin(distances, axis=1)
        own = (turned * turned).sum(1)
        rest = float((distances[np.arange(points), nearest] + own).mean() / own.mean())
        found = procrustes(here, there[nearest].astype(np.float64))
    return Turn(found, rest)


def match(cloud: Float64, onto: Float64, *, points: int, rng: np.random.Generator) -> Turn:
    """The best of some turns, each from the axes of half of both clouds; later ones doubt a fifth of the signs."""
    best = Turn(np.eye(cloud.shape[1]), np.inf)
    for number in range(TRIES):
        here, there = (axes(x[rng.permutation(len(x))[: len(x) // 2]]) for x in (cloud, onto))
        doubt = np.where(rng.random(len(here)) < (0.0 if number < 4 else 0.2), -1.0, 1.0)
        best = min(best, align(cloud, onto, (there * doubt) @ here.T, points=points, rng=rng), key=lambda t: t.rest)
        if best.rest < 0.045:
            break
    return align(cloud, onto, best.matrix, points=2 * points, rng=rng)


def _flat(stream: Float32) -> Float64:
    return stream.reshape(-1, stream.shape[-1]).astype(np.float64)


def unpaired(*, size: Size = FULL, windows: int = 600, points: int = 1500) -> Found:
    """Stages of one epoch, and what later stages' members recorded of their inputs on some other text.

    The attacker runs the earlier stages on text of its own. It has two clouds of activations for each boundary, of
    different texts and in different bases, and finds the turn between them.
    """
    run = trained.train(size)
    states = _one_epoch(run)
    cost, d = _stolen(states), size.width
    rng = np.random.default_rng(4)
    order = rng.permutation(corpus.window_count(len(run.text.train), size.context))
    mine, _ = corpus.batch(run.text.train, order[:windows], size.context)
    theirs, _ = corpus.batch(run.text.train, order[windows : 2 * windows], size.context)
    recorded = _inputs(Model(size, states), theirs)
    cost.seen_bytes += sum(cloud.size * 4 for cloud in recorded)
    cost.tokens = mine.size
    off, rough_off = [], []
    bridges: list[Float64 | None] = [None]
    rough: list[Float64 | None] = [None]  # by covariance and skewness alone
    stages = Model(size, states, [None, *[np.eye(d)] * (STAGES - 1)]).stages
    stream: Any = mine
    for i in range(1, STAGES):
        with cost.clock():
            stream = sent(stages[i - 1], stream)
            cloud = _flat(stream)
            bridge = match(cloud, recorded[i - 1], points=points, rng=rng).matrix
            bridges.append(bridge)
            stream = (stream @ bridge.T).astype(np.float32)
        truth = real_bridge(states[i])
        assert truth is not None
        off.append(error(bridge, truth))
        rough.append(by_moments := axes(recorded[i - 1]) @ axes(cloud).T)
        rough_off.append(error(by_moments, truth))
    loss, rough_loss = (Model(size, states, found).validate(run.text) for found in (bridges, rough))
    what = f"bridges off by {max(off):.2f} of 1 (by moments alone {max(rough_off):.2f}, loss {rough_loss:.2f})"
    return _found(run, loss, what, cost, error=max(off), moments_error=max(rough_off), moments_loss=rough_loss)


def _inputs(model: Model, tokens: Any) -> list[Float64]:
    """What each later stage has behind its bridge, in its own basis."""
    found, stream = [], tokens
    for i, stage in enumerate(model.stages[:-1]):
        stream = sent(stage, stream)
        bridge = model.bridges[i + 1]
        assert bridge is not None
        found.append(_flat(stream) @ bridge.T)
    return found


# -- training ------------------------------------------------------------------------------------------------------


@dataclass
class Adam:
    """Kingma and Ba's rule for some arrays, changed in place."""

    arrays: list[Any]
    rate: float

    def __post_init__(self) -> None:
        self._first = [np.zeros_like(a) for a in self.arrays]
        self._second = [np.zeros_like(a) for a in self.arrays]
        self._count = 0

    def step(self, gradients: Sequence[Any]) -> None:
        """One step."""
        self._count += 1
        corrected = 1 - 0.9**self._count, 1 - 0.99**self._count
        for array, g, m, v in zip(self.arrays, gradients, self._first, self._second, strict=True):
            m += 0.1 * (g - m)
            v += 0.01 * (g * g - v)
            array -= self.rate * (m / corrected[0]) / (np.sqrt(v / corrected[1]) + 1e-12)


def stitched(*, different: bool, size: Size = FULL, batches_max: int = 150, every: int = 10) -> Found:
    """Train the bridges alone, on text, from nothing; count the tokens until the model is half won.

    Beside it: what a new model learns from as many tokens, without anything stolen.
    """
    run = trained.train(size)
    states = _three_epochs(run) if different else _one_epoch(run)
    cost, d = _stolen(states), size.width
    bridges = [np.eye(d) for _ in range(STAGES - 1)]
    stages, adam = Model(size, states, [None, *[np.eye(d)] * (STAGES - 1)]).stages, Adam(bridges, 0.03)
    half, tokens = 0, 0
    for number, (inputs, targets) in zip(range(1, batches_max + 1), batches(run.text, size, seed=7), strict=False):
        with cost.clock():
            adam.step(_bridge_gradients(stages, bridges, inputs, targets))
            for bridge in bridges:
                u, _, vt = np.linalg.svd(bridge)
                bridge[:] = u @ vt
        tokens += inputs.size
        if (
            not half
            and number % every == 0
            and run.share(Model(size, states, [None, *bridges]).validate(run.text)) > WON
        ):
            half = tokens
    cost.tokens = tokens
    loss = Model(size, states, [None, *bridges]).validate(run.text)
    what, fresh = "not half the way", 0.0
    if half:
        fresh = trained.train(replace(size, rounds=half // (size.rows * size.context), epochs=1)).loss
        what = f"half the way after {half:,} tokens (a new model: {fresh:.2f}), after {tokens:,}"
    return _found(run, loss, what, cost, tokens_to_half=half, new_model=fresh, tokens_of_the_run=run.tokens)


def _bridge_gradients(stages: list[Stage], bridges: list[Float64], inputs: Any, targets: Any) -> list[Float64]:
    """Gradients of all bridges: all stages have the identity for a bridge and are fed what a bridge gives."""
    outputs: list[Any] = [sent(stages[0], inputs)]
    forwards = []
    for stage, bridge in zip(stages[1:], bridges, strict=True):
        source = (outputs[-1] @ bridge.T).astype(np.float32)
        forwards.append(stage.forward(source, targets=targets if stage.shape.last else None))
        outputs.append(forwards[-1].output)
    gradient: Any = None
    found = []
    for i in reversed(range(len(bridges))):
        stage = stages[i + 1]
        last = stage.shape.last
        gradient = stage.backward(forwards[i], None if last else gradient, scale=1 / targets.size if last else 1.0)
        stage.clear()
        found.append(np.einsum("bti,btj->ij", gradient, outputs[i], dtype=np.float64))
        gradient = (gradient @ bridges[i]).astype(np.float32)
    return found[::-1]


def distilled(*, size: Size = FULL, batches_max: int = 300, rate: float = 0.003) -> Found:
    """Both neighbours of the middle stage record what goes in and what comes out, and train a copy on it."""
    run = trained.train(size)
    states = _one_epoch(run)
    model, cost = Model(size, states), Cost()
    shape = model.stages[1].shape
    rng = np.random.default_rng(6)
    weights = {
        t.name: (rng.standard_normal((t.rows, t.columns)) / np.sqrt(t.columns) / 2).astype(np.float32)
        for t in shape.tensors()
    }
    copy, adam = Stage(shape, context=size.context), Adam(list(weights.values()), rate)
    bridge = np.eye(size.width, dtype=np.float32)
    after = model.bridges[2]
    assert after is not None
    for _, (inputs, _) in zip(range(batches_max), batches(run.text, size, seed=8), strict=False):
        seen = sent(model.stages[0], inputs)
        shown = (sent(model.stages[1], seen) @ after.T).astype(np.float32)  # as the stage after has it
        cost.seen_bytes += 3 * (seen.size + shown.size)
        cost.tokens += inputs.size
        with cost.clock():
            copy.load(weights, bridge)
            copy.clear()
            forward = copy.forward(seen)
            assert forward.output is not None
            guess = (forward.output @ after.T).astype(np.float32)
            copy.backward(forward, ((guess - shown) @ after).astype(np.float32))
            found = copy.gradients()
            adam.step([found[name] for name in weights])
    copy.load(weights, bridge)
    model.stages[1] = copy
    return _found(run, model.validate(run.text), "a copy of the stage between", cost, tokens_of_the_run=run.tokens)
