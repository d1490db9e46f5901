"""A node's worker with symbols for numbers: what is computed is named, not calculated.

Keys, taus, checks, seals and salts are the real ones; tensors are names. A frame says in clear which mask and which
plaintext it adds, so that a spec can ask what somebody who adds and subtracts frames would learn. A state is 32
bytes that say which micro-batches its last round counted:

    frame = mask name (16) || plaintext name (16) || zeros        state = name (8) || counts of micro-batches (24)
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from interlock.protocols.boundary import Arrival, Crossing, Departure, Pass, Passed, frame_shape
from interlock.protocols.canonical import digest
from interlock.protocols.change import Export, Exported, Prepare, PreparedState, Rotated, Rotation
from interlock.protocols.effects import Blob
from interlock.protocols.errors import InterlockError, Refused
from interlock.protocols.fetching import Read
from interlock.protocols.manifest import Manifest
from interlock.protocols.node import Adopt
from interlock.protocols.round import Step, Stepped, Sum, Summed, seal_context
from interlock.protocols.session import Extend, Extended, Forget
from interlock.vault import GroupKey, VaultError, open_sealed, salted, seal

NONE = bytes(32)
MICROBATCHES_MAX = 24


@dataclass(frozen=True, slots=True)
class Term:
    """What a frame is made of: the name of its mask and of its plaintext, 16 bytes each."""

    mask: bytes
    plain: bytes


def term(frame: bytes) -> Term:
    """Read a frame."""
    return Term(frame[:16], frame[16:32])


def counted(state: bytes) -> tuple[int, ...]:
    """How often each micro-batch went into a reported state."""
    return tuple(state[8:])


class SymbolicEngine:
    """Does a node's jobs. What it raises as `InterlockError` it returns, as a worker does."""

    def __init__(self, manifest: Manifest) -> None:
        if manifest.training.microbatches > MICROBATCHES_MAX or _frame_bytes(manifest, frame_shape(manifest)) < 32:
            raise ValueError("a symbolic run needs at most 24 micro-batches, and frames of at least 32 bytes")
        self._manifest = manifest
        self._states: dict[int, bytes] = {}
        self._base = 0
        self.stumbles = False  # the next job of a tick fails
        self._flights: dict[int, bytes] = {}  # micro-batch -> what its forward read
        self._gradients: Counter[int] = Counter()
        self._chains: dict[int, bytes] = {}  # of the session under way

    def __call__(self, job: Any) -> Any:
        """Do one job; give its result, or the error that a worker reports."""
        try:
            return self._do(job)
        except VaultError as error:
            return Refused(405, error.what)
        except InterlockError as error:
            return error

    def _do(self, job: Any) -> Any:
        if self.stumbles and not isinstance(job, Adopt | Read):
            self.stumbles = False
            raise Refused(401, "a value is not finite")
        match job:
            case Pass():
                return self._pass(job)
            case Extend():
                return self._extend(job)
            case Forget():
                return self._forget()
            case Sum():
                return self._sum(job)
            case Step():
                return self._step(job)
            case Adopt():
                return self._adopt(job)
            case Rotation():
                return Rotated(matrix=Blob(self._drawn(job.seed)))
            case Export():
                return self._export(job)
            case Prepare():
                return self._prepare(job)
            case Read():
                return None
        raise TypeError(f"no such job: {type(job).__name__}")

    # -- passes -------------------------------------------------------------------------------------------------

    def _pass(self, job: Pass) -> Passed:
        arrived = digest("text", repr((job.windows, job.order_key)).encode())
        if job.arrival is not None:
            arrived = self._arrive(job.arrival)
        trains = job.kind != "evaluate"
        if job.direction == "backward":
            arrived = hashlib.sha256(self._flights.pop(job.microbatch) + arrived).digest()
        elif trains and job.out is not None and job.out.unit.direction == "forward":
            self._flights[job.microbatch] = arrived
        last = job.direction == "forward" and (job.out is None or job.out.unit.direction == "backward")
        if trains and (job.direction == "backward" or last):
            self._gradients[job.microbatch] += 1
        departure = None
        if job.out is not None:
            departure = self._depart(job.group, job.out, _purpose(job), arrived, frame_shape(self._manifest))
        tokens = self._manifest.training.rows * self._manifest.model.context if last else 0
        peak = 0 if job.out is not None and job.out.unit.direction == "backward" else None
        return Passed(departure=departure, nats=float(tokens), tokens=tokens, peak=peak)

    def _arrive(self, arrival: Arrival) -> bytes:
        crossing, header, frame = arrival.crossing, arrival.header, bytes(arrival.frame.data)
        if hashlib.sha256(frame).digest() != header.frame:
            raise Refused(306, "a frame does not fit its header: it was changed on its way")
        keyed = crossing.unit.keyed(crossing.tick_key)
        crossing.pair.verify_check(keyed, header.tau, header.check)
        if term(frame).mask != self._mask(crossing, header.tau):
            raise Refused(405, "a frame was masked otherwise than its header says")
        return digest("interlock/arrived", keyed, header.tau, header.frame)

    def _depart(
        self, group: GroupKey, out: Crossing, purpose: bytes, read: bytes, shape: tuple[int, int, int]
    ) -> Departure:
        state = self._states[self._base]
        keyed = out.unit.keyed(out.tick_key)
        tau = group.tau(keyed, state, read)
        plain = digest("plaintext", purpose, state, read)[:16]
        frame = (self._mask(out, tau) + plain).ljust(_frame_bytes(self._manifest, shape), b"\0")
        return Departure(
            unit=out.unit,
            shape=shape,
            tau=tau,
            check=out.pair.check(keyed, tau),
            digest=hashlib.sha256(frame).digest(),
            frame=Blob(frame),
            clamped=0,
        )

    def _mask(self, crossing: Crossing, tau: bytes) -> bytes:
        """The name of a frame's mask."""
        return crossing.pair.mask_key(crossing.unit.keyed(crossing.tick_key), tau)[:16]

    # -- sessions -----------------------------------------------------------------------------------------------

    def _extend(self, job: Extend) -> Extended:
        """What is generated is a digest of what was read before it, so that a spec knows what is right."""
        read = self._arrive(job.arrival) if job.arrival is not None else hashlib.sha256(job.inputs).digest()
        self._chains[job.microbatch] = chain = digest("chain", self._chains.get(job.microbatch, b""), read)
        departure = None
        if job.out is not None:
            purpose = f"session {job.microbatch} {job.position}".encode()
            shape = (*job.shape, self._manifest.model.width)
            departure = self._depart(job.group, job.out, purpose, chain, shape)
        return Extended(departure=departure, byte=job.position % 256, nats=float(job.microbatch))

    def _forget(self) -> None:
        self._chains.clear()

    # -- the round's end ----------------------------------------------------------------------------------------

    def _sum(self, job: Sum) -> Summed:
        counts = bytes(self._gradients[m] for m in range(MICROBATCHES_MAX))
        context = seal_context(job.run, job.tick, job.sender, "sum", 0)
        sealed = seal(job.group.seal_key("sum", job.sender, job.tick), counts, context=context)
        return Summed(sealed=Blob(sealed), digest=hashlib.sha256(sealed).digest(), seconds=0.0)

    def _step(self, job: Step) -> Stepped:
        total = [0] * MICROBATCHES_MAX
        for who, blob, named in job.sums:
            if hashlib.sha256(blob.data).digest() != named:
                raise Refused(306, f"the sum of {who.hex()[:12]} is not the one it committed to")
            context = seal_context(job.run, job.tick, who, "sum", 0)
            plain = open_sealed(job.group.seal_key("sum", who, job.tick), bytes(blob.data), context=context)
            total = [a + b for a, b in zip(total, plain, strict=True)]
        name = digest("state", self._states[self._base], bytes(total), job.tick.to_bytes(8, "big"))
        self._states[job.tick] = name[:8] + bytes(total)
        return Stepped(state=self._states[job.tick], cpu_s=0.0, masking_s=0.0)

    # -- states -------------------------------------------------------------------------------------------------

    def _adopt(self, job: Adopt) -> None:
        self._flights.clear()
        self._forget()
        self._gradients.clear()
        self._base = job.made
        self._states = {job.made: self._states[job.made]} if job.made else {}

    def _export(self, job: Export) -> Exported:
        """Two parts, so that their order matters."""
        state, sealed = self._states[self._base], []
        for purpose, part, plain in (
            ("size", 0, (2).to_bytes(8, "little")),
            ("shard", 0, state[:8]),
            ("shard", 1, state[8:]),
        ):
            context = seal_context(job.run, job.tick, job.sender, purpose, part)
            sealed.append(seal(job.group.seal_key(purpose, job.sender, job.tick), plain, context=context))
        return Exported(size=sealed[0], parts=tuple(sealed[1:]))

    def _import(self, job: Prepare, source: bytes) -> bytes:
        key, plain = job.group.seal_key("shard", source, job.tick), b""
        for part, blob in enumerate(job.shard):
            context = seal_context(job.run, job.tick, source, "shard", part)
            plain += open_sealed(key, bytes(blob.data), context=context)
        return plain

    def _drawn(self, seed: bytes) -> bytes:
        return hashlib.shake_256(seed).digest(4 * self._manifest.model.width**2)

    def _prepare(self, job: Prepare) -> PreparedState:
        seed = job.seed.reveal()
        turns, seed_shown = (NONE, NONE), NONE
        if job.change == "members":
            made = self._states[self._base] if job.source is None else self._import(job, job.source)
            self._states[job.tick] = made
            return PreparedState(state=made, seed=seed_shown, turns=turns)
        if job.change == "start":
            name = digest("start", bytes([job.stage]), seed, job.bridge or b"")
            seed_shown = salted(job.group.salt(job.run, job.tick, "seed"), seed)
        else:
            assert job.turn is not None
            if job.turn != self._drawn(seed):
                raise Refused(503, "the turn is not the one that the group drew")
            name = digest("turn", self._states[self._base], job.turn, job.turn_before or b"")
            turns = (
                NONE if job.before is None or job.turn_before is None else job.before.turn(job.turn_before),
                NONE if job.after is None else job.after.turn(job.turn),
            )
        self._states[job.tick] = name[:8] + bytes(MICROBATCHES_MAX)
        return PreparedState(state=self._states[job.tick], seed=seed_shown, turns=turns)


def _purpose(job: Pass) -> bytes:
    """What a plaintext is, beside what it was computed from."""
    return f"{job.direction} {job.microbatch}".encode()


def _frame_bytes(manifest: Manifest, shape: tuple[int, int, int]) -> int:
    return math.prod(shape) * manifest.frame_width // 8
