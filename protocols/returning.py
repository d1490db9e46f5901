"""Who has found a coordinator again that started anew, and how long it waits for the others."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .effects import Connect, Effects, Send
from .members import Record
from .moved import Moved
from .recovery import Recall

GRACE_LOOKS = 30  # so long members of a recovered run may look for its coordinator
HOLD_LOOKS = 5  # so long nodes and relays are heard before a plan is proposed that may be open already


class Returning:
    """Nodes and relays on their way back.

    Attributes:
        moved: where the coordinator listens now, if others may not know.
    """

    def __init__(self) -> None:
        self.moved: Moved | None = None
        self._called: set[bytes] = set()  # relays to which we opened a connection to say so
        self._in_step: set[bytes] = set()  # those whose newest opening is ours
        self._grace = 0  # looks before whoever has not come back counts as dead
        self._hold = 0  # looks before a plan that was found is proposed

    def forget(self) -> None:
        """Whatever anybody said before does not count any more."""
        self._in_step.clear()

    def give_grace(self) -> None:
        """Let members look for us for a while: rows were lost, and perhaps the machine with them."""
        self._grace = GRACE_LOOKS

    def hold(self) -> None:
        """Let members be heard before the plan under way is proposed: gates released it, and it may be open."""
        self._hold = HOLD_LOOKS

    def heard(self, member: bytes) -> None:
        """A member knows no opening that we do not."""
        self._in_step.add(member)

    def look(self, everyone: Collection[bytes]) -> None:
        """A second has passed."""
        self._hold = max(0, self._hold - 1)
        self._grace = 0 if self._in_step.issuperset(everyone) else max(0, self._grace - 1)

    @property
    def awaited(self) -> bool:
        """Whether members have not found us yet, and are not called dead for it."""
        return self._grace > 0

    def held(self, everyone: Collection[bytes]) -> bool:
        """Whether a plan must wait since a node or relay that we have not heard may know it to be open."""
        if self._in_step.issuperset(everyone):
            self._hold = 0
        return self._hold > 0

    def ask(self, everyone: Collection[bytes]) -> Effects:
        """Ask those whom we have not heard what they know; who is not connected yet comes by itself."""
        return [Send(who, Recall(first=0)) for who in sorted(set(everyone) - self._in_step)]

    def tell(self, relays: Iterable[Record]) -> Effects:
        """Tell relays where we are, over connections of our own: they tell the nodes."""
        if self.moved is None or not self.awaited:
            return []
        effects: Effects = []
        for record in relays:
            if record.identity not in self._called:
                self._called.add(record.identity)
                effects.append(Connect(record.identity, record.curve, record.address))
            effects.append(Send(record.identity, self.moved))
        return effects
