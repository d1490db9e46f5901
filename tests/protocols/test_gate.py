"""A gate releases one plan a tick, and only what its rows allow: driven with the proposals of a real run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.protocols.world import World, number_of
from tests.runs import identity, manifest

from interlock.protocols.canonical import encode
from interlock.protocols.effects import Draw, Send, Store
from interlock.protocols.gate import Gate
from interlock.protocols.journal import (
    GENESIS,
    Body,
    Changed,
    Closed,
    Committed,
    Joined,
    Measured,
    Opened,
    Planned,
    Row,
    Voided,
    make_row,
)
from interlock.protocols.members import Join, Welcome, make_record
from interlock.protocols.proposal import Propose
from interlock.protocols.release import Base, Declined, Opening, Plan, Ready, Release, Released, Session, make_release
from interlock.protocols.round import sign

COORDINATOR = identity("coordinator")
KEYS = {identity(name).public: identity(name) for name in ["ada", "bela", "cleo", *(f"node{i}" for i in range(6))]}
replace = msgspec.structs.replace

START, EVALUATE, MEASURE, TRAIN, TRAIN_AGAIN, TURN, AFTER_TURN, LAST, END = range(1, 10)


@pytest.fixture(scope="module")
def proposals(world: World) -> dict[int, Propose]:
    """What the gates were asked, by tick."""
    return {sent.message.plan.tick: sent.message for sent in world.all_sent(Propose) if sent.to == "ada"}


class Answering:
    """A gate, and what it says."""

    def __init__(self, made: Any, name: str = "ada") -> None:
        self.made, self.name = made, name
        self.gate = Gate(identity(name), made, operator=name)
        self.stored: dict[str, bytes] = {}
        self.draws = 0

    def ask(self, proposal: Propose) -> Released | Declined:
        """Its answer; a release is stored before it is sent."""
        effects = self.gate.on_message(COORDINATOR.public, proposal, ())
        for effect in effects:
            if isinstance(effect, Draw):
                self.draws += 1
                effects = self.gate.on_drawn(effect.name, bytes([self.draws]) * effect.size)
                stores = [each for each in effects if isinstance(each, Store)]
                assert effects[: len(stores)] == stores
                assert stores[-1].key == "known"
                self.stored |= {store.key: store.value for store in stores}
        (answer,) = (effect.message for effect in effects if isinstance(effect, Send))
        assert isinstance(answer, Released | Declined)
        return answer

    def release(self, proposal: Propose) -> Release:
        """Its release."""
        answer = self.ask(proposal)
        assert isinstance(answer, Released), answer
        return answer.release

    def number(self, proposal: Propose) -> int:
        """By which number it declines; 0 if it releases."""
        answer = self.ask(proposal)
        return answer.number if isinstance(answer, Declined) else 0

    def again(self) -> Answering:
        """The same keyholder's gate after a restart, from what it stored."""
        other = Answering(self.made, self.name)
        other.stored = dict(self.stored)
        other.gate.restore(other.stored)
        return other


@pytest.fixture
def at(world: World, proposals: dict[int, Propose]) -> Callable[[int], Answering]:
    """A gate that released every tick before this one."""

    def make(tick: int) -> Answering:
        gate = Answering(world.manifest)
        for earlier in range(1, tick):
            gate.release(proposals[earlier])
        return gate

    return make


Entry = Any  # a row's body, or a row


def rebuilt(proposal: Propose, bodies: list[Entry], **plan: Any) -> Propose:
    """What a lying coordinator would send: other rows, well chained and signed, and a plan that follows them.

    A row that is given as a row stands as it is.
    """
    made = proposal.plan.run
    rows: list[Row] = []
    number, previous = (proposal.rows[0].number, proposal.rows[0].previous) if proposal.rows else (0, GENESIS)
    for body in bodies:
        row = body if isinstance(body, Row) else make_row(COORDINATOR, made, number, previous, body)
        rows.append(row)
        number, previous = row.number + 1, row.digest
    ended = next((row for row in rows if isinstance(row.body, Committed | Changed)), None)
    base = proposal.plan.base
    if ended is not None and base is not None:
        base = Base(row=ended.digest, made=base.made)
    changed = replace(proposal.plan, **(dict(head=previous, base=base) | plan))
    return Propose(plan=changed, opening=proposal.opening, rows=tuple(rows))


def bodies(proposal: Propose) -> list[Entry]:
    """The rows' contents."""
    return [row.body for row in proposal.rows]


# -- releasing -----------------------------------------------------------------------------------------------------


def test_every_plan_of_a_run_is_released_once(world: World, proposals: dict[int, Propose]) -> None:
    gate = Answering(world.manifest)
    assert list(proposals) == list(range(1, 10))
    releases = [gate.release(proposals[tick]) for tick in proposals]
    assert [release.tick for release in releases] == list(proposals)
    assert [release.plan for release in releases] == [p.plan.digest for p in proposals.values()]
    assert gate.draws == len(releases)


def test_asked_again_it_gives_the_same_bytes(at: Any, proposals: dict[int, Propose]) -> None:
    gate = at(TRAIN)
    first = gate.release(proposals[TRAIN])
    assert gate.release(proposals[TRAIN]) == first
    restarted = gate.again()
    assert restarted.release(proposals[TRAIN]) == first
    assert restarted.draws == 0


def test_what_differs_only_after_the_question_is_one_plan(at: Any, proposals: dict[int, Propose]) -> None:
    """The plan names its head; rows and opening sent along add nothing to it."""
    gate = at(TRAIN)
    first = gate.release(proposals[TRAIN])
    assert gate.release(Propose(plan=proposals[TRAIN].plan, opening=None, rows=())) == first


def other_attempt(proposal: Propose) -> Propose:
    """Another plan that would pass every check."""
    return Propose(
        plan=replace(proposal.plan, exponents=tuple(e + 4 for e in proposal.plan.exponents)),
        opening=proposal.opening,
        rows=proposal.rows,
    )


def test_a_second_plan_of_a_tick_is_refused_also_after_a_restart(at: Any, proposals: dict[int, Propose]) -> None:
    second = other_attempt(proposals[TRAIN])
    assert at(TRAIN).number(second) == 0  # good by itself
    gate = at(TRAIN)
    gate.release(proposals[TRAIN])
    assert gate.number(second) == 311
    assert gate.again().number(second) == 311


def test_two_plans_asked_at_once_get_one_release(at: Any, proposals: dict[int, Propose]) -> None:
    gate = at(TRAIN).gate
    draws = []
    for proposal in (proposals[TRAIN], other_attempt(proposals[TRAIN])):
        draws += [e for e in gate.on_message(COORDINATOR.public, proposal, ()) if isinstance(e, Draw)]
    effects = [effect for draw in draws for effect in gate.on_drawn(draw.name, b"c" * 32)]
    assert len([effect for effect in effects if isinstance(effect, Send)]) == 1


def test_older_ticks_are_refused_with_what_the_gate_knows(at: Any, proposals: dict[int, Propose]) -> None:
    gate = at(TRAIN_AGAIN)
    for older in range(1, TRAIN):
        answer = gate.ask(proposals[older])
        assert isinstance(answer, Declined)
        assert answer.number == 312
        assert answer.opening is not None
        assert answer.release is not None
        assert (answer.opening.plan.tick, answer.release.tick) == (MEASURE, TRAIN)
        assert gate.again().number(proposals[older]) == 312


def test_a_tick_that_skips_one_is_refused(at: Any, proposals: dict[int, Propose]) -> None:
    skipping = proposals[TRAIN]
    assert at(TRAIN).number(Propose(plan=replace(skipping.plan, tick=5), opening=skipping.opening, rows=())) == 312


def test_an_older_opening_is_refused(at: Any, proposals: dict[int, Propose]) -> None:
    asked = proposals[TRAIN]
    older = Propose(plan=replace(asked.plan, tick=TURN), opening=proposals[MEASURE].opening, rows=asked.rows)
    gate = at(TRAIN)
    gate.release(asked)
    assert gate.number(older) == 313


def test_a_second_opening_of_a_tick_is_refused(at: Any, proposals: dict[int, Propose]) -> None:
    """Two gates that lie about their contributions could sign two; nobody goes on from the second."""
    gate = at(TRAIN_AGAIN)
    known = proposals[TRAIN].opening
    assert known is not None
    signed = tuple(make_release(KEYS[r.gate], known.plan, b"z" * 32) for r in known.releases)
    second = Opening(plan=known.plan, releases=signed)
    plan = replace(proposals[TRAIN].plan, tick=TRAIN_AGAIN)
    assert gate.number(Propose(plan=plan, opening=second, rows=proposals[TRAIN].rows)) == 314


def test_an_opening_by_too_few_gates_is_refused(at: Any, proposals: dict[int, Propose]) -> None:
    asked = proposals[TRAIN]
    assert asked.opening is not None
    few = replace(asked.opening, releases=asked.opening.releases[:1])
    assert at(TRAIN).number(replace(asked, opening=few)) == 301


def test_only_the_coordinator_asks(world: World, proposals: dict[int, Propose]) -> None:
    gate = Answering(world.manifest).gate
    eve = identity("eve").public
    assert number_of(lambda: gate.on_message(eve, proposals[START], ())) == 208
    assert number_of(lambda: gate.on_message(COORDINATOR.public, Ready(known=1), ())) == 210


def test_a_gate_says_hello_until_welcomed_and_then_that_it_is_ready(world: World) -> None:
    gate = Answering(world.manifest).gate
    for effects in (gate.restore({}), gate.on_timer("hello")):
        assert [type(e.message) for e in effects if isinstance(e, Send)] == [Join]
    welcome = Welcome(manifest=encode(world.manifest))
    for effects in (gate.on_message(COORDINATOR.public, welcome, ()), gate.on_timer("hello")):
        assert [e.message for e in effects if isinstance(e, Send)] == [Ready(known=0)]


def test_a_proposal_of_another_run_is_refused(proposals: dict[int, Propose]) -> None:
    assert Answering(manifest(name="other")).number(proposals[START]) == 204


# -- rows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tick", range(1, 10))
def test_a_missing_row_is_refused(at: Any, proposals: dict[int, Propose], tick: int) -> None:
    asked = proposals[tick]
    for skipped in range(len(asked.rows)):
        rows = asked.rows[:skipped] + asked.rows[skipped + 1 :]
        assert at(tick).number(replace(asked, rows=rows)) in (310, 315, 317)


@pytest.mark.parametrize("tick", [EVALUATE, MEASURE, TRAIN, AFTER_TURN])
def test_a_missing_row_is_refused_also_if_the_chain_is_forged_around_it(
    at: Any, proposals: dict[int, Propose], tick: int
) -> None:
    asked = proposals[tick]
    for skipped in range(len(asked.rows)):
        entries = bodies(asked)
        del entries[skipped]
        assert at(tick).number(rebuilt(asked, entries)) in (310, 315, 317, 318)


def test_a_fork_is_refused(at: Any, proposals: dict[int, Propose]) -> None:
    """Rows that follow another history than the opened plan's."""
    asked = proposals[TRAIN]
    forked, previous = [], b"p" * 32
    for row in asked.rows:
        forked.append(make_row(COORDINATOR, row.run, row.number, previous, row.body))
        previous = forked[-1].digest
    entries: list[Entry] = list(forked)
    assert at(TRAIN).number(rebuilt(asked, entries)) == 310
    first = replace(asked.rows[0], signature=bytes(64))
    assert at(TRAIN).number(replace(asked, rows=(first, *asked.rows[1:]))) == 206


def test_rows_of_somebody_else_are_refused(at: Any, proposals: dict[int, Propose]) -> None:
    asked = proposals[TRAIN]
    last = asked.rows[-1]
    forged = make_row(identity("eve"), last.run, last.number, last.previous, last.body)
    assert at(TRAIN).number(rebuilt(asked, [*asked.rows[:-1], forged])) == 206


def test_a_plan_follows_the_last_row(at: Any, proposals: dict[int, Propose]) -> None:
    asked = proposals[TRAIN]
    assert at(TRAIN).number(replace(asked, plan=replace(asked.plan, head=bytes(32)))) == 310
    late = Voided(tick=MEASURE, number=402, reason="late")
    assert at(TRAIN).number(rebuilt(asked, [*asked.rows], head=asked.rows[-2].digest)) == 310
    assert at(TRAIN).number(rebuilt(asked, [*asked.rows, late])) == 317


def test_a_tick_that_has_not_ended_is_refused(at: Any, proposals: dict[int, Propose]) -> None:
    asked = proposals[TRAIN]
    assert at(TRAIN).number(rebuilt(asked, [*asked.rows[:-1]], base=proposals[MEASURE].plan.base)) == 317


def test_a_voided_tick_is_tried_again_from_the_same_base(at: Any, proposals: dict[int, Propose]) -> None:
    asked, before = proposals[TRAIN_AGAIN], proposals[TRAIN].plan
    void = Voided(tick=TRAIN, number=402, reason="clamped")
    good = dict(base=before.base, round=before.round, attempt=1)
    for cut in (1, 2):  # before and after the close
        assert at(TRAIN_AGAIN).number(rebuilt(asked, [*asked.rows[:-cut], void], **good)) == 0
        assert at(TRAIN_AGAIN).number(rebuilt(asked, [*asked.rows[:-cut], void], **good | dict(round=1))) == 318
        assert asked.plan.base is not None
        moved = replace(asked.plan.base, made=(TRAIN,) * 3)
        assert at(TRAIN_AGAIN).number(rebuilt(asked, [*asked.rows[:-cut], void], **good | dict(base=moved))) == 318


def test_two_ends_of_a_tick_are_refused(at: Any, proposals: dict[int, Propose]) -> None:
    asked = proposals[TRAIN_AGAIN]
    commit, void = asked.rows[-1].body, Voided(tick=TRAIN, number=402, reason="clamped")
    for ends in ([commit, commit], [commit, void], [void, commit], [void, void]):
        assert at(TRAIN_AGAIN).number(rebuilt(asked, [*asked.rows[:-1], *ends])) == 317


def test_rows_that_a_tick_cannot_have_are_refused(at: Any, proposals: dict[int, Propose]) -> None:
    ends: dict[type[Any], Body] = {type(body): body for proposal in proposals.values() for body in bodies(proposal)}
    wrong = {
        EVALUATE: [Committed, Measured],
        MEASURE: [Committed, Changed],
        TRAIN: [Measured, Changed],
        AFTER_TURN: [Committed, Measured],
    }
    for tick, kinds in wrong.items():
        asked = proposals[tick]
        for kind in kinds:
            assert at(tick).number(rebuilt(asked, [*asked.rows[:-1], ends[kind]])) == 317
    inside = (ends[Planned], ends[Opened])
    for body in inside:
        assert at(TRAIN).number(rebuilt(proposals[TRAIN], [*proposals[TRAIN].rows[:-1], body])) == 317


def committed(proposal: Propose) -> Committed:
    """The commit row among a proposal's rows."""
    return next(row.body for row in proposal.rows if isinstance(row.body, Committed))


def test_a_commit_carries_every_replica_s_signed_and_equal_report(at: Any, proposals: dict[int, Propose]) -> None:
    asked = proposals[TRAIN_AGAIN]
    body, run = committed(asked), asked.plan.run
    first, *others = body.reports
    lying = sign(replace(first, state=bytes(32)), KEYS[first.member], run)
    cases: dict[int, list[tuple[Any, ...]]] = {
        206: [(replace(first, signature=bytes(64)), *others)],
        304: [(sign(replace(first, close=bytes(32)), KEYS[first.member], run), *others)],
        306: [tuple(others), (*body.reports, first), ()],
        307: [(lying, *others)],
    }
    for number, lists in cases.items():
        for reports in lists:
            entries = [*asked.rows[:-1], replace(body, reports=reports)]
            assert at(TRAIN_AGAIN).number(rebuilt(asked, entries)) == number


def test_a_commit_adds_one_round(at: Any, proposals: dict[int, Propose]) -> None:
    asked = proposals[TRAIN_AGAIN]
    for wrong in (0, 2):
        entries = [*asked.rows[:-1], replace(committed(asked), round=wrong)]
        assert at(TRAIN_AGAIN).number(rebuilt(asked, entries, round=wrong)) == 318
    entries = [*asked.rows[:-1], replace(committed(asked), tick=MEASURE)]
    assert at(TRAIN_AGAIN).number(rebuilt(asked, entries)) == 317


def test_a_commit_follows_its_own_close(at: Any, proposals: dict[int, Propose]) -> None:
    asked = proposals[TRAIN_AGAIN]
    planned, opened, close, commit = bodies(asked)
    assert isinstance(close, Closed)
    assert at(TRAIN_AGAIN).number(rebuilt(asked, [planned, opened, commit])) == 317
    assert at(TRAIN_AGAIN).number(rebuilt(asked, [planned, opened, replace(close, opening=bytes(32)), commit])) == 317
    fewer = replace(close, commitments=close.commitments[1:])
    assert at(TRAIN_AGAIN).number(rebuilt(asked, [planned, opened, fewer, commit])) == 304


@pytest.mark.parametrize("tick", [EVALUATE, AFTER_TURN])
def test_a_change_carries_every_member_s_signed_and_equal_word(
    at: Any, proposals: dict[int, Propose], tick: int
) -> None:
    asked = proposals[tick]
    body = asked.rows[-1].body
    assert isinstance(body, Changed)
    first, *others = body.prepared
    signer, run = KEYS[first.member], asked.plan.run

    def signed(**changes: Any) -> Any:
        draft = replace(first, **changes)
        return replace(draft, signature=signer.sign(draft.body(run)))

    cases: list[tuple[int, tuple[Any, ...]]] = [
        (501, tuple(others)),
        (501, (*body.prepared, first)),
        (206, (replace(first, state=bytes(32)), *others)),
        (304, (signed(tick=tick + 1), *others)),
        (502, (signed(state=bytes(32)), *others)),
        (502, (signed(secrets=(bytes(32), *first.secrets[1:])), *others)),
        (502, (signed(turns=(b"t" * 32, b"t" * 32)), *others)),
        (502, (signed(seed=b"s" * 32), *others)),
    ]
    for number, prepared in cases:
        entries = [*asked.rows[:-1], replace(body, prepared=prepared)]
        assert at(tick).number(rebuilt(asked, entries)) == number
    moved = body.members[::-1]
    assert at(tick).number(rebuilt(asked, [*asked.rows[:-1], replace(body, members=moved)], members=moved)) == 317


def test_a_measurement_is_signed_by_the_last_stage_for_its_tick(at: Any, proposals: dict[int, Propose]) -> None:
    asked = proposals[MEASURE]
    body, run = asked.rows[-1].body, asked.plan.run
    assert isinstance(body, Measured)
    first, second = body.measurements
    assert at(MEASURE).number(rebuilt(asked, [*asked.rows[:-1], body])) == 0
    outsider = next(who for who in KEYS if who not in (first.member, second.member))
    cases = [
        (206, (replace(first, losses=()), second)),
        (304, (sign(replace(first, tick=1), KEYS[first.member], run), second)),
        (306, (sign(replace(first, member=outsider), KEYS[outsider], run), second)),
        (306, (first,)),
        (306, (first, first)),
    ]
    for number, measurements in cases:
        entries = [*asked.rows[:-1], replace(body, measurements=measurements)]
        assert at(MEASURE).number(rebuilt(asked, entries)) == number


def test_joins_in_the_rows_are_checked(world: World, proposals: dict[int, Propose]) -> None:
    asked = proposals[START]
    entries = bodies(asked)
    stranger = Joined(join=Join(record=make_record(identity("eve"), "node", "eve"), invitation=None))
    assert Answering(world.manifest).number(rebuilt(asked, [*entries, stranger])) == 209
    node = next(b for b in entries if isinstance(b, Joined) and b.join.record.role == "node")
    again = Joined(join=Join(record=make_record(identity("eve"), "node", "eve"), invitation=node.join.invitation))
    assert Answering(world.manifest).number(rebuilt(asked, [*entries, again])) == 209
    void = Voided(tick=1, number=402, reason="clamped")
    assert Answering(world.manifest).number(rebuilt(asked, [*entries, void])) == 315


def test_a_keyholder_or_a_second_stage_is_never_granted() -> None:
    """A start that names a keyholder, or moves a node to another stage, opens by lying gates: the next is refused."""
    made = manifest()
    world = World(made).run(until=lambda w: bool(w.all_sent(Opening)))
    opened = next(sent.message for sent in world.all_sent(Opening))
    assert isinstance(opened, Opening)
    run, rows = made.run, world.rows()
    joins = [row for row in rows if isinstance(row.body, Joined)]
    names = tuple(sorted([KEYS_OF["ada"], *sorted(opened.plan.candidates)[1:]]))
    for candidates, number in ((names, 316), (opened.plan.candidates, 0)):
        plan = replace(opened.plan, candidates=candidates)
        gates = [identity("ada"), identity("bela")]
        opening = Opening(plan=plan, releases=tuple(make_release(g, plan, b"c" * 32) for g in gates))
        chain = [make_row(COORDINATOR, run, len(joins), joins[-1].digest, Planned(plan=plan))]
        for body in (
            Opened(tick=1, plan=plan.digest, releases=opening.releases),
            Voided(tick=1, number=501, reason="void"),
        ):
            chain.append(make_row(COORDINATOR, run, chain[-1].number + 1, chain[-1].digest, body))
        again = replace(plan, tick=2, attempt=1, head=chain[-1].digest)
        gate = Answering(made)
        gate.release(Propose(plan=opened.plan, opening=None, rows=tuple(joins)))
        assert (
            gate.number(
                Propose(plan=replace(again, candidates=opened.plan.candidates), opening=opening, rows=tuple(chain))
            )
            == number
        )


KEYS_OF = {name: identity(name).public for name in ("ada", "bela", "cleo")}


# -- the plan ------------------------------------------------------------------------------------------------------


def others(plan: Plan) -> dict[str, list[Any]]:
    """For every field of a plan, values that no honest coordinator would give it here."""
    stranger = b"s" * 32
    shorter = plan.work[:-1] if plan.work else ((0, 0, 0),)
    base = plan.base
    return dict(
        run=[stranger],
        tick=[0, plan.tick - 1, plan.tick + 1],
        head=[stranger],
        base=[
            *([] if base is None else [None, replace(base, row=stranger), replace(base, made=base.made[1:])]),
            Base(row=stranger, made=(9, 9, 9)),
        ],
        kind=[k for k in ("measure", "train", "evaluate", "change", "session") if k != plan.kind],
        change=[c for c in ("", "start", "turn", "members") if c != plan.change],
        round=[plan.round + 1, *([plan.round - 1] if plan.round else [])],
        epoch=[plan.epoch + 1, *([plan.epoch - 1] if plan.epoch else [])],
        epoch_tick=[plan.epoch_tick + 1],
        relays=[(), (stranger,), (*plan.relays, stranger)],
        candidates=[(stranger,), (*plan.candidates, stranger), plan.candidates[1:] + plan.candidates[:1] * 2],
        members=[(), plan.members[::-1], plan.members[1:], ((stranger,),)],
        exponents=[(), (*plan.exponents, 0)],
        lifts=[(), (*plan.lifts, 0)],
        work=[(), shorter, *([] if not plan.work else [((9, 9, 9), *plan.work[1:]), ((0, 0), *plan.work[1:])])],
        session=[Session(asker=stranger, number=1, shapes=((1, 1),), length=1, seconds=60)],
        bound=[(0,)],
        leaving=[(stranger,), *([(plan.members[0][0],)] if plan.members else [])],
    )


ALLOWED = {
    # A gate cannot know whether exponents of gradients were measured, and an evaluation may come at any time.
    (TRAIN, "kind", "measure"),
    (TRAIN, "kind", "evaluate"),
    (TRAIN_AGAIN, "kind", "measure"),
    (TRAIN_AGAIN, "kind", "evaluate"),
    (AFTER_TURN, "kind", "measure"),
    (AFTER_TURN, "kind", "evaluate"),
    (LAST, "kind", "measure"),
    (LAST, "kind", "evaluate"),
    (MEASURE, "kind", "train"),
    (MEASURE, "kind", "evaluate"),
    (EVALUATE, "kind", "measure"),
    (EVALUATE, "kind", "train"),
}


@pytest.mark.parametrize("tick", range(1, 10))
def test_a_plan_changed_in_any_field_is_refused(at: Any, proposals: dict[int, Propose], tick: int) -> None:
    asked, gate = proposals[tick], at(tick)
    passed: list[tuple[int, str, str]] = []
    tried = others(asked.plan)
    # attempt counts and exponents are the coordinator's bookkeeping; only their number can be checked.
    assert set(tried) == set(Plan.__struct_fields__) - {"attempt"}
    for field, values in tried.items():
        for value in values:
            if value == getattr(asked.plan, field):
                continue
            proposal = replace(asked, plan=replace(asked.plan, **{field: value}))
            known = gate.again()
            if known.number(proposal) == 0 and (tick, field, value) not in ALLOWED:
                passed.append((tick, field, repr(value)[:60]))
    assert passed == []
    assert gate.number(asked) == 0
