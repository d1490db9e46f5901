"""Small specs for the tests of the kit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from hypothesis import strategies as st

from interlock.protocols.canonical import Message
from interlock.protocols.effects import (
    After,
    Announce,
    Blob,
    Draw,
    Effect,
    Effects,
    Event,
    Send,
    Stop,
    Store,
    Work,
)
from interlock.protocols.errors import Failed, Misused, Refused
from interlock.specs import Spec, action, always
from interlock.specs.history import Seen
from interlock.specs.judge import Run, World
from interlock.specs.schedule import Fault, Forged, Input, Schedule, forged
from interlock.specs.search import play


class Ping(Message, frozen=True):
    hops: int
    text: str = ""


class Pong(Message, frozen=True):
    hops: int


class Said(Event, frozen=True):
    what: str


def say(what: object) -> Announce:
    return Announce(Said(what=str(what)))


class Scripted:
    """A role whose answers are given as functions of (role, ...); everything else has no effect."""

    def __init__(self, **answers: Callable[..., Any]) -> None:
        self.answers = answers

    def _answer(self, kind: str, *arguments: Any) -> Any:
        return self.answers[kind](*arguments) if kind in self.answers else []

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        return self._answer("restore", stored)

    def go(self, *arguments: Any) -> Effects:
        return self._answer("go", *arguments)

    def on_message(self, source: Any, message: Message, blobs: tuple[Blob, ...]) -> Effects:
        return self._answer("message", source, message, blobs)

    def on_timer(self, name: str) -> Effects:
        return self._answer("timer", name)

    def on_done(self, job: Any, result: Any) -> Effects:
        return self._answer("done", job, result)

    def on_drawn(self, name: str, data: bytes) -> Effects:
        return self._answer("drawn", name, data)


class Toy(Spec):
    """One action, `go`; holds whatever happens."""

    name = "toy"
    messages = Ping | Pong

    @action
    def go(self, role: Scripted) -> Effects:
        return role.go()

    @always
    def fine(self, seen: Seen) -> bool:
        return True


def toy(cast: Callable[[], Mapping[Any, Any]], **members: Any) -> type[Spec]:
    """A spec with this cast."""
    return type("MadeToy", (Toy,), {"cast": lambda self: cast(), **members})


def schedule(*faults: Fault, inputs: tuple[tuple[float, str], ...] = ((0.0, "a"),), **parts: Any) -> Schedule:
    """`go` at these times by these."""
    made = tuple(Input(at=at, who=who, action="go") for at, who in inputs)
    return Schedule(spec="toy", version=1, inputs=made, faults=faults, **parts)


def forge(source: str, destination: str, message: Message, at: float = 0.0) -> Forged:
    return forged(at, source, destination, message)


def history(run: Run) -> list[str]:
    """The steps of a run in short."""
    return [line(step) for step in run.history]


def line(step: Any) -> str:
    what = step.event.what if step.event is not None else step.message or step.name or step.number or ""
    parts = [f"{step.at:.3f}", step.who, step.kind, step.peer, str(what), step.mark]
    return " ".join(part for part in parts if part)


def said(run: Run) -> list[str]:
    return [f"{step.who} {step.event.what}" for step in run.history if isinstance(step.event, Said)]


def both(spec: type[Spec], plan: Schedule) -> Run:
    """Run it in the model and in the code, which must agree on everything."""
    model, code = play(spec, plan, "model"), play(spec, plan, "code")
    same(model, code)
    return model


def same(model: Run, code: Run) -> None:
    for one, other in zip(model.history, code.history, strict=False):
        assert one == other
    assert len(model.history) == len(code.history)
    for name in ("broken", "reached", "rated", "quiet", "seconds"):
        assert getattr(model, name) == getattr(code, name), name


ALL_WORLDS: tuple[World, ...] = ("model", "code")
CHAOTIC = ("p", "q", "r", "traitor")


class Chaotic:
    """Does anything that a role may do, decided by a hash of its name, its inputs so far, and the input."""

    def __init__(self, name: str) -> None:
        self.name, self.inputs = name, 0

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        self.inputs = int(stored.get("inputs", b"0"))
        return self._effects(3, "restore", sorted(stored.items()))

    def go(self, number: int) -> Effects:
        if number == 3:
            raise Misused(601, "three is too many")
        return self._effects(4, "go", number)

    def on_message(self, source: str, message: Ping | Pong, blobs: tuple[Blob, ...]) -> Effects:
        if isinstance(message, Pong):
            raise Refused(333, "a pong from nowhere")
        return self._effects(message.hops - 1, source, message, [bytes(blob.data) for blob in blobs])

    def on_timer(self, name: str) -> Effects:
        return self._effects(int(name[-1]), name)

    def on_done(self, job: Any, result: Any) -> Effects:
        return self._effects(job[1], job, str(result))

    def on_drawn(self, name: str, data: bytes) -> Effects:
        return self._effects(int(name[-1]), name, data)

    def _effects(self, hops: int, *seen: Any) -> Effects:
        """hops: how many generations of effects may still follow."""
        self.inputs += 1
        bits = int.from_bytes(hashlib.sha256(repr((self.name, self.inputs, seen)).encode()).digest(), "big")
        effects: Effects = [say(self.inputs)]
        if hops <= 0:
            return effects
        for _ in range(bits % 5):
            bits //= 5
            effects.append(self._effect(bits % 16, bits // 16, hops))
            bits //= 1024
        return effects

    def _effect(self, kind: int, bits: int, hops: int) -> Effect:
        peer = (*CHAOTIC, "nobody")[bits % 5]
        match kind:
            case 0 | 1 | 2 | 3:
                return Send(peer, Ping(hops=hops))  # type: ignore[arg-type]
            case 4:
                return Send(peer, Ping(hops=hops, text="with"), (Blob(b"%d" % bits), Blob(b"")))  # type: ignore[arg-type]
            case 5:
                return Send(peer, Pong(hops=hops))  # type: ignore[arg-type]
            case 6 | 7 | 8:
                return After((0.0, 0.01, 0.013, 0.5)[bits % 4], f"{'xy'[bits % 2]}{hops - 1}")
            case 9 | 10:
                return Draw(f"draw{hops - 1}", bits % 40)
            case 11 | 12:
                return Work(("job", hops - 1, bits % 7))
            case 13:
                return Store("inputs", str(self.inputs).encode())
            case 14:
                return Stop(Failed(444, "enough") if bits % 2 else None) if bits % 8 < 2 else say("no stop")
            case _:
                return say(bits % 100)


class Chaos(Spec):
    """Everything at once."""

    faults = {"drop", "twice", "delay", "reorder", "crash", "death", "partition", "slow"}
    traitors = {"traitor": st.builds(Ping, hops=st.integers(0, 3))}
    messages = Ping | Pong
    may_stop = {444}

    def cast(self) -> Mapping[str, Chaotic]:
        return {name: Chaotic(name) for name in CHAOTIC}

    def compute(self, name: Any, job: Any) -> Any:
        if job[2] == 1:
            raise Refused(555, "a bad job")
        return f"{name} did {job}"

    def work_seconds(self, job: Any) -> float:
        return 0.004 * job[2]

    @action(number=st.integers(1, 3))
    def go(self, role: Chaotic, number: int) -> Effects:
        return role.go(number)

    @always
    def fine(self, seen: Seen) -> bool:
        return len(seen(Said, what="77")) < 4
