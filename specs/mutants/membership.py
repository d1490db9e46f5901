"""What breaks membership: wrong nodes and workers, and a coordinator and gates that believe them."""

from __future__ import annotations

from typing import Any

from interlock.protocols.change import Export, Exported, Prepare, PreparedState
from interlock.protocols.changing import Changing
from interlock.protocols.coordinator import Coordinator
from interlock.protocols.effects import Effects
from interlock.protocols.node import Node
from interlock.protocols.release import Plan

from ..membership import Membership
from ..search import Mutant
from ..symbolic import SymbolicEngine
from . import run as wrong


class Forgets(wrong.BelievesReports):
    """Forgets who held which stage, so that whoever waits may be drawn for any."""

    def _next_plan(self) -> Plan | None:
        self._ledger.held.clear()
        return super()._next_plan()


class Anywhere(Membership):
    """Coordinator and gates do not ask what somebody has held before."""

    coordinator_role = Forgets
    gate_role = wrong.ChecksNothing


class _DealsAgain(Changing):
    def drawn(self, data: bytes) -> Effects:
        """Keep the box key and the one-time keys, and what nobody may know before."""
        return super().drawn(data[:64] + bytes(64) + data[128:])


class DealsAgain(Node):
    """Deals the same secrets whenever it leads."""

    changing = _DealsAgain


class OldSecrets(Membership):
    """Leads deal the same secrets at every change."""

    node_role = DealsAgain


class SendsRubbish(SymbolicEngine):
    """Sends newcomers another state than it holds."""

    def _export(self, job: Export) -> Exported:
        held, self._states[self._base] = self._states[self._base], bytes(32)
        try:
            return super()._export(job)
        finally:
            self._states[self._base] = held


class Rubbish(Membership):
    """A newcomer gets another state, and coordinator and gates do not compare what they report."""

    engine_role = SendsRubbish
    coordinator_role = wrong.BelievesReports
    gate_role = wrong.ChecksNothing


class _TellsAll(Changing):
    def exported(self, result: Exported) -> Effects:
        """Sends the first part to everyone at once."""
        everyone = tuple(who for stage in self.seat.members for who in stage if who != self.seat.me)
        return [*super().exported(result), *self.seat.sealed(everyone, "shard", 0, result.parts[0])]


class TellsAll(Node):
    """Sends everyone in the tick a part of the state."""

    changing = _TellsAll


class ToEveryone(Membership):
    """Parts of a state go to members of other stages."""

    node_role = TellsAll


class CountsTwice(SymbolicEngine):
    """A worker that took a state over counts what it did before as well."""

    def _prepare(self, job: Prepare) -> PreparedState:
        if job.change == "members":
            self._gradients.update(range(self._manifest.training.microbatches))
        return super()._prepare(job)

    def _adopt(self, job: Any) -> None:
        kept = self._gradients.copy()
        super()._adopt(job)
        self._gradients = kept


class Twice(Membership):
    """Workers keep counts over a change of members."""

    engine_role = CountsTwice
    coordinator_role = wrong.BelievesReports
    gate_role = wrong.ChecksNothing


class Unburied(Membership):
    """The coordinator takes nobody for dead."""

    coordinator_role = wrong.NeverGivesUp


class KeepsAll(Coordinator):
    """Lets nobody go."""

    def _leave(self, source: bytes) -> Effects:
        return []


class NobodyLeaves(Membership):
    """The coordinator does not hear who wants to leave."""

    coordinator_role = KeepsAll


MUTANTS = {
    "anywhere": Mutant(breaks="one_stage", spec=Anywhere),
    "old secrets": Mutant(breaks="new_secrets", spec=OldSecrets),
    "rubbish": Mutant(breaks="one_state", spec=Rubbish),
    "to everyone": Mutant(breaks="only_to_the_drawn", spec=ToEveryone),
    "twice": Mutant(breaks="counted_once", spec=Twice),
    "unburied": Mutant(breaks="goes_on", spec=Unburied),
    "nobody leaves": Mutant(breaks="lets_go", spec=NobodyLeaves),
}
