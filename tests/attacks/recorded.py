"""Record all traffic of a run, then steal every disk: does anything that was stored open anything that was sent?

The record has every message as it is inside CURVE (whose keys are on the disks). The disks are every process's store
and every process's key file. The attacker's program takes all that looks like a key, and all that can be derived from
it by steps of a ratchet, and tries it on every sealed box, on all sealed group traffic and on every frame; what opens
gives more keys. Its controls have one thing more: the box key that one member held in memory during one tick, or the
pair's secret as a node's memory has it at the end.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from nacl.bindings import crypto_scalarmult_base
from tests.protocols.world import World
from tests.runs import Draws, Run, identity, manifest, play

from interlock.kernels import mask
from interlock.protocols import messages
from interlock.protocols.answering import SEALED_KEY_BYTES
from interlock.protocols.boundary import Frame, Header
from interlock.protocols.canonical import decode, encode
from interlock.protocols.change import Offers
from interlock.protocols.inquiry import Continuation
from interlock.protocols.net.simulated import Network
from interlock.protocols.node import Node
from interlock.protocols.release import Opening, tick_key
from interlock.protocols.round import Sealed, seal_context
from interlock.protocols.session import Sampling
from interlock.vault import BoxKey, GroupKey, NotOpened, PairKey, Secret, open_sealed
from interlock.vault.identity import _derive

from .attack import Cost, Found

ANY = messages.BY_COORDINATOR | messages.BY_GATE | messages.BY_RELAY | messages.BY_NODE
FIELD = re.compile(rb"\xc4\x20(.{32})", re.DOTALL)  # 32 bytes in MessagePack
HEX = re.compile(rb"\b[0-9a-f]{64}\b")


class Recorder(Network):
    """A network that keeps all that it carries."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.record: list[tuple[bytes, ...]] = []

    def carry(self, source: Any, target: Any, proven: bytes | None, parts: tuple[bytes, ...]) -> None:
        """As any network."""
        self.record.append(tuple(bytes(part) for part in parts))
        super().carry(source, target, proven, parts)


@dataclass
class Loot:
    """What keys have opened. frames: headers whose frame was read; largest: of the words in them, as integers."""

    boxes: int = 0
    sealed: int = 0
    frames: set[bytes] = field(default_factory=set)
    ticks: set[int] = field(default_factory=set)
    largest: int = 0
    tried: int = 0
    plain: list[bytes] = field(default_factory=list)  # of sealed messages

    @property
    def nothing(self) -> bool:
        """Whether not one of them opened."""
        return not (self.boxes or self.sealed or self.frames)


class Attacker:
    """The program: reads a record once, then tries keys on it."""

    def __init__(self, record: Iterable[tuple[object, tuple[bytes, ...]]]) -> None:
        self._keys: dict[int, bytes] = {}  # tick -> K_tick
        self._offered: dict[bytes, bytes] = {}  # box key -> member
        self._sealed: dict[bytes, tuple[Sealed, bytes]] = {}
        self._frames: dict[tuple[int, int], dict[bytes, tuple[Header, bytes]]] = {}  # by tick and boundary
        self.size_bytes = 0
        for message, blobs in record:
            self.size_bytes += len(encode(message)) + sum(map(len, blobs))
            if isinstance(message, Opening):
                self._keys[message.plan.tick] = tick_key(message)
            elif isinstance(message, Offers):
                self._offered |= {offer.box: offer.member for offer in message.offers}
            elif isinstance(message, Sealed):
                self._sealed[message.body()] = (message, blobs[0])
            elif isinstance(message, Frame):
                header = message.header
                where = self._frames.setdefault((header.unit.tick, header.unit.boundary), {})
                where[header.digest] = (header, blobs[0])
        self.frame_count = sum(map(len, self._frames.values()))
        self.box_count = sum(1 for sealed, _ in self._sealed.values() if sealed.purpose == "secret")
        self.sealed_count = len(self._sealed) - self.box_count

    def attempt(self, keys: Iterable[bytes], *, steps: int | None = None) -> Loot:
        """Try 32-byte keys, and whatever they give, on everything.

        steps: how far each is stepped on; by default as many ticks as there were.
        """
        loot, known = Loot(), set(keys)
        steps = len(self._keys) if steps is None else steps
        waiting = list(known)
        while waiting:
            key = waiting.pop()
            loot.tried += 1
            new = self._as_box_key(key, loot) | self._as_secret(key, steps, loot)
            waiting += new - known
            known |= new
        return loot

    def _as_box_key(self, key: bytes, loot: Loot) -> set[bytes]:
        """Take it for the private half of a box key."""
        member = self._offered.get(crypto_scalarmult_base(key))
        if member is None:
            return set()
        found, box = set(), BoxKey(key)
        for sealed, blob in self._sealed.values():
            if sealed.purpose in ("secret", "question") and member in sealed.to:
                try:
                    found.add(box.open(blob[:SEALED_KEY_BYTES]).reveal())
                except NotOpened:
                    continue  # of another tick
                loot.boxes += 1
        return found

    def _as_secret(self, key: bytes, steps: int, loot: Loot) -> set[bytes]:
        """Take it for a group's or a pair's secret of any tick, and step it on."""
        found: set[bytes] = set()
        for _ in range(steps + 1):
            group, pair = GroupKey(Secret(key)), PairKey(Secret(key))
            for (tick, _), frames in self._frames.items():
                header, _ = next(iter(frames.values()))
                if pair.check(header.unit.keyed(self._keys[tick]), header.tau) == header.check:
                    self._read(pair, frames.values(), loot)
            for sealed, blob in self._sealed.values():
                if sealed.purpose == "secret":
                    continue
                if sealed.purpose == "question":
                    blob = blob[SEALED_KEY_BYTES:]
                context = seal_context(sealed.run, sealed.tick, sealed.sender, sealed.purpose, sealed.part)
                try:
                    plain = open_sealed(
                        group.seal_key(sealed.purpose, sealed.sender, sealed.tick), blob, context=context
                    )
                except NotOpened:
                    continue
                loot.sealed += 1
                loot.plain.append(plain)
                found |= {plain} if len(plain) == 32 else set()
            key = hashlib.sha256(b"interlock/ratchet/v1" + key).digest()
        return found

    def _read(self, pair: PairKey, frames: Iterable[tuple[Header, bytes]], loot: Loot) -> None:
        for header, frame in frames:
            unit = header.unit
            key = pair.mask_key(unit.keyed(self._keys[unit.tick]), header.tau)
            words = mask.unmask(frame, key, count=len(frame) * 8 // unit.width, width=unit.width)
            loot.frames.add(header.digest)
            loot.ticks.add(unit.tick)
            loot.largest = max(loot.largest, int(np.abs(words).max()))


@cache
def _recorded() -> tuple[Run, Attacker]:
    made = manifest()
    run = play(made, network=Recorder)
    assert isinstance(run.network, Recorder)
    return run, Attacker((decode(parts[1], ANY), parts[2:]) for parts in run.network.record)


def disks(stores: Mapping[str, Mapping[str, bytes]], folder: Path) -> dict[str, bytes]:
    """Every file of every process, by name: what it stored, and its key file."""
    found = {f"{name}/{key}": value for name, store in stores.items() for key, value in store.items()}
    for name in stores:
        path = folder / name
        identity(name).save(path)
        found[f"{name}/key"] = path.read_bytes()
    return found


def keys_in(files: dict[str, bytes], *, everywhere: bool) -> set[bytes]:
    """All that may be a key: 32-byte fields, hex digits, and what an identity's seed gives.

    everywhere: any 32 bytes that lie in a file, too.
    """
    found: set[bytes] = set()
    for data in files.values():
        seeds = {bytes.fromhex(hit.decode()) for hit in HEX.findall(data)}
        found |= seeds | set(FIELD.findall(data))
        found |= {_derive(Secret(seed), purpose) for seed in seeds for purpose in ("ed25519", "curve")}
        if everywhere:
            found |= {data[i : i + 32] for i in range(len(data) - 31)}
    return found


def stolen_disks(*, everywhere: bool = True) -> Found:
    """Every disk, after the run. everywhere: try any 32 bytes that lie in a file, not only what looks like a key."""
    run, attacker = _recorded()
    with tempfile.TemporaryDirectory() as folder:
        files = disks({name: store.values for name, store in run.stores.items()}, Path(folder))
    cost = Cost(seen_bytes=attacker.size_bytes + sum(map(len, files.values())))
    with cost.clock():
        loots = [attacker.attempt(keys_in(files, everywhere=False))]
        if everywhere:
            loots.append(attacker.attempt(keys_in(files, everywhere=True), steps=0))
    tried = sum(loot.tried for loot in loots)
    return Found(
        won=not all(loot.nothing for loot in loots),
        recovered=(
            f"nothing: {tried:,} keys on {attacker.box_count} boxes, {attacker.sealed_count} sealed messages and "
            f"{attacker.frame_count} frames"
        ),
        measures={"keys": tried},
        cost=cost,
        control=live_box_key().won and live_secret().won,
    )


def box_keys(run: Run) -> list[bytes]:
    """The box keys that the nodes held in memory in the run's first tick: the beginning of each one's first draw."""
    return [Draws(name)(192)[:32] for name in run.engines]


def live_box_key() -> Found:
    """The same program with one member's box key of the start, as it was in memory then."""
    run, attacker = _recorded()
    cost = Cost(seen_bytes=attacker.size_bytes)
    with cost.clock():
        loot = max((attacker.attempt([key]) for key in box_keys(run)), key=lambda loot: (loot.boxes, len(loot.frames)))
    return Found(
        won=loot.boxes > 0 and loot.sealed > 0 and len(loot.frames) > 0 and loot.largest < 2**20,
        recovered=f"{len(loot.frames)} of {attacker.frame_count} frames, of ticks {_span(loot.ticks)}",
        measures={"boxes": loot.boxes, "sealed": loot.sealed, "frames": len(loot.frames)},
        cost=cost,
    )


def live_secret() -> Found:
    """The same program with a pair's secret out of a node's memory at the end: nothing of earlier ticks opens."""
    run, attacker = _recorded()
    cost = Cost(seen_bytes=attacker.size_bytes)
    nodes = [role for runner in run.runners.values() if isinstance(role := runner._role, Node)]
    ratchet = next(n._secrets.after for n in nodes if n._secrets is not None and n._secrets.after is not None)
    secret, tick = ratchet._secret.reveal(), ratchet.tick
    with cost.clock():
        loot = attacker.attempt([secret])
    return Found(
        won=len(loot.frames) > 0 and loot.ticks == {tick},
        recovered=f"{len(loot.frames)} of {attacker.frame_count} frames, of tick {_span(loot.ticks)} only",
        measures={"frames": len(loot.frames), "ticks": len(loot.ticks)},
        cost=cost,
    )


def _span(ticks: set[int]) -> str:
    return f"{min(ticks)} to {max(ticks)}" if len(ticks) > 1 else "".join(map(str, ticks))


def a_question(*, prompt: bytes = b"a secret!", length: int = 6) -> Found:
    """Somebody asks the finished model; later every disk is stolen, the asker's too."""
    got, start = bytearray(), manifest()
    world = World(start).run()
    sampling = Sampling(temperature=0.0, top_p=1.0, seed=0)
    world.ask("eve", Continuation(prompt, length, sampling, start, told=got.append))
    for _ in range(200):
        while world._queue:
            world.step()
        if "eve" in world.stopped:
            break
        world._ring()
    attacker = Attacker((sent.message, tuple(bytes(blob.data) for blob in sent.blobs)) for sent in world.sent)
    with tempfile.TemporaryDirectory() as folder:
        files = disks(world.stores, Path(folder))
    cost = Cost(seen_bytes=attacker.size_bytes + sum(map(len, files.values())))
    with cost.clock():
        loot = attacker.attempt(keys_in(files, everywhere=False))
    asked = attacker.attempt([Draws("eve")(64)[:32]]).plain  # the asker's own key, while it asks
    known = any(prompt in plain for plain in asked) and len(asked) >= length
    stored = any(prompt in data or bytes(got) in data for data in files.values())
    return Found(
        won=stored or not loot.nothing,
        recovered=f"nothing: {loot.tried} keys; {len(prompt)} bytes asked and {len(got)} answered",
        measures={"keys": loot.tried, "bytes": len(got)},
        cost=cost,
        control=len(got) == length and known,
    )
