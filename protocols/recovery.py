"""What a coordinator forgot, and others know: it asks every gate after a restart, before it does anything else.

A coordinator that was killed has all its rows, and k_e gates that know nothing newer are enough. One whose disk lost
rows, or everything, waits for all gates. The newest opening that anybody knows counts; of rival plans after it, the one
with most releases; the rows that lead there are fetched from a gate that followed them. Every opening was released by
k_e gates, each of which keeps the rows up to its plan, so what an opening made final is always there.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

import msgspec

from interlock.vault import VaultError, verify_signature

from .canonical import Count, Message
from .effects import Effects, Event, Send
from .errors import Refused
from .journal import GENESIS, Opened, Planned, Row, Voided, verify_chain, verify_row
from .ledger import Ledger
from .manifest import Manifest
from .release import Opening, Plan, Release, verify_opening

ROWS_MAX = 1000  # of one message


class Recall(Message, frozen=True, array_like=True, kw_only=True):
    """The coordinator asks what it may have forgotten. first: the first row that it wants to see."""

    first: Count


class Recalled(Message, frozen=True, array_like=True, kw_only=True):
    """The answer.

    first: as asked. rows: from there on, of a gate that keeps them. total: how many it has followed. plan, release: its
    newest release. opening: the newest that it knows, which nodes and relays tell too.
    """

    first: Count
    rows: Annotated[tuple[Row, ...], msgspec.Meta(max_length=ROWS_MAX)]
    total: Count
    plan: Plan | None
    release: Release | None
    opening: Opening | None


def knows(opening: Opening | None) -> Recalled:
    """The answer of a node or relay."""
    return Recalled(first=0, rows=(), total=0, plan=None, release=None, opening=opening)


def lost(tick: int) -> Voided:
    """The end of a tick whose rows after the opening nobody has (`journal.LOST`)."""
    return Voided(tick=tick, number=333, reason="rows after its opening are lost")


class Past(Message, frozen=True, array_like=True, kw_only=True):
    """The coordinator tells a gate rows that it has missed."""

    rows: Annotated[tuple[Row, ...], msgspec.Meta(max_length=ROWS_MAX)]


class Recovered(Event, frozen=True, kw_only=True):
    """A coordinator has learnt from others what it had forgotten.

    rows: it has now. fetched: of them, from gates. tick: the newest that was opened.
    """

    rows: int
    fetched: int
    tick: int


@dataclass(frozen=True, slots=True)
class Found:
    """What a run's history comes to.

    rows: the chain. opening: the newest, if the rows do not hold it. plan: the one after it that gates have released,
    if the rows do not hold it.
    """

    rows: tuple[Row, ...]
    opening: Opening | None
    plan: Plan | None


class Recovery:
    """Collects answers until they say how the run goes on.

    Args:
        own: the coordinator's own rows, a chain from the first one on.
        lost: whether rows are known to be lost; then all gates must answer.
        without: keys of gates that will not come back.

    Attributes:
        lost: as given; or because a gate seems to know more than we do. proven: as given; or because somebody showed a
            newer opening, or rows that we signed and do not have.
    """

    def __init__(self, manifest: Manifest, own: tuple[Row, ...], *, lost: bool, without: Collection[bytes]) -> None:
        self._manifest, self._own, self._without = manifest, own, without
        self.lost = self.proven = lost
        self._answers: dict[bytes, Recalled] = {}
        self._dismissed: set[bytes] = set()  # plans that break the rules: no honest gate released them
        self._opening: Opening | None = None  # the newest that anybody told
        self._known = Ledger(manifest)
        for row in own:
            self._known.fold(row)
        self._mine = {row.digest for row in own}
        self._begin(own)
        self._source: bytes | None = None  # the gate whose rows we read
        self._read: set[bytes] = set()  # those that do not have what we look for

    def missing(self) -> list[str]:
        """Names of the keyholders whose gates must still answer; any of them if `lost` is false."""
        keyholders = self._manifest.committee.keyholders
        return [k.name for k in keyholders if k.key not in self._answers and k.key not in self._without]

    @property
    def fetched(self) -> int:
        """How many of the rows that were found are not our own."""
        return sum(1 for row in self._chain if row.digest not in self._mine)

    @property
    def enough(self) -> bool:
        """Whether enough gates have answered."""
        return not self.missing() if self.lost else len(self._answers) >= self._manifest.committee.release

    def ask(self, gate: bytes) -> Send:
        """What to say to a gate that is there."""
        return Send(gate, Recall(first=len(self._chain)))

    def tell(self, opening: Opening) -> None:
        """Take in an opening that somebody knows.

        Raises:
            Refused: E204, E206, E301, E302: it is none.
        """
        verify_opening(opening, self._manifest)
        if self._opening is None or opening.plan.tick > self._opening.plan.tick:
            self._opening = opening
        own = self._known.opening
        if own is None or opening.plan.tick > own.plan.tick:
            self.lost = self.proven = True

    def take(self, gate: bytes, message: Recalled) -> Effects:
        """Take in a gate's answer, and ask for the next rows if they are wanted.

        Raises:
            Refused: E336, what it says is wrong; it counts as an answer that says nothing.
        """
        try:
            self._verify(gate, message)
            if message.opening is not None:
                self.tell(message.opening)
        except Refused as refused:
            self._answers[gate] = knows(None)
            self._read.add(gate)
            raise Refused(336, f"what gate {gate.hex()[:12]} knows: {refused.text}") from None
        self._answers[gate] = msgspec.structs.replace(message, rows=())
        if newer(message, len(self._own)):
            self.lost = self.proven = True
        return self._extend(gate, message) if gate == self._source else []

    def released(self, plan: Plan) -> bool:
        """Whether a gate has released this plan, so that it may have been opened."""
        return any(answer.plan == plan for answer in self._answers.values())

    def dismiss(self, plan: Plan) -> None:
        """Do not consider a plan that breaks the rules."""
        self._dismissed.add(plan.digest)

    def again(self) -> Effects:
        """Ask again what may have been lost on the way, or what gates may have got since."""
        if self._source is not None:
            return [self.ask(self._source)]
        self._read.clear()
        return []

    def look(self) -> Found | Effects:
        """How the run goes on, or what is asked of a gate meanwhile."""
        if not self.enough:
            return []
        opening, plan = self._newest()
        known = self._known.opening
        rival = plan if plan is not None and plan != self._known.plan else None
        if rival is None and opening == known:
            return Found(self._own, None, None)
        self.lost = True
        if not self.enough:
            return []
        wanted = rival if rival is not None else opening
        assert wanted is not None
        head = wanted.head if isinstance(wanted, Plan) else wanted.plan.head
        if (end := self._end(head)) is not None:
            return self._cut(end, None if rival is not None else opening, rival)
        return self._ask_for_rows(head)

    # -- the newest ---------------------------------------------------------------------------------------------

    def _newest(self) -> tuple[Opening | None, Plan | None]:
        """The newest opening, and of the plans released after it the one that most gates released."""
        own, opening = self._known, self._opening
        if own.opening is not None and (opening is None or own.opening.plan.tick >= opening.plan.tick):
            opening = own.opening
        tick = 1 if opening is None else opening.plan.tick + 1
        plans: dict[bytes, Plan] = {}
        votes: dict[bytes, int] = {}
        if own.plan is not None and not own.is_open and own.plan.tick == tick:
            plans[own.plan.digest], votes[own.plan.digest] = own.plan, 0
        for answer in self._answers.values():
            plan = answer.plan
            if plan is not None and plan.tick == tick and plan.digest not in self._dismissed:
                plans[plan.digest] = plan
                votes[plan.digest] = votes.get(plan.digest, 0) + 1
        mine = own.plan.digest if own.plan is not None else b""
        best = max(votes, key=lambda each: (votes[each], each == mine, each), default=None)
        return opening, None if best is None else plans[best]

    def _verify(self, gate: bytes, message: Recalled) -> None:
        for row in message.rows[:1]:
            verify_row(row, run=self._manifest.run, coordinator=self._manifest.coordinator)
        plan, release = message.plan, message.release
        if release is None or plan is None:
            if (release, plan) != (None, None):
                raise Refused(302, "a release without its plan, or the reverse")
            return
        if plan.run != self._manifest.run:
            raise Refused(204, "a plan of another run")
        if release.gate != gate or release.plan != plan.digest or release.tick != plan.tick:
            raise Refused(302, "the release is for another plan")
        try:
            verify_signature(gate, release.body(plan.run), release.signature, whose="its release")
        except VaultError as error:
            raise Refused(206, error.what) from None

    # -- rows ---------------------------------------------------------------------------------------------------

    def _end(self, head: bytes) -> int | None:
        """How many rows of the chain lead to this head."""
        if head == GENESIS:
            return 0
        return self._ends.get(head)

    def _cut(self, end: int, opening: Opening | None, plan: Plan | None) -> Found:
        """The rows up to a head; and those after it, if they begin with the plan that was opened."""
        following = self._chain[end : end + 1]
        planned = following[0].body if following else None
        if opening is not None and isinstance(planned, Planned) and planned.plan == opening.plan:
            held = [row for row in self._chain[end:] if isinstance(row.body, Opened)]
            if not held or held[0].body == opened_row(opening):
                return Found(tuple(self._chain), None if held else opening, None)
        return Found(tuple(self._chain[:end]), opening, plan)

    def _ask_for_rows(self, head: bytes) -> Effects:
        if self._source is not None:
            return []  # it is being read
        for gate, answer in sorted(self._answers.items()):
            released = answer.plan is not None and answer.plan.head == head
            if gate not in self._read and (released or answer.total > 0):
                self._source = gate
                self._begin(self._own)
                return [self.ask(gate)]
        return []

    def _begin(self, rows: tuple[Row, ...]) -> None:
        """Read on from these rows of ours."""
        self._chain, self._from_scratch = list(rows), not rows
        self._ends = {row.digest: row.number + 1 for row in rows}

    def _extend(self, gate: bytes, message: Recalled) -> Effects:
        """Take in the next rows of the gate that is being read."""
        rows = message.rows
        if message.first != len(self._chain):
            return []  # said twice
        tip = self._chain[-1].digest if self._chain else GENESIS
        if rows and rows[0].previous != tip and not self._from_scratch:
            self._begin(())  # our own rows are of another line
            return [self.ask(gate)]
        try:
            run, coordinator = self._manifest.run, self._manifest.coordinator
            verify_chain(rows, run=run, coordinator=coordinator, previous=tip, number=len(self._chain))
        except Refused as refused:
            self._next_source(gate)
            raise Refused(336, f"rows of gate {gate.hex()[:12]}: {refused.text}") from None
        self._chain += rows
        self._ends |= {row.digest: row.number + 1 for row in rows}
        if rows and len(self._chain) < message.total:
            return [self.ask(gate)]
        self._next_source(gate)
        return []

    def _next_source(self, gate: bytes) -> None:
        self._read.add(gate)
        self._source = None


def opened_row(opening: Opening) -> Opened:
    """What a journal says of an opening; its plan is in the row before."""
    return Opened(tick=opening.plan.tick, plan=opening.plan.digest, releases=opening.releases)


def newer(message: Recalled, number: int) -> bool:
    """Whether an answer begins with a row of this number or a later one. (Whoever asks checks that it signed it.)"""
    return bool(message.rows) and message.rows[0].number >= number
