"""Release: nothing moves in a tick that a quorum of gates has not released, and history is one line.

The coordinator is honest here and everybody may crash but the nodes, who keep their state in memory; `fork` is the
same with a coordinator that lies.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from interlock.protocols.gate import GateReleased
from interlock.protocols.journal import Changed, Committed, Measured, Row, Voided
from interlock.protocols.node import Adopted, NodeOpened
from interlock.protocols.proposal import Propose
from interlock.protocols.relay import RelayOpened
from interlock.protocols.release import Base, Opening, Plan, Released
from interlock.protocols.round import Trouble
from interlock.protocols.seat import FrameSent

from .history import Seen
from .run import RunSpec
from .spec import always, eventually, sometimes


class ReleaseProperties(RunSpec):
    """What holds whoever lies."""

    def traitorous(self) -> int:
        """How many gates lie, and announce nothing."""
        return 0

    @always
    def released_first(self, seen: Seen) -> bool:
        "Nobody opens a tick, and no frame moves in it, before k_e gates have released its plan."
        released: dict[tuple[int, str], set[str]] = defaultdict(set)
        for event in seen(GateReleased):
            released[event.tick, event.plan].add(event.by)
        need = self.release - self.traitorous()
        opened = {(e.by, e.tick): e.plan for e in (*seen(NodeOpened), *seen(RelayOpened))}
        enough = all(len(released[tick, plan]) >= need for (_, tick), plan in opened.items())
        return enough and all((event.by, event.tick) in opened for event in seen(FrameSent))

    @always
    def one_plan(self, seen: Seen) -> bool:
        "No tick has two plans with k_e releases."
        gates: dict[tuple[int, bytes], set[bytes]] = defaultdict(set)
        for sent in seen.sent(Released):
            gates[sent.release.tick, sent.release.plan].add(sent.release.gate)
        ticks = [tick for (tick, _), who in gates.items() if len(who) >= self.release]
        return len(ticks) == len(set(ticks))

    @always
    def released_once(self, seen: Seen) -> bool:
        "An honest gate releases one plan a tick, with the same bytes each time, whenever it crashes."
        honest = {event.by for event in seen(GateReleased)}
        answers: dict[tuple[str, int], set[Any]] = defaultdict(set)
        for sent in seen.sent(Released):
            if sent.by in honest:
                answers[sent.by, sent.release.tick].add(sent.release)
        return all(len(different) == 1 for different in answers.values())

    @always
    def onwards(self, seen: Seen) -> bool:
        "Ticks never go back: whoever opens a tick opens only later ones after it."
        newest: dict[str, int] = {}
        for event in sorted((*seen(NodeOpened), *seen(RelayOpened)), key=lambda event: event.nth):
            if event.tick <= newest.get(event.by, 0) and not self.restarted_since(seen, event):
                return False
            newest[event.by] = event.tick
        return True

    @always
    def one_line(self, seen: Seen) -> bool:
        "Every opening follows the one before: it starts from its result, or from its base if it came to nothing."
        line = {sent.plan.tick: sent.plan for sent in seen.sent(Opening)}
        rows = {row.digest: row for sent in seen.sent(Propose) for row in sent.rows}
        for tick, plan in line.items():
            if tick == 1:
                continue
            before = line.get(tick - 1)
            if before is None or plan.base != _result(before, plan, rows):
                return False
        return True

    @always
    def state_kept(self, seen: Seen) -> bool:
        "No stage loses its state: whoever was there when it was made can take it up."
        return not seen.sent(Trouble, number=308)

    def restarted_since(self, seen: Seen, event: Any) -> bool:
        """Whether who announced this had been down before: a relay forgets and hears of an open tick again."""
        return any(step.who == event.by and step.at <= event.at for step in seen.steps("back"))


class Release(ReleaseProperties):
    """Release: nothing moves in a tick that a quorum of gates has not released, and the run goes on."""

    name = "release"
    faults = ("drop", "twice", "delay", "reorder", "partition", "slow", "crash")

    @eventually(within=120)
    def goes_on(self, seen: Seen) -> bool:
        "With an honest coordinator, k_e gates and the nodes alive, all rounds are taken after any faults."
        return self.ended(seen)

    @sometimes
    def took_up(self, seen: Seen) -> bool:
        "A state made in a tick becomes the base of the next."
        return bool(seen(Adopted))

    @sometimes
    def asked_again(self, seen: Seen) -> bool:
        "A gate gives its release again."
        return len(seen.sent(Released)) > len({(s.by, s.release.tick) for s in seen.sent(Released)})

    @sometimes
    def restarted_coordinator(self, seen: Seen) -> bool:
        "A coordinator goes on from its rows."
        return bool(seen.steps("back", "coordinator"))


def _result(before: Plan, plan: Plan, rows: dict[bytes, Row]) -> Base | None:
    """What the tick before a plan left to start from, by the rows that the plan follows."""
    row = rows.get(plan.head)
    while row is not None and not isinstance(row.body, Committed | Changed | Measured | Voided):
        row = rows.get(row.previous)
    body = None if row is None else row.body
    if row is None or not isinstance(body, Committed | Changed | Measured | Voided) or body.tick != before.tick:
        return None
    if isinstance(body, Committed | Changed):
        return Base(row=row.digest, made=(before.tick,) * len(plan.members))
    return before.base
