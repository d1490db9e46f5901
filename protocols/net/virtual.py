"""An asyncio loop whose time jumps: nothing waits, equal runs give equal histories.

Whenever every task waits, the clock moves to the next timer at once, and that timer alone is called: everything it
causes at its instant ends before another begins. Timers for the same instant are called in the order they were set
(asyncio alone leaves that to its heap). A loop in which every task waits and no timer is set can never go on; that is
an error here, and it names the tasks.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

SECONDS_MAX = 8e6  # 93 days: a clock of float seconds still tells nanoseconds apart

T = TypeVar("T")
A = TypeVarTuple("A")


class Deadlock(RuntimeError):
    """Every task waits for another and no timer is set."""


class Overrun(RuntimeError):
    """A run went on for longer than it may, in virtual seconds."""


class _Selector(selectors.SelectSelector):
    """Where asyncio would wait for its descriptors or its next timer: nothing is ready, so time moves on."""

    idle: Callable[[], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:  # no callback is ready
            self.idle()
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. It never polls a descriptor: threads, sockets and processes do not work on it."""

    def __init__(self, seconds_max: float = SECONDS_MAX) -> None:
        selector = _Selector()
        selector.idle = self._advance
        self._now, self._seconds_max = 0.0, seconds_max
        self._timers: list[tuple[float, int, asyncio.TimerHandle, Callable[[], object]]] = []
        self._timers_made = 0
        super().__init__(selector)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_at(
        self, when: float, callback: Callable[[*A], object], *args: *A, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's, with ties broken by order of calls."""
        # asyncio's own heap of timers stays empty: it would call those within its clock's resolution together.
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_made += 1

        def call() -> None:
            self.call_soon(callback, *args, context=context)

        heapq.heappush(self._timers, (when, self._timers_made, timer, call))
        return timer

    def _advance(self) -> None:
        """Move to the next timer and make it ready."""
        while self._timers:
            when, _, timer, call = heapq.heappop(self._timers)
            if timer.cancelled():
                continue
            self._now = max(self._now, when)
            call()
            if self._now > self._seconds_max:
                # Once: the tasks must still be able to end.
                bound, self._seconds_max = self._seconds_max, float("inf")
                raise Overrun(f"the run passed {bound:g} virtual seconds")
            return
        names = sorted(task.get_name() for task in asyncio.all_tasks(self))
        raise Deadlock(f"every task waits and no timer is set: {', '.join(names)}")


def run(main: Coroutine[Any, Any, T], *, seconds_max: float = SECONDS_MAX) -> T:
    """Run a coroutine to its end in virtual time.

    Raises:
        Deadlock: it can never end.
        Overrun: it takes more than `seconds_max` virtual seconds, at most 8 million (93 days).
    """
    assert seconds_max <= SECONDS_MAX
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seconds_max)) as runner:
        return runner.run(main)
