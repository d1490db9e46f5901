"""The course of a run, the same in the model and in the code: who starts, acts, crashes and returns, and when it ends.

A world adds a clock, and how a participant's effects are carried out. Whatever is to happen is put on the clock with
`at`; things of one instant happen in the order they were put there, each to its end. So a run is a function of its
spec and schedule alone, and both worlds give the same history.

The end: after the last input, forged message and partition, faults that have not happened get `FAULTS_S` seconds
more. When everybody who comes back is back and no delayed message is on its way, the quiet phase begins, in which
each `eventually` has its time.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

from interlock.protocols import effects as fx
from interlock.protocols.canonical import Message
from interlock.protocols.errors import InterlockError, Misused

from .history import History, Step
from .judge import BOUNDS, NO_CRASH, Broken, Judge, Run, World
from .links import HELD_S, Actor, Crashed, Links, Note, Outgoing, contents
from .schedule import Crash, Forged, Input, Partition, Schedule, Slow, message_of
from .spec import Spec, kinds

FAULTS_S, LOOKS = 1.0, 10  # faults that have not happened get so long, and so many looks whether they have


class Silent:
    """The role of a traitor that only forges."""


class Arrival:
    """A message on its way. sent, step: its send. deliver: hands it to the receiver's transport or role."""

    def __init__(self, sent: int, step: Step, sender: Actor, receiver: Actor, deliver: Callable[[], None]) -> None:
        self.sent, self.step, self.sender, self.receiver, self.deliver = sent, step, sender, receiver, deliver
        self.state: Literal["fresh", "held", "released"] = "fresh"


class Stage(ABC):
    """One run in progress. Made for each run; `play` gives the result."""

    world: World

    def __init__(self, spec: Spec, schedule: Schedule, judge: Judge) -> None:
        self.spec, self.schedule, self.judge = spec, schedule, judge
        self.history: History = []
        self.finished = False
        self.links = Links(schedule)
        roles = dict(spec.cast())
        for name in spec.traitors:
            roles.setdefault(name, Silent())
        self.labels = {name: spec.label(name) for name in roles}
        self.by_label = {label: name for name, label in self.labels.items()}
        self.kinds = kinds(spec, roles.values())
        self.actors: dict[Any, Actor] = {}
        self.stored: dict[Any, dict[str, bytes]] = {name: {} for name in roles}
        self._roles = roles
        self._messages = self._timers = 0
        self._draws = dict.fromkeys(roles, 0)
        self._busy_until = 0.0
        self._held: dict[tuple[str, str], list[Arrival]] = {}
        self._forged = [(item, self._checked_forgery(item)) for item in schedule.forged]
        self._check()

    # --- what a world adds ---

    @abstractmethod
    def now(self) -> float:
        """Virtual seconds."""

    @abstractmethod
    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Call later, or after everything that is put at this instant already."""

    @abstractmethod
    def launch(self, name: Any, actor: Actor) -> None:
        """Start a participant: it restores from `stored[name]` now."""

    @abstractmethod
    def perform(self, name: Any, call: Callable[[], fx.Effects]) -> None:
        """Carry out, as a participant that is up, the effects that `call` gives."""

    @abstractmethod
    def play(self) -> Run:
        """Run to the end."""

    # --- the course of a run ---

    def begin(self) -> None:
        """Put what the schedule says on the clock."""
        for name, role in self._roles.items():
            self.actors[name] = self._actor(name, role, 0)
        for name in self._roles:
            self.at(0.0, self._launch, name)
        for item in sorted(self.schedule.inputs, key=lambda item: item.at):
            self.at(item.at, self._act, item)
        for forgery, message in sorted(self._forged, key=lambda pair: pair[0].at):
            self.at(forgery.at, self._forge, forgery, message)
        partitions = [fault for fault in self.schedule.faults if isinstance(fault, Partition)]
        ends = [item.at for item in self.schedule.inputs + self.schedule.forged]
        ends += [fault.at + fault.seconds for fault in partitions]
        last = max(ends, default=0.0)
        self.at(last, self._inputs_over, last)

    def result(self) -> Run:
        """What there is to say about the run.

        Raises:
            Misused: a property is not one (E802, E805).
        """
        judge = self.judge
        judge.end()
        return Run(
            schedule=self.schedule,
            world=self.world,
            history=self.history,
            broken=judge.broken,
            reached=frozenset(judge.reached),
            rated=judge.rated,
            quiet=judge.quiet,
            seconds=self.now(),
        )

    def finish(self) -> None:
        """Nothing more happens."""
        self.finished = True

    def _launch(self, name: Any) -> None:
        self.launch(name, self.actors[name])

    def _act(self, item: Input) -> None:
        name = self.by_label[item.who]
        actor, action = self.actors[name], self.spec.actions()[item.action]
        if not actor.alive:
            self.note(
                Step(
                    at=self.now(), kind="impossible", who=item.who, name=item.action,
                    arguments=item.arguments, text=f"{item.who} is down", mark="down",
                )
            )  # fmt: skip
        else:
            self.perform(name, lambda: actor.act(self.spec, action, item.arguments))

    def _forge(self, item: Forged, message: Message) -> None:
        source, destination = self.by_label[item.source], self.by_label[item.destination]
        if (actor := self.actors[source]).alive:
            self.perform(source, lambda: actor.forge(destination, message))

    def ended(self, name: Any, actor: Actor, error: Exception | None) -> None:
        """A participant stopped or crashed."""
        actor.alive = False
        if self.finished:
            return
        if isinstance(error, Crashed):
            back = error.crash.back
            self.note(Step(at=self.now(), kind="crash", who=actor.label, mark="" if back is not None else "dead"))
            if back is not None:
                self._busy_until = max(self._busy_until, self.now() + back)
                self.at(self.now() + back, self._return, name, actor.nth)
            return
        number: int | None = getattr(error, "number", None)
        text = "" if error is None else str(error)
        self.note(Step(at=self.now(), kind="stop", who=actor.label, number=number, text=text))
        if error is not None and number not in set(self.spec.may_stop):
            self._break(NO_CRASH, f"{actor.label} stopped: {text}")

    def _return(self, name: Any, nth: int) -> None:
        if self.finished:
            return
        self.note(Step(at=self.now(), kind="back", who=self.labels[name]))
        self.actors[name] = actor = self._actor(name, self.spec.restarted(name), nth)
        self.launch(name, actor)

    def _actor(self, name: Any, role: Any, nth: int) -> Actor:
        addresses, names = self.addresses()
        return Actor(
            self.labels[name], role, self.links, self, labels=self.labels, addresses=addresses, names=names, nth=nth
        )

    def addresses(self) -> tuple[dict[Any, Any], dict[Any, Any]]:
        """What this world sends to, by name, and the reverse."""
        same = {name: name for name in self.labels}
        return same, same

    # --- the end ---

    def _inputs_over(self, began: float, look: int = 0) -> None:
        if self.links.pending and look < LOOKS:
            self.at(began + FAULTS_S * (look + 1) / LOOKS, self._inputs_over, began, look + 1)
        else:
            self._faults_over()

    def _faults_over(self) -> None:
        self.links.closed = True
        if self._busy_until > self.now():
            self.at(self._busy_until, self._faults_over)
        else:
            self._quiet()

    def _quiet(self) -> None:
        if self.finished:
            return
        now = self.now()
        self.judge.calm(now)
        self.at(now + self.spec.settle, self.judge.settle)
        for part in self.judge.eventualities:
            self.at(now + max(part.within, self.spec.settle), self.judge.due, part.name)
        self.after_judging()

    # --- messages ---

    def sending(self, actor: Actor) -> tuple[int, Outgoing] | None:
        """Note the next message that an actor sends. Gives its step's index, or None if it is lost."""
        out = actor.outgoing.popleft()
        mark = out.mark
        if mark not in ("drop", "partition") and not self.actors[self.by_label[out.peer]].alive:
            mark = "down"
        self._messages += 1
        if self._messages > self.spec.bounds.messages:
            self._break(BOUNDS, f"more than {self.spec.bounds.messages} messages: the last is {out.message!r}")
        if late := HELD_S if mark == "reorder" else out.extra:
            self._busy_until = max(self._busy_until, self.now() + self.spec.latency + late)
        self.note(
            Step(
                at=self.now(), kind="send", who=actor.label, peer=out.peer, message=out.message,
                blobs=contents(out.blobs), mark=mark, ordinal=out.ordinal,
            )
        )  # fmt: skip
        return None if self.finished or mark in ("drop", "partition", "down") else (len(self.history) - 1, out)

    def arrive(self, arrival: Arrival) -> None:
        """A message reaches its receiver: hand it over, or hold it until the next of its link.

        It is lost if the receiver has ended since it was sent, or if the sender has started again since: a restart
        ends the connections there were, and numbers messages beyond the window in which late ones are accepted.
        """
        if self.finished:
            return
        step = arrival.step
        link = (step.who, step.peer)
        if not arrival.receiver.alive or self.actors[self.by_label[step.who]] is not arrival.sender:
            self.note(
                Step(
                    at=self.now(), kind="lost", who=step.peer, peer=step.who, message=step.message,
                    sent=arrival.sent, mark=step.mark,
                )
            )  # fmt: skip
        elif step.mark == "reorder" and arrival.state == "fresh":
            arrival.state = "held"
            self._held.setdefault(link, []).append(arrival)
            self.at(self.now() + HELD_S, self._release, arrival)
        else:
            # On the clock before the receiver's own effects, which some worlds carry out a moment later.
            for held in self._held.pop(link, []) if self._held else []:
                held.state = "released"
                self.at(self.now(), self.arrive, held)
            arrival.receiver.incoming = (arrival.sent, step.mark)
            arrival.deliver()

    def _release(self, arrival: Arrival) -> None:
        """A message has been held for as long as it may be."""
        if arrival.state == "held":
            arrival.state = "released"
            self._held[arrival.step.who, arrival.step.peer].remove(arrival)
            self.arrive(arrival)

    # --- what is noted ---

    def observe(self, actor: Actor, event: fx.Event) -> None:
        """A participant announced something."""
        if isinstance(event, Note):
            self.note(event.step)
        else:
            self.note(Step(at=self.now(), kind="announce", who=actor.label, event=event))

    def put(self, name: Any, key: str, value: bytes) -> None:
        """A participant stored something; an empty value is dropped."""
        self.stored[name][key] = value
        if not value:
            del self.stored[name][key]
        self.note(Step(at=self.now(), kind="store", who=self.labels[name], name=key, data=value))

    def note(self, step: Step) -> None:
        """Write down one step and judge what there is so far."""
        if self.finished:
            return
        bounds = self.spec.bounds
        self.history.append(step)
        if len(self.history) > bounds.steps:
            self._break(BOUNDS, f"more than {bounds.steps} steps: the last is {step.kind} of {step.who}")
        elif step.at > bounds.seconds:
            self._break(
                BOUNDS, f"more than {bounds.seconds:g} virtual seconds: the last step is {step.kind} of {step.who}"
            )
        else:
            self.judge.take(step)
        self.after_judging()

    def after_judging(self) -> None:
        """End the run if it is decided."""
        if self.judge.decided and not self.finished:
            self.finish()

    def timer_set(self) -> None:
        """A timer is about to be set."""
        self._timers += 1
        if self._timers > self.spec.bounds.timers:
            self._break(BOUNDS, f"more than {self.spec.bounds.timers} timers")

    def role_broke(self, who: str, text: str) -> None:
        """A role raised what no role may raise."""
        self.note(Step(at=self.now(), kind="broken", who=who, text=text))
        self._break(NO_CRASH, f"{who}: {text}")

    def _break(self, name: str, message: str) -> None:
        self.judge.breaks(Broken(property=name, message=message, step=len(self.history) - 1))
        self.after_judging()

    # --- what participants need ---

    def draw(self, name: Any, size: int) -> bytes:
        """The bytes of a `Draw`, from the schedule's seed, who, and how many draws it had."""
        nth = self._draws[name]
        self._draws[name] += 1
        return drawn(self.schedule.seed, nth, self.labels[name], size)

    def compute(self, name: Any, job: Any) -> Any:
        """The result of a job.

        Raises:
            InterlockError: the job's own.
        """
        try:
            return self.spec.compute(name, job)
        except InterlockError:
            raise
        except Exception as error:
            self.role_broke(self.labels[name], f"job: {type(error).__name__}: {error}")
            return None

    def work_seconds(self, name: Any, job: Any) -> float:
        """How long a job takes."""
        seconds, more = self.spec.work_seconds(job), self.links.stretch(self.labels[name])
        if more:
            self._busy_until = max(self._busy_until, self.now() + seconds + more)
        return seconds + more

    # --- checks ---

    def _check(self) -> None:
        """Whether the schedule speaks of this spec.

        Raises:
            Misused: E804 another spec or version; E806 something that is not in this spec.
        """
        spec, schedule = self.spec, self.schedule
        if (schedule.spec, schedule.version) != (spec.name, spec.version):
            raise Misused(
                804,
                "this schedule is not of this spec",
                expected=f"{spec.name} version {spec.version}",
                actual=f"{schedule.spec} version {schedule.version}",
                todo="Give the spec's own schedule; one of an older version has lost its meaning.",
            )
        actions = spec.actions()
        for item in schedule.inputs:
            if item.action not in actions:
                raise Misused(806, f"spec {spec.name} has no action {item.action}", expected=sorted(actions))
        named = {item.who for item in schedule.inputs} | {label for f in schedule.faults for label in _named(f)}
        if unknown := sorted(named - set(self.by_label)):
            raise Misused(
                806, f"spec {spec.name} has no such participant", expected=sorted(self.by_label), actual=unknown
            )

    def _checked_forgery(self, item: Forged) -> Message:
        traitors = {self.labels[name] for name in self.spec.traitors}
        if item.source not in traitors or item.destination not in self.by_label:
            raise Misused(
                806,
                f"spec {self.spec.name} has no such forged message",
                expected=f"from {sorted(traitors)} to {sorted(self.by_label)}",
                actual=f"{item.source} to {item.destination}",
            )
        message: Message = message_of(item, self.kinds)
        return message


def drawn(seed: int, nth: int, label: str, size: int) -> bytes:
    """The bytes of the n-th draw (from 0) of a participant."""
    return hashlib.shake_256(f"{seed} {nth} {label}".encode()).digest(size)


def _named(fault: Any) -> tuple[str, ...]:
    """The labels in a fault."""
    match fault:
        case Crash(who=who) | Slow(who=who):
            return (who,)
        case Partition(side=side):
            return side
        case _:
            return (fault.source, fault.destination)
