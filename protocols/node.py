"""The node: one replica of one stage.

It accepts nothing of a tick before it has the tick's opening, keeps the first opening and the first close of a tick,
and holds at most two states: the base and the one prepared beside it. The next opening says by its `base` which one
counts; the other is erased then.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from interlock.vault import Identity

from .boundary import Frame, Here, Pass, Passed, Taken
from .change import Offers, Prepare, PreparedState, Rotated, Rotation
from .changing import Changing
from .coordinator import ChunkIs, GetChunk, GetIndex, IndexIs
from .corpus import Index, verify_chunk, verify_index
from .effects import After, Announce, Blob, Connect, Effects, Event, Send, Stop, Work
from .errors import Failed, InterlockError, Refused
from .manifest import Manifest
from .members import Invitation, Join, Roster, Welcome, make_record, verify_join
from .passing import Passing
from .release import Opening, Ready, draw_members, order_key, tick_key, verify_opening
from .round import Close, Sealed, Step, Stepped, Sum, Summed, Trouble, verify_sealed
from .seat import Keys, Seat, Secrets

HELLO_S = 1.0
EARLY_MAX = 256  # messages of the next tick that may wait for its opening
CHUNKS_UNDER_WAY = 4


@dataclass(frozen=True, slots=True)
class Adopt:
    """Job: the state made in tick `made` is the base from now on; forget every other and all passes under way."""

    tick: int
    made: int


@dataclass(frozen=True, slots=True)
class Read:
    """Job: take the corpus into memory."""

    tick: int
    index: Index
    chunks: tuple[Blob, ...]


class NodeOpened(Event, frozen=True, kw_only=True):
    """This node holds the opening of a tick."""

    tick: int
    kind: str
    plan: str
    stage: int


class Adopted(Event, frozen=True, kw_only=True):
    """The state made in tick `made` became this node's base when tick `tick` opened."""

    tick: int
    made: int


class GaveUp(Event, frozen=True, kw_only=True):
    """This node could not finish a tick."""

    tick: int
    number: int
    what: str


class Node:
    """Pure role of a node.

    Args:
        identity: its keys. manifest: checked against the run's id. operator: who runs it.
        invitation: None where admission is open.
    """

    def __init__(self, identity: Identity, manifest: Manifest, *, operator: str, invitation: Invitation | None) -> None:
        self._identity, self._manifest = identity, manifest
        self._join = Join(record=make_record(identity, "node", operator), invitation=invitation)
        self._welcomed = False
        self._relays: set[bytes] = set()
        self._reached: set[bytes] = set()  # relays whose connection is up
        self._opening: Opening | None = None
        self._seat: Seat | None = None
        self._keys: Keys | None = None
        self._secrets: Secrets | None = None
        self._base = 0  # tick that made the base; 0: none
        self._ready: int | None = None  # tick that made the state prepared beside it
        self._part: Passing | Changing | None = None
        self._prepared_secrets: Secrets | None = None
        self._epoch_keys: dict[int, bytes] = {}  # change tick -> K_tick
        self._gave_up = False
        self._busy = False
        self._jobs: list[Adopt | Read] = []
        self._early: list[tuple[bytes, Frame | Sealed | Taken | Close | Offers, tuple[Blob, ...]]] = []
        self._index: Index | None = None
        self._chunks: dict[int, Blob] = {}
        self._has_text = False

    # -- inputs -------------------------------------------------------------------------------------------------

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Begin. Until state is sealed at rest a node stores nothing: one that restarts joins again."""
        return self.on_timer("hello")

    def on_timer(self, name: str) -> Effects:
        """Say hello until welcomed; leave when asked to."""
        if name == "leave":
            return [Stop()]
        if name != "hello" or self._welcomed:
            return []
        return [Send(self._manifest.coordinator, self._join), After(HELLO_S, "hello")]

    def on_message(self, source: bytes, message: object, blobs: tuple[Blob, ...]) -> Effects:
        """Everything a node reads; each checked where it is read."""
        if source == self._manifest.coordinator:
            if isinstance(message, Welcome):
                self._welcomed = True
                return []
            if isinstance(message, Roster):
                return self._roster(message)
            if isinstance(message, Opening):
                return self._open(message)
            if isinstance(message, IndexIs):
                return self._take_index(message)
            if isinstance(message, ChunkIs):
                return self._take_chunk(message, blobs)
            if isinstance(message, Close | Offers):
                return self._in_tick(source, message, blobs)
        elif source in self._relays and isinstance(message, Here):
            self._reached.add(source)
            reached_all = len(self._reached) == self._manifest.relays
            return [Send(self._manifest.coordinator, Ready(tick=self._base))] if reached_all else []
        elif source in self._relays and isinstance(message, Frame | Sealed | Taken):
            return self._in_tick(source, message, blobs)
        raise Refused(210, f"a node reads no {type(message).__name__} of {source.hex()[:12]}")

    def on_drawn(self, name: str, data: bytes) -> Effects:
        """This tick's randomness."""
        if isinstance(self._part, Changing) and name == f"change {self._part.seat.tick}":
            return self._part.drawn(data) + self._pump()
        return []

    def on_done(self, job: object, result: object) -> Effects:
        """A job is done; results of ticks that are over are dropped."""
        self._busy = False
        effects: Effects = []
        part, seat = self._part, self._seat
        if isinstance(job, Read) and not isinstance(result, InterlockError):
            self._has_text = True
        elif isinstance(job, Adopt | Read) and isinstance(result, InterlockError):
            return [Stop(result)]
        elif seat is None or getattr(job, "tick", None) != seat.tick or self._gave_up:
            pass
        elif isinstance(result, InterlockError):
            effects += self._give_up(result)
        elif isinstance(part, Passing):
            if isinstance(job, Pass) and isinstance(result, Passed):
                effects += part.passed(job, result)
            elif isinstance(result, Summed):
                effects += part.summed(result)
            elif isinstance(result, Stepped):
                self._ready = seat.tick
                effects += part.stepped(result)
        elif isinstance(part, Changing):
            if isinstance(result, Rotated):
                effects += part.rotated(result)
            elif isinstance(result, PreparedState):
                self._ready = seat.tick
                self._prepared_secrets = part.secrets()
                effects += part.prepared(result)
        return effects + self._pump()

    # -- the run ------------------------------------------------------------------------------------------------

    def _roster(self, roster: Roster) -> Effects:
        effects: Effects = []
        for join in roster.joins:
            record = join.record
            if record.role != "relay" or record.identity in self._relays:
                continue
            verify_join(
                join,
                run=self._manifest.run,
                keyholders=self._manifest.committee.identities(),
                open_admission=self._manifest.admission == "open",
                used=frozenset(),
            )
            self._relays.add(record.identity)
            effects.append(Connect(record.identity, record.curve, record.address))
            effects.append(Send(record.identity, Here()))
        return effects

    def _open(self, opening: Opening) -> Effects:
        """A new tick: erase what the old one kept, adopt the base, take the place that the plan gives."""
        plan = opening.plan
        if self._opening is not None and plan.tick <= self._opening.plan.tick:
            if opening == self._opening:
                return []
            raise Refused(314, "an opening not newer than the one known", expected=f"> {self._opening.plan.tick}")
        verify_opening(opening, self._manifest)
        members = draw_members(opening, self._manifest)
        stage = next((i for i, group in enumerate(members) if self._identity.public in group), None)
        self._end_tick()
        self._opening = opening
        if stage is None:
            return []
        key = tick_key(opening)
        seat = self._seat = Seat(self._identity, self._manifest, opening, key, members, stage)
        effects: Effects = [Announce(NodeOpened(tick=plan.tick, kind=plan.kind, plan=plan.digest.hex(), stage=stage))]
        effects += self._adopt(seat)
        if plan.change:
            self._epoch_keys[plan.tick] = key
            needs_text = seat.first or seat.last
            changing = self._part = Changing(seat, needs_text)
            effects += changing.begin()
            if needs_text and self._index is None:
                effects.append(Send(self._manifest.coordinator, GetIndex()))
        else:
            assert self._secrets is not None
            self._keys = self._secrets.at(plan.tick)
            self._part = Passing(seat, self._keys, order_key(self._epoch_keys[plan.epoch_tick]))
        early, self._early = self._early, []
        for source, message, blobs in early:
            with suppress(Refused):  # what came too early and is wrong must not cost us the opening
                effects += self._in_tick(source, message, blobs)
        return effects + self._pump()

    def _end_tick(self) -> None:
        if self._keys is not None:
            self._keys.erase()
        if isinstance(self._part, Changing):
            self._part.erase()
        self._keys = self._part = self._seat = None
        self._gave_up = False

    def _adopt(self, seat: Seat) -> Effects:
        """Which of our states the plan starts from; everything else is erased.

        Raises:
            Failed: E308, we hold neither.
        """
        base = seat.plan.base
        made = 0 if base is None else base.made[seat.stage]
        if made not in (self._base, self._ready):
            number = 308
            error = Failed(
                number,
                "this node does not hold the state that the run goes on from",
                expected=f"made in tick {made}",
                actual=f"tick {self._base}",
                todo="Join again.",
            )
            return [Stop(error)]
        if made == self._ready and self._prepared_secrets is not None:
            if self._secrets is not None:
                self._secrets.erase()
            self._secrets = self._prepared_secrets
            epoch_key = self._epoch_keys[made]
            self._epoch_keys = {made: epoch_key}
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
        now = 0 if self._opening is None else self._opening.plan.tick
        if tick == now + 1 and len(self._early) < EARLY_MAX:
            self._early.append((source, message, blobs))
            return []
        part = self._part
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
                effects += part.sealed(message, blobs[0])
            elif isinstance(part, Passing) and isinstance(message, Frame):
                effects += part.frame(message, blobs)
            elif isinstance(part, Passing) and isinstance(message, Taken):
                effects += part.taken(message)
            elif isinstance(part, Passing) and isinstance(message, Close):
                effects += part.close(message)
            elif isinstance(part, Changing) and isinstance(message, Offers):
                effects += part.offers(message)
        except Refused as refused:
            if refused.number != 501:  # a change that cannot be agreed on is void; everything else is dropped
                raise
            effects += self._give_up(refused)
        return effects + self._pump()

    def _give_up(self, error: InterlockError) -> Effects:
        seat = self._seat
        assert seat is not None
        self._gave_up = True
        trouble = Trouble(
            tick=seat.tick,
            number=error.number,
            what=error.what[:300],
            boundary=seat.stage - 1,
            stage=seat.stage,
        )
        return [
            Send(self._manifest.coordinator, trouble),
            Announce(GaveUp(tick=seat.tick, number=error.number, what=error.what)),
        ]

    def _pump(self) -> Effects:
        """Give the worker its next job; one at a time, so that what is urgent goes first."""
        if self._busy:
            return []
        job: Adopt | Read | Rotation | Prepare | Pass | Sum | Step | None = None
        if self._jobs:
            job = self._jobs.pop(0)
        elif self._gave_up:
            return []
        elif isinstance(self._part, Changing):
            job = self._part.next_job(has_text=self._has_text)
        elif isinstance(self._part, Passing):
            job = self._part.next_pass() or self._part.next_end()
        if job is None:
            return []
        self._busy = True
        return [Work(job)]

    # -- the corpus ---------------------------------------------------------------------------------------------

    def _take_index(self, message: IndexIs) -> Effects:
        if self._index is not None:
            return []
        verify_index(message.index, self._manifest.data)
        self._index = message.index
        first = range(min(CHUNKS_UNDER_WAY, len(message.index.chunks)))
        return [Send(self._manifest.coordinator, GetChunk(number=n)) for n in first]

    def _take_chunk(self, message: ChunkIs, blobs: tuple[Blob, ...]) -> Effects:
        index, number = self._index, message.number
        if index is None or number >= len(index.chunks) or number in self._chunks or len(blobs) != 1:
            raise Refused(604, f"a chunk {number} that was not asked for")
        verify_chunk(index, number, blobs[0].data)
        self._chunks[number] = blobs[0]
        following = number + CHUNKS_UNDER_WAY
        if following < len(index.chunks):
            return [Send(self._manifest.coordinator, GetChunk(number=following))]
        if len(self._chunks) < len(index.chunks):
            return []
        chunks = tuple(self._chunks[n] for n in range(len(index.chunks)))
        self._chunks.clear()
        self._jobs.append(Read(tick=0, index=index, chunks=chunks))
        return self._pump()
