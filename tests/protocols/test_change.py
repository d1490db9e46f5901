"""A start or a turn is one transaction: all agree on what they share, or nothing moves."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols.world import Sent, World, number_of, openings_of
from tests.runs import identity, manifest

from interlock.protocols.boundary import Pass
from interlock.protocols.change import (
    BoxOffer,
    Offering,
    Offers,
    Prepare,
    Prepared,
    Preparing,
    Rotation,
    combine,
    contribution_commitment,
    make_offer,
    sign_prepared,
    verify_offer,
    verify_prepared,
)
from interlock.protocols.journal import Changed, Planned, Voided
from interlock.protocols.node import GaveUp
from interlock.protocols.release import Opening, draw_members, lead
from interlock.protocols.round import Sealed, Step, Sum
from interlock.vault import Erased

START, TURN = 1, 6
NONE = bytes(32)
replace = msgspec.structs.replace
KEYS = {identity(f"node{i}").public: identity(f"node{i}") for i in range(6)}


class Case:
    """One change of a run."""

    def __init__(self, world: World, tick: int) -> None:
        self.tick, self.opening = tick, openings_of(world.rows())[tick]
        self.members = draw_members(self.opening, world.manifest)
        bodies = [row.body for row in world.rows()]
        self.prepared = next(b.prepared for b in bodies if isinstance(b, Changed) and b.tick == tick)

    def number(self, prepared: tuple[Prepared, ...]) -> int:
        """By which number it is refused."""
        return number_of(lambda: verify_prepared(prepared, self.opening.plan, self.members))

    def of(self, stage: int, index: int = 0) -> Prepared:
        """What a replica of a stage prepared."""
        return next(p for p in self.prepared if p.member == self.members[stage][index])

    def with_changed(self, stages: dict[int, dict[str, Any]], *, replicas: int = 2) -> tuple[Prepared, ...]:
        """As `replicas` of these stages would sign other fields."""
        changed = {who: change for s, change in stages.items() for who in self.members[s][:replicas]}
        run = self.opening.plan.run
        return tuple(
            sign_prepared(replace(p, **changed[p.member]), KEYS[p.member], run) if p.member in changed else p
            for p in self.prepared
        )


@pytest.fixture(scope="module", params=[START, TURN], ids=["start", "turn"])
def case(world: World, request: pytest.FixtureRequest) -> Case:
    """The start, and the turn."""
    return Case(world, request.param)


def test_what_everyone_prepared_verifies_in_any_order(case: Case) -> None:
    assert case.number(case.prepared) == 0
    assert case.number(case.prepared[::-1]) == 0


def test_everyone_prepares_once(case: Case) -> None:
    first, *others = case.prepared
    assert case.number(tuple(others)) == 501
    assert case.number((*case.prepared, first)) == 501
    assert case.number((first, first, *others[1:])) == 501
    assert case.number(()) == 501


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("stage", range(3))
def test_replicas_that_hold_different_secrets_are_refused(case: Case, stage: int, index: int) -> None:
    secrets = list(case.of(stage).secrets)
    secrets[index] = b"x" * 32
    assert case.number(case.with_changed({stage: dict(secrets=tuple(secrets))}, replicas=1)) == 502


@pytest.mark.parametrize("field", ["state", "seed"])
def test_replicas_that_made_different_states_are_refused(case: Case, field: str) -> None:
    assert case.number(case.with_changed({1: {field: b"x" * 32}}, replicas=1)) == 502
    assert case.number(case.with_changed({1: {field: b"x" * 32}})) == 0  # the whole group says so: its own affair


@pytest.mark.parametrize("stage", range(3))
@pytest.mark.parametrize("field", ["secrets", "turns"])
def test_both_groups_at_a_boundary_hold_the_same(case: Case, stage: int, field: str) -> None:
    """A whole group that claims another pair secret or another turn than its neighbour is found out."""
    values, sides = getattr(case.of(stage), field), {"secrets": (1, 2), "turns": (0, 1)}[field]
    for side, boundary in zip(sides, (stage - 1, stage), strict=True):
        other = list(values)
        other[side] = b"x" * 32
        number = case.number(case.with_changed({stage: {field: tuple(other)}}))
        assert number == (502 if 0 <= boundary < 2 else 0)


def test_a_word_changed_on_its_way_or_of_another_tick_is_refused(case: Case) -> None:
    changes: dict[str, Any] = dict(state=NONE[:-1] + b"x", seed=b"x" * 32, turns=(b"x" * 32,) * 2)
    for field, value in changes.items():
        forged = (replace(case.prepared[0], **{field: value}), *case.prepared[1:])
        assert case.number(forged) == 206
    assert case.number(case.with_changed({0: dict(tick=9)}, replicas=1)) == 304


def test_ends_of_the_pipeline_have_no_secret_beyond_them(case: Case) -> None:
    first, last = case.of(0).secrets, case.of(2).secrets
    assert first[1] == last[2] == NONE
    named = {first[0], first[2], last[0], last[1], *case.of(1).secrets}
    assert len(named) == 5  # three groups, two boundaries
    assert NONE not in named


def test_a_start_shows_seeds_and_a_turn_shows_turns(world: World) -> None:
    start, turn = Case(world, START), Case(world, TURN)
    assert all(p.turns == (NONE, NONE) and p.seed != NONE for p in start.prepared)
    assert all(p.seed == NONE for p in turn.prepared)
    assert [turn.of(s).turns[0] == NONE for s in range(3)] == [True, False, False]
    assert [turn.of(s).turns[1] == NONE for s in range(3)] == [False, False, True]


def test_a_turn_deals_all_secrets_anew(world: World) -> None:
    before = {s for p in Case(world, START).prepared for s in p.secrets} - {NONE}
    after = {s for p in Case(world, TURN).prepared for s in p.secrets} - {NONE}
    assert before & after == set()


# -- offers and contributions --------------------------------------------------------------------------------------


def test_a_box_key_serves_its_member_and_its_tick_only() -> None:
    offer = make_offer(identity("node0"), run=b"r" * 32, tick=4, box=b"b" * 32)
    verify_offer(offer, run=b"r" * 32, tick=4)
    assert number_of(lambda: verify_offer(offer, run=b"r" * 32, tick=5)) == 304
    assert number_of(lambda: verify_offer(replace(offer, tick=5), run=b"r" * 32, tick=5)) == 206
    assert number_of(lambda: verify_offer(offer, run=b"s" * 32, tick=4)) == 206
    for field, value in (("box", b"c" * 32), ("member", identity("node1").public), ("signature", bytes(64))):
        changed = replace(offer, **{field: value})
        assert number_of(partial(verify_offer, changed, run=b"r" * 32, tick=4)) == 206


contributions = st.dictionaries(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), min_size=1)


@given(contributions, st.data())
def test_every_contribution_counts_and_their_order_does_not(given_: dict[bytes, bytes], data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(given_.items()))))
    assert combine(shuffled) == combine(given_)
    who = data.draw(st.sampled_from(sorted(given_)))
    flipped = bytes([given_[who][0] ^ 1]) + given_[who][1:]
    assert combine(given_ | {who: flipped}) != combine(given_)


def test_a_commitment_is_bound_to_run_tick_and_member() -> None:
    values = {
        contribution_commitment(run, tick, who, shown)
        for run in (b"r" * 32, b"s" * 32)
        for tick in (1, 2)
        for who in (b"a" * 32, b"b" * 32)
        for shown in (b"x" * 32, b"y" * 32)
    }
    assert len(values) == 16


# -- whole changes -------------------------------------------------------------------------------------------------


def keys_of(job: Prepare) -> dict[str, bytes | None]:
    """What shows which keys a job has, while it has them."""
    pairs = {"before": job.before, "after": job.after}
    shown = {name: None if key is None else key.check(b"unit", b"tau") for name, key in pairs.items()}
    return {"group": job.group.tau(b"unit", b"state", b"inputs"), "seed": job.seed.reveal(), **shown}


@pytest.fixture(scope="module")
def prepares() -> list[tuple[Prepare, dict[str, bytes | None]]]:
    """Every preparation of a run that turns once, with its keys."""
    seen: list[tuple[Prepare, dict[str, bytes | None]]] = []

    def look(name: str, engine: Any, job: Any) -> None:
        if isinstance(job, Prepare):
            seen.append((job, keys_of(job)))

    World(manifest(training=dict(rounds=2, epoch_rounds=1)), before_job=look).run(until=lambda w: len(seen) >= 12)
    assert [job.change for job, _ in seen] == ["start"] * 6 + ["turn"] * 6
    return seen


@pytest.mark.parametrize("change", ["start", "turn"])
def test_secrets_are_equal_on_both_sides_and_nowhere_else(prepares: Any, change: str) -> None:
    by_stage: dict[int, list[dict[str, Any]]] = {}
    for job, keys in prepares:
        if job.change == change:
            by_stage.setdefault(job.stage, []).append(keys)
    assert {stage: len(keys) for stage, keys in by_stage.items()} == {0: 2, 1: 2, 2: 2}
    for first, second in by_stage.values():
        assert first == second
    (zero, _), (one, _), (two, _) = (by_stage[stage] for stage in range(3))
    assert zero["before"] is two["after"] is None
    assert zero["after"] == one["before"]
    assert one["after"] == two["before"]
    assert len({zero["group"], one["group"], two["group"], zero["after"], one["after"]}) == 5
    assert len({zero["seed"], one["seed"], two["seed"]}) == 3


def test_the_turn_of_a_stage_reaches_the_next_and_no_other(prepares: Any) -> None:
    turns = {job.stage: job for job, _ in prepares if job.change == "turn"}
    assert turns[0].turn_before is None
    assert turns[1].turn_before == turns[0].turn
    assert turns[2].turn_before == turns[1].turn
    assert len({job.turn for job in turns.values()}) == 3


def test_only_leads_draw_matrices_and_they_go_round(world: World) -> None:
    for tick in (START, TURN):
        case = Case(world, tick)
        leads = {lead(group, case.opening.plan.epoch, 0) for group in case.members}
        drew = {identity(name).public for name, job, _ in world.jobs if isinstance(job, Rotation) and job.tick == tick}
        assert drew == leads - (set(case.members[0]) if tick == START else set())
    members = Case(world, TURN).members
    assert all(lead(group, 0, 0) != lead(group, 1, 0) for group in members)


def test_keys_of_a_tick_are_erased_when_it_ends(world: World) -> None:
    last = max(openings_of(world.rows()))
    checked = 0
    for _, job, _ in world.jobs:
        if isinstance(job, Pass | Sum | Step | Prepare) and job.tick < last:
            with pytest.raises(Erased):
                job.group.tau(b"", b"", b"")
            pairs = [job.before, job.after] if isinstance(job, Prepare) else []
            pairs += [job.out.pair] if isinstance(job, Pass) and job.out is not None else []
            for pair in (pair for pair in pairs if pair is not None):
                with pytest.raises(Erased):
                    pair.mask_key(b"", b"")
                checked += 1
    assert checked > 50


def lying(kind: str) -> tuple[World, list[str]]:
    """A run whose first turn meets one lie, and who lied."""
    liars: list[str] = []

    def change(sent: Sent) -> list[Sent]:
        message = sent.message
        world: World = holder[0]
        if liars or message_tick(message) != TURN_TICK:
            return [sent]
        if kind == "reveal" and isinstance(message, Sealed) and message.purpose == "commit":
            liars.append(sent.source)
            role = world.roles[sent.source]
            role._part._reveals[role._identity.public] = b"x" * 32  # it will show another than it committed to
        if kind == "state" and isinstance(message, Preparing):
            liars.append(sent.source)
            signed = sign_prepared(
                replace(message.prepared, state=b"x" * 32), identity(sent.source), world.manifest.run
            )
            return [Sent(sent.source, sent.to, Preparing(prepared=signed))]
        if kind == "box" and isinstance(message, Offering):
            role = world.roles[sent.source]
            if role._part._lead(role._seat.stage) == role.identity:
                return [sent]  # nobody of its group deals to a lead
            liars.append(sent.source)
            offer = make_offer(identity(sent.source), run=world.manifest.run, tick=TURN_TICK, box=bytes(32))
            return [Sent(sent.source, sent.to, Offering(offer=offer))]
        if kind == "offers" and isinstance(message, Offers):
            liars.append("coordinator")
            mine = identity("coordinator")
            swapped = make_offer(mine, run=world.manifest.run, tick=TURN_TICK, box=b"b" * 32)
            swapped = replace(swapped, member=message.offers[0].member)
            return [Sent(sent.source, sent.to, replace(message, offers=(swapped, *message.offers[1:])))]
        return [sent]

    holder = [World(manifest(training=dict(rounds=2, epoch_rounds=1)), change=change)]
    return holder[0], liars


TURN_TICK = 5


def message_tick(message: Any) -> int:
    """The tick that a message of a change names."""
    if isinstance(message, Preparing):
        return message.prepared.tick
    return int(message.offer.tick if isinstance(message, Offering) else getattr(message, "tick", 0))


WHAT = {"reveal": "another contribution", "box": "not a usable X25519 key"}


@pytest.mark.parametrize(("kind", "number"), [("reveal", 501), ("box", 501), ("state", 502)])
def test_a_lie_voids_the_change_and_the_next_lead_tries_again(kind: str, number: int) -> None:
    world, liars = lying(kind)
    world.run()
    rows = [row.body for row in world.rows()]
    assert len(liars) == 1
    assert [(v.tick, v.number) for v in rows if isinstance(v, Voided)] == [(TURN_TICK, number)]
    changed = [body.tick for body in rows if isinstance(body, Changed)]
    assert changed == [1, TURN_TICK + 1]
    plans = {b.plan.tick: b.plan for b in rows if isinstance(b, Planned)}
    assert (plans[TURN_TICK].attempt, plans[TURN_TICK + 1].attempt) == (0, 1)
    assert plans[TURN_TICK].base == plans[TURN_TICK + 1].base
    group = plans[TURN_TICK].members[0]
    assert lead(group, 1, 0) != lead(group, 1, 1)
    gave_up = world.seen(GaveUp)
    assert {event.number for event in gave_up} == ({501} if number == 501 else set())
    assert all(WHAT[kind] in event.what for event in gave_up)


def test_box_keys_that_the_coordinator_changed_are_refused() -> None:
    world, liars = lying("offers")
    world.run(until=lambda w: bool(w.refused))
    assert liars == ["coordinator"]
    assert [refused.number for _, refused in world.refused] == [206]


def test_a_member_that_is_not_the_lead_deals_nothing(world: World) -> None:
    dealt = [s for s in world.all_sent(Sealed) if s.message.purpose == "secret" and s.source.startswith("node")]
    for sent in dealt:
        case = Case(world, sent.message.tick)
        assert identity(sent.source).public in {lead(g, case.opening.plan.epoch, 0) for g in case.members}
    assert all(len(s.blobs[0].data) == 32 + 48 for s in dealt)


def test_offers_list_every_member_once(world: World) -> None:
    for sent in world.all_sent(Offers):
        assert isinstance(sent.message, Offers)
        offered = [offer.member for offer in sent.message.offers]
        assert sorted(offered) == sorted(KEYS)
        assert len({offer.box for offer in sent.message.offers}) == 6
    boxes = {s.message.offer.box for s in world.all_sent(Offering)}
    assert len(boxes) == 12
    assert all(isinstance(s.message.offer, BoxOffer) for s in world.all_sent(Offering))
    assert isinstance(next(iter(openings_of(world.rows()).values())), Opening)
