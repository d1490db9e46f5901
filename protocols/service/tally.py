"""What one process did, counted from what it announced: for whoever runs it, and for its metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import Failed


@dataclass(slots=True)
class Tally:
    """Sums over a process's events.

    role, process: what it is and its number, empty and 0 before it said so. starts: how often it began. began, last:
    unix seconds of its newest beginning and event. tick, kind, stage: of the newest tick that it knows to be open;
    kind empty and stage -1 where that is not its business. ticks: that opened to it. reported: states that it reported.
    refused: inputs that it dropped or messages that it could not send, by number. gave_up: ticks that it could not
    finish, by number. declined: plans that a gate refused, or that gates refused the coordinator, by number. waiting:
    what a coordinator misses. ready, missing, needed: gates that it hears or not, and how many a tick needs. silent:
    nodes and relays that it does not hear. order: the halt or pause for which it stands still.
    """

    role: str = ""
    process: int = 0
    starts: int = 0
    began: float = 0.0
    last: float = 0.0
    tick: int = 0
    kind: str = ""
    stage: int = -1
    ticks: int = 0
    sent: int = 0
    sent_bytes: int = 0
    read: int = 0
    carried: int = 0
    carried_bytes: int = 0
    reported: int = 0
    released: int = 0
    cpu_s: float = 0.0
    masking_s: float = 0.0
    refused: Counter[int] = field(default_factory=Counter)
    gave_up: Counter[int] = field(default_factory=Counter)
    declined: Counter[int] = field(default_factory=Counter)
    reason: str = ""  # of the newest tick given up or plan declined
    waiting: str = ""
    ready: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    needed: int = 0
    silent: tuple[str, ...] = ()
    order: str = ""
    _spent: tuple[float, float] = (0.0, 0.0)  # since its newest beginning

    def follow(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Take in events, as they stand in `events.jsonl`; kinds that it does not count are passed over.

        Raises:
            Failed: E722, one lacks what its kind has.
        """
        for event in events:
            try:
                self.last = float(event["time"])
                self._take(event["event"], event)
            except (KeyError, TypeError, ValueError) as error:
                raise Failed(
                    722,
                    f"an event is not what its kind should be: {type(error).__name__}: {error}",
                    todo="Restore the file events.jsonl, or do without it.",
                ) from None

    def _take(self, name: str, event: Mapping[str, Any]) -> None:
        match name:
            case "Began":
                self.role, self.process = str(event["role"]), int(event["process"])
                self.starts, self.began, self._spent = self.starts + 1, self.last, (0.0, 0.0)
                # It says again what it still obeys, what it misses and whom it hears.
                self.order, self.waiting = "", ""
                self.ready, self.missing, self.needed, self.silent = (), (), 0, ()
            case "NodeOpened":
                self._opened(event["tick"])
                self.kind, self.stage = str(event["kind"]), int(event["stage"])
            case "RelayOpened":
                self._opened(event["tick"])
            case "GateReleased":
                if int(event["tick"]) > self.tick:  # one that starts again says again what it released last
                    self.released += 1
                    self._opened(event["tick"])
            case "Wrote":
                self.waiting = ""
                self.ticks += event["row"] == "Opened"
            case "FrameSent":
                self.sent, self.sent_bytes = self.sent + 1, self.sent_bytes + int(event["size"])
            case "FrameRead":
                self.read += 1
            case "Carried":
                self.carried, self.carried_bytes = self.carried + 1, self.carried_bytes + int(event["size"])
            case "NodeReported":
                self.reported += 1
            case "Spent":
                spent = float(event["cpu_s"]), float(event["masking_s"])
                self.cpu_s += spent[0] - self._spent[0]
                self.masking_s += spent[1] - self._spent[1]
                self._spent = spent
            case "Refusal":
                self.refused[int(event["number"])] += int(event["times"])
            case "GaveUp":
                self.gave_up[int(event["number"])] += 1
                self.reason = f"tick {int(event['tick'])}: {event['what']}"
            case "GateRefused" | "GateDeclined":
                self.declined[int(event["number"])] += 1
                self.reason = f"tick {int(event['tick'])}: {event['reason']}"
            case "Obeyed":
                self.order = f"{event['action']} (order {int(event['seq'])}): {event['reason']}"
            case "Resumed":
                self.order = ""
            case "Waiting":
                self.waiting = str(event["what"])
            case "Present":
                self.ready, self.missing = tuple(map(str, event["ready"])), tuple(map(str, event["missing"]))
                self.needed, self.silent = int(event["needed"]), tuple(map(str, event["silent"]))

    def _opened(self, tick: Any) -> None:
        self.tick, self.ticks = int(tick), self.ticks + 1
