"""One boundary activation on its way: the unit, its signed header, and the jobs that make and read frames.

    unit  = (run, tick, K_tick, kind, boundary, direction, micro-batch, position, w, f, exponent)
    frame = enc(z) + m  mod 2^w,    m = AES-256-CTR(PRF_pair("frame", unit, tau))
    tau   = PRF_U("tau", unit, state, inputs)[:16]

The header is the unit's commitment: tau binds state and inputs for members of the sending group, H(frame) binds the
output. Relays forward frames unchanged, so a bad frame is its signer's and a frame whose hash does not fit is the
relay's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec

from interlock.vault import GroupKey, Identity, PairKey, VaultError, verify_signature

from .canonical import Count, Hash, Message, Plain, PublicKey, Signature, digest, encode
from .effects import Blob
from .errors import Refused
from .manifest import Manifest
from .release import Exponent, Kind, Opening, Plan

Direction = Literal["forward", "backward"]
Tag = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
WIRE_VERSION: Literal[1] = 1


class Unit(Plain, frozen=True, array_like=True, kw_only=True):
    """What one frame is for. No sender, so that replicas agree on it.

    boundary b lies between stage b and stage b + 1. position: step of cached decoding, else 0.
    """

    run: Hash
    tick: Count
    kind: Kind
    boundary: Count
    direction: Direction
    microbatch: Count
    position: Count
    width: Count
    fraction: Count
    exponent: Exponent

    def keyed(self, tick_key: bytes) -> bytes:
        """The bytes that masks are derived from: the unit with K_tick."""
        return encode([tick_key, self])

    @property
    def sender_stage(self) -> int:
        """Stage whose group sends this unit."""
        return self.boundary if self.direction == "forward" else self.boundary + 1

    @property
    def receiver_stage(self) -> int:
        """Stage whose group reads this unit."""
        return self.boundary + 1 if self.direction == "forward" else self.boundary


class Header(Plain, frozen=True, array_like=True, kw_only=True):
    """A frame's signed header: also the sender's commitment to the unit.

    opening: H(opening) that the sender works under. Masks hang on it through K_tick, so a receiver with another opening
    of the tick, which only a coordinator that lost its tail can make, must not take the frame for a wrong one.
    shape: (rows, positions, width). tau, check: 16 bytes each (`vault.masks`). frame: SHA-256 of the masked bytes.
    parents: hashes of the headers it was computed from.
    """

    version: Literal[1]
    unit: Unit
    opening: Hash
    sender: PublicKey
    receiver: Count
    shape: tuple[Count, Count, Count]
    tau: Tag
    check: Tag
    frame: Hash
    parents: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=2)]
    signature: Signature

    def body(self) -> bytes:
        """What the signature covers."""
        return digest("interlock/header", encode(msgspec.structs.replace(self, signature=bytes(64))))

    @property
    def digest(self) -> bytes:
        """Hash of the signed header; leaf of the sender's Merkle tree of the tick."""
        return digest("interlock/header-leaf", encode(self))


class Frame(Message, frozen=True, array_like=True, kw_only=True):
    """A header and, beside it, one blob of uniform words."""

    header: Header
    self_signed = True


class Here(Message, frozen=True, array_like=True, kw_only=True):
    """A node's connection to a relay is up, or it waits; the relay answers with the same and what it kept for the node.

    tick: the newest that the node knows. have: header digests, and contents of sealed traffic, that it has already.
    """

    tick: Count
    have: Annotated[tuple[Hash, ...], msgspec.Meta(max_length=1 << 16)]


class Taken(Message, frozen=True, array_like=True, kw_only=True):
    """The receiver has read a frame: its sender may send one more (credit), the relay passes this on to it."""

    tick: Count
    header: Hash
    sender: PublicKey


def make_unit(
    plan: Plan, manifest: Manifest, *, boundary: int, direction: Direction, microbatch: int, position: int = 0
) -> Unit:
    """The unit of one crossing as the plan fixes it. Gradients carry the plan's exponent, activations none."""
    return Unit(
        run=plan.run,
        tick=plan.tick,
        kind=plan.kind,
        boundary=boundary,
        direction=direction,
        microbatch=microbatch,
        position=position,
        width=manifest.frame_width,
        fraction=manifest.frame_fraction,
        exponent=plan.exponents[boundary] if direction == "backward" else 0,
    )


def frame_shape(manifest: Manifest) -> tuple[int, int, int]:
    """Shape of every training and evaluation frame: (rows, positions, width)."""
    return (manifest.training.rows, manifest.model.context, manifest.model.width)


def unit_shape(plan: Plan, manifest: Manifest, unit: Unit) -> tuple[int, int, int]:
    """Shape of the frame of one unit: in a session as asked, and one position a step after the first."""
    if plan.session is None:
        return frame_shape(manifest)
    rows, positions = plan.session.shapes[unit.microbatch]
    return (rows, positions if unit.position == 0 else 1, manifest.model.width)


def frame_size(manifest: Manifest) -> int:
    """Bytes of one training frame: no other is larger."""
    rows, positions, width = frame_shape(manifest)
    return rows * positions * width * manifest.frame_width // 8


def make_header(
    identity: Identity,
    unit: Unit,
    *,
    opening: bytes,
    shape: tuple[int, int, int],
    tau: bytes,
    check: bytes,
    frame: bytes,
    parents: tuple[bytes, ...],
) -> Header:
    """A signed header."""
    draft = Header(
        version=WIRE_VERSION,
        unit=unit,
        opening=opening,
        sender=identity.public,
        receiver=unit.receiver_stage,
        shape=shape,
        tau=tau,
        check=check,
        frame=frame,
        parents=parents,
        signature=bytes(64),
    )
    return msgspec.structs.replace(draft, signature=identity.sign(draft.body()))


def planned(plan: Plan, members: tuple[tuple[bytes, ...], ...], unit: Unit, stage: int) -> bytes:
    """The identity that the plan names at `stage` for the unit's micro-batch.

    Raises:
        Refused: E303, the plan has no such micro-batch or boundary.
    """
    if not (0 <= unit.microbatch < len(plan.work) and 0 <= unit.boundary < len(members) - 1):
        raise Refused(303, f"tick {plan.tick} has no micro-batch {unit.microbatch} at boundary {unit.boundary}")
    return members[stage][plan.work[unit.microbatch][stage]]


def verify_header(
    header: Header, size: int, opening: Opening, manifest: Manifest, members: tuple[tuple[bytes, ...], ...]
) -> None:
    """Check a header against the open plan before anything of its frame is looked at.

    The order is cheap first; the hash of the frame and `check` are left to whoever reads the bytes.

    Raises:
        Refused: E204 another run, E304 another tick, E305 not the unit, sender, receiver or shape that the plan
            names, E206 bad signature, E319 the sender has another opening of this tick.
    """
    plan = opening.plan
    unit, who = header.unit, header.sender.hex()[:12]
    if unit.run != plan.run:
        raise Refused(204, f"a frame of {who} is of another run")
    if unit.tick != plan.tick:
        raise Refused(
            304,
            f"a frame of {who}",
            expected=f"tick {plan.tick}",
            actual=f"tick {unit.tick}",
            todo="Frames of ticks that are over or not open are never read; nothing to do.",
        )
    sender = planned(plan, members, unit, unit.sender_stage)
    steps = 1 if plan.session is None else max(1, plan.session.length)
    wanted = make_unit(
        plan,
        manifest,
        boundary=unit.boundary,
        direction="forward" if plan.session is not None else unit.direction,
        microbatch=unit.microbatch,
        position=min(unit.position, steps - 1),
    )
    if unit != wanted or header.receiver != unit.receiver_stage:
        raise Refused(305, f"a frame of {who} is for a unit that tick {plan.tick} does not have")
    if header.sender != sender:
        raise Refused(305, "a frame's sender", expected=sender.hex()[:12], actual=who)
    shape = unit_shape(plan, manifest, unit)
    if header.shape != shape:
        raise Refused(305, f"the shape of a frame of {who}", expected=shape, actual=header.shape)
    wanted_size = math.prod(shape) * manifest.frame_width // 8
    if size != wanted_size:
        raise Refused(305, f"the length of a frame of {who}", expected=wanted_size, actual=size)
    try:
        verify_signature(header.sender, header.body(), header.signature, whose=f"node {who}")
    except VaultError as error:
        raise Refused(206, error.what) from None
    if header.opening != opening.digest:
        raise Refused(319, f"a frame of {who} belongs to another opening of tick {plan.tick}")


@dataclass(frozen=True, slots=True)
class Crossing:
    """A unit with the keys to mask or unmask it; handed to the worker."""

    unit: Unit
    tick_key: bytes
    pair: PairKey


@dataclass(frozen=True, slots=True)
class Arrival:
    """A received frame whose header was checked."""

    crossing: Crossing
    header: Header
    frame: Blob


@dataclass(frozen=True, slots=True)
class Departure:
    """What the worker made of one outgoing unit; the role signs a header for it."""

    unit: Unit
    shape: tuple[int, int, int]
    tau: bytes
    check: bytes
    digest: bytes
    frame: Blob
    clamped: int


@dataclass(frozen=True, slots=True)
class Pass:
    """Job: one micro-batch through this stage, forward (`train` keeps what backward needs) or backward.

    windows: positions of the micro-batch's windows in the text's order, for a stage that reads tokens or targets;
    order_key: what that order is drawn from (a training tick), empty for the order of the text. arrival: None where
    the stage begins the direction. out: None where it ends. On the last stage a training pass goes forward and
    backward at once: `out` is then the gradient's unit.
    """

    tick: int
    microbatch: int
    direction: Direction
    kind: Kind
    windows: range
    order_key: bytes
    arrival: Arrival | None
    out: Crossing | None
    group: GroupKey
    scale: float


@dataclass(frozen=True, slots=True)
class Passed:
    """Result of `Pass`: what leaves, the loss on the last stage, the largest gradient as a power of two."""

    departure: Departure | None
    nats: float
    tokens: int
    peak: int | None
