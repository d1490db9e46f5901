"""A change tick: start or turn, one transaction.

Each member draws a box key for this tick and publishes it signed. Leads deal fresh secrets, sealed to the receivers'
box keys. Inside every group the members commit to 32 random bytes each and then show them: together they seed the
first weights (start) or the group's new basis (turn), and no single member chose either. The lead ships matrices as
integers (QR differs between machines); members recompute and accept what is off by at most one unit. Everyone reports
`prepared`; when all have and agree, the coordinator writes the change row, and the next opening makes it the base.

    start    lead of stage i: group secret i, pair secret of boundary i; first bridge of its input boundary
    turn     the same secrets anew; A_i to its own group and, under the new pair secret, to group i + 1
    members  the same secrets anew, so that whoever left knows none of them; newcomers get the stage's state from the
             lead, in parts sealed under the new group secret, which itself came sealed to their box keys
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from interlock.vault import GroupKey, Identity, PairKey, Secret, VaultError, verify_signature

from .canonical import Count, Hash, Message, Plain, PublicKey, Signature, digest, encode
from .effects import Blob
from .errors import Refused
from .release import Plan
from .round import Members

PART_BYTES = 1 << 20  # of a stage's state on its way to a newcomer
PARTS_MAX = 1 << 16
Change = Literal["start", "turn", "members"]


class BoxOffer(Plain, frozen=True, array_like=True, kw_only=True):
    """A member's box key for one tick, signed with (run, tick)."""

    tick: Count
    member: PublicKey
    box: PublicKey
    signature: Signature

    def body(self, run: bytes) -> bytes:
        """What the signature covers."""
        return digest("interlock/box-offer", run, encode([self.tick, self.member, self.box]))


def make_offer(identity: Identity, *, run: bytes, tick: int, box: bytes) -> BoxOffer:
    """A signed box key."""
    draft = BoxOffer(tick=tick, member=identity.public, box=box, signature=bytes(64))
    return msgspec.structs.replace(draft, signature=identity.sign(draft.body(run)))


def verify_offer(offer: BoxOffer, *, run: bytes, tick: int) -> None:
    """Check a box key.

    Raises:
        Refused: E304 another tick, E206.
    """
    if offer.tick != tick:
        raise Refused(304, f"a box key of {offer.member.hex()[:12]}", expected=tick, actual=offer.tick)
    try:
        verify_signature(offer.member, offer.body(run), offer.signature, whose=f"node {offer.member.hex()[:12]}")
    except VaultError as error:
        raise Refused(206, error.what) from None


class Offering(Message, frozen=True, array_like=True, kw_only=True):
    """A member publishes its box key through the coordinator."""

    offer: BoxOffer


class Offers(Message, frozen=True, array_like=True, kw_only=True):
    """All members' box keys of a tick."""

    tick: Count
    offers: Annotated[tuple[BoxOffer, ...], msgspec.Meta(max_length=1024)]


class Prepared(Plain, frozen=True, array_like=True, kw_only=True):
    """A member is ready to go on from the new state.

    secrets: ids of the group secret and of the pair secrets before and after its stage (zeros where there is none).
    state: salted digest of the new state. turns: at a turn, PRF_pair("turn", A) for the boundary before and after
    its stage: both groups must agree. seed: at the start, H(salt || seed) of the first weights.
    """

    tick: Count
    member: PublicKey
    secrets: tuple[Hash, Hash, Hash]
    state: Hash
    turns: tuple[Hash, Hash]
    seed: Hash
    signature: Signature

    def body(self, run: bytes) -> bytes:
        """What the signature covers."""
        unsigned = msgspec.structs.replace(self, signature=bytes(64))
        return digest("interlock/prepared", run, encode(unsigned))


class Preparing(Message, frozen=True, array_like=True, kw_only=True):
    """A member tells the coordinator that it has prepared."""

    prepared: Prepared


def sign_prepared(prepared: Prepared, identity: Identity, run: bytes) -> Prepared:
    """The record with `identity`'s signature."""
    return msgspec.structs.replace(prepared, signature=identity.sign(prepared.body(run)))


def verify_prepared_one(prepared: Prepared, run: bytes) -> None:
    """Check one signature.

    Raises:
        Refused: E206.
    """
    who = prepared.member.hex()[:12]
    try:
        verify_signature(prepared.member, prepared.body(run), prepared.signature, whose=f"node {who}")
    except VaultError as error:
        raise Refused(206, error.what) from None


def verify_prepared(all_prepared: tuple[Prepared, ...], plan: Plan, members: Members) -> None:
    """Check that everyone prepared and that all who share something hold the same.

    Raises:
        Refused: E501 somebody is missing or twice, E502 a group or the two groups at a boundary disagree, E304, E206.
    """
    by_member = {prepared.member: prepared for prepared in all_prepared}
    wanted = {who for stage in members for who in stage}
    if len(by_member) != len(all_prepared) or set(by_member) != wanted:
        raise Refused(501, f"prepared in tick {plan.tick}", expected=len(wanted), actual=len(all_prepared))
    for prepared in all_prepared:
        if prepared.tick != plan.tick:
            raise Refused(304, "prepared for another tick", expected=plan.tick, actual=prepared.tick)
        verify_prepared_one(prepared, plan.run)
    firsts: list[Prepared] = []
    for index, stage in enumerate(members):
        first = by_member[stage[0]]
        firsts.append(first)
        for who in stage:
            p = by_member[who]
            if (p.secrets, p.state, p.turns, p.seed) != (first.secrets, first.state, first.turns, first.seed):
                raise Refused(502, f"the replicas of stage {index} prepared different states or secrets")
    for boundary in range(len(members) - 1):
        before, after = firsts[boundary], firsts[boundary + 1]
        if before.secrets[2] != after.secrets[1]:
            raise Refused(502, f"the stages at boundary {boundary} hold different secrets")
        if before.turns[1] != after.turns[0]:
            raise Refused(502, f"the stages at boundary {boundary} turned by different matrices")


def combine(contributions: dict[bytes, bytes]) -> bytes:
    """32 bytes from all members' contributions, in the members' order."""
    return digest("interlock/contributions", *(who + contributions[who] for who in sorted(contributions)))


def contribution_commitment(run: bytes, tick: int, member: bytes, contribution: bytes) -> bytes:
    """What a member shows before its contribution; 32 random bytes hide themselves under a hash."""
    return digest("interlock/contribution", run, tick.to_bytes(8, "big"), member, contribution)


@dataclass(frozen=True, slots=True)
class Rotation:
    """Job: the matrix that a group's seed fixes, as integers: a turn (2^-22) or a first bridge (2^-29)."""

    tick: int
    seed: bytes
    use: Literal["turn", "bridge"]


@dataclass(frozen=True, slots=True)
class Rotated:
    """Result of `Rotation`: int32 little-endian, row by row."""

    matrix: Blob


@dataclass(frozen=True, slots=True)
class Export:
    """Job: the state of our stage for newcomers, sealed part by part."""

    tick: int
    run: bytes
    sender: bytes
    group: GroupKey


@dataclass(frozen=True, slots=True)
class Exported:
    """Result of `Export`. size: sealed too, the number of parts, 8 bytes little-endian."""

    size: bytes
    parts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Prepare:
    """Job: make the new state of stage `stage` beside the base.

    seed: the group's combined contributions. bridge: at the start, the shipped first bridge (None for stage 0).
    turn: at a turn, our group's matrix as shipped; turn_before: that of the stage before (None for stage 0).
    source, shard: for a newcomer, who sent the state and its sealed parts; None and () for everyone else.
    """

    tick: int
    stage: int
    change: Change
    run: bytes
    seed: Secret
    group: GroupKey
    before: PairKey | None
    after: PairKey | None
    bridge: bytes | None
    turn: bytes | None
    turn_before: bytes | None
    source: bytes | None = None
    shard: tuple[Blob, ...] = ()


@dataclass(frozen=True, slots=True)
class PreparedState:
    """Result of `Prepare`: salted digests, and the proofs of equal turns for the boundary before and after."""

    state: bytes
    seed: bytes
    turns: tuple[bytes, bytes]
