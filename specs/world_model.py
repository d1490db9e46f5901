"""The model: roles alone, on a heap of events. Fast, and nothing else can be at fault."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Collection
from typing import Any

from interlock.protocols import effects as fx
from interlock.protocols.errors import InterlockError, Refused

from .judge import Judge, Run
from .links import Actor
from .schedule import Schedule
from .spec import Spec
from .stage import Arrival, Stage


def play(spec: type[Spec], schedule: Schedule, *, only: Collection[str] | None = None) -> Run:
    """Run a schedule to its end.

    Args:
        only: the properties to judge; None is all of them.

    Raises:
        Misused: the schedule or a property is not one of this spec's (E802 to E806).
    """
    made = spec()
    return Model(made, schedule, Judge(made, only)).play()


class Model(Stage):
    """One run in the model."""

    world = "model"

    def __init__(self, spec: Spec, schedule: Schedule, judge: Judge) -> None:
        super().__init__(spec, schedule, judge)
        self._now = 0.0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._put_on = 0
        self._next: deque[tuple[Actor, Callable[[], fx.Effects]]] = deque()  # inputs of this very instant: draws
        self._timers_of: dict[Actor, dict[str, int]] = {}  # name: which `After` counts
        self._free_at: dict[Actor, float] = {}

    def now(self) -> float:
        """Virtual seconds."""
        return self._now

    def at(self, when: float, call: Callable[..., None], *arguments: Any) -> None:
        """Put on the heap."""
        self._put_on += 1
        heapq.heappush(self._heap, (when, self._put_on, call, arguments))

    def launch(self, name: Any, actor: Actor) -> None:
        """Restore the role."""
        self._timers_of[actor], self._free_at[actor] = {}, 0.0
        self._step(name, actor, lambda: actor.restore(dict(self.stored[name])))

    def perform(self, name: Any, call: Callable[[], fx.Effects]) -> None:
        """Carry out effects."""
        self._step(name, self.actors[name], call)

    def play(self) -> Run:
        """Run to the end."""
        self.begin()
        while not self.finished:
            self._now, _, call, arguments = heapq.heappop(self._heap)
            call(*arguments)
            self.after_judging()
        return self.result()

    def _step(self, name: Any, actor: Actor, call: Callable[[], fx.Effects]) -> None:
        """One input and what it draws."""
        self._input(name, actor, call)
        while self._next:
            drawer, drawn = self._next.popleft()
            self._input(name, drawer, drawn)

    def _input(self, name: Any, actor: Actor, call: Callable[[], fx.Effects]) -> None:
        if self.finished or not actor.alive:
            return
        try:
            effects = call()
        except Refused:
            return
        for effect in effects:
            if self.finished:
                return
            if isinstance(effect, fx.Stop):
                self.ended(name, actor, effect.error)
                return
            self._carry_out(name, actor, effect)

    def _carry_out(self, name: Any, actor: Actor, effect: fx.Effect) -> None:
        """As `Runner` does."""
        match effect:
            case fx.Send(to, message, blobs):
                self._send(name, actor, to, message, blobs)
            case fx.After(seconds, timer):
                count = self._put_on
                self._timers_of[actor][timer] = count
                self.at(self._now + seconds, self._ring, name, actor, timer, count)
            case fx.Announce(event):
                self.observe(actor, event)
            case fx.Store(key, value):
                self.put(name, key, value)
            case fx.Work(job):
                self._free_at[actor] = max(self._free_at[actor], self._now) + self.work_seconds(name, job)
                try:
                    result = self.compute(name, job)
                except InterlockError as error:
                    result = error
                self.at(self._free_at[actor], self._done, name, actor, job, result)
            case fx.Draw(key, size):
                data = self.draw(name, size)
                self._next.append((actor, lambda: actor.on_drawn(key, data)))

    def _send(self, name: Any, actor: Actor, to: Any, message: Any, blobs: tuple[fx.Blob, ...]) -> None:
        if (sent := self.sending(actor)) is None:
            return
        index, out = sent
        target = self.actors[to]
        arrival = Arrival(
            index,
            self.history[index],
            actor,
            target,
            lambda: self._step(to, target, lambda: target.on_message(name, message, blobs)),
        )
        self.at(self._now + (self.spec.latency + out.extra), self.arrive, arrival)

    def _ring(self, name: Any, actor: Actor, timer: str, count: int) -> None:
        if self._timers_of[actor].get(timer) == count:
            del self._timers_of[actor][timer]
            self._step(name, actor, lambda: actor.on_timer(timer))

    def _done(self, name: Any, actor: Actor, job: Any, result: Any) -> None:
        self._step(name, actor, lambda: actor.on_done(job, result))
