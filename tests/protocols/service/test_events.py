"""Events are one JSON line each, and are read whole or not yet."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from interlock.protocols.coordinator import RunEnded
from interlock.protocols.effects import Event
from interlock.protocols.errors import Failed
from interlock.protocols.service import events as module
from interlock.protocols.service.events import EventFile, EventTail, log_end, log_to, read_events


class Seen(Event, frozen=True, kw_only=True):
    number: int
    peer: bytes | None


def test_an_event_is_a_line_with_its_name_and_time(tmp_path: Path) -> None:
    file = EventFile(tmp_path)
    file(Seen(number=3, peer=b"\x01\xff"))
    (line,) = (tmp_path / "events.jsonl").read_text().splitlines()  # written before it is closed
    found = json.loads(line)
    assert found.pop("time") > 1e9
    assert found == {"event": "Seen", "number": 3, "peer": "01ff"}
    file.close()


def test_a_line_cut_short_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    tail = EventTail(tmp_path)
    assert tail.news() == []
    path.write_text('{"event": "A"}\n{"event"')
    assert tail.news() == [{"event": "A"}]
    with path.open("a") as file:
        file.write(': "B"}\n')
    assert tail.news() == [{"event": "B"}]
    assert tail.news() == []
    assert [event["event"] for event in read_events(tmp_path)] == ["A", "B"]


def test_events_are_read_in_pieces_and_none_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READ_BYTES", 100)
    file = EventFile(tmp_path)
    for number in range(40):
        file(Seen(number=number, peer=None))
    file.close()
    tail = EventTail(tmp_path)
    assert len(tail.news()) == 1
    assert [event["number"] for event in read_events(tmp_path)] == list(range(40))


@pytest.mark.parametrize(
    "left", ['{"event": "A"}\n', '{"event": "A"}\n{"ev', '{"event": "A"}\n{"event": "B"}', "{", ""]
)
def test_a_line_that_an_earlier_life_was_cut_short_in_is_taken_off(tmp_path: Path, left: str) -> None:
    (tmp_path / "events.jsonl").write_text(left)
    file = EventFile(tmp_path)
    file(Seen(number=3, peer=None))
    file.close()
    before = ["A"] if "A" in left else []
    assert [event["event"] for event in read_events(tmp_path)] == [*before, "Seen"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_ends_the_process_that_has_something_to_say(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").symlink_to("/dev/full")
    file = EventFile(tmp_path)
    with pytest.raises(Failed, match=r"E707 .*events\.jsonl cannot be written: No space left on device"):
        file(RunEnded(rounds=1))
    file.close()  # says nothing more


# --- the log ---


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """The program's log; afterwards it goes where it went before."""
    root = logging.getLogger()
    handlers, level, raises = root.handlers[:], root.level, logging.raiseExceptions
    yield logging.getLogger("interlock")
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.raiseExceptions = raises


def test_a_line_of_the_log_is_a_json_object_if_asked_for(log: logging.Logger, tmp_path: Path) -> None:
    folder = tmp_path / "node-7"
    folder.mkdir()
    log_to(folder, json=True)
    log.info("two\nlines of %s", "text")
    events = EventFile(folder)
    events(RunEnded(rounds=3))
    events.close()
    try:
        raise ValueError("x")
    except ValueError as error:
        log.error("cause", exc_info=error)
    first, second, third = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert first.pop("time") > 1e9
    assert first == {"level": "INFO", "message": "two\nlines of text", "process": "node-7", "event": None}
    assert (second["event"], second["message"]) == ("RunEnded", "RunEnded: {'rounds': 3}")
    assert (third["level"], "ValueError: x" in third["trace"]) == ("ERROR", True)
    assert not (folder / "log.txt").exists()


@pytest.mark.parametrize(("name", "as_json"), [("log.txt", False), ("log.jsonl", True)])
def test_a_log_is_bounded_and_its_oldest_part_goes(
    log: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, as_json: bool
) -> None:
    monkeypatch.setattr(module, "LOG_BYTES", 1000)
    log_to(tmp_path, json=as_json)
    for number in range(200):
        log.info("line %d", number)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [name, *(f"{name}.{number}" for number in range(1, module.LOG_FILES + 1))]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    kept = "".join((tmp_path / file).read_text() for file in [*reversed(files[1:]), files[0]])
    assert "line 199" in kept.splitlines()[-1]
    assert "line 0 " not in kept and "line 0\n" not in kept


def test_a_plain_log_is_what_people_read(log: logging.Logger, tmp_path: Path) -> None:
    log_to(tmp_path)
    log.info("started, process %d", 7)
    (line,) = log_end(tmp_path)
    assert line.endswith(" INFO started, process 7")
