"""`interlock join` and the servers that it meets, as processes on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from interlock.protocols.cli.joined import LEAVING
from interlock.protocols.journal import Joined
from interlock.protocols.service.choices import Choices
from interlock.protocols.service.found import found
from interlock.protocols.service.store import read_rows
from interlock.protocols.service.url import parse_url
from interlock.vault import Identity

PATIENCE_S = 60


class Here:
    """This machine: a run's directory, and the processes that were started."""

    def __init__(self, folder: Path) -> None:
        (folder / "a.txt").write_text("a quick brown fox\n" * 900)
        (folder / "b.txt").write_text("over the lazy dog\n" * 900)
        choices = Choices(local=3, data=(folder / "a.txt", folder / "b.txt"), validation_bytes=5000, rows=1)
        self.folder, (self.run, _, _) = folder, found(folder / "run", choices)
        self.running: list[subprocess.Popen[str]] = []

    def starts(self, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "interlock.protocols.cli", *map(str, arguments)]
        environment = os.environ | {"XDG_DATA_HOME": str(self.folder / "data")}
        pipe = subprocess.PIPE
        self.running.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment))
        return self.running[-1]

    def coordinator(self, *options: object) -> str:
        """Start one; its join URL."""
        process = self.starts("serve", "coordinator", self.run.path, *options)
        assert process.stdout is not None
        return process.stdout.readline().strip()

    def invited(self, url: str, role: str = "node") -> str:
        """A join URL with an invitation for 'mira'."""
        key = self.run.key("keyholder-ada")
        said, _ = self.starts(
            "keyholder", "invite", "--url", url, "--key", key, "--role", role, "--label", "mira"
        ).communicate(timeout=PATIENCE_S)
        return said.strip()

    def joined(self) -> list[Any]:
        return [row.body.join.record for row in read_rows(self.run.journal) if isinstance(row.body, Joined)]


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    made = Here(tmp_path)
    yield made
    for process in made.running:
        if process.poll() is None:
            process.terminate()
    for process in made.running:
        with suppress(ValueError):  # read to its end already
            process.communicate(timeout=PATIENCE_S)


def until(process: subprocess.Popen[str], word: str) -> list[str]:
    """Read what a process says, up to a line with `word`."""
    assert process.stdout is not None
    said: list[str] = []
    while not said or word not in said[-1]:
        line = process.stdout.readline()
        assert line, said
        said.append(line.rstrip("\n"))
    return said


def test_a_url_with_an_invitation_is_all_that_it_takes(here: Here) -> None:
    url = here.invited(here.coordinator("--local"))
    node = here.starts("join", url, "--local", "--upload-limit", 5, "--log-json")
    said = until(node, "waits for a stage")
    folder = here.folder / "data" / "interlock" / parse_url(url).run.hex()[:16] / "node-1"
    assert said[0] == f"joining run {parse_url(url).run.hex()[:16]} as node 'mira'"
    assert len(said) < 24  # one screen
    public = Identity.load(folder / "node.key").public
    assert public.hex() in "".join(said)
    assert [(r.role, r.operator, r.identity) for r in here.joined()] == [("node", "mira", public)]
    node.send_signal(signal.SIGINT)
    out, error = node.communicate(timeout=PATIENCE_S)
    assert (node.returncode, error) == (0, f"{LEAVING}\n")
    assert out == "leaving\n"  # it held nothing that somebody would have to take over
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["message"] for line in logged][-1] == "ended"
    assert {line["process"] for line in logged} == {"node-1"}
    token = url.partition("&invitation=")[2]
    assert token not in "".join(path.read_text() for path in folder.glob("log*"))
    # The same machine is known again, from the run's URL alone, and says so to machines.
    again = here.starts("join", "--url-file", here.run.url, "--json")
    lines = [json.loads(line) for line in until(again, "waits for a stage")]
    assert lines[0] == {
        "event": "joins",
        "run": parse_url(url).run.hex(),
        "folder": str(folder),
        "made_key": False,
        "operator": "mira",
        "public": public.hex(),
    }
    assert {line["event"] for line in lines[1:]} == {"stands"}
    assert len(here.joined()) == 1


def test_a_relays_invitation_makes_no_node(here: Here) -> None:
    url = here.invited(here.coordinator("--local"), "relay")
    node = here.starts("join", url, "--local")
    out, error = node.communicate(timeout=PATIENCE_S)
    assert (node.returncode, out) == (1, "")
    assert error.startswith("error: E209 the invitation in the join URL: expected for a node, got for a relay\n")
    assert not (here.folder / "data").exists()


def test_others_are_told_the_advertised_address_of_coordinator_and_relay(here: Here) -> None:
    told = here.coordinator("--advertise", "home.example.org:17700", "--bind", "127.0.0.1:0")
    assert (parse_url(told).host, parse_url(told).port) == ("home.example.org", 17700)
    assert here.run.url.read_text().strip() == told


def test_a_relay_writes_its_advertised_address_into_the_journal(here: Here) -> None:
    url = here.coordinator("--local")
    whole, folder = here.invited(url, "relay"), here.folder / "relay"
    options = ["--operator", "mira", "--key", here.run.key("relay-0"), "--local", "--url", whole]
    here.starts("serve", "relay", folder, *options, "--advertise", "home.example.org:17701")
    while not (folder / "manifest").exists():  # it was let in
        assert here.running[-1].poll() is None
        time.sleep(0.05)
    assert [record.address for record in here.joined()] == ["tcp://home.example.org:17701"]
