"""A halting vote among 3f + 1 voters, f of whom may lie: 2f + 1 votes for one step halt whoever has heard them.

A voter votes once, and keeps its vote before anybody hears it. It repeats the vote for ever: votes get lost, and a
voter that comes back from a crash needs the others'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from interlock.protocols.canonical import Message
from interlock.protocols.effects import After, Announce, Effects, Event, Send, Store
from interlock.protocols.errors import Misused, Refused

REPEAT_S = 1.0

Name: TypeAlias = Any  # what a voter is called: a short string here, an identity key in a real run


class Vote(Message, frozen=True):
    """`voter` wants the run to halt at `step`."""

    voter: str
    step: int


class Asked(Event, frozen=True):
    """`voter` voted for `step`."""

    voter: str
    step: int


class Halted(Event, frozen=True):
    """`voter` has seen enough votes for `step`."""

    voter: str
    step: int


class Voter:
    """One voter.

    Args:
        name: its own. roster: names of all voters, its own included. quorum: how many votes for one step halt it.
    """

    def __init__(self, name: Name, roster: Sequence[Name], quorum: int) -> None:
        self.name, self.roster, self.quorum = name, roster, quorum
        self.votes: dict[Name, int] = {}
        self.halted = False

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Start: a vote that was kept stands."""
        if "vote" not in stored:
            return []
        return self._cast(int(stored["vote"]))  # a crash may have come before anybody heard of it

    def ask(self, step: int) -> Effects:
        """Vote for `step`."""
        if self.name in self.votes:
            raise Misused(601, f"{self.name} has voted")
        return [Store("vote", str(step).encode()), *self._cast(step)]

    def on_message(self, source: Name, message: Vote) -> Effects:
        """Count a vote: one each, of the voter itself."""
        if message.voter != source:
            raise Refused(601, f"a vote of {message.voter} from {source}")
        return self._count(source, message.step)

    def on_timer(self, name: str) -> Effects:
        """Say it again."""
        return self._send(self.votes[self.name])

    def _cast(self, step: int) -> Effects:
        return [Announce(Asked(voter=self.name, step=step)), *self._send(step), *self._count(self.name, step)]

    def _send(self, step: int) -> Effects:
        vote = Vote(voter=self.name, step=step)
        return [*(Send(to, vote) for to in self.roster if to != self.name), After(REPEAT_S, "repeat")]

    def _count(self, voter: Name, step: int) -> Effects:
        self.votes.setdefault(voter, step)
        if self.halted or list(self.votes.values()).count(step) < self.quorum:
            return []
        self.halted = True
        return [Announce(Halted(voter=self.name, step=step))]
