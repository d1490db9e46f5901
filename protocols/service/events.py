"""What a process announces, as JSON lines beside the time; and its log, in plain lines. Neither holds a secret."""

from __future__ import annotations

import contextlib
import json as jsonlib
import logging
import os
import time
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import msgspec

from ..effects import Event
from ..errors import Failed
from ..manifest import readable

READ_BYTES = 8 << 20  # at once
LINE_BYTES = 1 << 20  # no event is as long
LOG_BYTES, LOG_FILES = 16 << 20, 3  # of a log's file, and how many older ones are kept beside it
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_log = logging.getLogger("interlock")

# Events that a person looks for when something is wrong; the others are many.
_NOTABLE = {"Refusal", "GaveUp", "OutOfReach", "Waiting", "GateDeclined", "GateRefused", "RunEnded"} | {
    "Learnt",
    "Obeyed",
    "Resumed",
    "Equivocated",
}


class EventFile:
    """Writes events to `folder/events.jsonl`, one line each, at once.

    A line: `{"time": 1789000000.25, "event": "FrameSent", "tick": 4, ...}`, bytes as hex.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / "events.jsonl"
        _mend(path)
        self._file = path.open("a", buffering=1, encoding="utf-8")
        self._said = ""

    def __call__(self, event: Event) -> None:
        """Write one event.

        Raises:
            Failed: E707, the disk does not take it.
        """
        name = type(event).__name__
        fields = readable(event)
        try:
            self._file.write(_encode({"time": time.time(), "event": name, **fields}).decode() + "\n")
        except OSError as error:
            raise Failed(
                707, f"{self._file.name} cannot be written: {error.strerror}", todo="Is the disk full?"
            ) from None
        if name in _NOTABLE and (said := f"{name}: {fields}") != self._said:
            self._said = said  # a process that waits says so every second
            _log.info("%s", said, extra={"event": name})

    def close(self) -> None:
        """Close the file. What a full disk did not take is lost, and was said before."""
        with contextlib.suppress(OSError):
            self._file.close()


def _mend(path: Path) -> None:
    """Take off a line that an earlier life was cut short in, so that the next one does not run into it."""
    if not path.is_file():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - LINE_BYTES))
        last = file.read()
        if last and not last.endswith(b"\n"):
            file.truncate(end - len(last) + last.rfind(b"\n") + 1)


class EventTail:
    """Reads the events of a process while it writes them, some megabytes at a time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.jsonl"
        self._at = 0

    def news(self) -> list[dict[str, Any]]:
        """The whole lines since the last call, as far as they are read at once; none when all are read.

        Raises:
            Failed: E722, a line is no JSON object.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._at)
                data = file.read(READ_BYTES)
        except FileNotFoundError:
            return []
        whole, newline, _ = data.rpartition(b"\n")
        self._at += len(whole) + len(newline)
        try:
            return [_decode(line) for line in whole.split(b"\n") if line]
        except msgspec.DecodeError as error:
            raise Failed(722, f"{self._path} is damaged: {error}", todo="Restore it, or do without it.") from None


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """Walk through a process's events in the order it announced them; a line cut short at the end is left out."""
    tail = EventTail(folder)
    while news := tail.news():
        yield from news


class JSONLines(logging.Formatter):
    """A log's line as a JSON object.

    Fields: `time` (seconds since 1970), `level`, `message`, `process` (its folder's name), `event` (the name of the
    event that it repeats, or null), and with an exception `trace`.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        fields = {
            "time": record.created,
            "level": record.levelname,
            "message": record.getMessage(),
            "process": self._process,
            "event": getattr(record, "event", None),
        }
        if record.exc_info:
            fields["trace"] = self.formatException(record.exc_info)
        return jsonlib.dumps(fields)


def log_to(folder: Path, *, json: bool = False) -> None:
    """Send this process's log to `folder/log.txt`, or as JSON lines to `folder/log.jsonl`.

    A file that has reached `LOG_BYTES` becomes `log.txt.1`, and so on; beyond `LOG_FILES` older ones the oldest goes.
    """
    handler = RotatingFileHandler(
        folder / ("log.jsonl" if json else "log.txt"), maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8"
    )
    plain = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(JSONLines(folder.resolve().name) if json else plain)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.raiseExceptions = False  # a full disk costs lines of the log, not its reader tracebacks


def log_end(folder: Path, lines: int = 5) -> list[str]:
    """The last lines of a process's log."""
    try:
        return (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    except FileNotFoundError:
        return []
