"""What breaks release: wrong gates, relays, nodes and thresholds."""

from __future__ import annotations

from typing import Any

from interlock.protocols.manifest import Manifest

from ..fork import SignsAnything
from ..release import Release
from ..search import Mutant
from . import run as wrong


class OneIsEnough(Release):
    """The manifest asks for one release of three."""

    @property
    def manifest(self) -> Manifest:
        """With another threshold."""
        return wrong.with_release(super().manifest, 1)


class ForgetfulGates(Release):
    """Gates do not write their releases down."""

    gate_role = wrong.KeepsNothing


class FreshAnswers(Release):
    """Gates draw fresh bytes each time they are asked."""

    gate_role = wrong.AnswersAnew


class TwoPlans(Release):
    """Gates sign anything, and the coordinator proposes two plans of every tick."""

    coordinator_role = wrong.ProposesTwo

    def role(self, name: bytes) -> Any:
        """As in any run, but for the gates."""
        honest = super().role(name)
        return SignsAnything(self.identity(name), honest) if name in self.named("g") else honest


class OldBases(Release):
    """Gates release whatever is proposed, once a tick, and the coordinator plans from the run's first state."""

    gate_role = wrong.ChecksNothing
    coordinator_role = wrong.PlansFromTheStart


class RelaysGoBack(Release):
    """Relays take any opening for the newest."""

    relay_role = wrong.GoesBack


class BaseForgotten(Release):
    """Nodes drop the base when a new state stands beside it, so that a void leaves them nothing."""

    node_role = wrong.ForgetsItsBase


class NothingTwice(Release):
    """Nodes never say again what may have been lost."""

    node_role = wrong.SaysItOnce


MUTANTS = {
    "one is enough": Mutant(breaks="released_first", spec=OneIsEnough),
    "forgetful gates": Mutant(breaks="released_once", spec=ForgetfulGates),
    "fresh answers": Mutant(breaks="released_once", spec=FreshAnswers),
    "two plans": Mutant(breaks="one_plan", spec=TwoPlans),
    "old bases": Mutant(breaks="one_line", spec=OldBases),
    "relays go back": Mutant(breaks="onwards", spec=RelaysGoBack),
    "base forgotten": Mutant(breaks="state_kept", spec=BaseForgotten),
    "nothing twice": Mutant(breaks="goes_on", spec=NothingTwice),
}
