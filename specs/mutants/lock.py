"""Peers of the lock that are wrong, one way each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from interlock.protocols.effects import Effects, Store

from ..examples.lock import PEERS, Ask, Grant, Lock, Peer
from ..search import Mutant


class GrantsAnybody(Peer):
    """Forgets at once whom it granted."""

    def on_message(self, source: Any, message: Ask | Grant) -> Effects:
        """Grant whoever asks."""
        self.granted = ""
        return super().on_message(source, message)


class KeepsNothing(Peer):
    """Stores nothing: after a crash it has granted nobody."""

    def on_message(self, source: Any, message: Ask | Grant) -> Effects:
        """Answer without storing."""
        return [effect for effect in super().on_message(source, message) if not isinstance(effect, Store)]


class Mutated(Lock):
    """The spec with other peers."""

    peer: ClassVar[type[Peer]] = Peer

    def cast(self) -> Mapping[str, Peer]:
        """Three of them."""
        return {name: self.peer(name, self.quorum) for name in PEERS}


class OneIsEnough(Lock):
    """A quorum of one."""

    quorum = 1


class Generous(Mutated):
    """Peers grant everybody who asks."""

    peer = GrantsAnybody


class Forgetful(Mutated):
    """Peers do not store whom they granted."""

    peer = KeepsNothing


MUTANTS = {
    "one is enough": Mutant(breaks="exclusive", spec=OneIsEnough),
    "generous": Mutant(breaks="exclusive", spec=Generous),
    "forgetful": Mutant(breaks="granted", spec=Forgetful),
}
