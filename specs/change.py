"""Change: a start or turn happens for all or for none, and what it replaced is never used again.

Leads may lie: deal the two sides of a boundary different secrets, or ship their group a turn that it did not draw.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

from interlock.protocols.boundary import Frame
from interlock.protocols.change import Preparing
from interlock.protocols.journal import Changed, Opened, Planned
from interlock.protocols.node import Adopted, NodeOpened
from interlock.protocols.seat import FrameRead

from .history import Seen
from .run import RunSpec
from .spec import always, eventually, sometimes
from .symbolic import term


class Change(RunSpec):
    """Change: the old state or the new one, never between; both sides hold the same secrets or it does not happen."""

    name = "change"
    rounds, epoch_rounds = 3, 1
    cost = 50
    faults = ("drop", "twice", "delay", "reorder", "partition", "slow", "crash")

    @always
    def old_or_new(self, seen: Seen) -> bool:
        "All stages of a tick start from the same change: none from before it, none from after."
        changes = [row.body.tick for row in self.rows(seen) if isinstance(row.body, Changed)]
        newest: dict[str, int] = defaultdict(int)
        used: dict[int, set[int]] = defaultdict(set)
        taken = {(event.by, event.tick): event.made for event in seen(Adopted)}
        for event in seen(NodeOpened):
            newest[event.by] = taken.get((event.by, event.tick), newest[event.by])
            if event.arrives:
                continue
            used[event.tick].add(max((tick for tick in changes if tick <= newest[event.by]), default=0))
        return all(len(bases) == 1 for bases in used.values())

    @always
    def same_secrets(self, seen: Seen) -> bool:
        "Whoever goes on from a change holds the secrets that its neighbours and its replicas hold."
        prepared = {(s.prepared.tick, s.by): s.prepared for s in seen.sent(Preparing)}
        stage_of = {(event.tick, event.by): event.stage for event in seen(NodeOpened)}
        went_on = {(event.made, event.by) for event in seen(Adopted) if (event.made, event.by) in prepared}
        group: dict[tuple[int, int], set[Any]] = defaultdict(set)
        boundary: dict[tuple[int, int], set[Any]] = defaultdict(set)
        for tick, who in went_on:
            stage, said = stage_of[tick, who], prepared[tick, who]
            group[tick, stage].add((said.secrets, said.state))
            boundary[tick, stage - 1].add((said.secrets[1], said.turns[0]))
            boundary[tick, stage].add((said.secrets[2], said.turns[1]))
        return all(len(held) == 1 for held in (*group.values(), *boundary.values()))

    @always
    def no_older_epoch(self, seen: Seen) -> bool:
        "Nobody reads a frame of another tick than the one it has open, so none of an older epoch either."
        of = {sent.header.digest.hex(): sent.header.unit.tick for sent in seen.sent(Frame)}
        tick: dict[str, int] = {}
        for event in sorted((*seen(NodeOpened), *seen(FrameRead)), key=lambda event: event.nth):
            if isinstance(event.what, NodeOpened):
                tick[event.by] = event.tick
            elif of[event.header] != tick.get(event.by):
                return False
        return True

    @always
    def erased(self, seen: Seen) -> bool:
        "No mask of one tick comes back in another: what a change or an opening erased is never used again."
        ticks: dict[bytes, set[int]] = defaultdict(set)
        for sent in seen.sent(Frame):
            ticks[term(sent.blobs[0]).mask].add(sent.header.unit.tick)
        return all(len(used) == 1 for used in ticks.values())

    @eventually(within=200)
    def goes_on(self, seen: Seen) -> bool:
        "With everybody honest, the run turns and ends after any faults."
        return self.ended(seen)

    @sometimes
    def turned(self, seen: Seen) -> bool:
        "The bases turn."
        plans = {row.body.plan.tick: row.body.plan for row in self.rows(seen) if isinstance(row.body, Planned)}
        return any(plans[row.body.tick].change == "turn" for row in self.rows(seen) if isinstance(row.body, Changed))

    @sometimes
    def restarted_inside(self, seen: Seen) -> bool:
        "The coordinator restarts while a change is open."
        changes = {
            row.body.plan.tick for row in self.rows(seen) if isinstance(row.body, Planned) and row.body.plan.change
        }
        opened, ended = self.times(seen, Opened), self.times(seen, Changed)
        backs = [step.at for step in seen.steps("back", "coordinator")]
        return any(opened[tick] < back < ended.get(tick, math.inf) for tick in changes & set(opened) for back in backs)

    def times(self, seen: Seen, kind: type) -> dict[int, float]:
        """When the coordinator wrote its rows of a kind, by tick, in virtual seconds."""
        rows = [(stored.at, self.row(stored).body) for stored in seen.stored() if self.is_row(stored)]
        return {body.tick: at for at, body in rows if isinstance(body, Opened | Changed) and isinstance(body, kind)}
