"""Whether a run stood still under its orders, and how soon: from what every process announced, and when."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .events import read_events
from .rundir import RunDir

# Rows of the coordinator and events of others that change something: a release, an opening, a frame, a state.
_ROWS = ("Opened", "Closed", "Committed", "Changed", "Measured", "Answered")
_MOVES = ("GateReleased", "FrameSent", "Carried", "NodeReported", "Adopted")
# Those after which the model is another one.
_UPDATES = ("NodeReported", "Adopted", "Committed", "Changed")


@dataclass(frozen=True, slots=True)
class Standstill:
    """What came of the orders to stop. All None if there was none.

    updates_after: updates that a process took after it had received a halt or pause and before it went on.
    seconds_to_stop: from handing over the last signature of a halt to the last thing that moved anywhere; of several
    halts, the longest.
    """

    updates_after: int | None
    seconds_to_stop: float | None


def standstill(run: RunDir) -> Standstill:
    """Read the events of every process in a run's directory."""
    folders = sorted(path.parent for path in run.path.glob("*/events.jsonl"))
    began, ended = _spans(folders)
    if not began:
        return Standstill(None, None)
    updates = 0
    last = dict(began)  # halt: when something moved last
    ends = sorted(ended.values())
    for folder in folders:
        stands, released = False, 0
        for event in read_events(folder):
            name, time = event["event"], event["time"]
            if name == "GateReleased":
                if event["tick"] <= released:
                    continue  # a gate that starts again says once more what it released last
                released = event["tick"]
            if name == "Obeyed":
                stands = True
            elif name in ("Resumed", "Began"):
                stands = False
            name = event["row"] if name == "Wrote" else name
            updates += stands and name in _UPDATES
            if name in _ROWS or name in _MOVES:
                for halt, start in began.items():
                    end = next((end for end in ends if end > start), None)
                    if start < time and (end is None or time < end):
                        last[halt] = max(last[halt], time)
    return Standstill(updates, max(last[halt] - start for halt, start in began.items()))


def _spans(folders: list[Path]) -> tuple[dict[str, float], dict[str, float]]:
    """When the last signature of each halt and of each resume was handed over, by the order's hash.

    Who handed it over may have noted when (`script.HandedOver`); else it is when the first process had all it needs.
    """
    handed: dict[str, tuple[str, float]] = {}
    heard: dict[str, tuple[str, float]] = {}
    for folder in folders:
        for event in _complete(folder):
            known = handed if event["event"] == "HandedOver" else heard
            order, time = event["order"], event["time"]
            known[order] = (event["action"], min(time, known.get(order, ("", time))[1]))
    found = heard | handed
    began = {order: time for order, (action, time) in found.items() if action == "halt"}
    return began, {order: time for order, (action, time) in found.items() if action == "resume"}


def _complete(folder: Path) -> Iterator[dict[str, Any]]:
    for event in read_events(folder):
        if event["event"] in ("HandedOver", "Learnt") and event["signatures"] >= event["need"]:
            yield event
