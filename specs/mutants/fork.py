"""What lets a lying coordinator fork: more lying gates than the thresholds bear, and gates that check too little."""

from __future__ import annotations

from interlock.protocols.manifest import Manifest

from ..fork import Fork
from ..search import Mutant
from . import run as wrong


class TwoGatesLie(Fork):
    """Two gates of four sign anything, where the thresholds bear one."""

    def traitorous(self) -> int:
        """Two."""
        return 2


class OldBases(Fork):
    """Gates release whatever is proposed, once a tick, and the coordinator plans from the run's first state."""

    gate_role = wrong.ChecksNothing
    coordinator_role = wrong.PlansFromTheStart


class Unwritten(Fork):
    """Gates do not write their releases down."""

    gate_role = wrong.KeepsNothing


class OneIsEnough(Fork):
    """The manifest asks for one release of four."""

    @property
    def manifest(self) -> Manifest:
        """With another threshold."""
        return wrong.with_release(super().manifest, 1)


class RelaysGoBack(Fork):
    """Relays take any opening for the newest."""

    relay_role = wrong.GoesBack


class BaseForgotten(Fork):
    """Nodes drop the base when a new state stands beside it, so that a void leaves them nothing."""

    node_role = wrong.ForgetsItsBase


MUTANTS = {
    "two gates lie": Mutant(breaks="one_plan", spec=TwoGatesLie),
    "old bases": Mutant(breaks="one_line", spec=OldBases),
    "unwritten": Mutant(breaks="released_once", spec=Unwritten),
    "one is enough": Mutant(breaks="released_first", spec=OneIsEnough),
    "relays go back": Mutant(breaks="onwards", spec=RelaysGoBack),
    "base forgotten": Mutant(breaks="state_kept", spec=BaseForgotten),
}
