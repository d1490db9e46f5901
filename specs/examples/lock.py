"""Lock: at most one of three peers holds it, once a quorum has granted it."""

from collections.abc import Mapping
from typing import Any

from interlock.protocols.canonical import Message
from interlock.protocols.effects import After, Announce, Effects, Event, Send, Store

from .. import Spec, action, always, eventually, sometimes
from ..history import Seen

PEERS: tuple[Any, ...] = ("a", "b", "c")


class Ask(Message, frozen=True):  # messages are what peers send to each other
    """Its sender wants the lock."""


class Grant(Message, frozen=True):
    """Its sender grants the lock to its receiver."""


class Asked(Event, frozen=True):  # events are what properties see
    """`peer` wants the lock."""

    peer: str


class Held(Event, frozen=True):
    """`peer` has enough grants."""

    peer: str


class Peer:
    """A role: it hears something, and answers with a list of effects. It has no clock, no socket and no dice."""

    def __init__(self, name: Any, quorum: int) -> None:
        self.name, self.quorum = name, quorum
        self.granted = ""  # to whom
        self.grants: set[str] = set()

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Start, or start again after a crash: only what was stored is left."""
        self.granted = stored.get("granted", b"").decode()
        return self.ask() if self.granted == self.name else []

    def ask(self) -> Effects:
        """Ask everybody until there is a quorum: messages get lost."""
        others = [Send(peer, Ask()) for peer in PEERS if peer != self.name]
        own = self.on_message(self.name, Ask())
        return [*own, Announce(Asked(peer=self.name)), *others, After(1.0, "ask")]

    def on_message(self, source: Any, message: Ask | Grant) -> Effects:
        """Grant the first who asks; count the grants."""
        if isinstance(message, Ask):
            if self.granted not in ("", source):
                return []
            self.granted = source
            answer = self.on_message(source, Grant()) if source == self.name else [Send(source, Grant())]
            return [Store("granted", source.encode()), *answer]
        self.grants.add(source)
        return [Announce(Held(peer=self.name))] if len(self.grants) == self.quorum else []

    def on_timer(self, name: str) -> Effects:
        """Ask again."""
        return [] if len(self.grants) >= self.quorum else self.ask()


class Lock(Spec):
    """At most one peer holds the lock."""

    faults = {"drop", "twice", "delay", "crash"}  # what may go wrong
    quorum = 2  # more than half of three

    def cast(self) -> Mapping[str, Peer]:
        """Who takes part: fresh roles, by the names that they send to."""
        return {name: Peer(name, self.quorum) for name in PEERS}

    @action
    def ask(self, peer: Peer) -> Effects:
        """Somebody wants the lock."""
        return peer.ask()

    @always
    def exclusive(self, seen: Seen) -> bool:
        """No two peers hold the lock."""
        return len({event.peer for event in seen(Held)}) <= 1

    @eventually(within=10)
    def granted(self, seen: Seen) -> bool:
        """Who asks alone gets the lock."""
        asked = {event.peer for event in seen(Asked)}
        return len(asked) != 1 or {event.peer for event in seen(Held)} == asked

    @sometimes
    def contended(self, seen: Seen) -> bool:
        """Two want it."""
        return len({event.peer for event in seen(Asked)}) >= 2
