"""Who takes part: self-signed records, invitations, and the message by which a process joins."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from interlock.vault import Identity, VaultError, verify_key, verify_signature

from .canonical import Count, Message, Name, Plain, PublicKey, Signature, digest, encode
from .errors import Refused

Role = Literal["node", "relay", "gate", "asker"]
Invited = Literal["node", "relay", "asker"]
Address = Annotated[str, msgspec.Meta(max_length=120)]


class Record(Plain, frozen=True, array_like=True, kw_only=True):
    """The public parts of a process, signed by itself.

    identity: Ed25519 key, its name. curve: the key its sockets use. address: where it listens
    ("tcp://host:port"), empty if it opens outbound connections only. operator: who runs it, in its own words.
    """

    role: Role
    operator: Name
    identity: PublicKey
    curve: PublicKey
    address: Address
    signature: Signature

    def body(self) -> bytes:
        """What the signature covers."""
        return digest("interlock/record", encode([self.role, self.operator, self.identity, self.curve, self.address]))

    def verify(self) -> None:
        """Check key and signature.

        Raises:
            Refused: E206.
        """
        try:
            verify_key(self.identity, whose=f"{self.role} {self.operator}")
            verify_signature(self.identity, self.body(), self.signature, whose=f"{self.role} {self.operator}")
        except VaultError as error:
            raise Refused(206, error.what) from None


def make_record(identity: Identity, role: Role, operator: str, address: str = "") -> Record:
    """A record of `identity`, signed."""
    draft = Record(
        role=role,
        operator=operator,
        identity=identity.public,
        curve=identity.curve_public,
        address=address,
        signature=bytes(64),
    )
    return msgspec.structs.replace(draft, signature=identity.sign(draft.body()))


class Invitation(Plain, frozen=True, array_like=True, kw_only=True):
    """A keyholder lets one process in, once.

    The first identity that uses it is bound to `label` in the journal. expires: seconds since 1970, until when it may
    be used first, 0 for ever; the coordinator alone looks at it, since a row does not say when it was written.
    """

    run: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    role: Invited
    label: Name
    nonce: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    keyholder: PublicKey
    expires: Count
    signature: Signature

    def body(self) -> bytes:
        """What the signature covers."""
        return digest("interlock/invitation", encode(msgspec.structs.replace(self, signature=bytes(64))))


def make_invitation(
    keyholder: Identity, *, run: bytes, role: Invited, label: str, nonce: bytes, expires: int = 0
) -> Invitation:
    """An invitation signed by `keyholder`; `nonce`: 16 fresh random bytes."""
    draft = Invitation(
        run=run,
        role=role,
        label=label,
        nonce=nonce,
        keyholder=keyholder.public,
        expires=expires,
        signature=bytes(64),
    )
    return msgspec.structs.replace(draft, signature=keyholder.sign(draft.body()))


def verify_fresh(invitation: Invitation, now: float) -> None:
    """Check that an invitation may still be used, at a time in seconds since 1970.

    Raises:
        Refused: E221.
    """
    if invitation.expires and now > invitation.expires:
        hours = (now - invitation.expires) / 3600
        raise Refused(221, f"the invitation of '{invitation.label}' expired {hours:.1f} hours ago")


class Join(Message, frozen=True, array_like=True, kw_only=True):
    """Asks to take part. Gates are known from the manifest and need no invitation."""

    hello = True
    record: Record
    invitation: Invitation | None


def owner(join: Join) -> str:
    """Whose process it is: whom a keyholder invited, or where anyone may join, what it says of itself."""
    return join.record.operator if join.invitation is None else join.invitation.label


class Leaving(Message, frozen=True, array_like=True, kw_only=True):
    """A node wants to go, once others hold what it holds."""


class Left(Message, frozen=True, array_like=True, kw_only=True):
    """The coordinator's answer to `Leaving`: nothing depends on this node any more."""


class Still(Message, frozen=True, array_like=True, kw_only=True):
    """Says who a member is, of whom a coordinator may have lost the row. Unlike a `Join`, it says nothing else: whoever
    joins again has started again."""

    join: Join


class Welcome(Message, frozen=True, array_like=True, kw_only=True):
    """The coordinator's answer to `Join`: the manifest's bytes."""

    hello = True
    manifest: Annotated[bytes, msgspec.Meta(max_length=1 << 20)]


class Roster(Message, frozen=True, array_like=True, kw_only=True):
    """Joins of the run, for relays to admit and nodes to find relays: the whole of them, or one that is new."""

    joins: Annotated[tuple[Join, ...], msgspec.Meta(max_length=4096)]
    whole: bool = True

    def known(self, before: set[bytes]) -> set[bytes]:
        """Of whom somebody knows who knew `before`, and nobody who has dropped out of the whole."""
        named = {join.record.identity for join in self.joins}
        return named if self.whole else before | named


def verify_join(
    join: Join, *, run: bytes, keyholders: frozenset[bytes], open_admission: bool, used: frozenset[bytes]
) -> None:
    """Check a join as coordinator, gates and relays all do.

    Args:
        used: nonces of invitations that other identities have used.

    Raises:
        Refused: E209, not invited, E206, bad signature, or E211, a keyholder may hold no stage.
    """
    record, invitation = join.record, join.invitation
    record.verify()
    who = f"{record.role} {record.operator}"
    if record.role == "gate":
        if record.identity not in keyholders:
            todo = "Start a gate with the key of one of the keyholders that the manifest names."
            raise Refused(209, f"{who} is no keyholder of this run", todo=todo)
        return
    if record.identity in keyholders:
        raise Refused(211, f"{who} uses a keyholder's key; a keyholder's key serves its gate and nothing else")
    if open_admission:
        return
    todo = "Ask a keyholder for an invitation of this run: interlock keyholder invite"
    if invitation is None:
        raise Refused(209, f"{who} has no invitation", todo=todo)
    if invitation.run != run:
        raise Refused(204, f"the invitation of {who} is for another run", todo=todo)
    if invitation.keyholder not in keyholders:
        raise Refused(209, f"the invitation of {who} is not signed by a keyholder of this run", todo=todo)
    if invitation.role != record.role:
        raise Refused(209, f"the invitation of {who}", expected=record.role, actual=invitation.role, todo=todo)
    if invitation.nonce in used:
        raise Refused(209, f"the invitation of {who} was used before", todo=todo)
    try:
        verify_signature(invitation.keyholder, invitation.body(), invitation.signature, whose="an invitation")
    except VaultError as error:
        raise Refused(206, error.what) from None
