"""What breaks recovery: coordinators that take what is left for everything, and whoever breaks any run."""

from __future__ import annotations

from typing import Any

import msgspec

from interlock.protocols.gate import Gate
from interlock.protocols.manifest import Manifest
from interlock.protocols.recovery import Recall, Recalled
from interlock.protocols.release import Plan

from ..fork import AsksNobody, SignsAnything
from ..recovery import Forgetful, Recovery
from ..search import Mutant
from . import run as wrong


class OneIsEnough(Recovery):
    """The manifest asks for one release of three."""

    @property
    def manifest(self) -> Manifest:
        """With another threshold."""
        return wrong.with_release(super().manifest, 1)


class _Two(Forgetful, wrong.ProposesTwo):
    pass


class _Old(Forgetful, wrong.PlansFromTheStart):
    pass


class _Wavers(_Old):
    def _next_plan(self) -> Plan | None:
        plan, newest = super()._next_plan(), self._ledger.base
        return plan if plan is None or plan.tick % 2 else msgspec.structs.replace(plan, base=newest)


class _Alone(Forgetful, AsksNobody):
    pass


class _SignedAnyway(Recovery):
    """Gates sign anything."""

    def role(self, name: bytes) -> Any:
        """As in any run, but for the gates."""
        honest = super().role(name)
        return SignsAnything(self.identity(name), honest) if name in self.named("g") else honest


class TwoPlans(_SignedAnyway):
    """Gates sign anything, and the coordinator proposes two plans of every tick."""

    coordinator_role = _Two


class Alone(_SignedAnyway):
    """Gates sign anything, and the coordinator takes the rows that are left for the whole history."""

    coordinator_role = _Alone


class ForgetfulGates(Recovery):
    """Gates do not write their releases down."""

    gate_role = wrong.KeepsNothing


class OldBases(Recovery):
    """Gates release whatever is proposed, once a tick, and the coordinator plans from the run's first state."""

    gate_role = wrong.ChecksNothing
    coordinator_role = _Old


class BackAndForth(OldBases):
    """The same, but every other tick starts from the newest state."""

    coordinator_role = _Wavers


class RelaysGoBack(Recovery):
    """Relays take any opening for the newest."""

    relay_role = wrong.GoesBack


class BaseForgotten(Recovery):
    """Nodes drop the base when a new state stands beside it, so that a void leaves them nothing."""

    node_role = wrong.ForgetsItsBase


class GradientsKept(Recovery):
    """Workers keep the gradients of an attempt that came to nothing."""

    engine_role = wrong.KeepsGradients


class _KeepsNoRows(Gate):
    def _recalled(self, recall: Recall) -> Recalled:
        return msgspec.structs.replace(super()._recalled(recall), rows=())


class NoRows(Recovery):
    """Gates keep their releases, and not the rows that lead to them."""

    gate_role = _KeepsNoRows


MUTANTS = {
    "one is enough": Mutant(breaks="released_first", spec=OneIsEnough),
    "two plans": Mutant(breaks="one_plan", spec=TwoPlans),
    "forgetful gates": Mutant(breaks="released_once", spec=ForgetfulGates),
    "relays go back": Mutant(breaks="onwards", spec=RelaysGoBack),
    "old bases": Mutant(breaks="one_line", spec=OldBases),
    "base forgotten": Mutant(breaks="state_kept", spec=BaseForgotten),
    "gradients kept": Mutant(breaks="counted_once", spec=GradientsKept),
    "another opening": Mutant(breaks="one_opening", spec=Alone),
    "another history": Mutant(breaks="final", spec=Alone),
    "back and forth": Mutant(breaks="nothing_undone", spec=BackAndForth),
    "no rows": Mutant(breaks="goes_on", spec=NoRows),
}
