"""What a coordinator shows a gate for a release, and what the gate concludes from it.

The gate replays the rows between two openings: they must be a chain, be what the opened plan allows, and end its tick.
Then the plan must follow from them (`lawful`).
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from .admitted import Admitted
from .canonical import Count, Message, Name, Plain, PublicKey
from .change import verify_prepared
from .errors import Refused
from .journal import (
    GENESIS,
    Answered,
    Body,
    Changed,
    Closed,
    Committed,
    Joined,
    Measured,
    Opened,
    Ordered,
    Planned,
    Row,
    Voided,
    verify_chain,
    verify_row,
)
from .lawful import End, Outcome, verify_plan
from .manifest import Manifest
from .members import Role
from .release import Base, Opening, Plan, Release, draw_members
from .round import Close, Members, verify, verify_reports
from .session import answerers
from .standing import verify_ordered


class Propose(Message, frozen=True, array_like=True, kw_only=True):
    """The coordinator asks for a release.

    opening: the newest, None before the first. rows: from that opening's plan (from the first row before the first
    opening) to the plan's head. earlier: joins and changes of members before those that this gate has not followed.
    """

    plan: Plan
    opening: Opening | None
    rows: Annotated[tuple[Row, ...], msgspec.Meta(max_length=8192)]
    earlier: Annotated[tuple[Row, ...], msgspec.Meta(max_length=8192)] = ()


class Known(Plain, frozen=True, array_like=True, kw_only=True):
    """What a gate stores: enough never to release twice, and to check the next plan.

    rows: how many rows it has followed. members: who holds each stage since the last change. held: the stage of every
    operator who was ever granted one. joined: everyone who was admitted, with the role, the nonce of the invitation and
    the operator.
    """

    tick: Count
    release: Release | None
    plan: Plan | None
    opening: Opening | None
    rows: Count
    members: tuple[tuple[PublicKey, ...], ...]
    held: tuple[tuple[Name, Count], ...]
    joined: tuple[tuple[PublicKey, Role, Annotated[bytes, msgspec.Meta(max_length=16)], Name], ...]


NOTHING = Known(tick=0, release=None, plan=None, opening=None, rows=0, members=(), held=(), joined=())


def verify_proposal(ask: Propose, manifest: Manifest, known: Known = NOTHING) -> Known:
    """Check rows and plan against each other; give what a gate that knew `known` knows if it releases the plan.

    Raises:
        Refused: E310 to E318; 3xx, 2xx of a row that is wrong in itself.
    """
    plan, opening, rows = ask.plan, ask.opening, ask.rows
    number, previous = (rows[0].number, rows[0].previous) if rows else (0, GENESIS)
    if opening is None and (number, previous) != (0, GENESIS):
        raise Refused(310, "the rows before the first plan do not start with the first row")
    admitted = Admitted(manifest, joined=known.joined, held=known.held)
    members = _catch_up(ask.earlier, manifest, admitted, known.members, before=number)
    head = verify_chain(rows, run=manifest.run, coordinator=manifest.coordinator, previous=previous, number=number)
    if plan.head != head:
        raise Refused(310, "the plan does not follow the last row")
    if opening is None:
        outcome = _before_first(rows, manifest, admitted, members)
    else:
        outcome = _after(opening, rows, manifest, admitted, members)
    verify_plan(plan, manifest, admitted, outcome)
    return Known(
        tick=plan.tick,
        release=None,
        plan=plan,
        opening=opening,
        rows=number + len(rows),
        members=outcome.members,
        held=admitted.held,
        joined=admitted.joined,
    )


def _catch_up(
    earlier: tuple[Row, ...], manifest: Manifest, admitted: Admitted, members: Members, *, before: int
) -> Members:
    """Take in what happened while this gate was away: it was not there to check it, but others were."""
    last = -1
    for row in earlier:
        body = row.body
        if not last < row.number < before or not isinstance(body, Joined | Changed | Voided):
            raise Refused(310, f"row {row.number} among those that this gate missed")
        verify_row(row, run=manifest.run, coordinator=manifest.coordinator)
        if isinstance(body, Joined):
            admitted.join(body)
        else:
            admitted.verify_grants(body.members)
            admitted.grant(body.members)
            if isinstance(body, Changed):
                members = body.members
        last = row.number
    return members


def _before_first(rows: tuple[Row, ...], manifest: Manifest, admitted: Admitted, members: Members) -> Outcome:
    for row in _without_orders(rows, manifest):
        if not isinstance(row.body, Joined):
            raise Refused(315, f"a row '{type(row.body).__name__}' before the first plan")
        admitted.join(row.body)
    return Outcome(before=None, end="new", base=None, members=members)


def _after(
    opening: Opening, rows: tuple[Row, ...], manifest: Manifest, admitted: Admitted, members: Members
) -> Outcome:
    """What the opened tick became, from the rows after its plan."""
    plan = opening.plan
    if not rows or not isinstance(rows[0].body, Planned) or rows[0].body.plan != plan:
        raise Refused(315, f"the rows do not start with the plan of tick {plan.tick}")
    if rows[0].previous != plan.head:
        raise Refused(310, f"the rows before tick {plan.tick} are not those that its plan follows")
    rows = _without_orders(rows, manifest)
    following = [row for row in rows[1:] if not isinstance(row.body, Joined)]
    opened = following[0].body if following else None
    if not isinstance(opened, Opened) or opened.releases != opening.releases or opened.tick != plan.tick:
        raise Refused(315, f"the next row is not the opening of tick {plan.tick}")
    for row in rows:
        if isinstance(row.body, Joined):
            admitted.join(row.body)
    tick = _Tick(opening, draw_members(opening, manifest))
    if plan.change:
        admitted.verify_grants(tick.members)
    if plan.change and plan.change != "start":
        admitted.grant(tick.members)  # even if it is void: shards may have moved
    for row in following[1:]:
        tick.follow(row)
    if tick.end is None:
        raise Refused(317, f"tick {plan.tick} has not ended", expected="a commit, change or void row")
    if tick.end == "changed":
        admitted.grant(tick.members)  # a void start left nobody anything
    if tick.end == "changed" or not plan.change:
        members = tick.members
    return Outcome(before=plan, end=tick.end, base=tick.base, members=members)


class _Tick:
    """An open tick, row by row.

    Attributes:
        members: who is in it. base: the newest state. end: how it ended, None before.
    """

    def __init__(self, opening: Opening, members: Members) -> None:
        self._opening, self._plan, self.members = opening, opening.plan, members
        self._close: Close | None = None
        self.base = opening.plan.base
        self.end: End | None = None

    def follow(self, row: Row) -> None:
        """Take in the next row.

        Raises:
            Refused: E317 one that the tick does not have, E304 to E306 and E318 one that is wrong in itself.
        """
        body, tick = row.body, self._plan.tick
        if self.end is not None:
            raise Refused(317, f"a row '{type(body).__name__}' after the end of tick {tick}")
        if isinstance(body, Closed):
            self._close = Close(tick=body.tick, opening=body.opening, commitments=body.commitments)
            return
        self.end = self._ended(body)
        if self.end in ("committed", "changed"):
            self.base = Base(row=row.digest, made=(tick,) * len(self.members))

    def _ended(self, body: Body) -> End:
        if isinstance(body, Committed):
            self._verify_commit(body)
            return "committed"
        if isinstance(body, Changed):
            self._verify_changed(body)
            return "changed"
        if isinstance(body, Measured):
            self._verify_measured(body)
            return "measured"
        if isinstance(body, Answered):
            self._verify_answered(body)
            return "answered"
        if isinstance(body, Voided):
            if body.members != (self.members if self._plan.change == "members" else ()):
                raise Refused(317, f"the void of tick {self._plan.tick} names other members")
            return "voided"
        raise Refused(317, f"a row '{type(body).__name__}' inside tick {self._plan.tick}")

    def _verify_commit(self, body: Committed) -> None:
        plan, close = self._plan, self._close
        if close is None or plan.kind not in ("train", "measure") or body.tick != plan.tick:
            raise Refused(317, f"a commit that tick {plan.tick} does not have")
        if close.opening != self._opening.digest:
            raise Refused(317, "the close names another opening")
        verify_reports(body.reports, plan, close.digest, self.members)
        if body.round != plan.round + (plan.kind == "train"):
            raise Refused(318, "the committed round", expected=plan.round + 1, actual=body.round)

    def _verify_changed(self, body: Changed) -> None:
        plan = self._plan
        if not plan.change or body.tick != plan.tick or body.members != self.members:
            raise Refused(317, f"a change row that tick {plan.tick} does not have")
        verify_prepared(body.prepared, plan, self.members)

    def _verify_measured(self, body: Measured) -> None:
        plan = self._plan
        if plan.kind != "evaluate" or body.tick != plan.tick:
            raise Refused(317, f"a measurement that tick {plan.tick} does not have")
        if tuple(m.member for m in body.measurements) != self.members[-1]:
            raise Refused(306, f"a measurement of tick {plan.tick} is not of the last stage's replicas")
        for measurement in body.measurements:
            if measurement.tick != plan.tick:
                raise Refused(304, "a measurement", expected=plan.tick, actual=measurement.tick)
            verify(measurement, plan.run)

    def _verify_answered(self, body: Answered) -> None:
        plan = self._plan
        if plan.session is None or body.tick != plan.tick:
            raise Refused(317, f"an answer that tick {plan.tick} does not have")
        if tuple(a.member for a in body.answers) != answerers(plan):
            raise Refused(306, f"an answer of tick {plan.tick} is not of the replicas that it names")
        for answer in body.answers:
            if answer.tick != plan.tick:
                raise Refused(304, "an answer", expected=plan.tick, actual=answer.tick)
            verify(answer, plan.run)


def _without_orders(rows: tuple[Row, ...], manifest: Manifest) -> tuple[Row, ...]:
    """The rows but those of orders, which may stand between any others and must be what they say.

    Raises:
        Refused: E340 to E343.
    """
    for row in rows:
        if isinstance(row.body, Ordered):
            verify_ordered(row.body.text, manifest)
    return tuple(row for row in rows if not isinstance(row.body, Ordered))
