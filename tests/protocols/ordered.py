"""Orders for tests: signed by the test run's keyholders, at the time that the tests' clocks say."""

from __future__ import annotations

from functools import reduce
from typing import Any

from tests.runs import identity

from interlock.protocols.manifest import Manifest
from interlock.protocols.orders import Order, Signed, sign

NOW = 1_000_000_000
HOUR = 3600
ALL = ("ada", "bela", "cleo")


def make(made: Manifest, seq: int, action: Any, *, begins: int = NOW, hours: float = 1.0, **more: Any) -> Order:
    """An order; a resume's `prev` is whatever, unless it is given."""
    expires = None if action == "halt" else begins + round(hours * HOUR)
    if seq > 1:
        more.setdefault("prev", bytes(32))
    more.setdefault("reason", "a test")
    return Order(run=made.run, seq=seq, action=action, not_before=begins, expires=expires, **more)


def signed(order: Order, *names: str) -> Signed:
    """An order with these signatures."""
    return reduce(lambda a, b: a.merged(b), (sign(order, identity(name)) for name in names))


def halt(made: Manifest, seq: int = 1, names: tuple[str, ...] = ("ada", "bela"), **more: Any) -> Signed:
    """A halt by as many as it takes."""
    return signed(make(made, seq, "halt", **more), *names)


def pause(made: Manifest, seq: int = 1, names: tuple[str, ...] = ("cleo",), **more: Any) -> Signed:
    """A pause of one."""
    return signed(make(made, seq, "pause", **more), *names)


def resume(made: Manifest, after: Signed, names: tuple[str, ...] = ALL, **more: Any) -> Signed:
    """A resume of this order, which follows it."""
    seq = after.order.seq
    return signed(make(made, seq + 1, "resume", **(dict(cites=seq, prev=after.order.hash) | more)), *names)
