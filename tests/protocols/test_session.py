"""Sessions: what an asker gets is what the model gives, sealed, and nothing of it stays."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tests.protocols.test_gate import Answering as GateUnderTest
from tests.protocols.test_gate import bodies, rebuilt, replace
from tests.protocols.world import Sent, World
from tests.runs import identity, manifest

from interlock.kernels import fixed, sample
from interlock.protocols.asker import Asked
from interlock.protocols.canonical import encode
from interlock.protocols.coordinator import RunEnded
from interlock.protocols.inquiry import Continuation, Examination
from interlock.protocols.journal import Answered, Voided
from interlock.protocols.node import Forgot
from interlock.protocols.proposal import Propose
from interlock.protocols.round import Sealed
from interlock.protocols.session import Ask, Sampling

GREEDY = Sampling(temperature=0.0, top_p=1.0, seed=7)
PROMPT = b"the quick"


def settle(world: World) -> World:
    """Let everything that is on its way arrive."""
    while world._queue:
        world.step()
    return world


def finished(**changes: Any) -> World:
    """A run that has taken its rounds."""
    made = manifest(training=dict(rounds=2, epoch_rounds=2, decay=0) | changes.pop("training", {}))
    return settle(World(made, **changes).run())


def ask(world: World, inquiry: Any, name: str = "eve") -> World:
    """Play an inquiry to its end."""
    world.ask(name, inquiry)
    for _ in range(200):
        settle(world)
        if name in world.stopped:
            break
        world._ring()
    assert world.stopped.pop(name, "went on") is None
    return settle(world)


def continuation(world: World, length: int, prompt: bytes = PROMPT, sampling: Sampling = GREEDY) -> bytes:
    """What an asker gets."""
    got = bytearray()
    ask(world, Continuation(prompt, length, sampling, world.manifest, told=got.append))
    return bytes(got)


def stages(world: World) -> list[Any]:
    """One replica of every stage."""
    found: dict[int, Any] = {}
    for name, engine in world.engines.items():
        role = world.roles[name]
        stage = next(i for i, group in enumerate(role._opening.plan.members) if role.identity in group)
        found[stage] = engine._stage
    return [found[stage] for stage in sorted(found)]


def crossed(values: Any, world: World) -> Any:
    """What arrives of values on the other side of a boundary."""
    made = world.manifest
    encoded = fixed.encode(values, width=made.frame_width, fraction=made.frame_fraction)
    return fixed.decode(encoded.integers, fraction=made.frame_fraction)


def expected(world: World, prompt: bytes, length: int, sampling: Sampling) -> bytes:
    """The same in one place, with the whole text through every stage at every step."""
    text = bytearray(prompt)
    for position in range(length):
        values: Any = np.frombuffer(bytes(text), np.uint8).astype(np.int64)[None]
        for stage in stages(world):
            values = stage.decode(values, stage.cache(1))
            if stage is not stages(world)[-1]:
                values = crossed(values, world)
        drawn = sample.draw(
            values[0, -1],
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed + length,
            position=position,
        )
        text.append(drawn)
    return bytes(text[len(prompt) :])


@pytest.fixture(scope="module")
def world() -> World:
    """A finished run to ask."""
    return finished()


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=0.8, top_p=0.9, seed=3)], ids=["greedy", "drawn"])
def test_a_text_is_continued_as_the_model_would(world: World, sampling: Sampling) -> None:
    assert continuation(world, 6, sampling=sampling) == expected(world, PROMPT, 6, sampling)


def test_nodes_that_compute_with_jax_continue_a_text_too() -> None:
    jax = finished(backends={f"node{i}": "jax" for i in range(6)})
    assert continuation(jax, 6) == expected(jax, PROMPT, 6, GREEDY)


def test_a_text_that_outgrows_the_context_goes_on(world: World) -> None:
    before = len([row for row in world.rows() if isinstance(row.body, Answered)])
    assert len(continuation(world, 40)) == 40
    assert len([row for row in world.rows() if isinstance(row.body, Answered)]) - before >= 4


def test_a_text_is_scored_as_the_model_would(world: World) -> None:
    text = bytes(range(40, 40 + 16 * 5 + 8))  # whole windows of 16, in twos, and a rest
    told: list[tuple[int, int, float]] = []
    other = b"another text"
    ask(world, Examination([text, other, b"a"], world.manifest, told=lambda *found: told.append(found)))
    assert sum(size for index, size, _ in told if index == 1) == len(other) - 1
    told = [found for found in told if found[0] == 0]
    nats = 0.0
    for start in range(0, len(text) - 1, 16):
        targets = np.frombuffer(text[start + 1 : start + 17], np.uint8).astype(np.int64)[None]
        values: Any = np.frombuffer(text[start : start + 16], np.uint8).astype(np.int64)[None, : targets.shape[1]]
        *before, last = stages(world)
        for stage in before:
            values = crossed(stage.evaluate(values).output, world)
        nats += last.evaluate(values, targets=targets).loss.nats
    assert sum(size for _, size, _ in told) == len(text) - 1
    assert sum(found for _, _, found in told) == pytest.approx(nats, rel=1e-5)


def test_texts_and_answers_travel_sealed_and_stay_nowhere(world: World) -> None:
    prompt, since = b"a secret!", len(world.sent)
    got = continuation(world, 6, prompt=prompt)
    for sent in world.sent[since:]:
        for data in (encode(sent.message), *(bytes(blob.data) for blob in sent.blobs)):
            assert prompt not in data
            assert got not in data
    forgot = {name for name, event in world.events if isinstance(event, Forgot)}
    assert forgot == set(world.engines)
    for name, engine in world.engines.items():
        assert not engine._caches
        assert not engine._chains
        assert world.roles[name]._part is None
    assert all(not world.roles[f"relay{i}"]._kept for i in range(world.manifest.relays))
    assert all(prompt not in value for store in world.stores.values() for value in store.values())


def test_a_byte_costs_one_frame_a_boundary_and_one_sealed_message(world: World) -> None:
    since = len(world.sent)
    continuation(world, 6)
    sent = [s for s in world.sent[since:] if s.source.startswith("node")]
    assert sum(type(s.message).__name__ == "Frame" for s in sent) == 6 * (world.manifest.stages - 1)
    assert sum(isinstance(s.message, Sealed) for s in sent) == 6
    assert not any(type(s.message).__name__ == "Taken" for s in sent)


def test_training_goes_on_between_sessions() -> None:
    world = World(manifest(training=dict(rounds=4, epoch_rounds=2, decay=0)))
    got = bytearray()
    world.ask("eve", Continuation(PROMPT, 60, GREEDY, world.manifest, told=got.append))
    world.run(until=lambda w: any(isinstance(event, RunEnded) for _, event in w.events))
    ended = {row.body.tick: type(row.body).__name__ for row in world.rows() if hasattr(row.body, "tick")}
    kinds = [ended[tick] for tick in sorted(ended)]
    assert kinds.count("Answered") >= 3
    assert not any(a == b == "Answered" for a, b in pairwise(kinds))
    assert kinds.count("Committed") == 5  # the rounds, and the one that measures


@pytest.mark.parametrize(
    "kind", ["Ask", "Queued", "Opening", "Offering", "Offers", "Sealed", "Frame", "Answering", "Over"]
)
def test_what_is_lost_is_said_again(world: World, kind: str) -> None:
    left = [1]

    def change(sent: Sent) -> list[Sent]:
        if type(sent.message).__name__ == kind and left[0]:
            left[0] -= 1
            return []
        return [sent]

    world.change = change
    try:
        assert continuation(world, 6) == expected(world, PROMPT, 6, GREEDY)
    finally:
        world.change = lambda sent: [sent]
    assert left == [0]


def test_an_asker_that_goes_away_stops_nobody(world: World) -> None:
    world.ask("eve", Continuation(PROMPT, 6, GREEDY, world.manifest, told=lambda byte: None), number=10**6)
    before = len(world.seen(Asked))
    while len(world.seen(Asked)) == before:
        world.step() if world._queue else world._ring()
    assert continuation(world, 6) == expected(world, PROMPT, 6, GREEDY)
    assert [row.body.number for row in world.rows() if isinstance(row.body, Voided)][-1:] == [331]


@pytest.mark.parametrize(
    "asked",
    [
        Ask(number=99, shapes=((1, 17),), length=0),
        Ask(number=99, shapes=((3, 16),), length=0),
        Ask(number=99, shapes=((1, 0),), length=0),
        Ask(number=99, shapes=((1, 8),), length=10),
        Ask(number=99, shapes=((2, 8),), length=1),
    ],
)
def test_what_the_model_cannot_read_is_refused(world: World, asked: Ask) -> None:
    continuation(world, 1)
    world.refused.clear()
    world.deliver(Sent("eve", "coordinator", asked))
    settle(world)
    assert [refused.number for _, refused in world.refused] == [321]


# -- what gates make of it -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked() -> dict[int, Propose]:
    """What the gates were asked in a run with two sessions after its end, by tick."""
    world = finished()
    continuation(world, 1)
    continuation(world, 1)
    return {sent.message.plan.tick: sent.message for sent in world.all_sent(Propose) if sent.to == "ada"}


def gate_at(asked: dict[int, Propose], tick: int) -> GateUnderTest:
    """A gate that released every tick before."""
    gate = GateUnderTest(manifest(training=dict(rounds=2, epoch_rounds=2, decay=0)))
    for earlier in range(1, tick):
        gate.release(asked[earlier])
    return gate


def test_gates_release_sessions_and_know_who_may_ask(asked: dict[int, Propose]) -> None:
    first = sorted(asked)[-2]
    plan = asked[first].plan
    assert plan.session is not None
    gate = gate_at(asked, first)
    node, relay, stranger = plan.members[0][0], plan.relays[0], bytes(32)
    for asker in (node, relay, stranger):
        changed = replace(plan, session=replace(plan.session, asker=asker))
        assert gate.again().number(replace(asked[first], plan=changed)) == 318
    for change in (dict(seconds=0), dict(seconds=601), dict(length=100), dict(shapes=((1, 99),))):
        changed = replace(plan, session=replace(plan.session, **change))
        assert gate.again().number(replace(asked[first], plan=changed)) == 321
    assert gate.again().number(replace(asked[first], plan=replace(plan, kind="evaluate"))) == 318
    assert gate.again().number(replace(asked[first], plan=replace(plan, session=None))) == 318
    assert gate.again().number(replace(asked[first], plan=replace(plan, work=plan.work * 2))) == 318
    assert gate.number(asked[first]) == 0


def test_gates_check_who_answered(asked: dict[int, Propose]) -> None:
    *_, first, second = sorted(asked)
    rows = bodies(asked[second])
    (at,) = (i for i, body in enumerate(rows) if isinstance(body, Answered))
    (answer,) = rows[at].answers
    gate = gate_at(asked, second)

    def number(*bodies_then: Any) -> int:
        return gate.again().number(rebuilt(asked[second], [*rows[:at], *bodies_then]))

    assert number(Answered(tick=first, answers=())) == 306
    assert number(Answered(tick=first, answers=(replace(answer, tokens=2),))) == 206
    assert number(Answered(tick=first, answers=(replace(answer, tick=second),))) == 304
    assert number(Answered(tick=second, answers=(answer,))) == 317
    assert number() == 317
    assert number(rows[at], rows[at]) == 317
    assert number(Voided(tick=first, number=331, reason="a session did not end in its time")) == 0
    assert number(rows[at]) == 0


def test_an_asker_cannot_become_a_node() -> None:
    world = World(manifest())
    world.ask("eve", Continuation(PROMPT, 1, GREEDY, world.manifest, told=lambda byte: None))
    world.run(until=lambda w: bool(w.all_sent(Propose)))
    proposal = world.all_sent(Propose)[0].message
    eve = identity("eve").public
    assert eve in {row.body.join.record.identity for row in proposal.rows}
    gate = GateUnderTest(world.manifest)
    candidates = tuple(sorted((eve, *proposal.plan.candidates[1:])))
    assert gate.again().number(replace(proposal, plan=replace(proposal.plan, candidates=candidates))) == 318
    assert gate.number(proposal) == 0
