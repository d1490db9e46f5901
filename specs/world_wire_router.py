"""The router of a run over the wire: a door for each participant, with that one's keys, at which all others knock.

A message passes once two things are there, in either order: its parts, at its receiver's door, and what becomes of it,
which the hub knows from its sender's report. It is handed over at its sender's door, where its receiver is connected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias

from interlock.protocols.net.zeromq import ZeroMQTransport
from interlock.protocols.wire import Buffer
from interlock.vault import Identity

from .world_wire_talk import sequence_of

LOCAL = "tcp://127.0.0.1:*"  # this machine only, and any port that is free

Key: TypeAlias = tuple[Any, int]  # of a message: its sender, its sequence number
Carry: TypeAlias = Callable[[Sequence[Buffer]], None]


class Door(ZeroMQTransport):
    """Where the others reach a participant, and where it answers them."""

    def reaches(self, identity: bytes) -> bool:
        """Whether what is sent to this participant has a connection to go by."""
        return self._server is not None and self._server.prefix(identity) is not None

    def forget(self, identity: bytes) -> None:
        """Its connection is one of a process that has ended."""
        assert self._server is not None
        self._server.routes.pop(self._server.keys[identity], None)


class Router:
    """Holds the doors, and what waits between them.

    Args:
        identities: keys of each participant.
    """

    def __init__(self, identities: Mapping[Any, Identity]) -> None:
        self._identities = identities
        self.doors = {name: Door(identity.curve_secret, bind=LOCAL) for name, identity in identities.items()}
        self._carried: dict[Key, Carry | None] = {}  # reported, and not yet here; None: it is lost here
        self._early: dict[Key, Sequence[Buffer]] = {}  # here, and not yet reported

    async def start(self) -> None:
        """Open the doors to everybody."""
        for door in self.doors.values():
            await door.start()
            for identity in self._identities.values():
                door.admit(identity.public, identity.curve_public)

    def reaches(self, name: Any) -> bool:
        """Whether a participant is connected to all doors."""
        return all(door.reaches(self._identities[name].public) for door in self.doors.values())

    def forget(self, name: Any) -> None:
        """A participant's process is a new one, which will connect."""
        for door in self.doors.values():
            door.forget(self._identities[name].public)

    def knock(self, source: Any, parts: Sequence[Buffer]) -> None:
        """A message has come from `source`."""
        key = (source, sequence_of(parts))
        if key not in self._carried:
            self._early[key] = parts
        elif (carry := self._carried.pop(key)) is not None:
            carry(parts)

    def decide(self, key: Key, carry: Carry | None) -> None:
        """What becomes of a message: `carry(parts)` is called when it is here; None loses it."""
        if (parts := self._early.pop(key, None)) is None:
            self._carried[key] = carry
        elif carry is not None:
            carry(parts)

    def hand(self, source: Any, destination: Any, parts: Sequence[Buffer]) -> None:
        """Give a message to its receiver.

        Raises:
            NotSent: it is not connected.
        """
        self.doors[source].send(self._identities[destination].public, parts)

    def close(self) -> Awaitable[Any]:
        """Shut all doors."""
        return asyncio.gather(*(door.close(0) for door in self.doors.values()))
