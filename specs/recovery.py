"""Recovery: a coordinator whose disk loses rows, or all of them, learns from others what it forgot.

It forgets at any moment, unnoticed or with a word that its journal is lost, beside everything that may go wrong in any
run. Gates keep the rows that they followed; nodes and relays know the newest opening.
"""

from __future__ import annotations

from collections import defaultdict

from hypothesis import strategies as st

from interlock.protocols.canonical import encode
from interlock.protocols.coordinator import Coordinator
from interlock.protocols.effects import Effects, Store
from interlock.protocols.errors import Misused
from interlock.protocols.journal import LOST, Voided
from interlock.protocols.kept import key_of
from interlock.protocols.recovery import Recovered
from interlock.protocols.release import Opening

from .history import Seen
from .release import ReleaseProperties
from .round import Round
from .spec import action, always, eventually, sometimes

LOSSES_MAX = 3  # in a run
DROPS = st.sampled_from((1, 1, 2, 3, 5, 9, 99))


class Forgetful(Coordinator):
    """A coordinator on a disk that does not keep what it promised."""

    forgot = 0

    def forget(self, drop: int) -> Effects:
        """Start again without the last rows; without any, its operator says so."""
        if self.forgot == LOSSES_MAX:
            raise Misused(801, "it has forgotten enough")
        rows = self._kept.rows()
        kept = rows[: max(0, len(rows) - drop)]
        if len(kept) == len(rows):
            raise Misused(801, "there is nothing to forget yet")
        taken_back: Effects = [Store(key_of(row.number), b"") for row in reversed(rows[len(kept) :])]
        forgot = self.forgot + 1
        self.__init__(  # type: ignore[misc]  # the same process, started again
            self._identity, self._manifest, index=self._index, chunk=self._chunk, recover=not kept
        )
        self.forgot = forgot
        return [*taken_back, *self.restore({key_of(row.number): encode(row) for row in kept})]


class Recovery(ReleaseProperties):
    """Recovery: a coordinator that lost rows, or all of them, goes on with the one history that others know."""

    name = "recovery"
    coordinator_role = Forgetful
    faults = ("drop", "delay", "slow", "crash")
    crashing = ("coordinator", "g0", "g1", "g2", "r0")
    symbolic = ("counted_once",)
    cost = 30

    @action(by=Coordinator, drop=DROPS)
    def forget(self, role: Forgetful, drop: int) -> Effects:
        "The coordinator's disk loses its last rows, or all, and it starts again."
        return role.forget(drop)

    counted_once = Round.counted_once
    moved = Round.moved

    @always
    def one_opening(self, seen: Seen) -> bool:
        "Nobody is told of two plans opened for one tick."
        plans: dict[int, set[bytes]] = defaultdict(set)
        for sent in seen.sent(Opening):
            plans[sent.plan.tick].add(sent.plan.digest)
        return all(len(opened) == 1 for opened in plans.values())

    @always
    def final(self, seen: Seen) -> bool:
        "What a tick was opened after is never written differently."
        written = [(stored.nth, self.row(stored)) for stored in seen.stored() if self.is_row(stored)]
        by_digest = {row.digest: row for _, row in written}
        opened = [(sent.nth, sent.plan.head) for sent in seen.sent(Opening)]
        until: dict[int, tuple[int, bytes]] = {}  # number: since when it is final, and what it is
        for nth, head in opened:
            row = by_digest.get(head)
            while row is not None and row.number not in until:
                until[row.number] = (nth, row.digest)
                row = by_digest.get(row.previous)
        never = (len(seen.steps()), b"")
        return all(nth < until.get(row.number, never)[0] or row.digest == until[row.number][1] for nth, row in written)

    @always
    def nothing_undone(self, seen: Seen) -> bool:
        "No tick starts from an older state than the tick before it did."
        numbers = {row.digest: row.number for row in self.rows(seen)}
        newest = -1
        for sent in sorted(seen.sent(Opening), key=lambda sent: sent.plan.tick):
            base = -1 if sent.plan.base is None else numbers.get(sent.plan.base.row, newest)
            if base < newest:
                return False
            newest = base
        return True

    @eventually(within=200)
    def goes_on(self, seen: Seen) -> bool:
        "With all gates and the nodes alive, all rounds are taken whatever was forgotten."
        return self.ended(seen)

    @sometimes
    def forgot(self, seen: Seen) -> bool:
        "A coordinator starts again with less than it had written."
        return any(stored.by == "coordinator" and not stored.value for stored in seen.stored())

    @sometimes
    def learnt(self, seen: Seen) -> bool:
        "It learns from others what it had forgotten."
        return bool(seen(Recovered))

    @sometimes
    def voided(self, seen: Seen) -> bool:
        "A tick whose rows are lost is void."
        return any(isinstance(row.body, Voided) and row.body.number == LOST for row in self.rows(seen))
