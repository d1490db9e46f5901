"""Voters that are wrong, one way each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from interlock.protocols.effects import Announce, Effects, Store

from ..examples.voting import Halted, Name, Voter
from ..halting import ROSTER, HaltingVote
from ..search import Mutant


class CountsMessages(Voter):
    """Counts messages, not voters."""

    def _count(self, voter: Name, step: int) -> Effects:
        self.votes.setdefault(voter, step)
        self.heard = [*getattr(self, "heard", []), step]
        if self.halted or self.heard.count(step) < self.quorum:
            return []
        self.halted = True
        return [Announce(Halted(voter=self.name, step=step))]


class ChangesItsMind(Voter):
    """Votes whenever it is asked, and takes each voter's last vote."""

    def ask(self, step: int) -> Effects:
        """Forget the own vote and vote again."""
        self.votes.pop(self.name, None)
        return super().ask(step)

    def _count(self, voter: Name, step: int) -> Effects:
        self.votes.pop(voter, None)
        return super()._count(voter, step)


class SaysItOnce(Voter):
    """Never repeats its vote."""

    def on_timer(self, name: str) -> Effects:
        """Do nothing."""
        return []


class KeepsNothing(Voter):
    """Does not keep its vote: after a crash it has never voted."""

    def ask(self, step: int) -> Effects:
        """Vote without writing it down."""
        return [effect for effect in super().ask(step) if not isinstance(effect, Store)]


class Mutated(HaltingVote):
    """The spec with other voters."""

    voter: ClassVar[type[Voter]] = Voter

    def cast(self) -> Mapping[str, Voter]:
        """Four of them."""
        return {name: self.voter(name, ROSTER, self.quorum) for name in ROSTER}


class TwoAreEnough(HaltingVote):
    """A quorum of 2 of 4."""

    quorum = 2


class Counting(Mutated):
    """Voters count messages, not voters."""

    voter = CountsMessages


class Fickle(Mutated):
    """Voters change their minds."""

    voter = ChangesItsMind


class Once(Mutated):
    """Voters never repeat a vote: one lost message is enough."""

    voter = SaysItOnce


class Forgetful(Mutated):
    """Voters do not keep their votes."""

    voter = KeepsNothing


MUTANTS = {
    "two are enough": Mutant(breaks="legitimacy", spec=TwoAreEnough),
    "counts messages": Mutant(breaks="legitimacy", spec=Counting),
    "changes its mind": Mutant(breaks="agreement", spec=Fickle),
    "says it once": Mutant(breaks="termination", spec=Once),
    "keeps nothing": Mutant(breaks="termination", spec=Forgetful),
}
