"""A history as a sequence diagram: one column a participant, one line a step, time downwards.

Drawn from what happened, never from what was planned: an arrow is a message that was received.

    |------------->|   received             * ask(step=1)     an action (- if it could not be taken)
    |------x-------|   lost                 # Halted(n0, 1)   an announcement
    (again)            a copy               ~ retry           a timer
    forged             a traitor's          = done: job       work that ended
                                            ! refused, crashed, stopped
                                            ^ back, from what it stored (+ what it stores)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import msgspec

from .history import LOST, History, Step

NAMES_NONE: Mapping[bytes, str] = {}
WIDTH = 100  # characters, where nobody says how wide the paper is
MARGIN = 2
PITCH_MIN = 3  # between lifelines
TEXT_MIN = 30  # characters right of the diagram for what does not fit beside a lifeline
HEADER_EVERY = 40  # lines after which the names are written again

Shape: TypeAlias = Literal["note", "arrow", "lost"]
_SYMBOLS = {
    "act": "*", "impossible": "-", "timer": "~", "done": "=", "announce": "#", "store": "+", "refused": "!",
    "crash": "!", "back": "^", "stop": "!", "broken": "!",
}  # fmt: skip
_MARKS = {"again": "again", "forged": "forged", "delay": "late", "reorder": "reordered", "partition": "partition"}
_MARKS |= {"down": "is down", "nobody": "nobody of that name", "drop": ""}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a diagram.

    nth: index of its step. shape: "note" beside the lifeline of `who`; "arrow" from `who` to `peer`, or "lost" on it.
    symbol: of a note.
    """

    nth: int
    at: float
    shape: Shape
    who: str
    peer: str
    symbol: str
    text: str


def rows(history: History, names: Mapping[bytes, str] = NAMES_NONE) -> list[Row]:
    """The lines of a diagram. Sends that arrive are left out for their receipts.

    What is stored shows only where somebody comes back from it. names: labels of keys that occur in messages.
    """
    returns = any(step.kind in ("crash", "back") for step in history)
    found = []
    for nth, step in enumerate(history):
        if step.kind == "drawn" or (step.kind == "store" and not returns):
            continue
        if step.kind == "send":
            if step.mark in LOST:
                found.append(Row(nth, step.at, "lost", step.who, step.peer, "", _message(step, names)))
        elif step.kind == "deliver":
            found.append(Row(nth, step.at, "arrow", step.peer, step.who, "", _message(step, names)))
        elif step.kind == "lost":
            text = f"{_message(step, names)} {step.who} is down"
            found.append(Row(nth, step.at, "lost", step.peer, step.who, "", text))
        else:
            found.append(Row(nth, step.at, "note", step.who, "", _SYMBOLS[step.kind], note(step, names)))
    return found


def note(step: Step, names: Mapping[bytes, str] = NAMES_NONE) -> str:
    """A step in a few words, without who."""
    arguments = ", ".join(f"{name}={shown(value, names)}" for name, value in step.arguments.items())
    match step.kind:
        case "act":
            return f"{step.name}({arguments})"
        case "impossible":
            return f"{step.name}({arguments}) impossible" + (f": {step.text}" if step.text else "")
        case "announce":
            return shown(step.event, names)
        case "timer":
            return step.name
        case "done":
            return f"done: {step.name}"
        case "drawn":
            return f"drawn: {step.name}"
        case "store":
            return f"{step.name} ({len(step.data)} bytes)"
        case "refused":
            return f"refused {step.number}" + (f": {step.text}" if step.text else "")
        case "crash":
            return "dies for good" if step.mark == "dead" else "crashes"
        case "back":
            return "back"
        case "stop":
            return f"stops: {step.text}" if step.text else "stops"
        case "broken":
            return " ".join(["broken:", *step.text.split()])
        case _:
            return _message(step, names)


def shown(value: Any, names: Mapping[bytes, str] = NAMES_NONE) -> str:
    """A value for readers: `Vote(n3, 1)`; keys by label, other bytes by their first four.

    >>> shown((1, "n0", b"abcdef"), {})
    '(1, n0, 61626364…)'
    """
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return names.get(data) or (data.hex() if len(data) <= 4 else data[:4].hex() + "…")
    if isinstance(value, msgspec.Struct):
        fields = (shown(getattr(value, name), names) for name in value.__struct_fields__)
        return f"{type(value).__name__}({', '.join(fields)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{shown(k, names)}: {shown(v, names)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple | list):
        return "(" + ", ".join(shown(part, names) for part in value) + ")"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(shown(part, names) for part in value)) + "}"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def cast_of(history: History, cast: Sequence[str] = ()) -> list[str]:
    """The participants that a history speaks of: those of `cast` in its order, then others as they come."""
    seen = dict.fromkeys(label for step in history for label in (step.who, step.peer) if label)
    return [label for label in cast if label in seen] + [label for label in seen if label not in cast]


def text(
    history: History,
    cast: Sequence[str] = (),
    *,
    width: int = WIDTH,
    names: Mapping[bytes, str] = NAMES_NONE,
    columns: Mapping[str, Sequence[str]] | None = None,
    most: int | None = None,
) -> str:
    """The diagram as plain text, no line wider than `width` if the cast allows it.

    Args:
        cast: labels in the order of the columns; who does nothing is left out.
        columns: more to print left of each line: a title, and a text for each step of the history.
        most: draw at most so many lines: the first ones and the last ones.
    """
    lines, columns = rows(history, names), columns or {}
    labels = cast_of(history, cast)
    hidden = range(0)  # lines that are left out
    if most is not None and len(lines) > most:
        hidden = range(most // 2, len(lines) - (most - most // 2))
    shown_lines = [row for nth, row in enumerate(lines) if nth not in hidden]
    left = _Left(columns, {row.nth for row in shown_lines})
    paper = _Paper(labels, shown_lines, max(40, width - left.width))
    out = left.beside(paper.header(), titles=True)
    count = 0
    for nth, row in enumerate(lines):
        if nth in hidden:
            if nth == hidden.start:
                out.append(f"{'':{left.width + MARGIN}}({len(hidden)} lines left out)")
        else:
            out.append(left.of(row.nth) + paper.line(row))
            count += 1
            if count % HEADER_EVERY == 0 and count < len(shown_lines):
                out += left.beside(paper.header())
        paper.follow(row, history)
    return "\n".join(line.rstrip() for line in out)


class _Left:
    """Columns of text left of a diagram."""

    def __init__(self, columns: Mapping[str, Sequence[str]], steps: Iterable[int]) -> None:
        self._columns = columns
        steps = list(steps)
        self._widths = {
            title: max([len(title), *(len(cells[nth]) for nth in steps)]) for title, cells in columns.items()
        }
        self.width = sum(width + 2 for width in self._widths.values())

    def of(self, nth: int) -> str:
        return "".join(f"{self._columns[title][nth]:>{width}}  " for title, width in self._widths.items())

    def beside(self, lines: list[str], *, titles: bool = False) -> list[str]:
        """Lines that belong to no step; the titles go beside the last one."""
        blank = " " * self.width
        named = "".join(f"{title:>{width}}  " for title, width in self._widths.items()) if titles else blank
        return [*(blank + line for line in lines[:-1]), named + lines[-1]]


class _Paper:
    """Where lifelines are, and what is drawn on a line of characters."""

    def __init__(self, labels: list[str], lines: list[Row], width: int) -> None:
        self._labels = labels
        count = max(1, len(labels))
        beside = max((len(row.text) + 4 for row in lines if row.shape == "note"), default=0)
        wanted = max([6, beside, *(len(label) + 2 for label in labels)])
        right = max((len(row.text) + 3 for row in lines if row.shape != "note"), default=0)
        paper = width - MARGIN - 1
        aside = min(max(right, TEXT_MIN), max(TEXT_MIN, width // 3)) if right or beside * count > paper else 0
        room = (paper - aside) // count
        self._pitch = max(PITCH_MIN, min(wanted, room))
        self._width = max(width, MARGIN + 1 + self._pitch * count + TEXT_MIN)
        self._at = {label: MARGIN + 1 + self._pitch * nth for nth, label in enumerate(labels)}
        self._end = MARGIN + 1 + self._pitch * count  # of the diagram; texts that do not fit come right of it
        self._life = dict.fromkeys(labels, "|")

    def header(self) -> list[str]:
        """The names, over as many lines as they need; the last of a line nearest to its lifeline."""
        levels = 1
        while any(len(label) + 1 > self._pitch * levels for label in self._labels[:-1]) and levels < len(self._labels):
            levels += 1
        out = []
        for level in range(levels):
            line = [" "] * (self._end + max(map(len, self._labels), default=0))
            for nth, label in enumerate(self._labels):
                if nth % levels < level:
                    line[self._at[label]] = "|"
            for nth, label in enumerate(self._labels):
                if nth % levels == level:
                    start = self._at[label] - (level == levels - 1)
                    line[start : start + len(label)] = label
            out.append("".join(line).rstrip())
        return out

    def line(self, row: Row) -> str:
        line = [" "] * self._end
        for label in self._labels:
            line[self._at[label]] = self._life[label]
        if row.shape == "note":
            return self._note(line, row)
        start, end = self._at[row.who], self._at[row.peer]
        if start == end:
            line[start + 1 : start + 3] = "x " if row.shape == "lost" else "<<"
        else:
            low, high = min(start, end), max(start, end)
            line[low + 1 : high] = "-" * (high - low - 1)
            if row.shape == "lost":
                line[(low + high) // 2] = "x"
            elif start < end:
                line[high - 1] = ">"
            else:
                line[low + 1] = "<"
        return self._right(line, row.text)

    def _note(self, line: list[str], row: Row) -> str:
        at = self._at[row.who]
        free = at + self._pitch
        whole = f" {row.symbol} {row.text}"
        if at + len(whole) < free or (row.who == self._labels[-1] and at + len(whole) < self._width):
            line[at + 1 : at + 1 + len(whole)] = whole
            return "".join(line)
        line[at + 1] = row.symbol
        return self._right(line, f"{row.symbol} {row.text}")

    def _right(self, line: list[str], text: str) -> str:
        room = max(TEXT_MIN, self._width - self._end - 1)
        return "".join(line).rstrip().ljust(self._end - self._pitch + 2) + "  " + _cut(text, room + self._pitch - 4)

    def follow(self, row: Row, history: History) -> None:
        """Lifelines after a step: `.` while down, blank once dead or stopped."""
        step = history[row.nth]
        if step.kind == "crash":
            self._life[step.who] = " " if step.mark == "dead" else "."
        elif step.kind == "stop":
            self._life[step.who] = " "
        elif step.kind == "back":
            self._life[step.who] = "|"


def mermaid(history: History, cast: Sequence[str] = (), names: Mapping[bytes, str] = NAMES_NONE) -> str:
    """The diagram in Mermaid's language, for a pull request."""
    number = {label: nth for nth, label in enumerate(cast_of(history, cast))}
    out = ["sequenceDiagram"]
    out += [f"    participant p{nth} as {_plain(label)}" for label, nth in number.items()]
    for row in rows(history, names):
        if row.shape == "note":
            out.append(f"    Note over p{number[row.who]}: {_plain(f'{row.symbol} {row.text}')}")
        else:
            arrow = "->>" if row.shape == "arrow" else "-x"
            out.append(f"    p{number[row.who]}{arrow}p{number[row.peer]}: {_plain(row.text)}")
    return "\n".join(out)


def _plain(text: str) -> str:
    """Text without what Mermaid reads as syntax."""
    return "".join(f"#{ord(char)};" if char in "#;<>{}" else char for char in text.replace("\n", " "))


def _message(step: Step, names: Mapping[bytes, str]) -> str:
    """A message with its blobs and what became of it."""
    blobs = f" + {sum(map(len, step.blobs))} bytes" if step.blobs else ""
    return " ".join(_words(shown(step.message, names) + blobs, step))


def _words(text: str, step: Step) -> Iterator[str]:
    yield text
    mark = _MARKS.get(step.mark, "") if step.kind != "lost" or step.mark in ("again", "forged") else ""
    if step.mark == "down":
        yield f"{step.peer} is down"
    elif mark:
        yield f"({mark})" if step.mark != "forged" else mark


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
