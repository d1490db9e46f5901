"""Halting vote: honest nodes stop at one step, and only at one that honest nodes asked for.

Source: 2f + 1 of 3f + 1 certificates, Castro and Liskov, "Practical Byzantine Fault Tolerance", 1999.
"""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import strategies as st

from interlock.protocols.effects import Effects

from . import Spec, action, always, eventually, sometimes
from .examples.voting import Asked, Halted, Vote, Voter
from .history import Seen

ROSTER = ("n0", "n1", "n2", "n3")  # n = 3f + 1 with f = 1
HONEST, STEPS = ROSTER[:3], st.integers(1, 2)


def asked(seen: Seen, step: int) -> set[str]:
    """The honest nodes that asked for a step."""
    return {event.voter for event in seen(Asked, step=step)} & set(HONEST)


def halted(seen: Seen) -> list[Halted]:
    """The halts of honest nodes."""
    return [event.what for event in seen(Halted) if event.by in HONEST]


class HaltingVote(Spec):
    """Honest nodes stop at one step, and only at one that honest nodes asked for."""

    faults = {"drop", "twice", "delay", "crash"}
    traitors = {"n3": st.builds(Vote, voter=st.sampled_from(ROSTER), step=STEPS)}  # what it may forge
    quorum = 3

    def cast(self) -> Mapping[str, Voter]:
        """Four voters."""
        return {name: Voter(name, ROSTER, self.quorum) for name in ROSTER}

    @action(step=STEPS)
    def ask(self, voter: Voter, step: int) -> Effects:
        """A node's own stopping rule fires."""
        return voter.ask(step)

    @always
    def agreement(self, seen: Seen) -> bool:
        """No two honest nodes halt at different steps."""
        return len({event.step for event in halted(seen)}) <= 1

    @always
    def legitimacy(self, seen: Seen) -> bool:
        """Each halt is at a step that f + 1 honest nodes asked for."""
        return all(len(asked(seen, event.step)) >= 2 for event in halted(seen))

    @eventually(within=10)
    def termination(self, seen: Seen) -> bool:
        """If all honest nodes asked for one step, all of them halt."""
        united = any(asked(seen, step) == set(HONEST) for step in (1, 2))
        return not united or {event.voter for event in halted(seen)} == set(HONEST)

    @sometimes
    def split(self, seen: Seen) -> bool:
        """Honest nodes asked for different steps."""
        return len({event.step for event in seen(Asked)}) == 2
