"""Specs whose participants the tests put into processes of their own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from interlock.protocols.canonical import Message
from interlock.protocols.effects import After, Announce, Blob, Draw, Effects, Event, Send, Stop, Store, Work
from interlock.protocols.errors import Failed, Misused, Refused
from interlock.specs import Spec, action, always, eventually
from interlock.specs.history import Seen


class Word(Message, frozen=True):
    text: str


class Heard(Event, frozen=True):
    text: str
    parts: tuple[int, ...] = ()


def heard(text: object, *parts: int) -> Announce:
    return Announce(Heard(text=str(text), parts=parts))


class Parrot:
    """Says what it is told to, and announces what it hears."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.said = ""

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        self.said = stored.get("said", b"").decode()
        again = [Draw("again", 4), *self._words("gh")] if self.said else []
        return [heard(f"started with {self.said!r}"), *again]

    def say(self, text: str) -> Effects:
        self.said += text
        return [Store("said", self.said.encode()), *self._words(text)]

    def _words(self, text: str) -> list[Send]:
        return [Send("b", Word(text=letter), (Blob(letter.encode()),)) for letter in text]  # type: ignore[arg-type]

    def on_message(self, source: str, message: Word, blobs: tuple[Blob, ...]) -> Effects:
        if message.text == "?":
            raise Refused(333, "a question")
        return [heard(message.text, *(blob.size for blob in blobs))]

    def on_timer(self, name: str) -> Effects:
        return [heard(f"timer {name}")]

    def on_done(self, job: Any, result: Any) -> Effects:
        return [heard(f"{job} gave {result}")]

    def on_drawn(self, name: str, data: bytes) -> Effects:
        return [heard(data.hex())]

    def do(self, what: str) -> Effects:
        match what:
            case "raise":
                raise ValueError("cannot do this")
            case "misuse":
                raise Misused(601, "not now")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang":
                while True:
                    pass
            case "stop":
                return [Stop()]
            case "fail":
                return [Stop(Failed(444, "enough", expected=1, actual=2))]
            case "draw":
                return [Draw("first", 4), Draw("second", 4)]
            case "work" | "bad work" | "wrong work":
                return [Work(what), Work("work")]
            case "wait":
                return [After(0.05, "bell")]
        return []


class Parrots(Spec):
    """Two that speak, one that may lie."""

    faults = {"drop", "twice", "delay", "reorder", "crash", "death", "partition", "slow"}
    traitors = {"liar": st.builds(Word, text=st.sampled_from("xyz"))}
    may_stop = {444}

    def cast(self) -> Mapping[str, Parrot]:
        return {name: Parrot(name) for name in ("a", "b")}

    def compute(self, name: Any, job: Any) -> Any:
        if job == "bad work":
            raise Refused(555, "a bad job")
        if job == "wrong work":
            raise ZeroDivisionError("a wrong job")
        return f"{job} of {name}"

    @action(text=st.text("abc"))
    def say(self, role: Parrot, text: str) -> Effects:
        """Say each letter."""
        return role.say(text)

    @action(what=st.sampled_from(["draw", "work"]))
    def do(self, role: Parrot, what: str) -> Effects:
        """Do something else."""
        return role.do(what)

    @always
    def decent(self, seen: Seen) -> bool:
        """Nobody hears an f."""
        return not seen(Heard, text="f")

    @eventually(within=60)
    def patient(self, seen: Seen) -> bool:
        """If an e was sent, it is heard."""
        return not seen.sent(Word, text="e") or bool(seen(Heard, text="e"))


class Homebound(Parrots):
    """Its roles are only made where the tests run."""

    def cast(self) -> Mapping[str, Parrot]:
        if "pytest" not in sys.modules:
            raise RuntimeError("no parrots here")
        return super().cast()
