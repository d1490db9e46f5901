"""How a run stopped and went on, from what its processes announced: whether anybody moved who knew of a halt."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .events import read_events
from .rundir import RunDir

# What changes the state of a run, somewhere. A void, an order and a join do not; a halted run may still write them.
MOVES = {"NodeOpened", "RelayOpened", "FrameSent", "Carried", "Adopted", "NodeReported", "GateReleased"}
ROWS = {"Planned", "Opened", "Closed", "Committed", "Changed", "Measured", "Answered"}
TAKES = {"Adopted", "NodeReported"}  # a new state, at a node
TAKEN = {"Committed", "Changed"}  # likewise, in the journal


@dataclass(frozen=True, slots=True)
class Stops:
    """What came of a run's halts.

    halts: how often the run was halted. updates: new states that a process took, or wrote down, between the moment that
    it obeyed a halt and the one that it resumed. seconds: the longest from when the last signature was handed over,
    where somebody noted that (`script.HandedOver`), else from the first process that obeyed, to the last change of
    state anywhere before the first that resumed; None without a halt. resumed: whether the coordinator obeyed and went
    on again.
    """

    halts: int
    updates: int
    seconds: float | None
    resumed: bool


@dataclass(frozen=True, slots=True)
class _Span:
    """While one process stood still: by which orders, since when, until it said that it resumed, if it did."""

    orders: frozenset[str]
    begin: float
    end: float
    updates: int


def stops(run: RunDir) -> Stops:
    """Read the halts out of the events of every process in a run's directory.

    Raises:
        Failed: E722.
    """
    spans: list[_Span] = []
    moves: list[float] = []
    resumed = False
    for folder in _folders(run):
        found, moved, stands = _of_process(folder)
        spans += found
        moves += moved
        resumed |= folder == run.folder("coordinator") and bool(found) and not stands
    handed = _handed_over(run)
    took = [_seconds(halt, moves, handed) for halt in _halts(spans)]
    return Stops(len(took), sum(span.updates for span in spans), max(took, default=None), resumed)


def _halts(spans: list[_Span]) -> list[list[_Span]]:
    """The spans of each halt: of processes that stood still by the same order, or by orders that followed on it."""
    halts: list[tuple[frozenset[str], list[_Span]]] = []
    for span in spans:
        same = [halt for halt in halts if halt[0] & span.orders]
        orders = span.orders.union(*(orders for orders, _ in same))
        together = [span, *(other for _, its in same for other in its)]
        halts = [*(halt for halt in halts if halt not in same), (orders, together)]
    return [its for _, its in halts]


def _seconds(halt: list[_Span], moves: list[float], handed: dict[str, float]) -> float:
    begin, end = min(span.begin for span in halt), min(span.end for span in halt)
    begin = min([begin, *(handed[order] for span in halt for order in span.orders if order in handed)])
    return max((moved for moved in moves if begin <= moved < end), default=begin) - begin


def _handed_over(run: RunDir) -> dict[str, float]:
    """When the last signature of an order was handed over, by its hash, as far as this machine's own notes say."""
    notes = read_events(run.folder("local"))
    return {n["order"]: n["time"] for n in notes if n["event"] == "HandedOver" and n["signatures"] == n["need"]}


def _folders(run: RunDir) -> Iterator[Path]:
    yield run.folder("coordinator")
    for kind in ("gate", "relay", "node"):
        yield from sorted(run.path.glob(f"{kind}-*"))


def _of_process(folder: Path) -> tuple[list[_Span], list[float], bool]:
    """Its spans, when it changed state, and whether it stands still now."""
    spans: list[_Span] = []
    moves: list[float] = []
    orders, begin, updates, released = frozenset[str](), 0.0, 0, 0
    for event in read_events(folder):
        name, time = event["event"], float(event["time"])
        if name == "GateReleased":
            if event["tick"] <= released:
                continue  # a gate that begins again says again what it released last
            released = event["tick"]
        if name == "Obeyed" and (orders or event["action"] == "halt"):
            begin = begin if orders else time
            orders |= {event["order"]}
        elif name in ("Resumed", "Began"):  # one that begins again says again what it still obeys
            if orders:
                spans.append(_Span(orders, begin, time if name == "Resumed" else math.inf, updates))
            orders, updates = frozenset(), 0
        elif _moves(event):
            moves.append(time)
            updates += bool(orders) and (name in TAKES or event.get("row") in TAKEN)
    if orders:
        spans.append(_Span(orders, begin, math.inf, updates))
    return spans, moves, bool(orders)


def _moves(event: dict[str, Any]) -> bool:
    return event["event"] in MOVES or (event["event"] == "Wrote" and event["row"] in ROWS)
