"""What a node knows while one tick is open: its stage, the plan, and the tick's keys."""

from __future__ import annotations

from dataclasses import dataclass

from interlock.vault import GroupKey, Identity, PairKey, Ratchet, seal

from .boundary import Departure, Frame, Header, make_header
from .canonical import digest
from .effects import Announce, Blob, Effects, Event, Send
from .manifest import Manifest
from .release import Opening, Plan
from .round import Members, make_sealed, seal_context


@dataclass(slots=True)
class Secrets:
    """A stage's ratchets since its last change: the group's, and those of the boundaries before and after."""

    group: Ratchet
    before: Ratchet | None
    after: Ratchet | None

    def at(self, tick: int) -> Keys:
        """Step all to `tick`; older ones are erased."""
        return Keys(
            group=GroupKey(self.group.at(tick)),
            before=PairKey(self.before.at(tick)) if self.before else None,
            after=PairKey(self.after.at(tick)) if self.after else None,
        )

    def erase(self) -> None:
        """Forget all."""
        for ratchet in (self.group, self.before, self.after):
            if ratchet is not None:
                ratchet.erase()


@dataclass(slots=True)
class Keys:
    """One tick's keys."""

    group: GroupKey
    before: PairKey | None
    after: PairKey | None

    def erase(self) -> None:
        """Forget all."""
        for key in (self.group, self.before, self.after):
            if key is not None:
                key.erase()


@dataclass(frozen=True, slots=True)
class Seat:
    """One node's place in one open tick."""

    identity: Identity
    manifest: Manifest
    opening: Opening
    tick_key: bytes
    members: Members
    stage: int

    @property
    def plan(self) -> Plan:
        """The open plan."""
        return self.opening.plan

    @property
    def tick(self) -> int:
        """The open tick."""
        return self.opening.plan.tick

    @property
    def me(self) -> bytes:
        """This node's identity."""
        return self.identity.public

    @property
    def group(self) -> tuple[bytes, ...]:
        """The members of this stage."""
        return self.members[self.stage]

    @property
    def others(self) -> tuple[bytes, ...]:
        """The other members of this stage."""
        return tuple(who for who in self.group if who != self.me)

    @property
    def first(self) -> bool:
        """Whether this stage reads tokens."""
        return self.stage == 0

    @property
    def last(self) -> bool:
        """Whether this stage takes the loss."""
        return self.stage == len(self.members) - 1

    def relay(self, number: int) -> bytes:
        """The relay that carries traffic number `number` (a micro-batch, or a stage for sealed traffic)."""
        return self.plan.relays[number % len(self.plan.relays)]

    def send_frame(self, left: Departure, parents: tuple[bytes, ...]) -> tuple[bytes, Effects]:
        """Sign what the worker made; give the header's digest and what sends it."""
        unit = left.unit
        header = make_header(
            self.identity,
            unit,
            opening=self.opening.digest,
            shape=left.shape,
            tau=left.tau,
            check=left.check,
            frame=left.digest,
            parents=parents,
        )
        sent = FrameSent(
            tick=self.tick,
            microbatch=unit.microbatch,
            boundary=unit.boundary,
            direction=unit.direction,
            header=header.digest.hex(),
            size=left.frame.size,
        )
        return header.digest, [
            Send(self.relay(unit.microbatch), Frame(header=header), (left.frame,)),
            Announce(sent),
        ]

    def sealed(self, to: tuple[bytes, ...], purpose: str, part: int, content: bytes) -> list[Send]:
        """Send sealed bytes to members through a relay."""
        message = make_sealed(
            self.identity,
            run=self.plan.run,
            tick=self.tick,
            to=to,
            purpose=purpose,
            part=part,
            content=digest("interlock/content", content),
        )
        return [Send(self.relay(self.stage), message, (Blob(content),))] if to else []

    def seal_and_send(
        self, key: GroupKey | PairKey, to: tuple[bytes, ...], purpose: str, part: int, plaintext: bytes
    ) -> list[Send]:
        """Seal under a group or pair key and send."""
        context = seal_context(self.plan.run, self.tick, self.me, purpose, part)
        return self.sealed(
            to, purpose, part, seal(key.seal_key(purpose, self.me, self.tick), plaintext, context=context)
        )


class FrameSent(Event, frozen=True, kw_only=True):
    """This node sent a frame."""

    tick: int
    microbatch: int
    boundary: int
    direction: str
    header: str
    size: int


class FrameRead(Event, frozen=True, kw_only=True):
    """This node read a frame."""

    tick: int
    microbatch: int
    boundary: int
    direction: str
    header: str


def frame_read(header: Header) -> FrameRead:
    """What to announce of a frame that was read."""
    unit = header.unit
    return FrameRead(
        tick=unit.tick,
        microbatch=unit.microbatch,
        boundary=unit.boundary,
        direction=unit.direction,
        header=header.digest.hex(),
    )
