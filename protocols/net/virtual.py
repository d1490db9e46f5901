"""An asyncio loop whose time jumps: nothing waits, equal runs give equal histories.

Whenever every task waits, the clock moves to the next timer at once. Timers for the same instant run in the order
they were set (asyncio alone leaves that to its heap). A loop in which every task waits and no timer is set can
never go on; that is an error here, and it names the tasks.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar, TypeVarTuple

# asyncio calls a timer due within a nanosecond, which a float can no longer add to a time beyond 2**23 seconds.
SECONDS_MAX = 8e6

T = TypeVar("T")
A = TypeVarTuple("A")


class Deadlock(RuntimeError):
    """Every task waits for another and no timer is set."""


class Overrun(RuntimeError):
    """A run went on for longer than it may, in virtual seconds."""


class _Jump(selectors.SelectSelector):
    """A selector that adds the time it should wait to the clock."""

    now = 0.0
    seconds_max = SECONDS_MAX

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            names = sorted(task.get_name() for task in asyncio.all_tasks(asyncio.get_running_loop()))
            raise Deadlock(f"every task waits and no timer is set: {', '.join(names)}")
        self.now += max(0.0, timeout)
        if self.now > self.seconds_max:
            # Once: the tasks must still be able to end.
            bound, self.seconds_max = self.seconds_max, float("inf")
            raise Overrun(f"the run passed {bound:g} virtual seconds")
        return []


class _Timer(asyncio.TimerHandle):
    """A timer that runs after earlier-made ones of the same instant."""

    __slots__ = ("ordinal",)
    ordinal: int

    def __lt__(self, other: object) -> bool:
        assert isinstance(other, _Timer)
        return (self.when(), self.ordinal) < (other.when(), other.ordinal)


class VirtualLoop(asyncio.SelectorEventLoop):
    """The loop. It never polls a descriptor: threads, sockets and processes do not work on it."""

    def __init__(self, seconds_max: float = SECONDS_MAX) -> None:
        self._jump = _Jump()
        self._timers_made = 0
        super().__init__(self._jump)
        self._jump.seconds_max = seconds_max

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jump.now

    def call_at(
        self, when: float, callback: Callable[[*A], object], *args: *A, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's, with ties broken by order of calls."""
        timer = _Timer(when, callback, args, self, context)
        self._timers_made += 1
        timer.ordinal = self._timers_made
        # What BaseEventLoop.call_at does with its own handle, in Python 3.11 to 3.14; there is no public hook.
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer


def run(main: Coroutine[Any, Any, T], *, seconds_max: float = SECONDS_MAX) -> T:
    """Run a coroutine to its end in virtual time.

    Raises:
        Deadlock: it can never end.
        Overrun: it takes more than `seconds_max` virtual seconds, at most 8 million (93 days).
    """
    assert seconds_max <= SECONDS_MAX
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seconds_max)) as runner:
        return runner.run(main)
