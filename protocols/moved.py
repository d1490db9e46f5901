"""A coordinator that listens elsewhere than before tells relays, who tell all nodes: no state is lost for it.

Nodes and gates open outbound connections only, so a coordinator on another machine can reach none of them. It can
reach relays, whose addresses are in the journal; gates have given it that, and keyholders have told their gates.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from interlock.vault import Identity, VaultError, verify_signature

from .canonical import Count, Hash, Message, PublicKey, Signature, digest, encode
from .effects import Connect, Effects
from .errors import Refused
from .manifest import Manifest

Where = Annotated[str, msgspec.Meta(min_length=1, max_length=120)]


class Moved(Message, frozen=True, array_like=True, kw_only=True):
    """Where the coordinator listens since `when` (seconds since 1970), signed by itself. curve: of its sockets."""

    run: Hash
    address: Where
    curve: PublicKey
    when: Count
    signature: Signature

    def body(self) -> bytes:
        """What the signature covers."""
        return digest("interlock/moved", encode(msgspec.structs.replace(self, signature=bytes(64))))


def make_moved(identity: Identity, *, run: bytes, address: str, when: int) -> Moved:
    """Where a coordinator listens, signed."""
    draft = Moved(run=run, address=address, curve=identity.curve_public, when=when, signature=bytes(64))
    return msgspec.structs.replace(draft, signature=identity.sign(draft.body()))


class Whereabouts:
    """Where the coordinator listens, as far as somebody was told."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.newest: Moved | None = None

    def learn(self, moved: Moved) -> Effects:
        """Connect to a new place; nothing for one that is not newer than the last.

        Raises:
            Refused: E204 another run, E206 the coordinator did not sign it.
        """
        coordinator = self._manifest.coordinator
        if moved.run != self._manifest.run:
            raise Refused(204, "the place of another run's coordinator")
        try:
            verify_signature(coordinator, moved.body(), moved.signature, whose="the coordinator's new place")
        except VaultError as error:
            raise Refused(206, error.what) from None
        if self.newest is not None and moved.when <= self.newest.when:
            return []
        self.newest = moved
        return [Connect(coordinator, moved.curve, moved.address)]
