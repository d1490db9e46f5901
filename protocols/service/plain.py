"""Train a run's model again in one plain process: same seeds, batches, rates and exact update; no masks, no bases.

Only who knows every stage's seed can do this, so only the demo does, whose nodes disclose theirs. The stages' first
weights live in secret bases, joined by bridges; turned by the product of the bridges before it, each stage lands in
the first one's basis and every bridge becomes the identity. Training is equivariant, so what differs from the run is
rounding: of frames, of turns, and of float32 sums in another order.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.kernels import basis, initial, muon
from interlock.kernels.errors import KernelError
from interlock.kernels.passes import Forward
from interlock.kernels.stage import Stage
from interlock.kernels.state import Int32, StageState

from .. import corpus
from ..errors import Misused
from ..manifest import Manifest
from ..release import Opening, Plan, order_key, tick_key
from .progress import Progress
from .rundir import RunDir, write_whole
from .store import read_rows

Int64 = npt.NDArray[np.int64]


def train(run: RunDir, told: Callable[[int], None] = lambda round: None) -> dict[str, Any]:
    """Replay the rounds of a run's journal; write what came out to the run's `plain.json`, and give it.

    Args:
        told: hears the number of each finished round.

    Raises:
        Misused: E730, the nodes of this run did not disclose their seeds; E705.
    """
    manifest = run.manifest()
    progress = Progress(manifest)
    progress.follow(read_rows(run.journal))
    text, _ = run.corpus(manifest)
    model = _Model(manifest, text, _disclosed(run, manifest))
    started = (time.monotonic(), time.process_time())
    apart = [0.0, 0.0]  # wall and CPU seconds of evaluations
    losses, evaluations = [], []
    ticks = sorted([*progress.moved, *(e.tick for e in progress.evaluations)])
    trained = {t.tick: t for t in progress.rounds}
    for tick in ticks:
        opening = progress.openings[tick]
        if opening.plan.kind == "evaluate":
            before = (time.monotonic(), time.process_time())
            evaluations.append(model.evaluate(opening.plan))
            apart[0] += time.monotonic() - before[0]
            apart[1] += time.process_time() - before[1]
        elif opening.plan.kind == "change":
            model.change(opening)
        else:
            loss = model.round(opening.plan)
            if (round := trained.get(tick)) is not None:
                losses.append(loss)
                told(round.round)
    seconds = time.monotonic() - started[0] - apart[0]
    cpu_seconds = time.process_time() - started[1] - apart[1]
    found = {
        "losses": losses,
        "val_losses": evaluations,
        "tokens_per_second": progress.tokens / seconds if seconds else 0.0,
        "cpu_seconds_per_token": cpu_seconds / progress.tokens if progress.tokens else 0.0,
    }
    write_whole(run.plain, json.dumps(found).encode())
    return found


class _Model:
    """All stages in one basis."""

    def __init__(self, manifest: Manifest, text: corpus.Corpus, seeds: list[tuple[bytes, Int32 | None]]) -> None:
        self._manifest, self._text = manifest, text
        self._states = _in_one_basis(manifest, seeds)
        context = manifest.model.context
        self._stages = [Stage(manifest.shape(i), context=context) for i in range(manifest.stages)]
        self._order = np.zeros(0, np.int64)
        self._load()

    def change(self, opening: Opening) -> None:
        """Begin an epoch: its order of the text, and coarser grids where a turn would have asked for them.

        Other members go on from the same state in the same bases.
        """
        if opening.plan.change == "members":
            return
        windows = corpus.window_count(len(self._text.train), self._manifest.model.context)
        self._order = corpus.order(order_key(tick_key(opening)), windows)
        if opening.plan.change == "turn":
            self._states = [muon.grow_grids(state) for state in self._states]
            self._load()

    def round(self, plan: Plan) -> float:
        """Train or measure one round; give its mean loss before the step."""
        manifest, training = self._manifest, self._manifest.training
        nats, tokens = 0.0, 0
        start = (plan.round - plan.epoch * training.epoch_rounds) * training.microbatches * training.rows
        for microbatch in range(training.microbatches):
            first = start + microbatch * training.rows
            numbers = self._order[np.arange(first, first + training.rows) % len(self._order)]
            loss = self._pass(numbers, scale=1.0 / manifest.tokens_per_round)
            nats, tokens = nats + loss[0], tokens + loss[1]
        rate = training.rate_at(plan.round)
        for i, (stage, state) in enumerate(zip(self._stages, self._states, strict=True)):
            self._states[i] = self._step(stage, state, plan, plan.lifts[i], rate)
            stage.clear()
        self._load()
        return nats / tokens

    def evaluate(self, plan: Plan) -> float:
        """The mean loss over the validation text, in the run's windows."""
        rows, nats, tokens = self._manifest.training.rows, 0.0, 0
        for microbatch in range(len(plan.work)):
            numbers = np.arange(microbatch * rows, (microbatch + 1) * rows)
            inputs, targets = corpus.batch(self._text.validation, numbers, self._manifest.model.context)
            stream: Any = inputs
            for stage in self._stages[:-1]:
                stream = stage.evaluate(stream).output
            loss = self._stages[-1].evaluate(stream, targets=targets).loss
            assert loss is not None
            nats, tokens = nats + loss.nats, tokens + loss.count
        return nats / tokens

    def _pass(self, numbers: Int64, *, scale: float) -> tuple[float, int]:
        stream, targets = corpus.batch(self._text.train, numbers, self._manifest.model.context)
        forwards: list[Forward] = []
        values: Any = stream
        for stage in self._stages:
            forwards.append(stage.forward(values, targets=targets if stage.shape.last else None))
            values = forwards[-1].output
        gradient = self._stages[-1].backward(forwards[-1], scale=scale)
        for stage, forward in zip(self._stages[-2::-1], forwards[-2::-1], strict=True):
            gradient = stage.backward(forward, gradient)
        loss = forwards[-1].loss
        assert loss is not None
        return loss.nats, loss.count

    def _step(self, stage: Stage, state: StageState, plan: Plan, lift: int, rate: float) -> StageState:
        gradients = stage.gradients()
        exponents = {
            name: (muon.FIRST_EXPONENT if t.sum_exponent is None else t.sum_exponent) + lift
            for name, t in state.tensors.items()
        }
        sums = {name: muon.add_sums([muon.encode_sum(g, exponents[name])]) for name, g in gradients.items()}
        if plan.kind == "measure":
            return muon.measure(state, sums, exponents)
        return muon.step(state, sums, exponents, rate=rate)

    def _load(self) -> None:
        for stage, state in zip(self._stages, self._states, strict=True):
            bridge = None if state.bridge is None else np.ldexp(state.bridge, -basis.BRIDGE_GRID).astype(np.float32)
            stage.load(muon.weights(state), bridge)


def _in_one_basis(manifest: Manifest, seeds: list[tuple[bytes, Int32 | None]]) -> list[StageState]:
    """First states, all turned into the first stage's basis.

    Stage i receives x in the basis before it and works with `G_i x`. With A_0 = I and `A_i = A_(i-1) G_i^T`, the turn
    by A_i takes stage i to the first basis: its bridge becomes `A_i G_i A_(i-1)^T = I`.
    """
    d = manifest.model.width
    before, states = np.eye(d), []
    for index, (seed, bridge) in enumerate(seeds):
        state = initial.initial_state(manifest.shape(index), seed, bridge=bridge)
        if bridge is not None:
            turn = before @ np.ldexp(bridge.astype(np.float64), -basis.BRIDGE_GRID).T
            turned = basis.turn(state, basis.quantise_turn(turn), turn_before=None)
            state, before = replace(turned, bridge=basis.quantise_bridge(np.eye(d))), turn
        states.append(state)
    return states


def _disclosed(run: RunDir, manifest: Manifest) -> list[tuple[bytes, Int32 | None]]:
    """Seed and first bridge of every stage, from the nodes' files."""
    found: dict[int, tuple[bytes, Int32 | None]] = {}
    width = manifest.model.width
    try:
        for path in sorted(run.path.glob("node-*/seed.json")):
            found_stage, seed, bridge = _read_seed(path, width)
            found[found_stage] = (seed, bridge)
        return [found[stage] for stage in range(manifest.stages)]
    except (KeyError, ValueError, TypeError, OSError, KernelError) as error:
        raise Misused(
            730,
            f"the seeds of this run's stages are not all known ({type(error).__name__}: {error})",
            todo="Only a run whose nodes disclose their seeds can be compared: interlock demo",
        ) from None


def _read_seed(path: Path, width: int) -> tuple[int, bytes, Int32 | None]:
    values = json.loads(path.read_text())
    bridge = bytes.fromhex(values["bridge"])
    matrix = np.frombuffer(bridge, "<i4").astype(np.int32).reshape(width, width) if bridge else None
    return int(values["stage"]), bytes.fromhex(values["seed"]), matrix
