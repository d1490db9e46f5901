"""A member of a receiving stage in a tick that was planned but never opened.

One release is missing: the coordinator has a plan and the releases of one gate less than the manifest asks for, and
gives all of it to the member. The member asks honest nodes and relays to go on: with openings of its own making, and
with frames under keys that it guesses from what it holds. It wins if anybody sends a frame of that tick, or if what it
can compute is the key of the tick that the gates would have opened.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field

import msgspec
from tests.protocols.world import Sent, World, openings_of
from tests.runs import identity, manifest

from interlock.protocols.boundary import Frame, frame_shape, frame_size, make_header, make_unit, planned
from interlock.protocols.effects import Blob, Send, Work
from interlock.protocols.errors import Refused
from interlock.protocols.release import Opening, Plan, Release, Released, draw_members, make_release, tick_key
from interlock.protocols.round import Members
from interlock.vault import GroupKey, PairKey, Secret

from .attack import Cost, Found

TICK = 4  # a training tick
replace = msgspec.structs.replace


@dataclass
class _Held:
    """Releases of one tick; the last of them do not reach the coordinator."""

    allowed: int
    passed: list[Release] = field(default_factory=list)
    held: list[Release] = field(default_factory=list)

    def change(self, sent: Sent) -> list[Sent]:
        """As `World.change`."""
        message = sent.message
        if not isinstance(message, Released) or message.release.tick != TICK:
            return [sent]
        known = self.passed if message.release in self.passed or len(self.passed) < self.allowed else self.held
        if message.release not in known:
            known.append(message.release)
        return [sent] if known is self.passed else []


def _played(allowed: int) -> tuple[World, _Held, Plan]:
    """A run in which `allowed` releases of tick `TICK` arrive; it ends when nothing moves any more."""
    held = _Held(allowed)
    world = World(manifest(), change=held.change)
    world.run(until=lambda w: any(s.message.header.unit.tick == TICK for s in w.all_sent(Frame)[-1:]))
    plans = {r.plan for r in (*held.passed, *held.held)}
    propose = next(
        s.message.plan for s in world.sent if getattr(getattr(s.message, "plan", None), "digest", b"") in plans
    )
    return world, held, propose


def member() -> Found:
    """Everything the member can try."""
    quorum = manifest().committee.release
    world, held, plan = _played(quorum - 1)
    before = openings_of(world.rows())
    last = before[max(before)]
    members = draw_members(last, world.manifest)
    frames = [s for s in world.all_sent(Frame) if s.message.header.unit.tick == TICK]
    cost = Cost(seen_bytes=sum(blob.size for s in world.all_sent(Frame) for blob in s.blobs))
    with cost.clock():
        openings = _forged(plan, held.passed, [r for o in before.values() for r in o.releases], last)
        refused = _ask_with_openings(world, openings)
        moved = _ask_with_frames(world, members, openings)
        guesses = {tick_key(opening) for opening in openings} | {tick_key(o) for o in before.values()}
    keys = _possible_keys(plan, [*held.passed, *held.held], quorum)
    return Found(
        won=bool(frames) or 0 in refused or moved > 0 or bool(keys & guesses),
        recovered=f"nothing: no frame; {len(refused)} openings refused (E{', E'.join(map(str, sorted(set(refused))))})",
        measures={"frames": len(frames), "answers": moved, "keys guessed": len(guesses)},
        cost=cost,
        control=_control(quorum),
    )


def _possible_keys(plan: Plan, releases: list[Release], quorum: int) -> set[bytes]:
    """The key of the tick for every choice of a quorum's releases."""
    chosen = itertools.permutations(releases, quorum)
    return {tick_key(Opening(plan=plan, releases=releases)) for releases in chosen}


def _forged(plan: Plan, passed: list[Release], older: list[Release], last: Opening) -> list[Opening]:
    """Openings of the plan out of what there is: too few, one twice, older ones, one signed by somebody else."""
    own = make_release(identity("node0"), plan, bytes(32))
    stolen = [replace(release, plan=plan.digest, tick=plan.tick) for release in older]
    found = [Opening(plan=plan, releases=()), Opening(plan=plan, releases=tuple(passed))]
    found += [
        Opening(plan=plan, releases=(r, s)) for r, s in itertools.product(passed, [*passed, own, *older, *stolen])
    ]
    found += [Opening(plan=plan, releases=(s, r)) for r, s in itertools.product(passed, [*older, *stolen])]
    found.append(Opening(plan=plan, releases=last.releases))
    return found


def _ask_with_openings(world: World, openings: list[Opening]) -> list[int]:
    """By which numbers an honest node and an honest relay refuse openings, even if the coordinator sends them."""
    found = []
    for name in ("node0", "relay0"):
        for opening in openings:
            try:
                world.roles[name].on_message(world.manifest.coordinator, opening, ())
                found.append(0)
            except Refused as refused:
                found.append(refused.number)
    return found


def _ask_with_frames(world: World, members: Members, openings: list[Opening]) -> int:
    """How many frames of the tick, under keys of the member's own making, an honest node acts on."""
    plan, made, moved = openings[0].plan, world.manifest, 0
    who = {identity(name).public: name for name in world.engines}
    pair, group, blob = PairKey(Secret(bytes(32))), GroupKey(Secret(bytes(32))), Blob(bytes(frame_size(made)))
    for microbatch, opening in zip(range(len(plan.work)), openings, strict=False):
        unit = make_unit(plan, made, boundary=0, direction="backward", microbatch=microbatch)
        keyed = unit.keyed(tick_key(opening))
        tau = group.tau(keyed, b"", b"")
        author = who[planned(plan, members, unit, 1)]
        receiver = world.roles[who[planned(plan, members, unit, 0)]]
        header = make_header(
            identity(author), unit, opening=opening.digest, shape=frame_shape(made), tau=tau,
            check=pair.check(keyed, tau),
            frame=hashlib.sha256(blob.data).digest(), parents=(),
        )  # fmt: skip
        try:
            effects = receiver.on_message(plan.relays[0], Frame(header=header), (blob,))
        except Refused:
            continue
        moved += any(isinstance(effect, Send | Work) for effect in effects)
    return moved


def _control(quorum: int) -> bool:
    """With all of its releases the same tick has frames, and its key is among those that the releases give."""
    world, held, plan = _played(len(manifest().committee.keyholders))
    frames = [s for s in world.all_sent(Frame) if s.message.header.unit.tick == TICK]
    return bool(frames) and tick_key(openings_of(world.rows())[TICK]) in _possible_keys(plan, held.passed, quorum)
