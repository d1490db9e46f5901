"""Stages without roles: real engines whose keys and plans the attack chooses, and frames taken from one to the next."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
from tests.runs import identity, manifest, text

from interlock.kernels import basis, mask
from interlock.kernels.fixed import Int32
from interlock.protocols import corpus
from interlock.protocols.boundary import Arrival, Crossing, Departure, Direction, Pass, Passed, Unit, make_header
from interlock.protocols.change import Prepare
from interlock.protocols.effects import Blob
from interlock.protocols.fetching import Read
from interlock.protocols.manifest import Manifest
from interlock.protocols.node import Adopt
from interlock.protocols.round import Step, Sum
from interlock.protocols.service.engine import Engine
from interlock.protocols.session import Extend
from interlock.vault import GroupKey, PairKey, Secret

TICK_KEY, ORDER = b"t" * 32, b"o" * 32
WHO = identity("node0").public


def small(**changes: Any) -> Manifest:
    """Three stages of one replica each, with small frames."""
    return manifest(**(dict(replicas=1, relays=1) | changes))


def group(stage: int) -> GroupKey:
    """A stage's group key."""
    return GroupKey(Secret(bytes([103, stage] * 16)))


def pair(boundary: int) -> PairKey:
    """A boundary's pair key."""
    return PairKey(Secret(bytes([112, boundary] * 16)))


def bridge(width: int, seed: bytes = b"b" * 32) -> bytes:
    """A first bridge as its lead ships it."""
    return basis.quantise_bridge(basis.haar(seed, width)).astype("<i4").tobytes()


def engine(
    made: Manifest, stage: int, *, kind: type[Engine] = Engine, seed: bytes = b"w" * 32, bridge_seed: bytes = b"b" * 32
) -> Engine:
    """One stage's engine, ready for tick 2."""
    whole, first, last = text(), stage == 0, stage == made.stages - 1
    ready = kind(made)
    ready(
        Prepare(
            tick=1,
            stage=stage,
            change="start",
            run=made.run,
            seed=Secret(seed),
            group=group(stage),
            before=None if first else pair(stage - 1),
            after=None if last else pair(stage),
            bridge=None if first else bridge(made.model.width, bridge_seed),
            turn=None,
            turn_before=None,
        )
    )
    index = corpus.index(whole)
    if first or last:
        chunks = tuple(Blob(corpus.chunk(whole, n)) for n in range(len(index.chunks)))
        ready(Read(tick=1, index=index, chunks=chunks))
    ready(Adopt(tick=2, made=1))
    return ready


def unit(made: Manifest, direction: Direction = "forward", **changes: Any) -> Unit:
    """A unit of tick 2."""
    fields: dict[str, Any] = dict(
        run=made.run,
        tick=2,
        kind="train",
        boundary=0,
        direction=direction,
        microbatch=0,
        position=0,
        width=made.frame_width,
        fraction=made.frame_fraction,
        exponent=0 if direction == "forward" else made.gradient_exponent,
    )
    return Unit(**(fields | changes))


def take(
    made: Manifest,
    ready: Engine,
    out: Unit,
    *,
    by: GroupKey,
    under: PairKey,
    arrival: Arrival | None = None,
    windows: range | None = None,
    tick_key: bytes = TICK_KEY,
) -> Departure:
    """Take one micro-batch through a stage (a last stage goes forward and backward at once); give what leaves."""
    job = Pass(
        tick=out.tick,
        microbatch=out.microbatch,
        direction="forward",
        kind=out.kind,
        windows=range(made.training.rows) if windows is None else windows,
        order_key=b"" if out.kind == "evaluate" else ORDER,
        arrival=arrival,
        out=Crossing(out, tick_key, under),
        group=by,
        scale=1 / made.tokens_per_round,
    )
    passed = ready(job)
    assert isinstance(passed, Passed)
    assert passed.departure is not None
    return passed.departure


def extend(
    made: Manifest, ready: Engine, position: int, text_sent: bytes, *, by: GroupKey, under: PairKey
) -> Departure:
    """Take one byte of a session through the first stage, with what the stage keeps of the bytes before it."""
    job = Extend(
        tick=2,
        microbatch=0,
        position=position,
        shape=(1, 1),
        context=len(text_sent),
        inputs=text_sent[position : position + 1],
        targets=b"",
        sampling=None,
        arrival=None,
        out=Crossing(unit(made, kind="session", position=position), TICK_KEY, under),
        group=by,
    )
    left = ready(job).departure
    assert isinstance(left, Departure)
    return left


def arrive(left: Departure, *, under: PairKey, tick_key: bytes = TICK_KEY) -> Arrival:
    """A frame as its receiver has it."""
    header = make_header(
        identity("node0"),
        left.unit,
        opening=bytes(32),
        shape=left.shape,
        tau=left.tau,
        check=left.check,
        frame=left.digest,
        parents=(),
    )
    return Arrival(Crossing(left.unit, tick_key, under), header, left.frame)


def finish_round(made: Manifest, ready: Engine, *, tick: int, stage: int) -> None:
    """Sum and step: the state made in `tick` stands beside the base."""
    summed = ready(Sum(tick=tick, lift=0, group=group(stage), sender=WHO, run=made.run))
    ready(
        Step(
            tick=tick,
            measure=False,
            lift=0,
            rate=made.training.rate,
            group=group(stage),
            run=made.run,
            sums=((WHO, summed.sealed, hashlib.sha256(summed.sealed.data).digest()),),
        )
    )


def plain(left: Departure, *, under: PairKey, tick_key: bytes = TICK_KEY) -> Int32:
    """The integers in a frame, for whoever has the key: what an attack's result is compared with."""
    key = under.mask_key(left.unit.keyed(tick_key), left.tau)
    return mask.unmask(left.frame.data, key, count=math.prod(left.shape), width=left.unit.width)


def difference(one: Departure, other: Departure) -> Int32:
    """What anyone computes from two frames."""
    return mask.difference(
        np.asarray(one.frame.data), np.asarray(other.frame.data), count=math.prod(one.shape), width=one.unit.width
    )


def take_backward(made: Manifest, ready: Engine, arrival: Arrival) -> None:
    """Take a gradient through a first stage, whose weights it moves."""
    job = Pass(
        tick=arrival.header.unit.tick,
        microbatch=arrival.header.unit.microbatch,
        direction="backward",
        kind="train",
        windows=range(made.training.rows),
        order_key=ORDER,
        arrival=arrival,
        out=None,
        group=group(0),
        scale=1 / made.tokens_per_round,
    )
    ready(job)
