"""Membership: nodes come, leave and die; every stage goes on with whoever holds it, and nobody ever holds two.

One node more than the run needs waits for a place. Nodes may die, or start again without their state, and be told to
leave; everybody else may crash and come back.
"""

from __future__ import annotations

from collections import defaultdict

from interlock.protocols.change import Preparing
from interlock.protocols.effects import Effects
from interlock.protocols.errors import Misused
from interlock.protocols.journal import Changed, Committed, Opened, Planned, Voided
from interlock.protocols.node import Leaves, Node, NodeOpened
from interlock.protocols.release import Opening, draw_members
from interlock.protocols.round import Sealed

from .history import Seen
from .run import RunSpec
from .spec import action, always, eventually, sometimes
from .symbolic import counted

NONE = bytes(32)


class Membership(RunSpec):
    """Membership: whoever comes gets what its stage holds, whoever goes knows nothing of what follows."""

    name = "membership"
    spares = 1
    rounds, epoch_rounds = 3, 2
    cost = 60
    faults = ("drop", "twice", "delay", "reorder", "partition", "slow", "crash", "death")
    crashing = ("coordinator", "g0", "g1", "g2", "r0", "n0", "n1", "n2", "n3", "n4")
    may_stop = (360,)
    symbolic = ("counted_once",)

    @action(by=Node)
    def leave(self, role: Node) -> Effects:
        "Its operator wants it to go; one node in a run."
        if getattr(self, "left", role) is not role:
            raise Misused(801, "somebody leaves already")
        self.left = role
        return role.on_timer("hand over")

    @always
    def one_stage(self, seen: Seen) -> bool:
        "Nobody holds two stages over a run's life, whatever becomes of the ticks that gave them."
        stages: dict[str, set[int]] = defaultdict(set)
        changed = {row.body.tick for row in self.rows(seen) if isinstance(row.body, Changed)}
        for event in seen(NodeOpened):
            if event.kind != "change" or event.arrives or event.tick in changed:
                stages[event.by].add(event.stage)
        return all(len(held) == 1 for held in stages.values())

    @always
    def new_secrets(self, seen: Seen) -> bool:
        "Every change of members deals secrets that nobody has had before."
        ticks: dict[bytes, set[int]] = defaultdict(set)
        for sent in seen.sent(Preparing):
            for secret in sent.prepared.secrets:
                ticks[secret].add(sent.prepared.tick)
        return all(len(dealt) == 1 for secret, dealt in ticks.items() if secret != NONE)

    @always
    def one_state(self, seen: Seen) -> bool:
        "Whoever comes reports the state that the others of its stage hold, or the change does not happen."
        for row in self.rows(seen):
            if isinstance(row.body, Changed):
                state = {prepared.member: prepared.state for prepared in row.body.prepared}
                if any(len({state[who] for who in stage}) != 1 for stage in row.body.members):
                    return False
        return True

    @always
    def only_to_the_drawn(self, seen: Seen) -> bool:
        "Parts of a state go to newcomers of the tick's opening and to nobody else."
        arrives: dict[int, set[bytes]] = {}
        for sent in seen.sent(Opening):
            if sent.plan.change == "members" and sent.plan.tick not in arrives:
                stay = {who for stage in sent.plan.members for who in stage}
                drawn = draw_members(sent.what, self.manifest)
                arrives[sent.plan.tick] = {who for stage in drawn for who in stage} - stay
        return all(set(sent.to) <= arrives.get(sent.tick, set()) for sent in seen.sent(Sealed, purpose="shard"))

    @always
    def counted_once(self, seen: Seen) -> bool:
        "Every micro-batch of a committed round is in every stage's new state exactly once."
        expected = [1] * self.microbatches
        return all(
            list(counted(report.state)[: self.microbatches]) == expected
            for row in self.rows(seen)
            if isinstance(row.body, Committed)
            for report in row.body.reports
        )

    @eventually(within=200)
    def goes_on(self, seen: Seen) -> bool:
        "If every stage keeps a replica, and of the others nobody dies for good, all rounds are taken."
        return self.ended(seen) or not self.bearable(seen)

    @eventually(within=200)
    def lets_go(self, seen: Seen) -> bool:
        "Whoever was told to leave goes, if others hold what it holds or could."
        leaves = {event.by for event in seen(Leaves)}
        gone = {step.who for step in (*seen.steps("stop"), *seen.steps("crash"))}
        return leaves <= gone or not self.bearable(seen)

    @sometimes
    def took_over(self, seen: Seen) -> bool:
        "Somebody gets a stage's state and goes on with it."
        arrived = {(event.by, event.tick) for event in seen(NodeOpened) if event.arrives}
        changed = {row.body.tick for row in self.rows(seen) if isinstance(row.body, Changed)}
        return any(tick in changed for _, tick in arrived)

    @sometimes
    def died_in_a_change(self, seen: Seen) -> bool:
        "A change of members comes to nothing because somebody dies in it."
        plans = {row.body.plan.tick: row.body.plan for row in self.rows(seen) if isinstance(row.body, Planned)}
        opened = {row.body.tick for row in self.rows(seen) if isinstance(row.body, Opened)}
        voids = [row.body.tick for row in self.rows(seen) if isinstance(row.body, Voided)]
        return any(plans[tick].change == "members" for tick in voids if tick in opened)
