"""The node: one replica of one stage.

It accepts nothing of a tick before it has the tick's opening, keeps the first opening and the first close of a tick,
and holds at most two states: the base and the one prepared beside it. The next opening says by its `base` which one
counts; the other is erased then.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

from interlock.vault import Identity

from .answering import Answering
from .belonging import Belonging
from .boundary import Frame, Here, Pass, Passed, Taken
from .canonical import Message
from .change import Export, Exported, Offers, Prepare, PreparedState, Rotated, Rotation
from .changing import Changing
from .effects import UP, After, Announce, Blob, Effects, Event, Send, Stop, Work
from .errors import InterlockError, Overflowed, Refused
from .fetching import ChunkIs, Fetching, IndexIs, Read
from .granting import Granted
from .manifest import Manifest
from .members import Invitation, Join, Leaving, Left, Roster, Welcome, make_record
from .moved import Moved, Whereabouts
from .obeying import TIMER, Heard, Noted, Ordering, Orders
from .passing import Passing
from .pulse import BEAT_S, Beat
from .recovery import Recall, knows
from .release import Began, Opening, draw_members, order_key, tick_key, verify_opening
from .round import Close, Sealed, Step, Stepped, Sum, Summed, Trouble, verify_sealed
from .seat import Keys, Seat, Secrets
from .session import Extend, Extended, Forget, Over
from .watch import Watch

EARLY_MAX = 256  # messages of the next tick that may wait for its opening


@dataclass(frozen=True, slots=True)
class Adopt:
    """Job: the state made in tick `made` is the base from now on; forget every other and all passes under way."""

    tick: int
    made: int


class NodeOpened(Event, frozen=True, kw_only=True):
    """This node holds the opening of a tick. arrives: it has no state yet and gets that of its stage."""

    tick: int
    kind: str
    plan: str
    stage: int
    arrives: bool = False


class Adopted(Event, frozen=True, kw_only=True):
    """The state made in tick `made` became this node's base when tick `tick` opened."""

    tick: int
    made: int


class Forgot(Event, frozen=True, kw_only=True):
    """Nothing of the session of this tick is left at this node."""

    tick: int


class OutOfReach(Event, frozen=True, kw_only=True):
    """Which relays do not answer this node has changed: keys, in hex, and where they listen."""

    relays: tuple[str, ...]


class Leaves(Event, frozen=True, kw_only=True):
    """This node was told to leave, and does once others hold what it holds."""


class GaveUp(Event, frozen=True, kw_only=True):
    """This node could not finish a tick. suspect: identity of whose bytes were wrong, in hex, or empty."""

    tick: int
    number: int
    what: str
    suspect: str = ""


class Node:
    """Pure role of a node.

    Args:
        identity: its keys. manifest: checked against the run's id. operator: who runs it.
        invitation: None where admission is open.
    """

    changing: ClassVar[type[Changing]] = Changing  # its part in a change

    def __init__(self, identity: Identity, manifest: Manifest, *, operator: str, invitation: Invitation | None) -> None:
        self._identity, self._manifest = identity, manifest
        record = make_record(identity, "node", operator)
        self._belonging = Belonging(manifest, Join(record=record, invitation=invitation))
        self._opening: Opening | None = None
        self._seat: Seat | None = None
        self._keys: Keys | None = None
        self._secrets: Secrets | None = None
        self._base = 0  # tick that made the base; 0: none
        self._ready: int | None = None  # tick that made the state prepared beside it
        self._part: Passing | Changing | Answering | None = None
        self._prepared_secrets: Secrets | None = None
        self._epoch_keys: dict[int, bytes] = {}  # change tick -> K_tick
        self._gave_up = False
        self._holds = False  # anything of a stage, here or at the worker
        self._leaving = False
        self._busy = False
        self._jobs: list[Adopt | Read | Forget] = []
        self._early: list[tuple[bytes, Frame | Sealed | Taken | Close | Offers, tuple[Blob, ...]]] = []
        self._fetching: Fetching | None = None  # at a stage that reads text
        self._has_text = False
        self._watch = Watch()
        self._heard: set[bytes] = set()  # digests of what came through relays in this tick
        self._said: dict[object, Send] = {}  # in this tick, as far as nobody said that it came
        self.orders = Orders(manifest)
        self._whereabouts = Whereabouts(manifest)
        self._granted = Granted(manifest)
        self._unreached: tuple[str, ...] = ()  # as last said
        self._stood_still = 0  # newest tick of which an order made us drop our part

    @property
    def identity(self) -> bytes:
        """Its identity key."""
        return self._identity.public

    # -- inputs -------------------------------------------------------------------------------------------------

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Begin. Until state is sealed at rest a node stores orders and nothing else: one that restarts joins again."""
        return [*self.orders.restore(stored), *self.on_timer("look"), After(BEAT_S, "beat")]

    def on_timer(self, name: str) -> Effects:
        """Join; then, whenever nothing has come for a while, ask for what may have been lost.

        Told to "hand over", it leaves as soon as nothing depends on it, at once if it holds nothing; told to "leave",
        at once.
        """
        if name == "leave":
            return [Stop()]
        if name == TIMER:
            return self._obey(self.orders.look())
        if name == "hand over":
            self._leaving = True
            goes: Effects = [Announce(Leaves()), Send(self._manifest.coordinator, Leaving())]
            holds = self._base or self._ready is not None or self._part is not None
            return goes if holds else [*goes, Stop()]  # a node without a stage waits for nobody
        if name == "beat":
            alive = Leaving() if self._leaving else Beat()
            return [Send(self._manifest.coordinator, alive), After(BEAT_S, "beat")]
        if name.startswith(UP):
            return self._reach_again(bytes.fromhex(name.removeprefix(UP)))
        if isinstance(self._part, Answering) and name == f"session {self._part.seat.tick}":
            return self._part.late()
        if name != "look":
            return []
        quiet, again = self._watch.look()
        effects: Effects = [again]
        if not self._belonging.known:
            return [self._belonging.ask(), *effects]
        effects += self._belonging.look(self._here(), quiet=quiet)
        effects += self._say_reach()
        if quiet:
            if self._fetching is not None:
                effects += self._fetching.ask()
            effects += self._say_ready()
            effects += self.orders.remind(self._manifest.coordinator)
            effects.append(self._belonging.here_still())
        return effects

    def at(self, seconds: float) -> None:
        """The time of the next input."""
        self.orders.at(seconds)

    def on_order(self, text: str) -> Effects:
        """A person hands in an order: obey it and pass it on.

        Raises:
            Refused: `Orders.take`.
        """
        return self._obey(self.orders.take(text, to=self._servers()))

    def _servers(self) -> tuple[bytes, ...]:
        return self._manifest.coordinator, *sorted(self._belonging.relays)

    def _obey(self, heard: Heard) -> Effects:
        """Standing still, a node has no part in any tick; base and prepared state stay."""
        if heard.stops:
            if isinstance(self._part, Answering):
                self._jobs.append(Forget(tick=self._part.seat.tick))
            if self._part is not None:
                self._stood_still = self._now()
            self._end_tick()
            self._early.clear()
        return heard.effects + self._pump()

    def _reach_again(self, server: bytes) -> Effects:
        """A server could not send to us before: ask at once for what is missing, and not when it has become quiet."""
        if server in self._belonging.relays:
            return [Send(server, self._here())]
        return self._say_ready() if server == self._manifest.coordinator else []

    def _here(self) -> Here:
        return Here(tick=self._now(), have=tuple(sorted(self._heard)))

    def _say_ready(self) -> Effects:
        if not self._belonging.whole:
            return []
        return [Send(self._manifest.coordinator, self._belonging.ready(self._now()))]

    def _say_reach(self) -> Effects:
        """Say which relays do not answer, if that has changed."""
        now = self._belonging.where()
        if now == self._unreached:
            return []
        self._unreached = now
        return [Announce(OutOfReach(relays=now))]

    def _now(self) -> int:
        return 0 if self._opening is None else self._opening.plan.tick

    def on_message(self, source: bytes, message: object, blobs: tuple[Blob, ...]) -> Effects:
        """Everything a node reads; each checked where it is read."""
        if isinstance(message, Noted) and source == self._manifest.coordinator:
            return []  # the coordinator did not know us yet, and took us for a bearer of an order
        if isinstance(message, Ordering) and (source == self._manifest.coordinator or source in self._belonging.relays):
            return self._obey(self.orders.hear(source, message, self._servers()))
        if self.orders.in_force is not None and isinstance(message, Opening | Close | Offers | Frame | Sealed | Taken):
            return self.orders.tell(source)
        if source == self._manifest.coordinator:
            if isinstance(message, Welcome):
                self._belonging.welcomed = True
                return []
            if isinstance(message, Roster):
                self._granted.learn(message)
                return self._belonging.roster(message, self._here())
            if isinstance(message, Opening):
                return self._open(message)
            if isinstance(message, Recall):
                return [Send(source, knows(self._opening)), *self._say_ready()]
            if isinstance(message, Began):
                return self._began(message.opening)
            if isinstance(message, Left):
                return [Stop()] if self._leaving else []
            if isinstance(message, IndexIs) and self._fetching is not None:
                self._watch.moved()
                return self._fetching.index(message)
            if isinstance(message, ChunkIs) and self._fetching is not None:
                self._watch.moved()
                effects, read = self._fetching.chunk(message, blobs)
                self._jobs += [] if read is None else [read]
                return effects + self._pump()
            if isinstance(message, Over):
                return self._over(message)
            if isinstance(message, Close | Offers):
                return self._in_tick(source, message, blobs)
        elif source in self._belonging.relays:
            return self._from_relay(source, message, blobs)
        raise Refused(210, f"a node reads no {type(message).__name__} of {source.hex()[:12]}")

    def _from_relay(self, source: bytes, message: object, blobs: tuple[Blob, ...]) -> Effects:
        effects: Effects = []
        if isinstance(message, Moved):
            effects = self._whereabouts.learn(message)
        elif isinstance(message, Frame | Sealed | Taken):
            effects = self._in_tick(source, message, blobs)
        elif not isinstance(message, Here):
            raise Refused(210, f"a node reads no {type(message).__name__} of {source.hex()[:12]}")
        if self._belonging.reach(source):
            effects = [*effects, *self._say_reach(), *self._say_ready()]
        return effects

    def on_drawn(self, name: str, data: bytes) -> Effects:
        """This tick's randomness."""
        if isinstance(self._part, Changing) and name == f"change {self._part.seat.tick}":
            return self._noted(self._part.drawn(data)) + self._pump()
        if isinstance(self._part, Answering) and name == f"session {self._part.seat.tick}":
            return self._noted(self._part.drawn(data))
        return []

    def on_done(self, job: object, result: object) -> Effects:
        """A job is done; results of ticks that are over are dropped."""
        self._busy = False
        self._watch.moved()
        effects: Effects = []
        part, seat = self._part, self._seat
        if isinstance(job, Read) and not isinstance(result, InterlockError):
            self._has_text = True
        elif isinstance(job, Forget):
            effects.append(Announce(Forgot(tick=job.tick)))
        elif isinstance(job, Adopt | Read) and isinstance(result, InterlockError):
            return [Stop(result)]
        elif seat is None or getattr(job, "tick", None) != seat.tick or self._gave_up:
            pass
        elif isinstance(result, InterlockError):
            effects += self._give_up(result, suspect=self._suspect(seat, job, result))
        elif isinstance(part, Passing):
            if isinstance(job, Pass) and isinstance(result, Passed):
                effects += part.passed(job, result)
            elif isinstance(result, Summed):
                effects += part.summed(result)
            elif isinstance(result, Stepped):
                self._ready = seat.tick
                effects += part.stepped(result)
        elif isinstance(part, Answering):
            if isinstance(job, Extend) and isinstance(result, Extended):
                effects += part.extended(job, result)
        elif isinstance(part, Changing):
            if isinstance(result, Rotated):
                effects += part.rotated(result)
            elif isinstance(result, Exported):
                effects += part.exported(result)
            elif isinstance(result, PreparedState):
                self._ready = seat.tick
                self._prepared_secrets = part.secrets()
                effects += part.prepared(result)
        return self._noted(effects) + self._pump()

    # -- the run ------------------------------------------------------------------------------------------------

    def _open(self, opening: Opening) -> Effects:
        """A new tick: erase what the old one kept, adopt the base, take the place that the plan gives."""
        plan = opening.plan
        if self._opening is not None and plan.tick <= self._opening.plan.tick:
            if opening == self._opening and plan.tick == self._stood_still:
                # The coordinator does not know of it: it was away while the order came and went.
                what = "it stood still by an order"
                return [Send(self._manifest.coordinator, Trouble(tick=plan.tick, number=350, what=what))]
            if opening == self._opening:  # something of ours may be missing
                return list(self._said.values())
            if opening.plan == self._opening.plan and self._part is not None:
                return self._opened_twice(opening)
            raise Refused(314, "an opening not newer than the one known", expected=f"> {self._opening.plan.tick}")
        verify_opening(opening, self._manifest)
        members = draw_members(opening, self._manifest)
        stage = next((i for i, group in enumerate(members) if self._identity.public in group), None)
        self._end_tick()
        self._opening = opening
        if stage is None:
            if not plan.change and self._holds:  # a change may come to nothing; after this nobody needs what we hold
                self._drop()
                self._holds = False  # nothing to do at each tick: who waits must notice that it is quiet, and say so
            return self._pump()
        key = tick_key(opening)
        seat = self._seat = Seat(self._identity, self._manifest, opening, key, members, stage)
        self._holds = True
        try:
            self._granted.verify(plan, members)
        except Refused as refused:
            return self._give_up(refused)
        arrives = plan.change == "members" and self._identity.public not in plan.members[stage]
        if arrives:
            self._drop()
            effects = Effects()
        else:
            try:
                effects = self._adopt(seat)
            except Refused as lost:
                return self._give_up(lost)
        opened = NodeOpened(tick=plan.tick, kind=plan.kind, plan=plan.digest.hex(), stage=stage, arrives=arrives)
        effects.append(Announce(opened))
        if plan.change:
            if plan.change != "members":
                self._epoch_keys[plan.tick] = key
            needs_text = seat.first or seat.last
            changing = self._part = self.changing(seat, needs_text)
            effects += changing.begin()
            if needs_text and self._fetching is None:
                self._fetching = Fetching(self._manifest)
                effects += self._fetching.ask()
        else:
            assert self._secrets is not None
            self._keys = self._secrets.at(plan.tick)
            if plan.session is not None:
                answering = self._part = Answering(seat, self._keys)
                effects += answering.begin()
            else:
                passing = self._part = Passing(seat, self._keys, order_key(self._epoch_keys[plan.epoch_tick]))
                effects += self._noted(passing.begin())
        early, self._early = self._early, []
        for source, message, blobs in early:
            with suppress(Refused):  # what came too early and is wrong must not cost us the opening
                effects += self._in_tick(source, message, blobs)
        return effects + self._pump()

    def _opened_twice(self, opening: Opening) -> Effects:
        """One plan was opened with two lists of releases, so that its keys differ: the tick cannot end."""
        verify_opening(opening, self._manifest)
        if self._gave_up:
            return list(self._said.values())
        self._said.clear()
        return self._noted(self._give_up(Refused(319, f"a second opening of tick {opening.plan.tick}")))

    def _end_tick(self) -> None:
        if self._keys is not None:
            self._keys.erase()
        if isinstance(self._part, Changing | Answering):
            self._part.erase()
        self._keys = self._part = self._seat = None
        self._gave_up = False
        self._heard.clear()
        self._said.clear()

    def _began(self, opening: Opening) -> Effects:
        """What the order of the text hangs on, for us who come in the middle of an epoch."""
        plan = opening.plan
        if self._opening is None or plan.tick in self._epoch_keys:
            return []
        verify_opening(opening, self._manifest)
        if plan.tick != self._opening.plan.epoch_tick or plan.change not in ("start", "turn"):
            raise Refused(
                304, "the opening that began the epoch", expected=self._opening.plan.epoch_tick, actual=plan.tick
            )
        self._epoch_keys[plan.tick] = tick_key(opening)
        return self._pump()

    def _drop(self) -> None:
        """Forget the stage that we held."""
        for secrets in (self._secrets, self._prepared_secrets):
            if secrets is not None:
                secrets.erase()
        self._secrets = self._prepared_secrets = self._ready = None
        self._base = 0
        self._epoch_keys.clear()
        self._jobs.append(Adopt(tick=self._now(), made=0))

    def _over(self, message: Over) -> Effects:
        """A session has ended: its keys, its text and what was computed from it go, here and at the worker."""
        if not isinstance(self._part, Answering) or message.tick != self._part.seat.tick:
            return []
        self._end_tick()
        self._jobs.append(Forget(tick=message.tick))
        return self._pump()

    def _adopt(self, seat: Seat) -> Effects:
        """Take up the state of ours that the plan starts from; every other is erased.

        Raises:
            Refused: E308, we do not hold it.
        """
        base = seat.plan.base
        made = 0 if base is None else base.made[seat.stage]
        if made not in (self._base, self._ready):
            raise Refused(
                308,
                "this node does not hold the state that the run goes on from",
                expected=f"made in tick {made}",
                actual=f"tick {self._base}",
            )
        if made == self._ready and self._prepared_secrets is not None:
            if self._secrets is not None:
                self._secrets.erase()
            self._secrets = self._prepared_secrets
            self._epoch_keys = {t: key for t, key in self._epoch_keys.items() if t == seat.plan.epoch_tick}
        elif self._prepared_secrets is not None:
            self._prepared_secrets.erase()
        changed = made != self._base
        self._base, self._ready, self._prepared_secrets = made, None, None
        self._jobs.append(Adopt(tick=seat.tick, made=made))
        return [Announce(Adopted(tick=seat.tick, made=made))] if changed else []

    def _in_tick(
        self, source: bytes, message: Frame | Sealed | Taken | Close | Offers, blobs: tuple[Blob, ...]
    ) -> Effects:
        tick = message.header.unit.tick if isinstance(message, Frame) else message.tick
        now = self._now()
        self._watch.moved()
        if tick == now + 1 and len(self._early) < EARLY_MAX:
            self._early.append((source, message, blobs))
            return []
        part = self._part
        if tick == now and part is None:
            return []  # of a session that is over, or of a tick without us
        if tick != now or part is None:
            raise Refused(304, f"a {type(message).__name__}", expected=f"tick {now}", actual=f"tick {tick}")
        if self._gave_up:
            return []
        effects: Effects = []
        try:
            if isinstance(message, Sealed):
                if len(blobs) != 1:
                    raise Refused(305, "sealed traffic needs exactly one blob", actual=len(blobs))
                verify_sealed(message, self._manifest.run)  # end to end: relays are not believed
                if self._identity.public not in message.to:
                    raise Refused(305, f"sealed traffic of {message.sender.hex()[:12]} is for others")
                if message.content in self._heard:
                    return []
                effects += part.sealed(message, blobs[0])
                self._heard.add(message.content)
            elif isinstance(part, Passing | Answering) and isinstance(message, Frame):
                header = message.header.digest
                if header in self._heard:  # our receipt was lost, if there was one
                    return [said] if (said := self._said.get((Taken, header))) is not None else []
                effects += part.frame(message, blobs)
                self._heard.add(header)
            elif isinstance(part, Passing | Answering) and isinstance(message, Taken):
                effects += part.taken(message)
                self._said.pop(message.header, None)
            elif isinstance(part, Passing) and isinstance(message, Close):
                effects += part.close(message)
            elif isinstance(part, Changing) and isinstance(message, Offers):
                effects += part.offers(message)
        except Refused as refused:
            # A change that cannot be agreed on and a question that cannot be read are void, and a tick that opened
            # twice cannot end; the rest is dropped.
            if refused.number not in (319, 501, 510):
                raise
            effects += self._give_up(refused)
        return self._noted(effects) + self._pump()

    def _noted(self, effects: Effects) -> Effects:
        """Remember what was said in this tick, so that it can be said again."""
        for effect in effects:
            if isinstance(effect, Send):
                self._said[_subject(effect.message)] = effect
        return effects

    def _suspect(self, seat: Seat, job: object, error: InterlockError) -> bytes:
        """Whose fault an arrived frame is: nobody changes bytes on the way but the relay, and the rest is signed."""
        if not isinstance(job, Pass) or job.arrival is None or error.number not in (306, 405):
            return b""
        return seat.relay(job.microbatch) if error.number == 306 else job.arrival.header.sender

    def _give_up(self, error: InterlockError, suspect: bytes = b"") -> Effects:
        seat = self._seat
        assert seat is not None
        self._gave_up = True
        boundary = seat.stage - 1  # the one that a gradient of ours crosses
        trouble = Trouble(
            tick=seat.tick,
            number=error.number,
            what=f"{error.what[:250]}{' by ' if suspect else ''}{suspect.hex()[:12]}",
            where=max(0, boundary if error.number == 402 else seat.stage),
            bits=error.bits if isinstance(error, Overflowed) else 0,
            suspect=suspect or None,
        )
        return [
            Send(self._manifest.coordinator, trouble),
            Announce(GaveUp(tick=seat.tick, number=error.number, what=error.what, suspect=suspect.hex())),
        ]

    def _knows_order(self, part: Changing) -> bool:
        """Whether we know what the order of the text hangs on, once the change is the base."""
        plan = part.seat.plan
        return plan.change != "members" or plan.epoch_tick in self._epoch_keys

    def _pump(self) -> Effects:
        """Give the worker its next job; one at a time, so that what is urgent goes first."""
        if self._busy:
            return []
        job: Adopt | Read | Forget | Export | Rotation | Prepare | Pass | Sum | Step | Extend | None = None
        if self._jobs:
            job = self._jobs.pop(0)
        elif self._gave_up:
            return []
        elif isinstance(self._part, Changing):
            job = self._part.next_job(has_text=self._has_text) if self._knows_order(self._part) else None
        elif isinstance(self._part, Passing):
            job = self._part.next_pass() or self._part.next_end()
        elif isinstance(self._part, Answering):
            job = self._part.next_job()
        if job is None:
            return []
        self._busy = True
        return [Work(job)]


def _subject(message: Message) -> object:
    """What a message is about: a later one about the same replaces it."""
    if isinstance(message, Frame):
        return message.header.digest
    if isinstance(message, Sealed):
        return (message.content, message.to)
    if isinstance(message, Taken):
        return (Taken, message.header)
    return type(message)
