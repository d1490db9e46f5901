"""What a schedule does to messages and participants, the same in every world.

`Links` gives the fate of each message by its link and ordinal. `Actor` stands between a world and one role: it counts
inputs, notes what happens, hides what the role need not know (real keys behind short names, copies, crashes between
two effects), and tells the world what becomes of each `Send`. What follows an actor's effects is the world's work.
"""

from __future__ import annotations

import functools
import inspect
import traceback
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from interlock.protocols import effects as fx
from interlock.protocols.canonical import Message
from interlock.protocols.errors import Misused, Refused

from .history import Mark, Step
from .schedule import Crash, Delay, Drop, LinkFault, Partition, Reorder, Schedule, Slow, Twice
from .spec import Action

CLOCK_S = 1e9  # what the participants' clocks say at the beginning of a run
EFFECTS_MAX = 10_000  # of one input, as the runner bounds it
HELD_S = 1.0  # a reordered message waits at most this long for the next of its link
FRAMES_SHOWN = 3  # of a traceback


class Outgoing(NamedTuple):
    """What becomes of one `Send`. extra: seconds on top of the latency."""

    peer: str
    message: Message
    blobs: tuple[fx.Blob, ...]
    mark: Mark
    ordinal: int
    extra: float


class Note(fx.Event, frozen=True, kw_only=True):
    """An event of the kit: not announced by the role, but to be noted when its turn among the effects comes."""

    step: Step


class Crashed(Exception):
    """Ends a participant in the middle of its effects."""

    def __init__(self, crash: Crash) -> None:
        self.crash = crash
        super().__init__(f"{crash.who} crashes")


class Observer(Protocol):
    """What an actor tells its world."""

    def now(self) -> float:
        """Seconds since the run began."""

    def note(self, step: Step) -> None:
        """Something happened."""

    def timer_set(self) -> None:
        """A timer is about to be set."""

    def role_broke(self, who: str, text: str) -> None:
        """A role raised what no role may raise."""


class Links:
    """Faults of messages and participants, each of which happens once at most.

    Attributes:
        closed: set when the time of faults is over; what has not happened by then does not.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.closed = False
        self._messages: dict[tuple[str, str, int], LinkFault] = {}
        self._crashes: dict[tuple[str, int], Crash] = {}
        self._slow: dict[tuple[str, int], Slow] = {}
        self._partitions: list[Partition] = []
        self._ordinals: Counter[tuple[str, str]] = Counter()
        self._jobs: Counter[str] = Counter()
        self._under_way: dict[str, deque[bool]] = {}
        for fault in schedule.faults:
            match fault:
                case Crash():
                    self._crashes.setdefault((fault.who, fault.input), fault)
                case Slow():
                    self._slow.setdefault((fault.who, fault.ordinal), fault)
                case Partition():
                    self._partitions.append(fault)
                case _:
                    self._messages.setdefault((fault.source, fault.destination, fault.ordinal), fault)

    @property
    def pending(self) -> bool:
        """Whether something may still happen (partitions have their own times)."""
        return bool(self._messages or self._crashes or self._slow)

    def parted(self, source: str, destination: str, at: float) -> bool:
        """Whether a partition is between the two."""
        return any(
            part.at <= at < part.at + part.seconds and (source in part.side) != (destination in part.side)
            for part in self._partitions
        )

    def fate(self, source: str, destination: str, at: float) -> tuple[Mark, int, float]:
        """What becomes of the next message on a link: (mark, ordinal, extra seconds)."""
        ordinal = self._ordinals[source, destination]
        self._ordinals[source, destination] += 1
        fault = self._messages.pop((source, destination, ordinal), None) if self._messages else None
        if self.closed:
            fault = None
        if self._partitions and self.parted(source, destination, at):
            return "partition", ordinal, 0.0
        match fault:
            case None:
                return "", ordinal, 0.0
            case Drop():
                return "drop", ordinal, 0.0
            case Twice():
                return "twice", ordinal, 0.0
            case Delay(by=by):
                return "delay", ordinal, by
            case Reorder():
                return "reorder", ordinal, 0.0

    def crash(self, who: str, nth: int) -> Crash | None:
        """The crash at this input, if one is due."""
        crash = self._crashes.pop((who, nth), None) if self._crashes else None
        return None if self.closed else crash

    def stretch(self, who: str) -> float:
        """How many seconds more the next job of `who` takes."""
        nth = self._jobs[who]
        self._jobs[who] += 1
        slow = self._slow.pop((who, nth), None)
        more = 0.0 if slow is None or self.closed else slow.by
        self._under_way.setdefault(who, deque()).append(more > 0)
        return more

    def job_ended(self, who: str) -> bool:
        """Whether the oldest job under way of `who` was a slow one. Jobs end in their order."""
        jobs = self._under_way.get(who)
        return jobs.popleft() if jobs else False

    def jobs_lost(self, who: str) -> None:
        """`who` starts anew: its jobs are gone."""
        self._under_way.pop(who, None)


class Actor:
    """One participant from its start to its end. A role for the world: each input gives the effects to carry out.

    Args:
        label: its name in histories. role: what it does.
        links: faults. observer: hears what happens.
        labels: label of every name in the cast. addresses: what the world sends to, by name; names: the reverse.
        nth: how many inputs it had before it was started again.

    Attributes:
        alive: False once it has stopped or crashed (set by the world).
        outgoing: what becomes of the `Send`s of its last effects, in order; the world takes one for each.
        incoming: index of the send step of the message that arrives (set by the world), and its mark.
        refusing: number of a refusal of its role that it has just noted; the runner may announce it again.
    """

    def __init__(
        self,
        label: str,
        role: Any,
        links: Links,
        observer: Observer,
        *,
        labels: Mapping[Any, str],
        addresses: Mapping[Any, Any],
        names: Mapping[Any, Any],
        nth: int = 0,
    ) -> None:
        self.label, self.role, self.nth = label, role, nth
        self.alive = True
        self.outgoing: deque[Outgoing] = deque()
        self.incoming: tuple[int, Mark] = (-1, "")
        self.refusing: int | None = None
        self._links, self._observer = links, observer
        self._labels, self._addresses, self._names = labels, addresses, names
        links.jobs_lost(label)
        self._with_blobs = _takes_blobs(role)

    # --- inputs ---

    def restore(self, stored: Mapping[str, bytes]) -> fx.Effects:
        """Start."""
        return self._input(None, "restore", stored)

    def on_message(self, source: Any, message: Message, blobs: tuple[fx.Blob, ...]) -> fx.Effects:
        """A message arrived from this address."""
        name = self._names[source]
        sent, mark = self.incoming
        step = self._step(
            "deliver", peer=self._labels[name], message=message, blobs=contents(blobs), sent=sent, mark=mark
        )
        if self._with_blobs:
            return self._input(step, "on_message", name, message, blobs)
        return self._input(step, "on_message", name, message)

    def on_timer(self, name: str) -> fx.Effects:
        """A timer rang."""
        return self._input(self._step("timer", name=name), "on_timer", name)

    def on_done(self, job: Any, result: Any) -> fx.Effects:
        """A job ended."""
        mark: Mark = "slow" if self._links.job_ended(self.label) else ""
        return self._input(self._step("done", name=shown(job), mark=mark), "on_done", job, result)

    def on_drawn(self, name: str, data: bytes) -> fx.Effects:
        """The bytes of a `Draw`."""
        return self._input(self._step("drawn", name=name), "on_drawn", name, data)

    def act(self, spec: Any, action: Action, arguments: dict[str, Any]) -> fx.Effects:
        """The outside takes an action; one that is misused does nothing."""
        step = self._step("act", name=action.name, arguments=arguments)
        self._tell_time()
        try:
            effects = action.call(spec, self.role, **arguments)
        except Misused as error:
            self._observer.note(
                self._step("impossible", name=action.name, arguments=arguments, number=error.number, text=error.what)
            )
            return []
        except Exception as error:
            return self._carry(step, error=error, name=action.name)
        return self._carry(step, effects, name=action.name)

    def forge(self, name: Any, message: Message) -> fx.Effects:
        """The traitor sends what it likes; faults of links do not touch it, partitions do."""
        label = self._labels[name]
        mark: Mark = "partition" if self._links.parted(self.label, label, self._observer.now()) else "forged"
        self.outgoing.append(Outgoing(label, message, (), mark, -1, 0.0))
        return [fx.Send(self._addresses[name], message)]

    # --- effects ---

    def _input(self, step: Step | None, method: str, *arguments: Any) -> fx.Effects:
        call = getattr(self.role, method, None)
        if call is None:
            return self._carry(step, [], name=method)
        self._tell_time()
        try:
            effects = call(*arguments)
        except Exception as error:
            return self._carry(step, error=error, name=method)
        return self._carry(step, effects, name=method)

    def _tell_time(self) -> None:
        """As a runner does before each input."""
        if isinstance(self.role, fx.Timed):
            self.role.at(CLOCK_S + self._observer.now())

    def _carry(
        self, step: Step | None, effects: Any = None, *, error: Exception | None = None, name: str
    ) -> fx.Effects:
        """Note the input; give what is carried out of what the role wants.

        Raises:
            Refused: the role refuses the input.
        """
        nth, self.nth, self.refusing = self.nth, self.nth + 1, None
        if step is not None:
            self._observer.note(step)
        crash = self._links.crash(self.label, nth)
        if isinstance(error, Refused):
            self._observer.note(self._step("refused", number=error.number, text=error.what))
            if crash is None:
                self.refusing = error.number
                raise error
            effects = []
        elif error is not None:
            self._observer.role_broke(self.label, _frames(error))
            return []
        elif not isinstance(effects, list) or len(effects) > EFFECTS_MAX:
            wrong = f"{len(effects)} effects" if isinstance(effects, list) else shown(effects)
            self._observer.role_broke(
                self.label, f"{name} returned {wrong}: expected a list of at most {EFFECTS_MAX} effects"
            )
            return []
        if crash is not None:
            effects = [*effects[: crash.effects], fx.Stop(Crashed(crash))]
        return self._translated(effects)

    def _translated(self, effects: fx.Effects) -> fx.Effects:
        """The effects in the world's terms, up to a `Stop`."""
        out: fx.Effects = []
        for effect in effects:
            match effect:
                case fx.Send(str() | bytes(), Message()):
                    self._send(effect, out)
                case fx.After():
                    self._observer.timer_set()
                    out.append(effect)
                case fx.Admit() | fx.Connect():
                    pass  # connections are the world's: all who are up reach each other
                case fx.Stop():
                    out.append(effect)
                    break
                case fx.Announce() | fx.Store() | fx.Work() | fx.Draw():
                    out.append(effect)
                case _:
                    self._observer.role_broke(self.label, f"not an effect: {shown(effect)}")
                    return []
        return out

    def _send(self, effect: fx.Send, out: fx.Effects) -> None:
        to: Any = effect.to
        message, blobs = effect.message, effect.blobs
        label, now = self._labels.get(to), self._observer.now()
        if label is None:
            peer = to.hex()[:8] if isinstance(to, bytes) else str(to)
            step = self._step("send", peer=peer, message=message, blobs=contents(blobs), mark="nobody")
            out.append(fx.Announce(Note(step=step)))
            return
        mark, ordinal, extra = self._links.fate(self.label, label, now)
        send = fx.Send(self._addresses[to], message, blobs)
        self.outgoing.append(Outgoing(label, message, blobs, mark, ordinal, extra))
        out.append(send)
        if mark == "twice":
            self.outgoing.append(Outgoing(label, message, blobs, "again", -1, 0.0))
            out.append(send)

    def _step(self, kind: Any, **fields: Any) -> Step:
        return Step(at=self._observer.now(), kind=kind, who=self.label, **fields)


def shown(value: Any) -> str:
    """A value for readers, the same in every process."""
    text = repr(value)
    return text if " at 0x" not in text else type(value).__name__


def contents(blobs: tuple[fx.Blob, ...]) -> tuple[bytes, ...]:
    """The bytes of blobs."""
    return tuple(bytes(blob.data) for blob in blobs)


def _takes_blobs(role: Any) -> bool:
    """Whether `on_message` has a place for blobs (small roles leave it out)."""
    method = getattr(role, "on_message", None)
    return method is not None and _parameters(method.__func__) > 3


@functools.cache
def _parameters(method: Callable[..., Any]) -> int:
    return len(inspect.signature(method).parameters)


def _frames(error: Exception) -> str:
    """The end of a traceback and the error, without the kit's own frames."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    lines = [f"{Path(f.filename).name}:{f.lineno} in {f.name}: {f.line}" for f in frames[-FRAMES_SHOWN:]]
    return "\n".join([*lines, f"{type(error).__name__}: {error}"])
