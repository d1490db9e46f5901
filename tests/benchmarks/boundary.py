"""What a masked boundary costs: a stage's time, bytes on the wire, a relay's processor time and memory.

    python tests/benchmarks/boundary.py [--json]

The stage is a middle one, 16 windows of 128 bytes a micro-batch, on one thread. A node's real role (`Passing`) and
engine take one micro-batch through it: two frames read, two sent. A clock lies around the stage's forward and
backward; whatever else the node does is what the boundary adds: header checks, hashes, keystreams, unmasking and
decoding, encoding and masking, tau, signatures. Both numbers come from one pass, in processor time, and the bar is
the median of their ratios. In between, the same stage runs without a boundary, to show what masking does to the
stage's own time. The single parts below are timed by themselves, over and over in warm memory: less than in place.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bars import Bar, report
from threadpoolctl import threadpool_limits

from interlock.kernels import basis, fixed, mask
from interlock.kernels.passes import Forward
from interlock.kernels.stage import Stage
from interlock.protocols import messages
from interlock.protocols.boundary import Frame, Header, Taken, make_header, make_unit, verify_header
from interlock.protocols.change import Prepare
from interlock.protocols.effects import Blob, Effects, Send
from interlock.protocols.manifest import Committee, Data, Keyholder, Manifest, Model, Training
from interlock.protocols.node import Adopt
from interlock.protocols.passing import Passing
from interlock.protocols.relay import Relay
from interlock.protocols.release import Opening, Plan, make_release
from interlock.protocols.seat import Keys, Seat
from interlock.protocols.service.engine import Engine
from interlock.protocols.wire import Buffer, pack, unpack
from interlock.vault import GroupKey, Identity, PairKey, Secret

ROWS, CONTEXT = 16, 128
TICK_KEY = bytes(32)
GRADIENT_EXPONENT = -10
STAGE_LIMITS = {256: 4.0, 1024: 0.8}  # percent of forward and backward


class Clock(Stage):
    """A stage that adds up the processor time of its forwards and backwards."""

    spent_s = 0.0

    def forward(self, *args: Any, **options: Any) -> Forward:
        """As `Stage.forward`."""
        start = time.process_time()
        result = super().forward(*args, **options)
        self.spent_s += time.process_time() - start
        return result

    def backward(self, *args: Any, **options: Any) -> Any:
        """As `Stage.backward`."""
        start = time.process_time()
        result = super().backward(*args, **options)
        self.spent_s += time.process_time() - start
        return result


def identity(name: str) -> Identity:
    """An identity fixed by its name."""
    return Identity(Secret(hashlib.sha256(name.encode()).digest()))


NODES = tuple(identity(f"stage {i}") for i in range(3))


def make_manifest(width: int, layers: int, rows: int) -> Manifest:
    """Three stages of one replica each."""
    return Manifest(
        version=1,
        name="boundary",
        nonce=bytes(16),
        coordinator=identity("coordinator").public,
        committee=Committee(
            keyholders=(Keyholder(name="ada", key=identity("ada").public),), release=1, halt=1, resume=1, lying=0
        ),
        model=Model(
            width=width,
            heads=width // 64,
            layers_per_stage=layers,
            hidden=4 * width,
            mlp="relu2",
            context=CONTEXT,
        ),
        stages=3,
        replicas=1,
        relays=1,
        data=Data(index=bytes(32), train_bytes=1 << 20, validation_bytes=1 << 20),
        training=Training(
            rounds=1, epoch_rounds=1, microbatches=1, rows=rows, rate=0.01, warmup=0, decay=0, evaluate_every=0
        ),
        admission="invited",
        release="automatic",
        frame_width=24,
        frame_fraction=12,
        gradient_exponent=GRADIENT_EXPONENT,
    )


def make_seat(manifest: Manifest, stage: int) -> Seat:
    """A node's place in an open training tick."""
    members = tuple((node.public,) for node in NODES)
    plan = Plan(
        run=manifest.run,
        tick=2,
        head=bytes(32),
        base=None,
        kind="train",
        change="",
        round=0,
        epoch=0,
        epoch_tick=1,
        attempt=0,
        relays=(identity("relay").public,),
        candidates=(),
        members=members,
        exponents=(GRADIENT_EXPONENT,) * 2,
        lifts=(0,) * 3,
        work=((0, 0, 0),),
    )
    return Seat(NODES[stage], manifest, Opening(plan=plan, releases=()), TICK_KEY, members, stage)


def make_keys(stage: int) -> Keys:
    """The same pair keys on both sides of a boundary."""
    pair = [PairKey(Secret(bytes([9, b] * 16))) for b in range(2)]
    return Keys(
        group=GroupKey(Secret(bytes([7, stage] * 16))),
        before=pair[stage - 1] if stage > 0 else None,
        after=pair[stage] if stage < 2 else None,
    )


def make_frame(manifest: Manifest, stage: int, values: fixed.Float32) -> tuple[Frame, Blob]:
    """What the neighbour at `stage` sends to stage 1, by its own role and engine."""
    passing = Passing(make_seat(manifest, stage), make_keys(stage), TICK_KEY)
    job = passing._job(0, "forward" if stage == 0 else "backward", None, None)
    assert job.out is not None
    passing._forward_parent[0] = bytes(32)
    departure = Engine(manifest)._depart(job.group, job.out, values, bytes(32))
    send = passing._depart(departure, () if stage == 0 else (bytes(32), bytes(32)))[0]
    assert isinstance(send, Send) and isinstance(send.message, Frame)
    return send.message, send.blobs[0]


def make_engine(manifest: Manifest) -> tuple[Engine, Clock]:
    """The middle stage's engine, begun as at the start of a run, with a clock in it."""
    keys, width = make_keys(1), manifest.model.width
    engine = Engine(manifest)
    bridge = basis.quantise_bridge(basis.haar(bytes(32), width)).astype("<i4").tobytes()
    engine(
        Prepare(
            tick=1,
            stage=1,
            change="start",
            run=manifest.run,
            seed=Secret(bytes(32)),
            group=keys.group,
            before=keys.before,
            after=keys.after,
            bridge=bridge,
            turn=None,
            turn_before=None,
        )
    )
    stage = engine._stage = Clock(manifest.shape(1), context=CONTEXT)
    engine(Adopt(tick=2, made=1))
    return engine, stage


@dataclass
class Found:
    """Processor seconds, one a repetition: the stage alone, the stage in a node, what the node adds to it."""

    alone: list[float]
    stage: list[float]
    added: list[float]

    @property
    def percent(self) -> float:
        """Median of what is added, in percent of the stage's time in the same repetition."""
        return 100 * statistics.median(a / s for a, s in zip(self.added, self.stage, strict=True))


def measure_stage(width: int, layers: int, repeats: int) -> Found:
    """Take micro-batches through a middle stage, alone and in a node, by turns."""
    manifest = make_manifest(width, layers, ROWS)
    engine, stage = make_engine(manifest)
    rng = np.random.default_rng(0)
    values = rng.standard_normal((ROWS, CONTEXT, width), dtype=np.float32)
    gradient = values * np.float32(2.0**GRADIENT_EXPONENT)
    activations, gradients = make_frame(manifest, 0, values), make_frame(manifest, 2, gradient)
    found = Found([], [], [])

    def alone() -> float:
        stage.spent_s = 0.0
        stage.backward(stage.forward(values), gradient)
        return stage.spent_s

    def node() -> tuple[float, float]:
        stage.spent_s = 0.0
        passing = Passing(make_seat(manifest, 1), make_keys(1), TICK_KEY)
        start = time.process_time()
        for message, blob in (activations, gradients):
            passing.frame(message, (blob,))
            job = passing.next_pass()
            assert job is not None
            passing.passed(job, engine(job))
        return stage.spent_s, time.process_time() - start - stage.spent_s

    node()  # warms caches and allocators
    for _ in range(repeats):
        found.alone.append(alone())
        stage_s, added_s = node()
        found.stage.append(stage_s)
        found.added.append(added_s)
    return found


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Median processor time of one call."""
    taken = []
    for _ in range(repeats + 1):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return 1e3 * statistics.median(taken[1:])


def measure_parts(width: int, repeats: int = 15) -> dict[str, float]:
    """Milliseconds of each part of one frame, and of a product of the same activations with a square matrix."""
    manifest = make_manifest(width, 1, ROWS)
    rng = np.random.default_rng(1)
    values = rng.standard_normal((ROWS, CONTEXT, width), dtype=np.float32)
    key, bits, fraction = bytes(range(32)), manifest.frame_width, manifest.frame_fraction
    integers = fixed.encode(values, width=bits, fraction=fraction).integers
    frame = mask.mask(integers, key, width=bits)
    x, square = torch.from_numpy(values.reshape(-1, width)), torch.randn(width, width)
    parts: dict[str, Callable[[], object]] = {
        "keystream": lambda: mask.keystream(key, frame.size),
        "encode": lambda: fixed.encode(values, width=bits, fraction=fraction),
        "mask (keystream included)": lambda: mask.mask(integers, key, width=bits),
        "unmask (keystream included)": lambda: mask.unmask(frame, key, count=integers.size, width=bits),
        "decode": lambda: fixed.decode(integers, fraction=fraction),
        "hash of the frame": lambda: hashlib.sha256(frame.data).digest(),
        "hash of the integers (evaluations only)": lambda: hashlib.sha256(integers.data).digest(),
        "float32 product d x d": lambda: torch.mm(x, square),
    }
    return {name: milliseconds(work, repeats) for name, work in parts.items()}


def measure_header(repeats: int = 200) -> dict[str, float]:
    """Milliseconds of what is done with a header; it does not depend on the frame's size."""
    manifest = make_manifest(256, 1, ROWS)
    seat = make_seat(manifest, 1)
    unit = make_unit(seat.plan, manifest, boundary=0, direction="forward", microbatch=0)

    def make() -> Header:
        shape = (ROWS, CONTEXT, 256)
        return make_header(
            NODES[0],
            unit,
            opening=seat.opening.digest,
            shape=shape,
            tau=bytes(16),
            check=bytes(16),
            frame=bytes(32),
            parents=(bytes(32),),
        )

    header, size = make(), ROWS * CONTEXT * 256 * 3
    body = header.body()
    parts: dict[str, Callable[[], object]] = {
        "make and sign a header": make,
        "signature alone": lambda: NODES[0].sign(body),
        "verify a header": lambda: verify_header(header, size, seat.opening, manifest, seat.members),
    }
    return {name: milliseconds(work, repeats) for name, work in parts.items()}


def wire_ratio(rows: int, width: int) -> float:
    """Bytes of envelope, header and frame, over those of the words alone."""
    manifest = make_manifest(width, 1, rows)
    message, frame = make_frame(manifest, 2, np.zeros((rows, CONTEXT, width), np.float32))  # a gradient: two parents
    parts = pack(message, (frame,), run=manifest.run, sender=NODES[2], to=NODES[1].public, sequence=2**50)
    return sum(len(part) for part in parts) / (rows * CONTEXT * width * manifest.frame_width / 8)


def measure_role(repeats: int = 50) -> float:
    """Milliseconds that a relay's role spends on one frame and its receipt, unpacking and packing included.

    `relay_throughput` forwards bytes unread, so this comes on top of its figure. It does not depend on the frame's
    size.
    """
    manifest, who = make_manifest(256, 1, ROWS), identity("relay")
    plan = make_seat(manifest, 0).plan
    relay = Relay(who, manifest, operator="relay", address="", invitation=None)
    relay.on_message(
        manifest.coordinator, Opening(plan=plan, releases=(make_release(identity("ada"), plan, bytes(32)),)), ()
    )
    message, frame = make_frame(manifest, 0, np.zeros((ROWS, CONTEXT, 256), np.float32))
    limits = messages.limits(manifest)

    def arriving(message: Frame | Taken, source: Identity, blobs: tuple[Blob, ...]) -> list[Buffer]:
        return pack(message, blobs, run=manifest.run, sender=source, to=who.public, sequence=2**50)

    receipt = Taken(tick=plan.tick, header=message.header.digest, sender=NODES[0].public)
    arrivals = [
        (NODES[0].public, arriving(message, NODES[0], (frame,))),
        (NODES[1].public, arriving(receipt, NODES[1], ())),
    ]

    def carry() -> None:
        relay._kept.clear()  # a frame that is known would not be handed on
        relay._kept_bytes = 0
        for peer, parts in arrivals:
            read = unpack(parts, kinds=messages.BY_RELAY, run=manifest.run, me=who.public, peer=peer, limits=limits)
            effects: Effects = relay.on_message(peer, read.message, read.blobs)
            send = effects[0]
            assert isinstance(send, Send)
            pack(send.message, send.blobs, run=manifest.run, sender=who, to=send.to, sequence=2**50)

    return milliseconds(carry, repeats)


def relay_bars() -> list[Bar]:
    """The bars of `relay_throughput`, in a process of its own: its memory must not include torch."""
    script = Path(__file__).with_name("relay_throughput.py")
    done = subprocess.run([sys.executable, script, "--json"], stdout=subprocess.PIPE, check=False)
    rows = json.loads(done.stdout)["bars"]
    return [Bar(row["name"], row["value"], row["limit"], row["unit"]) for row in rows]


def main() -> None:
    """Measure, print, exit 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(description="what a masked boundary costs")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        bars, figures = measure()
    report(bars + figures, {}, as_json=arguments.json)


def measure() -> tuple[list[Bar], list[Bar]]:
    """All bars, and the figures without a limit."""
    bars, figures = [], []
    for width, layers, repeats in ((256, 2, 15), (1024, 4, 3)):
        found, parts = measure_stage(width, layers, repeats), measure_parts(width)
        stage, added = statistics.median(found.stage), statistics.median(found.added)
        where = f"d = {width}"
        name = f"masking / forward and backward of {layers} layers, {where}"
        bars.append(Bar(name, found.percent, STAGE_LIMITS[width], "%"))
        figures += [
            Bar(f"forward and backward in a node, {where}", 1e3 * stage, None, "ms"),
            Bar(f"forward and backward alone, {where}", 1e3 * statistics.median(found.alone), None, "ms"),
            Bar(f"what the node adds, four frames, {where}", 1e3 * added, None, "ms"),
            *(Bar(f"{part}, {where}", value, None, "ms") for part, value in parts.items()),
        ]
    bars.append(Bar("wire: bytes / bytes of the words, n = 512, d = 256", wire_ratio(512 // CONTEXT, 256), 1.02, "x"))
    relay = relay_bars()
    figures += [Bar(name, value, None, "ms") for name, value in measure_header().items()]
    figures.append(Bar("relay's role, a frame and its receipt", measure_role(), None, "ms"))
    figures.append(Bar("relay: passed on in a second of processor time", 1e3 / relay[0].value, None, "MB"))
    return bars + relay, figures


if __name__ == "__main__":
    main()
