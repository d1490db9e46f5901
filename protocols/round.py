"""A round's end: commit to sums, close, exchange, report.

A replica that finished its micro-batches commits, signed, to H(sealed gradient sum) and the Merkle root of its
headers. When every replica that the plan names has, the coordinator writes `close`. Replicas of a stage exchange
sums, compute the new state beside the base and report its salted digest; equal reports of all make the commit row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

from interlock.vault import GroupKey, Identity, VaultError, verify_signature

from .canonical import Count, Hash, Message, Plain, PublicKey, Signature, digest, encode
from .effects import Blob
from .errors import Refused
from .release import Exponent, Plan

Members = tuple[tuple[bytes, ...], ...]
Place = Annotated[int, msgspec.Meta(ge=0, le=64)]
Bits = Annotated[int, msgspec.Meta(ge=0, le=300)]


class Loss(Plain, frozen=True, array_like=True, kw_only=True):
    """What a last-stage replica measured: sum of nats over `tokens` bytes of one micro-batch."""

    microbatch: Count
    nats: float
    tokens: Count


class Commitment(Plain, frozen=True, array_like=True, kw_only=True):
    """A replica's signed commitment before sums are shown.

    sum: SHA-256 of its sealed gradient sum. headers: Merkle root (RFC 6962) of the headers it signed in this tick.
    clamped: elements clamped in its forward frames. peaks: largest gradient magnitudes it sent, as a power of two
    relative to one, for the boundary before its stage; empty where it sent none. losses: the last stage's.
    seconds: that its passes took, 0 if it did not measure: whoever is faster gets more of them.
    """

    tick: Count
    member: PublicKey
    sum: Hash
    headers: Hash
    clamped: Count
    peaks: Annotated[tuple[Exponent, ...], msgspec.Meta(max_length=1)]
    losses: Annotated[tuple[Loss, ...], msgspec.Meta(max_length=1 << 16)]
    seconds: Annotated[float, msgspec.Meta(ge=0, le=1e6)]
    signature: Signature


class Report(Plain, frozen=True, array_like=True, kw_only=True):
    """A replica's signed digest of the state it computed: H(salt || digest), equal for all replicas of a stage."""

    tick: Count
    close: Hash
    member: PublicKey
    state: Hash
    signature: Signature


class Measurement(Plain, frozen=True, array_like=True, kw_only=True):
    """What a last-stage replica measured in a tick of kind evaluate, signed."""

    tick: Count
    member: PublicKey
    losses: Annotated[tuple[Loss, ...], msgspec.Meta(max_length=1 << 16)]
    signature: Signature


class Answer(Plain, frozen=True, array_like=True, kw_only=True):
    """What a last-stage replica did in a tick of kind session, signed. tokens: bytes generated or scored."""

    tick: Count
    member: PublicKey
    tokens: Count
    signature: Signature


Signed = Commitment | Report | Measurement | Answer


def body(record: Signed, run: bytes) -> bytes:
    """What the signature of a record covers: its type, the run and every other field."""
    unsigned = msgspec.structs.replace(record, signature=bytes(64))
    return digest(f"interlock/{type(record).__name__.lower()}", run, encode(unsigned))


def sign(record: Signed, identity: Identity, run: bytes) -> Signed:
    """The record with `identity`'s signature."""
    return msgspec.structs.replace(record, signature=identity.sign(body(record, run)))


def verify(record: Signed, run: bytes) -> None:
    """Check a record's signature.

    Raises:
        Refused: E206.
    """
    try:
        whose = f"node {record.member.hex()[:12]}"
        verify_signature(record.member, body(record, run), record.signature, whose=whose)
    except VaultError as error:
        raise Refused(206, error.what) from None


class Committing(Message, frozen=True, array_like=True, kw_only=True):
    """A node tells the coordinator its commitment."""

    commitment: Commitment


class Reporting(Message, frozen=True, array_like=True, kw_only=True):
    """A node tells the coordinator its report."""

    report: Report


class Measuring(Message, frozen=True, array_like=True, kw_only=True):
    """A node tells the coordinator what it measured."""

    measurement: Measurement


class Answering(Message, frozen=True, array_like=True, kw_only=True):
    """A node tells the coordinator that it has answered."""

    answer: Answer


class Close(Message, frozen=True, array_like=True, kw_only=True):
    """The coordinator's list of all commitments of a tick; no sum counts but those it names."""

    tick: Count
    opening: Hash
    commitments: Annotated[tuple[Commitment, ...], msgspec.Meta(max_length=1024)]

    @property
    def digest(self) -> bytes:
        """H(close)."""
        return digest("interlock/close", encode(self))


class Trouble(Message, frozen=True, array_like=True, kw_only=True):
    """A node cannot finish a tick: the attempt must be void.

    number: of the error. For E402, gradients at boundary `where` need `bits` more than their exponent leaves; for
    E403, gradient sums of stage `where`. suspect: whose bytes were wrong, if the node knows.
    """

    tick: Count
    number: Count
    what: Annotated[str, msgspec.Meta(max_length=300)]
    where: Place = 0
    bits: Bits = 0
    suspect: PublicKey | None = None


class Sealed(Message, frozen=True, array_like=True, kw_only=True):
    """Sealed group traffic, carried by a relay to `to`; one blob. Signed by its sender end to end.

    purpose: "secret" and "turn" in a change, "commit", "reveal" and "matrix" inside a group, and there for newcomers
    "size", "want" and "shard"; "sum" in a round;
    "question" and "answer" in a session.
    part: which of several. content: digest("interlock/content", blob).
    """

    run: Hash
    tick: Count
    sender: PublicKey
    to: Annotated[tuple[PublicKey, ...], msgspec.Meta(min_length=1, max_length=64)]
    purpose: Annotated[str, msgspec.Meta(min_length=1, max_length=16)]
    part: Count
    content: Hash
    signature: Signature
    self_signed = True

    def body(self) -> bytes:
        """What the signature covers."""
        return digest("interlock/sealed", encode(msgspec.structs.replace(self, signature=bytes(64))))


def make_sealed(
    identity: Identity, *, run: bytes, tick: int, to: tuple[bytes, ...], purpose: str, part: int, content: bytes
) -> Sealed:
    """A signed envelope for sealed bytes whose digest is `content`."""
    draft = Sealed(
        run=run,
        tick=tick,
        sender=identity.public,
        to=to,
        purpose=purpose,
        part=part,
        content=content,
        signature=bytes(64),
    )
    return msgspec.structs.replace(draft, signature=identity.sign(draft.body()))


def verify_sealed(message: Sealed, run: bytes) -> None:
    """Check run and signature.

    Raises:
        Refused: E204, E206.
    """
    if message.run != run:
        raise Refused(204, f"sealed traffic of {message.sender.hex()[:12]} is of another run")
    try:
        whose = f"node {message.sender.hex()[:12]}"
        verify_signature(message.sender, message.body(), message.signature, whose=whose)
    except VaultError as error:
        raise Refused(206, error.what) from None


def seal_context(run: bytes, tick: int, sender: bytes, purpose: str, part: int) -> bytes:
    """Associated data of sealed group traffic: nothing sealed for one use opens for another."""
    return digest("interlock/seal", run, tick.to_bytes(8, "big"), sender, purpose.encode(), part.to_bytes(8, "big"))


def verify_close(close: Close, plan: Plan, opening: bytes, members: Members) -> None:
    """Check that a close lists exactly one signed commitment of every replica that the plan named.

    Raises:
        Refused: E304 another tick or opening, E306 not exactly the planned replicas, E206.
    """
    if close.tick != plan.tick or close.opening != opening:
        raise Refused(304, "a close of another tick", expected=plan.tick, actual=close.tick)
    wanted = sorted(who for stage in members for who in stage)
    if sorted(c.member for c in close.commitments) != wanted:
        raise Refused(
            306, f"the close of tick {plan.tick} lists {len(close.commitments)} replicas", expected=len(wanted)
        )
    for commitment in close.commitments:
        if commitment.tick != plan.tick:
            raise Refused(304, "a commitment of another tick", expected=plan.tick, actual=commitment.tick)
        verify(commitment, plan.run)


def verify_reports(reports: tuple[Report, ...], plan: Plan, close: bytes, members: Members) -> None:
    """Check that every planned replica reported, and that replicas of one stage agree.

    Raises:
        Refused: E306 not exactly the planned replicas, E307 replicas of a stage disagree, E304, E206.
    """
    by_member = {report.member: report for report in reports}
    wanted = {who for stage in members for who in stage}
    if len(reports) != len(by_member) or set(by_member) != wanted:
        raise Refused(306, f"reports of tick {plan.tick}", expected=len(wanted), actual=len(reports))
    for report in reports:
        if report.tick != plan.tick or report.close != close:
            raise Refused(304, f"a report of {report.member.hex()[:12]} is for another close")
        verify(report, plan.run)
    for index, stage in enumerate(members):
        if len({by_member[who].state for who in stage}) != 1:
            raise Refused(307, f"the replicas of stage {index} ended tick {plan.tick} with different states")


@dataclass(frozen=True, slots=True)
class Sum:
    """Job: encode this replica's gradients of the tick, and seal them for its group."""

    tick: int
    lift: int
    group: GroupKey
    sender: bytes
    run: bytes


@dataclass(frozen=True, slots=True)
class Summed:
    """Result of `Sum`. seconds: that the tick's passes took."""

    sealed: Blob
    digest: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Step:
    """Job: open the group's sums, step, keep the new state beside the base, return its salted digest.

    sums: sender -> (sealed bytes, the SHA-256 that the close names). Includes our own.
    """

    tick: int
    measure: bool
    lift: int
    rate: float
    group: GroupKey
    run: bytes
    sums: tuple[tuple[bytes, Blob, bytes], ...]


@dataclass(frozen=True, slots=True)
class Stepped:
    """Result of `Step`: H(salt || digest), and what this process has spent so far, in CPU seconds."""

    state: bytes
    cpu_s: float
    masking_s: float
