"""Round: every micro-batch counts once, replicas that go on hold one state, and nothing is new without a commit row.

Nodes may die here: the run goes on without them as long as every stage has a replica left. Whatever happens, those that
are left are on one side of the round's commit row.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from interlock.protocols.coordinator import RunEnded, Waiting
from interlock.protocols.journal import Changed, Closed, Committed, Row
from interlock.protocols.node import Adopted, NodeOpened
from interlock.protocols.round import Reporting, Sealed

from .history import Seen
from .run import RunSpec
from .spec import always, eventually, sometimes
from .symbolic import counted


class Round(RunSpec):
    """Round: every micro-batch counts once, and all who go on hold one state."""

    name = "round"
    faults = ("drop", "twice", "delay", "reorder", "partition", "slow", "crash", "death")
    crashing = ("coordinator", "g0", "g1", "g2", "r0", "n0", "n1", "n2", "n3")
    may_stop = (360,)
    symbolic = ("counted_once",)

    def moved(self, seen: Seen, *kinds: type) -> dict[int, Row]:
        """Rows of the coordinator's journal that make a tick's state the base, by tick."""
        return {row.body.tick: row for row in self.rows(seen) if isinstance(row.body, kinds)}  # type: ignore[union-attr]

    @always
    def counted_once(self, seen: Seen) -> bool:
        "Every micro-batch of a committed round is in every stage's new state exactly once."
        expected = [1] * self.microbatches
        return all(
            list(counted(report.state)[: self.microbatches]) == expected
            for row in self.moved(seen, Committed).values()
            for report in row.body.reports  # type: ignore[union-attr]
        )

    @always
    def one_state(self, seen: Seen) -> bool:
        "All replicas of a stage that go on from a round reported one digest for it."
        stage_of = {(event.by, event.tick): event.stage for event in seen(NodeOpened)}
        reported = {(sent.by, sent.report.tick): sent.report.state for sent in seen.sent(Reporting)}
        held: dict[tuple[int, int], set[bytes]] = defaultdict(set)
        for event in seen(Adopted):
            if (event.by, event.made) in reported:
                held[stage_of[event.by, event.made], event.made].add(reported[event.by, event.made])
        return all(len(states) == 1 for states in held.values())

    @always
    def no_state_without_a_row(self, seen: Seen) -> bool:
        "Nobody takes up a new state before its commit or change row is in the journal."
        events = seen(Adopted)
        if not events:
            return True
        rows = {tick: stored.nth for stored in seen.stored() for tick in _made(self, stored)}
        return all(event.made == 0 or rows.get(event.made, event.nth) < event.nth for event in events)

    @always
    def one_side(self, seen: Seen) -> bool:
        "In a tick, all nodes go on from the same ticks' states."
        bases: dict[int, set[int]] = defaultdict(set)
        newest: dict[str, int] = {}
        taken = {(event.by, event.tick): event.made for event in seen(Adopted)}
        for event in seen(NodeOpened):
            newest[event.by] = taken.get((event.by, event.tick), newest.get(event.by, 0))
            if not event.arrives:
                bases[event.tick].add(newest[event.by])
        return all(len(made) == 1 for made in bases.values())

    @always
    def sums_after_close(self, seen: Seen) -> bool:
        "No replica shows its gradient sum before the close, which fixes everybody's."
        closed = {row.body.tick for row in self.rows(seen) if isinstance(row.body, Closed)}
        return all(sent.tick in closed for sent in seen.sent(Sealed, purpose="sum"))

    @eventually(within=200)
    def goes_on(self, seen: Seen) -> bool:
        "If every stage keeps a replica, and of the others nobody dies for good, all rounds are taken after any faults."
        return self.ended(seen) or not self.bearable(seen)

    @eventually(within=200)
    def says_so(self, seen: Seen) -> bool:
        "If the run cannot go on, the coordinator says who is missing: while it waits, or in the error that ends it."
        gave_up = any(step.number == 360 for step in seen.steps("stop", "coordinator"))
        waits = [event for event in seen(Waiting) if event.at >= (seen.quiet or 0)]
        return bool(seen(RunEnded)) or gave_up or bool(waits)

    @sometimes
    def trained(self, seen: Seen) -> bool:
        "A round is committed."
        return bool(self.moved(seen, Committed))

    @sometimes
    def died(self, seen: Seen) -> bool:
        "A node dies while the run is under way."
        return any(step.who.startswith("n") for step in seen.steps("crash"))


def _made(spec: RunSpec, stored: Any) -> list[int]:
    """The tick whose state a stored row makes the base, if it is such a row."""
    if not spec.is_row(stored):
        return []
    body = spec.row(stored).body
    return [body.tick] if isinstance(body, Committed | Changed) else []
