"""Check a run's directory against itself: the journal, what every process announced, and the report.

Everything is recomputed from signatures and events; a report or a process that says otherwise is named.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from interlock.vault import VaultError, verify_grants

from ..change import verify_prepared
from ..errors import Failed, InterlockError, Refused
from ..journal import (
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
)
from ..manifest import Manifest
from ..members import owner, verify_join
from ..orders import Order
from ..release import Opening, Plan, draw_members, verify_opening
from ..round import Close, Members, verify, verify_close, verify_reports
from ..session import answerers
from ..standing import verify_ordered
from .events import read_events
from .report import OUTSIDE, measure
from .rundir import RunDir
from .store import read_rows


def contradictions(run: RunDir) -> list[str]:
    """Every contradiction found, one line each; empty when all is in order.

    Raises:
        Misused: E705, this is no run's directory, or it has no journal. Failed: E722.
    """
    manifest = run.manifest()
    try:
        rows = read_rows(run.journal)
    except Refused as error:
        return [f"journal: {error}"]
    ledger = _Ledger(manifest)
    found = list(ledger.read(rows))
    if found:
        return found  # what follows reads the journal as true
    for check in (_frames, _releases, _reported, _report):
        try:
            found += check(run, ledger)
        except (KeyError, IndexError, TypeError, ValueError, Failed) as error:  # files that anybody may have changed
            found.append(f"a file of the run cannot be read as what it should be: {type(error).__name__}: {error}")
    return found


class _Ledger:
    """The journal read as a sceptic: nothing in it counts before it is checked."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._nonces: dict[bytes, bytes] = {}
        self.operators: dict[bytes, str] = {}
        self._owners: dict[bytes, str] = {}
        self._held: dict[str, int] = {}  # operator: stage
        self._plan: Plan | None = None
        self._opening: Opening | None = None
        self._close: Close | None = None
        self._ended = True
        self.round = 0
        self._halts: set[int] = set()  # numbers of those that nothing has ended
        self.plans: dict[int, set[str]] = {}  # digests of the plans of each tick
        self.openings: dict[int, Opening] = {}
        self.members: dict[int, Members] = {}
        self.states: dict[tuple[int, bytes], bytes] = {}  # (tick, member): reported digest

    def read(self, rows: list[Row]) -> Iterator[str]:
        """Check all rows; give the first contradiction (what follows one proves nothing)."""
        manifest = self.manifest
        try:
            verify_chain(rows, run=manifest.run, coordinator=manifest.coordinator, previous=GENESIS, number=0)
        except InterlockError as error:
            yield f"journal: {error}"
            return
        previous = GENESIS
        for row in rows:
            try:
                self._row(row, previous)
            except (InterlockError, VaultError) as error:
                yield f"journal, row {row.number} ({type(row.body).__name__}): {error}"
                return
            previous = row.digest

    def _row(self, row: Row, previous: bytes) -> None:
        body = row.body
        if isinstance(body, Joined):
            self._join(body)
        elif isinstance(body, Planned):
            self._planned(body.plan, previous)
        elif isinstance(body, Opened):
            self._moves(body)
            self._opened(body)
        elif isinstance(body, Ordered):
            self._ordered(verify_ordered(body.text, self.manifest).order)
        else:
            self._moves(body)
            self._inside(body)

    def _ordered(self, order: Order) -> None:
        if order.action == "halt":
            self._halts.add(order.seq)
        self._halts = {seq for seq in self._halts if seq > (order.cites or 0)}

    def _moves(self, body: Body) -> None:
        if self._halts and not isinstance(body, Voided):
            raise Refused(317, f"a row '{type(body).__name__}' under halt {max(self._halts)}")

    def _join(self, body: Joined) -> None:
        manifest, record, invitation = self.manifest, body.join.record, body.join.invitation
        verify_join(
            body.join,
            run=manifest.run,
            keyholders=manifest.committee.identities(),
            open_admission=manifest.admission == "open",
            used=frozenset(nonce for who, nonce in self._nonces.items() if who != record.identity),
        )
        if record.identity in self.operators and record.role != "relay":  # which may listen elsewhere later
            raise Refused(209, f"{record.operator} joined twice")
        self.operators[record.identity], self._owners[record.identity] = record.operator, owner(body.join)
        if invitation is not None:
            self._nonces[record.identity] = invitation.nonce

    def _planned(self, plan: Plan, previous: bytes) -> None:
        if not self._ended:
            raise Refused(317, f"a plan while tick {self._now.plan.tick} is open")
        wanted = max(self.openings, default=0) + 1
        if plan.tick != wanted:
            raise Refused(312, "the plan's tick", expected=wanted, actual=plan.tick)
        if plan.round != self.round:  # a round that counts twice counts its micro-batches twice
            raise Refused(312, "the plan's round", expected=self.round, actual=plan.round)
        if plan.head != previous or plan.run != self.manifest.run:
            raise Refused(310, "the plan does not follow the row before it")
        self._plan, self._opening, self._close = plan, None, None
        self.plans.setdefault(plan.tick, set()).add(plan.digest.hex())

    def _opened(self, body: Opened) -> None:
        plan = self._plan
        if plan is None or self._opening is not None or body.tick != plan.tick or body.plan != plan.digest:
            raise Refused(315, "an opening without its plan before it")
        opening = Opening(plan=plan, releases=body.releases)
        verify_opening(opening, self.manifest)
        members = draw_members(opening, self.manifest)
        if plan.change:
            grants = {who: stage for stage, group in enumerate(members) for who in group}
            keyholders = self.manifest.committee.identities()
            verify_grants(grants, owners=self._owners, held=self._held, keyholders=keyholders)
            if plan.change != "start":  # a void start leaves nobody anything
                self._grant(members)
        self._opening, self._ended = opening, False
        self.openings[plan.tick], self.members[plan.tick] = opening, members

    def _grant(self, members: Members) -> None:
        self._held |= {self._owners[who]: stage for stage, group in enumerate(members) for who in group}

    @property
    def _now(self) -> Opening:
        if self._opening is None:
            raise Refused(317, "a row of a tick that is not open")
        return self._opening

    def _inside(self, body: Closed | Committed | Changed | Measured | Answered | Voided) -> None:
        opening, plan = self._now, self._now.plan
        members = self.members[plan.tick]
        if body.tick != plan.tick or self._ended:
            raise Refused(317, "a row of a tick that is not open", expected=plan.tick, actual=body.tick)
        if isinstance(body, Closed):
            if self._close is not None:
                raise Refused(306, "a second close")
            self._close = Close(tick=body.tick, opening=body.opening, commitments=body.commitments)
            verify_close(self._close, plan, opening.digest, members)
            return
        self._ended = True
        if isinstance(body, Committed):
            if self._close is None or plan.kind not in ("train", "measure"):
                raise Refused(317, "a commit without a close")
            verify_reports(body.reports, plan, self._close.digest, members)
            if body.round != plan.round + (plan.kind == "train"):
                raise Refused(318, "the committed round", expected=plan.round + 1, actual=body.round)
            self.round = body.round
            self.states |= {(plan.tick, report.member): report.state for report in body.reports}
        elif isinstance(body, Changed):
            if body.members != members or not plan.change:
                raise Refused(317, "a change that its plan does not have")
            verify_prepared(body.prepared, plan, members)
            self._grant(members)
        elif isinstance(body, Voided):
            if body.members != (members if plan.change == "members" else ()):
                raise Refused(317, "a void that names other members than its plan")
        elif isinstance(body, Measured):
            if plan.kind != "evaluate" or {m.member for m in body.measurements} != set(members[-1]):
                raise Refused(317, "measurements that the plan does not have")
            for measurement in body.measurements:
                verify(measurement, plan.run)
            measured = sorted(loss.microbatch for m in body.measurements for loss in m.losses)
            if measured != list(range(len(plan.work))):
                raise Refused(306, "micro-batches measured twice or not at all")
        elif isinstance(body, Answered):
            if plan.session is None or tuple(a.member for a in body.answers) != answerers(plan):
                raise Refused(317, "an answer that the plan does not have")
            for answer in body.answers:
                verify(answer, plan.run)


def _frames(run: RunDir, ledger: _Ledger) -> Iterator[str]:
    """No process moved a frame outside the tick that it knew to be open, or one that the plan does not have."""
    for folder in sorted([*run.path.glob("node-*"), *run.path.glob("relay-*")]):
        known: int | None = None
        for event in read_events(folder):
            name = event["event"]
            if name == "Began":
                known = None  # it started, again perhaps, and what it knew is gone
            elif name in ("NodeOpened", "RelayOpened"):
                tick = event["tick"]
                opening = ledger.openings.get(tick)
                if opening is None or opening.plan.digest.hex() != event["plan"]:
                    yield f"{folder.name}: knew a plan of tick {tick} that the journal has not opened"
                elif known is not None and tick <= known:
                    yield f"{folder.name}: went from tick {known} to tick {tick}"
                known = tick
            elif name in ("FrameSent", "FrameRead", "Carried"):
                what = f"{folder.name}: {name} of tick {event['tick']}"
                if event["tick"] != known:
                    yield f"{what} while it knew tick {known} to be open"
                elif (opening := ledger.openings.get(event["tick"])) is not None and not _planned(event, opening):
                    yield f"{what}, micro-batch {event['microbatch']}, is not in the plan"


def _planned(event: dict[str, Any], opening: Opening) -> bool:
    plan = opening.plan
    return (
        plan.kind != "change"
        and 0 <= event["microbatch"] < len(plan.work)
        and 0 <= event["boundary"] < len(plan.members) - 1
        and (event["direction"] == "forward" or plan.kind != "evaluate")
    )


def _releases(run: RunDir, ledger: _Ledger) -> Iterator[str]:
    """Every gate released one plan a tick, and every opening's releases are ones its gates announced."""
    names = {k.key: k.name for k in ledger.manifest.committee.keyholders}
    announced: dict[str, dict[int, str]] = {}
    for name in names.values():
        folder = run.folder(f"gate-{name}")
        if not folder.is_dir():
            continue  # its keyholder keeps it elsewhere
        plans = announced.setdefault(name, {})
        for event in read_events(folder):
            if event["event"] != "GateReleased":
                continue
            tick, plan = event["tick"], event["plan"]
            if plans.setdefault(tick, plan) != plan:
                yield f"gate-{name}: released two plans of tick {tick}"
            if plan not in ledger.plans.get(tick, ()):
                yield f"gate-{name}: released a plan of tick {tick} that the journal does not have"
    for tick, opening in ledger.openings.items():
        for release in opening.releases:
            name = names[release.gate]
            if name in announced and announced[name].get(tick) != release.plan.hex():
                yield f"gate-{name}: did not announce its release of tick {tick}"


def _reported(run: RunDir, ledger: _Ledger) -> Iterator[str]:
    """The digests that nodes announced are those in the journal."""
    by_operator = {operator: identity for identity, operator in ledger.operators.items()}
    for folder in sorted(run.path.glob("node-*")):
        member = by_operator.get(folder.name)
        announced = {e["tick"]: e["state"] for e in read_events(folder) if e["event"] == "NodeReported"}
        if member is None and announced:  # whoever died before it was let in has done nothing
            yield f"{folder.name}: is not in the journal"
        for (tick, who), state in ledger.states.items():
            if who == member and announced.get(tick) != state.hex():
                yield f"{folder.name}: its state of tick {tick} is not the one in the journal"


def _report(run: RunDir, ledger: _Ledger) -> Iterator[str]:
    """The report says what the journals say."""
    if not run.report.is_file():
        yield "report.json: there is none"
        return
    try:
        said = json.loads(run.report.read_text())
    except ValueError as error:
        yield f"report.json: not JSON: {error}"
        return
    if not isinstance(said, dict):
        yield "report.json: not an object"
        return
    for name, value in measure(run).items():
        if name not in said:
            yield f"report.json: '{name}' is missing"
        elif not _same(said[name], value):
            yield f"report.json: '{name}' is {said[name]}, the journals say {value}"
    wall = said.get("wall_seconds")
    if not isinstance(wall, int | float) or not math.isfinite(wall) or wall <= 0:
        yield f"report.json: {OUTSIDE[0]} is {wall}"


def _same(said: Any, value: Any) -> bool:
    """Equal, and of the same type: JSON keeps every digit of a float."""
    return type(said) is type(value) and said == value
