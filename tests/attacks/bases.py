"""What leaked states of one stage show of its secret basis: Procrustes between weights, and a member's own memory."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import numpy as np
from tests.protocols.world import World
from tests.runs import manifest

from interlock.kernels import basis
from interlock.kernels.initial import initial_state
from interlock.kernels.state import StageState
from interlock.protocols.change import Prepare
from interlock.protocols.service.engine import Engine

from . import trained
from .attack import Cost, Found
from .trained import FULL, STAGES, Float64, Model, Size, Trained, real_bridge

FOUND = 0.35  # error of a matrix, from 0 (the matrix itself) to 1 (one that has nothing to do with it)


def vectors(state: StageState) -> Float64:
    """Every vector in a state that turns with the basis, one a row: each tensor scaled to norm 1."""
    found = []
    for spec in state.shape.tensors():
        w = state.tensors[spec.name].weight.astype(np.float64)
        w = w if spec.side == "reads" else w.T
        found.append(w / np.linalg.norm(w))
    return np.concatenate(found)


def procrustes(before: Float64, after: Float64) -> Float64:
    """The orthogonal A that takes rows to rows best: least squares of `before A^T - after`.

    Source: Schönemann, "A generalized solution of the orthogonal Procrustes problem", Psychometrika 31 (1966).
    """
    u, _, vt = np.linalg.svd(after.T @ before)
    turn: Float64 = u @ vt
    return turn


def error(found: Float64, truth: Float64) -> float:
    """How far two orthogonal matrices are apart: 0 if they are equal, about 1 if they were drawn independently."""
    return float(np.linalg.norm(found - truth) / np.sqrt(2 * len(truth)))


def real_turn(run: Trained, epoch: int, stage: int) -> Float64:
    """The turn of a stage at the end of an epoch."""
    turns = run.epochs[epoch].turns
    assert turns is not None
    return np.ldexp(turns[stage].astype(np.float64), -basis.TURN_GRID)


def frame(run: Trained, epoch: int, stage: int) -> Float64:
    """All turns of a stage from the start up to an epoch, as one."""
    found = np.eye(run.size.width)
    for before in range(epoch):
        found = real_turn(run, before, stage) @ found
    return found


def from_the_start(*, public: bool, size: Size = FULL) -> Found:
    """Stages stolen in three different epochs, without bridges, and the start's seeds.

    With the seeds of first weights and first bridges every stage's turns since the start are found from its weights,
    and so are all bridges. A group's seed is known inside the group only: without it there is nothing to compare
    with, and the attacker's own draw stands in.
    """
    run, cost = trained.train(size), Cost()
    stolen = [run.epochs[i].states[i] for i in range(STAGES)]
    with cost.clock():
        seeds = [trained.group_seed(i) if public else bytes([1, i] * 16) for i in range(STAGES)]
        first = [
            initial_state(state.shape, seed, bridge=known.bridge)
            for state, seed, known in zip(stolen, seeds, run.first, strict=True)
        ]
        turns = [procrustes(vectors(a), vectors(b)) for a, b in zip(first, stolen, strict=True)]
        bridges = _bridges(turns, first)
    cost.seen_bytes = sum(state_bytes(state) for state in stolen)
    loss = Model(size, stolen, bridges).validate(run.text)
    best = Model(size, stolen, _bridges([frame(run, i, i) for i in range(STAGES)], run.first)).validate(run.text)
    off = [error(turn, frame(run, i, i)) for i, turn in enumerate(turns)]
    return Found(
        won=max(off) < FOUND and run.share(loss) > 0.5,
        recovered=f"all turns to {max(off):.2f}; loss {loss:.2f} of {best:.2f}"
        if public
        else f"nothing: turns off by {min(off):.2f} of 1; loss {loss:.2f}",
        measures={"largest error": max(off), "loss": loss, "loss with the true bridges": best},
        cost=cost,
        control=None if public else from_the_start(public=True, size=size).won,
    )


def _bridges(turns: Sequence[Float64], first: Sequence[StageState]) -> list[Float64 | None]:
    """`A_i G_i A_(i-1)^T` for every stage, from first bridges and all turns since."""
    found: list[Float64 | None] = [None]
    for i in range(1, len(turns)):
        bridge = real_bridge(first[i])
        assert bridge is not None
        found.append(turns[i] @ bridge @ turns[i - 1].T)
    return found


def state_bytes(state: StageState) -> int:
    """What a stolen state takes, weights only."""
    return sum(tensor.weight.nbytes for tensor in state.tensors.values())


def twice(*, size: Size = FULL) -> Found:
    """One stage stolen in two epochs with a round of training between them: the turn between, for every stage."""
    run, cost, off = trained.train(size), Cost(), []
    for epoch in range(size.epochs - 1):
        for i in range(STAGES):
            states = [run.epochs[e].states[i] for e in (epoch, epoch + 1)]
            cost.seen_bytes += sum(map(state_bytes, states))
            with cost.clock():
                turn = procrustes(*(vectors(state) for state in states))
            off.append(error(turn, real_turn(run, epoch, i)))
    return Found(
        won=max(off) < FOUND,
        recovered=f"the turn between, off by {max(off):.2f} of 1",
        measures={"largest error": max(off)},
        cost=cost,
    )


def recording_member() -> Found:
    """A member in a whole run that keeps its bridge from before a turn, its own turn and its bridge from after.

    `G' = A_D G A_U^T` gives `A_U = G'^T A_D G`. (Its group is sent A_U in the change, too: what it finds is compared
    with that.)
    """
    kept: dict[str, tuple[Float64, Prepare]] = {}

    def keep(name: str, engine: Engine, job: object) -> None:
        if isinstance(job, Prepare) and job.change == "turn" and job.stage > 0:
            assert engine._base is not None
            before = real_bridge(engine._base)
            assert before is not None
            kept[name] = before, job

    world, cost, off = World(manifest(), before_job=keep).run(), Cost(), []
    for name, (before, job) in kept.items():
        base = world.engines[name]._base
        assert base is not None and job.turn is not None and job.turn_before is not None
        after = real_bridge(base)
        assert after is not None
        own, truth = (_shipped(matrix) for matrix in (job.turn, job.turn_before))
        cost.seen_bytes += 3 * before.size * 4
        with cost.clock():
            found = after.T @ own @ before
        off.append(error(found, truth))
    return Found(
        won=max(off) < 1e-5,
        recovered=f"the turn of the stage before, to {max(off):.0e}",
        measures={"largest error": max(off), "members": len(off)},
        cost=cost,
    )


def _shipped(matrix: bytes) -> Float64:
    """A turn as it is sent, as real numbers."""
    whole = np.frombuffer(matrix, "<i4").astype(np.float64)
    width = isqrt(whole.size)
    return np.ldexp(whole, -basis.TURN_GRID).reshape(width, width)
