"""What lets a lying coordinator fork: more lying gates than the thresholds bear, and gates that check too little."""

from __future__ import annotations

from typing import Any

from ..fork import Fork, SignsAnything
from ..run import key
from ..search import Mutant
from . import run as wrong


class TwoGatesLie(Fork):
    """Two gates of four sign anything, where the thresholds bear one."""

    def role(self, name: bytes) -> Any:
        """g1 lies too."""
        honest = super().role(name)
        return SignsAnything(self.identity(name), honest) if name == key("g1") else honest

    def traitorous(self) -> int:
        """Two."""
        return 2


class Unchecked(Fork):
    """Gates release whatever is proposed, once a tick."""

    gate_role = wrong.ChecksNothing


class Unwritten(Fork):
    """Gates do not write their releases down."""

    gate_role = wrong.KeepsNothing


MUTANTS = {
    "two gates lie": Mutant(breaks="one_plan", spec=TwoGatesLie),
    "unchecked": Mutant(breaks="one_line", spec=Unchecked),
    "unwritten": Mutant(breaks="released_once", spec=Unwritten),
}
