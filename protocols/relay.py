"""The relay: forwards frames unchanged and carries sealed group traffic, for nodes that open outbound connections.

It holds nothing secret and sees uniform words. It keeps a tick's frames until the next opening shows what became of
the tick, within a bound, so that a unit can be sent again or compared under its mask. Where a frame goes is the
plan's word, never the sender's.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from interlock.vault import Identity

from .boundary import Frame, Here, Taken, planned, verify_header
from .canonical import digest
from .effects import Admit, After, Announce, Blob, Effects, Event, Send, Stop
from .errors import Refused
from .manifest import Manifest
from .members import Invitation, Join, Roster, Still, Welcome, make_record, verify_join
from .moved import Moved, Whereabouts
from .obeying import TIMER, Heard, Noted, Ordering, Orders
from .pulse import BEAT_S, Beat
from .recovery import Recall, knows
from .release import Opening, Ready, draw_members, verify_opening
from .round import Members, Sealed, verify_sealed
from .session import Over
from .watch import Watch

EARLY_MAX = 256  # messages of the next tick that may wait for its opening


class Carried(Event, frozen=True, kw_only=True):
    """This relay forwarded a frame."""

    tick: int
    microbatch: int
    boundary: int
    direction: str
    frame: str
    size: int


class RelayOpened(Event, frozen=True, kw_only=True):
    """This relay knows that a tick is open."""

    tick: int
    plan: str


class Relay:
    """Pure role of a relay.

    Args:
        coordinator_curve: key of the coordinator's sockets, by which it reaches us if it listens elsewhere one day.
        kept_bytes_max: bound on the frames kept of one tick; beyond it the oldest are dropped.
    """

    def __init__(
        self,
        identity: Identity,
        manifest: Manifest,
        *,
        operator: str,
        address: str,
        invitation: Invitation | None,
        coordinator_curve: bytes = b"",
        kept_bytes_max: int = 1 << 30,
    ) -> None:
        self._manifest = manifest
        self._join = Join(record=make_record(identity, "relay", operator, address), invitation=invitation)
        self._coordinator_curve, self._kept_bytes_max = coordinator_curve, kept_bytes_max
        self._whereabouts = Whereabouts(manifest)
        self._welcomed = False
        self._watch = Watch()
        self._joined: set[bytes] = set()  # everyone of whom we know
        self._opening: Opening | None = None
        self._members: Members = ()
        self._known: dict[bytes, str] = {}
        self._invitations: dict[bytes, bytes] = {}
        self._kept: dict[tuple[bytes, bytes], tuple[tuple[bytes, ...], Frame | Sealed, tuple[Blob, ...]]] = {}
        self._kept_bytes = 0
        self._early: list[tuple[bytes, Frame | Sealed | Taken, tuple[Blob, ...]]] = []
        self.orders = Orders(manifest)

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Begin: a relay stores orders and nothing else; what it forgets is sent again."""
        door: Effects = []
        if self._coordinator_curve:
            door.append(Admit(self._manifest.coordinator, self._coordinator_curve))
        return [*door, *self.orders.restore(stored), *self.on_timer("look"), After(BEAT_S, "beat")]

    def at(self, seconds: float) -> None:
        """The time of the next input."""
        self.orders.at(seconds)

    def on_order(self, text: str) -> Effects:
        """A person hands in an order: obey it and pass it on.

        Raises:
            Refused: `Orders.take`.
        """
        return self._obey(self.orders.take(text, to=self._everyone()))

    def _everyone(self) -> tuple[bytes, ...]:
        return self._manifest.coordinator, *self._known

    def _obey(self, heard: Heard) -> Effects:
        """Standing still, a relay carries nothing; who sends it something is told why."""
        if heard.stops:
            self._forget()
            self._early.clear()
        return heard.effects

    def on_timer(self, name: str) -> Effects:
        """Join; then, whenever nothing has come for a while, say what we know."""
        if name in ("leave", "hand over"):
            return [Stop()]
        if name == TIMER:
            return self._obey(self.orders.look())
        if name == "beat":
            alive: Effects = [Send(self._manifest.coordinator, Beat())] if self._welcomed else []
            return [*alive, After(BEAT_S, "beat")]
        if name != "look":
            return []
        quiet, again = self._watch.look()
        if not self._welcomed:
            return [Send(self._manifest.coordinator, self._join), again]
        if not quiet:
            return [again]
        coordinator = self._manifest.coordinator
        return [self._ready(), Send(coordinator, Still(join=self._join)), *self.orders.remind(coordinator), again]

    def _ready(self) -> Send:
        known = 0 if self._opening is None else self._opening.plan.tick
        return Send(self._manifest.coordinator, Ready(known=known, joins=len(self._joined)))

    def on_message(self, source: bytes, message: object, blobs: tuple[Blob, ...]) -> Effects:
        """Openings and the roster from the coordinator; frames and sealed traffic from members; orders from all."""
        if isinstance(message, Noted) and source == self._manifest.coordinator:
            return []  # the coordinator did not know us yet, and took us for a bearer of an order
        if isinstance(message, Ordering):
            return self._obey(self.orders.hear(source, message, self._everyone()))
        if self.orders.in_force is not None and isinstance(message, Opening | Frame | Sealed | Taken):
            return self.orders.tell(source)
        if source == self._manifest.coordinator:
            if isinstance(message, Moved):
                found = self._whereabouts.learn(message)
                return [*found, *(Send(who, message) for who in self._known)]
            if isinstance(message, Welcome):
                self._welcomed = True
                return []
            if isinstance(message, Roster):
                return self._admit(message)
            if isinstance(message, Opening):
                return self._open(message)
            if isinstance(message, Recall):
                return [Send(source, knows(self._opening)), self._ready()]
            if isinstance(message, Over):
                if self._opening is not None and message.tick == self._opening.plan.tick:
                    self._forget()
                return []
        elif isinstance(message, Here):
            have = set(message.have)
            again = [Send(source, m, b) for to, m, b in self._kept.values() if source in to and _name(m) not in have]
            return [Send(source, message), *again, *self.orders.remind(source)]
        elif isinstance(message, Frame | Sealed | Taken):
            return self._carry(source, message, blobs)
        raise Refused(210, f"a relay reads no {type(message).__name__} of {source.hex()[:12]}")

    def on_done(self, job: object, result: object) -> Effects:
        """A relay has no work."""
        return []

    def on_drawn(self, name: str, data: bytes) -> Effects:
        """A relay draws nothing."""
        return []

    def _admit(self, roster: Roster) -> Effects:
        effects: Effects = []
        self._joined = roster.known(self._joined)
        for join in roster.joins:
            record, invitation = join.record, join.invitation
            if record.role not in ("node", "asker") or record.identity in self._known:
                continue
            verify_join(
                join,
                run=self._manifest.run,
                keyholders=self._manifest.committee.identities(),
                open_admission=self._manifest.admission == "open",
                used=frozenset(self._invitations),
            )
            if invitation is not None:
                self._invitations[invitation.nonce] = record.identity
            self._known[record.identity] = record.operator
            effects.append(Admit(record.identity, record.curve))
        return effects

    def _open(self, opening: Opening) -> Effects:
        if self._opening is not None and opening.plan.tick <= self._opening.plan.tick:
            if opening == self._opening:
                return []
            raise Refused(314, "an opening not newer than the one known", expected=f"> {self._opening.plan.tick}")
        verify_opening(opening, self._manifest)
        self._opening = opening
        self._members = draw_members(opening, self._manifest)
        self._forget()
        effects: Effects = [Announce(RelayOpened(tick=opening.plan.tick, plan=opening.plan.digest.hex()))]
        early, self._early = self._early, []
        for source, message, blobs in early:
            with suppress(Refused):  # what came too early and is wrong must not cost us the opening
                effects += self._carry(source, message, blobs)
        return effects

    def _forget(self) -> None:
        self._kept.clear()
        self._kept_bytes = 0

    def _carry(self, source: bytes, message: Frame | Sealed | Taken, blobs: tuple[Blob, ...]) -> Effects:
        tick = message.header.unit.tick if isinstance(message, Frame) else message.tick
        now = 0 if self._opening is None else self._opening.plan.tick
        if tick == now + 1 and len(self._early) < EARLY_MAX:
            self._early.append((source, message, blobs))
            return []
        if tick != now or self._opening is None:
            raise Refused(304, f"traffic of {source.hex()[:12]}", expected=f"tick {now}", actual=f"tick {tick}")
        self._watch.moved()  # other traffic does not: we may have missed its opening, and ask when it is quiet
        if isinstance(message, Frame):
            return self._frame(source, message, blobs)
        if isinstance(message, Taken):
            to, kept, _ = self._kept.get((message.sender, message.header), ((), None, ()))
            if not isinstance(kept, Frame) or source not in to:
                raise Refused(303, "a receipt for a frame that this relay did not carry")
            return [Send(message.sender, message)]
        verify_sealed(message, self._manifest.run)
        everyone = {who for stage in self._members for who in stage}
        if self._opening.plan.session is not None:
            everyone.add(self._opening.plan.session.asker)
        if message.sender != source or len(blobs) != 1 or not {source, *message.to} <= everyone:
            raise Refused(305, f"sealed traffic of {source.hex()[:12]} is not among members of the tick")
        if not self._keep((source, digest("interlock/kept", message.content, *message.to)), message.to, message, blobs):
            return []
        return [Send(to, message, blobs) for to in message.to]

    def _keep(
        self, key: tuple[bytes, bytes], to: tuple[bytes, ...], message: Frame | Sealed, blobs: tuple[Blob, ...]
    ) -> bool:
        """Keep what is new. What is not is not forwarded again: its receiver asks for what it misses (`Here`)."""
        if key in self._kept:
            return False
        self._kept[key] = (to, message, blobs)
        self._kept_bytes += blobs[0].size
        while self._kept_bytes > self._kept_bytes_max:
            self._kept_bytes -= self._kept.pop(next(iter(self._kept)))[2][0].size
        return True

    def _frame(self, source: bytes, message: Frame, blobs: tuple[Blob, ...]) -> Effects:
        assert self._opening is not None
        header = message.header
        if len(blobs) != 1 or header.sender != source:
            raise Refused(305, f"a frame of {source.hex()[:12]} signed by {header.sender.hex()[:12]}")
        (frame,) = blobs
        verify_header(header, frame.size, self._opening, self._manifest, self._members)
        unit = header.unit
        receiver = planned(self._opening.plan, self._members, unit, unit.receiver_stage)
        if not self._keep((source, header.digest), (receiver,), message, blobs):
            return []
        carried = Carried(
            tick=unit.tick,
            microbatch=unit.microbatch,
            boundary=unit.boundary,
            direction=unit.direction,
            frame=header.frame.hex(),
            size=frame.size,
        )
        return [Send(receiver, message, blobs), Announce(carried)]


def _name(message: Frame | Sealed) -> bytes:
    """By what its receiver says that it has it."""
    return message.header.digest if isinstance(message, Frame) else message.content
