"""A whole run: real roles and the real engine, the same whatever the network does."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tests.protocols.world import World, openings_of, rows_of
from tests.runs import Run, identity, manifest, play, play_zeromq, text

from interlock.kernels import basis, initial, mask_pallas, muon
from interlock.kernels.stage import Stage
from interlock.kernels.stage_jax import Stage as JaxStage
from interlock.protocols import corpus
from interlock.protocols.boundary import Frame, Pass
from interlock.protocols.change import Prepare
from interlock.protocols.coordinator import RunEnded
from interlock.protocols.errors import Failed, InterlockError, Refused
from interlock.protocols.journal import (
    GENESIS,
    Changed,
    Closed,
    Committed,
    Measured,
    Planned,
    Row,
    Voided,
    verify_chain,
)
from interlock.protocols.manifest import Manifest, Model
from interlock.protocols.node import NodeOpened
from interlock.protocols.relay import Carried, RelayOpened
from interlock.protocols.release import Opening, order_key, tick_key, verify_opening
from interlock.protocols.round import Close, Loss, Sum
from interlock.protocols.seat import FrameRead, FrameSent
from interlock.protocols.service.engine import Engine

EVALUATION = ["Planned", "Opened", "Measured"]
CHANGE = ["Planned", "Opened", "Changed"]
ROUND = ["Planned", "Opened", "Closed", "Committed"]
VOID = ["Planned", "Opened", "Voided"]


def names(rows: list[Row]) -> list[str]:
    """What the rows after the joins say."""
    return [name for row in rows if (name := type(row.body).__name__) != "Joined"]


def bodies(rows: list[Row], kind: type[Any]) -> list[Any]:
    """The rows of a kind."""
    return [row.body for row in rows if isinstance(row.body, kind)]


def losses(rows: list[Row]) -> dict[int, dict[int, float]]:
    """Nats a byte by tick and micro-batch."""
    found: dict[int, dict[int, float]] = {}
    for body in (row.body for row in rows):
        records: Any = body.commitments if isinstance(body, Closed) else ()
        records = body.measurements if isinstance(body, Measured) else records
        for loss in (loss for record in records for loss in record.losses):
            assert isinstance(loss, Loss)
            found.setdefault(body.tick, {})[loss.microbatch] = loss.nats / loss.tokens
    return found


def mean(values: dict[int, float]) -> float:
    """The mean loss of a tick."""
    return sum(values.values()) / len(values)


@pytest.fixture(scope="session")
def run() -> Run:
    """The run over the simulated network, everything in order."""
    return play(manifest())


@pytest.fixture(scope="session")
def rows(run: Run) -> list[Row]:
    """Its journal."""
    return rows_of(run.stores["coordinator"].values)


def test_the_journal_holds_the_run_in_order(run: Run, rows: list[Row]) -> None:
    expected = CHANGE + EVALUATION + ROUND + 2 * ROUND + CHANGE + 2 * ROUND + EVALUATION
    assert names(rows) == expected
    coordinator = identity("coordinator").public
    verify_chain(rows, run=run.manifest.run, coordinator=coordinator, previous=GENESIS, number=0)
    plans = [body.plan for body in bodies(rows, Planned)]
    kinds = ["change", "evaluate", "measure", "train", "train", "change", "train", "train", "evaluate"]
    assert [plan.kind for plan in plans] == kinds
    assert [plan.change for plan in plans if plan.change] == ["start", "turn"]
    assert [body.round for body in bodies(rows, Committed)] == [0, 1, 2, 3, 4]
    assert run.seen(RunEnded) == [RunEnded(rounds=4)]


def test_nothing_is_refused_in_an_honest_run(run: Run) -> None:
    assert {name: dict(runner.refused) for name, runner in run.runners.items() if runner.refused} == {}


def test_a_plan_follows_the_last_row_and_starts_from_the_last_committed_base(rows: list[Row]) -> None:
    base: bytes | None = None
    for before, row in pairwise(rows):
        if isinstance(row.body, Planned):
            plan = row.body.plan
            assert plan.head == before.digest
            assert (plan.base.row if plan.base else None) == base
        if isinstance(row.body, Committed | Changed):
            base = row.digest


def test_a_tick_opens_once_and_ticks_rise_by_one(run: Run, rows: list[Row]) -> None:
    opened = openings_of(rows)
    assert list(opened) == list(range(1, 10))
    for opening in opened.values():
        verify_opening(opening, run.manifest)
    for name, events in run.events.items():
        seen = [(e.tick, e.plan) for e in events if isinstance(e, NodeOpened | RelayOpened)]
        if name.startswith(("node", "relay")):
            assert seen == [(tick, opening.plan.digest.hex()) for tick, opening in opened.items()]


def test_no_frame_moves_outside_its_open_tick(run: Run) -> None:
    count = 0
    for events in run.events.values():
        now = 0
        for event in events:
            if isinstance(event, NodeOpened | RelayOpened):
                now = event.tick
            elif isinstance(event, FrameSent | FrameRead | Carried):
                assert event.tick == now
                count += 1
    assert count > 200


def test_every_frame_is_carried_once_and_read_once(run: Run) -> None:
    sent, read, carried = run.seen(FrameSent), run.seen(FrameRead), run.seen(Carried)
    assert sorted(e.header for e in sent) == sorted(e.header for e in read)
    assert len(carried) == len(sent)
    training = [e for e in sent if e.tick == 4]
    assert len(training) == 4 * 2 * 2  # micro-batches, boundaries, directions


def test_replicas_of_a_stage_hold_one_state_after_every_round(rows: list[Row]) -> None:
    stage_of = {who: i for i, group in enumerate(bodies(rows, Changed)[0].members) for who in group}
    states = set()
    for body in bodies(rows, Committed):
        by_stage = {stage: {r.state for r in body.reports if stage_of[r.member] == stage} for stage in range(3)}
        assert [len(found) for found in by_stage.values()] == [1, 1, 1]
        states |= {(stage, state) for stage, found in by_stage.items() for state in found}
    assert len(states) == 5 * 3


def test_losses_fall(rows: list[Row]) -> None:
    first, last = losses(rows)[2], losses(rows)[9]
    assert mean(first) == pytest.approx(np.log(256), abs=0.2)
    assert mean(last) < mean(first) - 0.5


def slow_links(seed: int) -> Any:
    """Each link has a delay of its own, up to two seconds, so that what crosses on two links changes places.

    Within a link order stays, as it does on a connection (a sequence that steps back is refused as a replay). First
    messages keep their order: the draw of the members reads in which order processes joined.
    """

    def verdict(source: bytes, destination: bytes, ordinal: int) -> list[float]:
        if destination == identity("coordinator").public and ordinal == 0:
            return [0.01]
        drawn = hashlib.sha256(b"%d" % seed + source + destination).digest()
        return [0.01 + 2 * int.from_bytes(drawn[:4], "big") / 2**32]

    return verdict


ONE_EPOCH: dict[str, Any] = dict(
    # One epoch: a turn's key reads the hashes of sealed sums, whose nonces are random. All three gates in every
    # opening: which two answer first is the network's choice.
    training=dict(epoch_rounds=4),
    committee=dict(release=3),
)


def results(made: Run) -> list[Any]:
    """What each tick came to: states, seeds and losses; two micro-batches a replica add up in any order."""
    found: list[Any] = []
    journal = rows_of(made.stores["coordinator"].values)
    for body in (row.body for row in journal):
        if isinstance(body, Changed):
            found.append([(p.member, p.state, p.seed) for p in body.prepared])
        elif isinstance(body, Committed):
            found.append([(r.member, r.state) for r in body.reports])
    return [*found, losses(journal)]


def test_the_same_course_over_zeromq(rows: list[Row]) -> None:
    """Real sockets with CURVE, and a worker thread for each process: the journal tells the same story."""
    over = play_zeromq(manifest())
    told = rows_of(over.stores["coordinator"].values)
    assert names(told) == names(rows)
    assert over.seen(RunEnded) == [RunEnded(rounds=4)]
    by_tick = losses(told)
    assert mean(by_tick[max(by_tick)]) < mean(by_tick[min(by_tick)])


def test_slow_links_change_no_result() -> None:
    made = manifest(**ONE_EPOCH)
    expected = play(made)
    assert len(results(expected)) == 7
    for seed in range(2):
        other = play(made, verdict=slow_links(seed))
        assert results(other) == results(expected)
        assert names(rows_of(other.stores["coordinator"].values)) == names(
            rows_of(expected.stores["coordinator"].values)
        )


# -- two libraries -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A run in which one stage has a replica that computes with torch and one that does with JAX."""
    folder = tmp_path_factory.mktemp("mixed")
    return World(manifest(stages=2, relays=1), backends={"node0": "jax"}, disclose=folder).run()


def test_a_torch_and_a_jax_replica_hold_one_state_after_every_round(mixed: World) -> None:
    journal = mixed.rows()
    assert names(journal) == CHANGE + EVALUATION + 3 * ROUND + CHANGE + 2 * ROUND + EVALUATION
    members = bodies(journal, Changed)[0].members
    jax = identity("node0").public
    stage = next(i for i, group in enumerate(members) if jax in group)
    partner = next(who for who in members[stage] if who != jax)
    for kind, found in ((Committed, "reports"), (Changed, "prepared")):
        for body in bodies(journal, kind):
            states = {report.member: report.state for report in getattr(body, found)}
            assert states[jax] == states[partner]
    assert {identity(name).public for name, job, _ in mixed.jobs if isinstance(job, Pass)} >= {jax, partner}
    kinds = {name: type(engine._stage) for name, engine in mixed.engines.items()}
    assert kinds == dict.fromkeys(["node0", "node1", "node2", "node3"], Stage) | {"node0": JaxStage}


# -- other shapes --------------------------------------------------------------------------------------------------

SWIGLU = Model(width=16, heads=2, layers_per_stage=1, hidden=32, mlp="swiglu", context=16)


@pytest.mark.parametrize(
    "changes",
    [
        dict(replicas=1, relays=1, stages=2),
        dict(stages=2, replicas=3, relays=1),
        dict(model=SWIGLU, stages=2, replicas=1, relays=1),
        dict(frame_width=32, frame_fraction=18, stages=2, replicas=1, relays=1),
    ],
    ids=["one-replica", "three-replicas", "swiglu", "wide-frames"],
)
def test_other_shapes_of_a_run_end_too(changes: dict[str, Any]) -> None:
    made = manifest(training=dict(rounds=3), **changes)
    rows = World(made).run().rows()
    assert names(rows) == CHANGE + EVALUATION + 3 * ROUND + CHANGE + ROUND + EVALUATION
    by_tick = losses(rows)
    assert mean(by_tick[max(by_tick)]) < mean(by_tick[2])


def test_gradients_that_do_not_fit_void_the_tick_and_lift_the_exponent() -> None:
    world = World(manifest(training=dict(rounds=2), gradient_exponent=-26)).run()
    rows = world.rows()
    voids = bodies(rows, Voided)
    assert len(voids) == 1
    assert {body.number for body in voids} == {402}
    assert names(rows) == CHANGE + EVALUATION + len(voids) * VOID + 3 * ROUND + EVALUATION
    measures = [body.plan for body in bodies(rows, Planned) if body.plan.kind == "measure"]
    assert [plan.attempt for plan in measures] == list(range(len(voids) + 1))
    for before, after in pairwise(measures):
        assert all(a < b for a, b in zip(before.exponents, after.exponents, strict=True))
        assert (before.base, before.round, before.work) == (after.base, after.round, after.work)


def corrected(world: World, number: int) -> None:
    """Two voids at most, all of this number, and the run goes on."""
    rows = world.run().rows()
    voids = bodies(rows, Voided)
    assert 1 <= len(voids) <= 2
    assert {body.number for body in voids} == {number}
    assert names(rows) == CHANGE + EVALUATION + len(voids) * VOID + 2 * ROUND + EVALUATION


@pytest.mark.parametrize("exponent", [-60, -40])
def test_a_void_or_two_correct_an_exponent_however_wrong(exponent: int) -> None:
    corrected(World(manifest(training=dict(rounds=1), gradient_exponent=exponent)), 402)


@pytest.mark.parametrize("exponent", [-90, -40])
def test_a_void_or_two_correct_the_exponents_of_gradient_sums_too(monkeypatch: Any, exponent: int) -> None:
    monkeypatch.setattr(muon, "FIRST_EXPONENT", exponent)
    corrected(World(manifest(training=dict(rounds=1))), 403)


def test_a_piece_of_work_that_is_voided_five_times_ends_the_run() -> None:
    def not_finite(name: str, engine: Engine, job: Any) -> None:
        if isinstance(job, Sum) and name == "node0":
            raise Refused(401, "a value is not finite")

    world = World(manifest(), before_job=not_finite).run()
    assert names(world.rows()) == CHANGE + EVALUATION + 5 * VOID
    error = world.stopped["coordinator"]
    assert isinstance(error, Failed)
    assert error.number == 320


def test_a_later_run_of_one_world_is_the_same_run(world: World) -> None:
    again = World(world.manifest).run(until=lambda other: bool(other.all_sent(Close)))
    assert bodies(again.rows(), Changed) == bodies(world.rows(), Changed)[:1]


# -- the same model in one process, without frames, masks, replicas or bases ---------------------------------------


def plain_states(world: World) -> list[Any]:
    """The stages' first states in one common basis, that of stage 0."""
    made: Manifest = world.manifest
    assert world.disclose is not None
    found = [json.loads(path.read_text()) for path in sorted(world.disclose.iterdir())]
    shown = {entry["stage"]: entry for entry in found}
    states, total = [], np.eye(made.model.width)
    for stage in range(made.stages):
        width, bridge = made.model.width, None
        if stage:
            bridge = np.frombuffer(bytes.fromhex(shown[stage]["bridge"]), "<i4").reshape(width, width).astype(np.int32)
        state = initial.initial_state(made.shape(stage), bytes.fromhex(shown[stage]["seed"]), bridge=bridge)
        if bridge is not None:
            total = np.ldexp(bridge.astype(np.float64), -basis.BRIDGE_GRID) @ total
            state = basis.turn(state, basis.quantise_turn(total.T), turn_before=None)
        states.append(state)
    return states


def plain_run(world: World) -> dict[int, dict[int, float]]:
    """Its losses, by tick and micro-batch."""
    made, whole, opened = world.manifest, text(), openings_of(world.rows())
    states, width, training = plain_states(world), made.model.width, made.training
    stages = [Stage(made.shape(i), context=made.model.context) for i in range(made.stages)]
    found: dict[int, dict[int, float]] = {}

    def orders(opening: Opening) -> Any:
        key = order_key(tick_key(opened[opening.plan.epoch_tick]))
        return corpus.order(key, corpus.window_count(len(whole.train), made.model.context))

    for tick, opening in opened.items():
        plan = opening.plan
        if plan.change:
            continue
        found[tick] = {}
        for stage, state in zip(stages, states, strict=True):
            stage.clear()
            stage.load(muon.weights(state), None if stage.shape.first else np.eye(width, dtype=np.float32))
        for m in range(len(plan.work)):
            if plan.kind == "evaluate":
                numbers = np.arange(m * training.rows, (m + 1) * training.rows)
                inputs, targets = corpus.batch(whole.validation, numbers, made.model.context)
            else:
                first = (plan.round % training.epoch_rounds) * training.microbatches + m
                numbers = orders(opening)[first * training.rows : (first + 1) * training.rows]
                inputs, targets = corpus.batch(whole.train, numbers, made.model.context)
            passes: list[Any] = []
            values: Any = inputs
            for stage in stages:
                passes.append(stage.forward(values, targets=targets if stage.shape.last else None))
                values = passes[-1].output
            loss = passes[-1].loss
            assert loss is not None
            found[tick][m] = loss.nats / loss.count
            if plan.kind != "evaluate":
                gradient = None
                for stage, kept in zip(reversed(stages), reversed(passes), strict=True):
                    gradient = stage.backward(kept, gradient, scale=1.0 / made.tokens_per_round)
        if plan.kind == "evaluate":
            continue
        for i, stage in enumerate(stages):
            known = {n: t.sum_exponent for n, t in states[i].tensors.items()}
            exponents = {n: muon.FIRST_EXPONENT if e is None else e for n, e in known.items()}
            sums = {n: muon.add_sums([muon.encode_sum(g, exponents[n])]) for n, g in stage.gradients().items()}
            if plan.kind == "measure":
                states[i] = muon.measure(states[i], sums, exponents)
            else:
                states[i] = muon.step(states[i], sums, exponents, rate=training.rate_at(plan.round))
    return found


@pytest.mark.parametrize("name", ["world", "mixed"])
def test_the_run_learns_what_one_process_learns_without_it(name: str, request: pytest.FixtureRequest) -> None:
    world: World = request.getfixturevalue(name)
    ours, plain = losses(world.rows()), plain_run(world)
    assert {tick: set(values) for tick, values in ours.items()} == {t: set(v) for t, v in plain.items()}
    for tick, values in plain.items():
        for m, loss in values.items():
            assert ours[tick][m] == pytest.approx(loss, abs=1e-4), f"tick {tick}, micro-batch {m}"


def test_only_who_asks_for_a_disclosure_gets_one(world: World) -> None:
    assert world.disclose is not None
    assert {path.name for path in world.disclose.iterdir()} == set(world.engines)
    prepares = [job for _, job, _ in world.jobs if isinstance(job, Prepare) and job.change == "start"]
    assert {job.stage for job in prepares} == {0, 1, 2}
    assert not any(isinstance(result, InterlockError) for _, _, result in world.jobs)
    assert world.refused == []
    assert len(world.all_sent(Frame)) > 100


def test_an_evaluation_smaller_than_its_stage_ends() -> None:
    made = manifest(training=dict(rounds=1, epoch_rounds=1, rows=200, decay=0))
    (measured, *_) = bodies(World(made).run().rows(), Measured)
    assert sorted(len(measurement.losses) for measurement in measured.measurements) == [0, 1]


def test_a_run_whose_values_stay_on_the_device_sends_the_same_frames() -> None:
    made = manifest(training=dict(rounds=1, epoch_rounds=1, decay=0))
    nodes = {f"node{i}": "jax" for i in range(made.stages * made.replicas)}

    def frames(world: World) -> list[bytes]:
        return [bytes(sent.blobs[0].data) for sent in world.run().all_sent(Frame)]

    host, device = World(made, backends=nodes), World(made, backends=nodes)
    for engine in device.engines.values():
        engine._boundary = mask_pallas  # as on a device that is not the CPU
    expected = frames(host)
    assert len(expected) > 20
    assert frames(device) == expected
