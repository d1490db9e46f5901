"""Voters that are wrong, one way each."""

from __future__ import annotations

from collections.abc import Mapping

from interlock.protocols.effects import Announce, Effects, Store

from ..examples.voting import Halted, Name, Vote, Voter
from ..halting import ROSTER, HaltingVote
from ..search import Mutant


class CountsMessages(Voter):
    """Counts messages, not voters."""

    def on_message(self, source: Name, message: Vote) -> Effects:
        """A vote said again counts again."""
        self.heard = [*getattr(self, "heard", []), message.step]
        if self.halted or self.heard.count(message.step) < self.quorum:
            return []
        self.halted = True
        return [Announce(Halted(voter=self.name, step=message.step))]


class SaysItOnce(Voter):
    """Never repeats its vote."""

    def on_timer(self, name: str) -> Effects:
        """Do nothing."""
        return []


class KeepsNothing(Voter):
    """Does not keep its vote: after a crash it may vote again, otherwise."""

    def ask(self, step: int) -> Effects:
        """Vote without writing it down."""
        return [effect for effect in super().ask(step) if not isinstance(effect, Store)]


class TwoAreEnough(HaltingVote):
    """A quorum of 2 of 4."""

    quorum = 2


class Counting(HaltingVote):
    """Voters count messages, not voters."""

    def cast(self) -> Mapping[str, Voter]:
        """Four of them."""
        return {name: CountsMessages(name, ROSTER, self.quorum) for name in ROSTER}


class Once(HaltingVote):
    """Voters never repeat a vote, so one lost message is enough."""

    def cast(self) -> Mapping[str, Voter]:
        """Four of them."""
        return {name: SaysItOnce(name, ROSTER, self.quorum) for name in ROSTER}


class Forgetful(HaltingVote):
    """Voters do not keep their votes, and vote otherwise after a crash."""

    def cast(self) -> Mapping[str, Voter]:
        """Four of them."""
        return {name: KeepsNothing(name, ROSTER, self.quorum) for name in ROSTER}


MUTANTS = {
    "two are enough": Mutant(breaks="legitimacy", spec=TwoAreEnough),
    "counts messages": Mutant(breaks="legitimacy", spec=Counting),
    "says it once": Mutant(breaks="termination", spec=Once),
    "keeps nothing": Mutant(breaks="agreement", spec=Forgetful),
}
