"""What `interlock join` shows: a table on a terminal, lines of what is new elsewhere, JSON lines for machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.runs import identity, manifest

from interlock.protocols.cli.joined import LEAVING, Status
from interlock.protocols.cli.serve import Computing, Limits
from interlock.protocols.node import Adopted, GaveUp, NodeOpened, OutOfReach
from interlock.protocols.seat import FrameSent
from interlock.protocols.service.joining import Settled
from interlock.protocols.service.url import JoinURL

HOSTILE = "[/red] \x1b[2J"


def works(status: Status, rounds: int) -> None:
    """A node that does so many rounds, and looks after each."""
    status.joined(manifest(name="a [/red] name"), lambda: 2_340_000)
    for tick in range(2, rounds + 3):
        if tick > 2:
            status.seen(Adopted(tick=tick, made=tick - 1))
        status.seen(NodeOpened(tick=tick, kind="train", plan="", stage=1))
        status.seen(FrameSent(tick=tick, microbatch=0, boundary=0, direction="backward", header="", size=9))
        status.look()
        status.look()  # nothing new


def test_lines_come_when_something_is_new(capsys: pytest.CaptureFixture[str]) -> None:
    status = Status(json=False)
    status.look()
    works(status, 21)
    status.seen(GaveUp(tick=23, number=306, what=HOSTILE))
    status.leaving()
    status.end()
    said, error = capsys.readouterr()
    lines = said.splitlines()
    assert lines[:2] == ["asking to be let in", "let in, waits for a stage"]
    assert [line.partition(",")[0] for line in lines[2:5]] == [
        "at stage 1: 0 rounds counted", "at stage 1: 10 rounds counted", "at stage 1: 20 rounds counted",
    ]  # fmt: skip
    assert lines[2].endswith("2.3 MB uploaded")
    assert lines[5].startswith("leaving: 21 rounds counted")
    assert lines[6] == "could not finish tick 23: E306 [/red] \\x1b[2J"
    assert lines[7].startswith("ended: 21 rounds counted")
    assert (len(lines), error) == (8, f"{LEAVING}\n")


def test_machines_get_every_round(capsys: pytest.CaptureFixture[str]) -> None:
    status = Status(json=True)
    works(status, 3)
    status.leaving()
    status.end()
    said, error = capsys.readouterr()
    lines = [json.loads(line) for line in said.splitlines()]
    assert [line["rounds"] for line in lines] == [0, 0, 1, 2, 3, 3]
    assert [line["state"] for line in lines][-2:] == ["at stage 1", "leaving"]
    batch = manifest().training.rows * manifest().model.context
    assert (lines[-1]["tokens"], lines[-1]["uploaded_bytes"], error) == (3 * batch, 2_340_000, "")


def test_a_terminal_shows_one_table_and_obeys_no_name(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes this for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    status = Status(json=False)
    url = JoinURL(host="example.org", port=7700, run=bytes(32), key=bytes(32), curve=bytes(32))
    who = identity("nora")
    settled = Settled(folder=tmp_path, claimed=-1, identity=who, made=True, operator="a\xadb", invitation=None)
    status.begin(url, settled, Computing(), Limits())
    works(status, 2)
    status.seen(GaveUp(tick=4, number=306, what=HOSTILE))
    status.seen(OutOfReach(relays=("ab at tcp://h:1",)))
    status.leaving()
    status.end()
    said, _ = capsys.readouterr()
    assert "'a [/red] name'" in said
    assert "2 rounds" in said
    assert "node 'a\\xadb'" in said and who.public.hex() in said and "example.org:7700" in said
    assert "E306 [/red] \\x1b[2J" in said
    assert "\x1b[2J" not in said
    assert "no answer" in said and "of relay ab at tcp://h:1: is it running" in said
    assert LEAVING in said


def test_a_relay_that_does_not_answer_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    status = Status(json=False)
    status.joined(manifest(), lambda: 0)
    capsys.readouterr()
    status.seen(OutOfReach(relays=("ab at tcp://h:1",)))
    status.look()
    status.look()
    said, _ = capsys.readouterr()
    assert (
        said.count("no answer of relay ab at tcp://h:1: is it running, and does a firewall let this machine out?") == 1
    )
    status.seen(OutOfReach(relays=()))
    status.look()
    assert "no answer" not in capsys.readouterr().out
