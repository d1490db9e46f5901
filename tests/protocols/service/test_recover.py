"""A coordinator's machine is lost with its journal: another one goes on, in real processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.protocols.service.test_local import small

from interlock.protocols.canonical import encode
from interlock.protocols.errors import InterlockError
from interlock.protocols.journal import GENESIS, Committed, Row, verify_chain
from interlock.protocols.members import make_invitation
from interlock.protocols.service.rundir import RunDir
from interlock.protocols.service.store import read_rows
from interlock.protocols.service.url import parse_url
from interlock.vault import Identity

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="as the local run's tests")]
WAIT_S = 90.0


class Processes:
    """What a test started, ended with it."""

    def __init__(self) -> None:
        self.all: dict[str, subprocess.Popen[bytes]] = {}

    def serve(self, name: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "interlock.protocols.cli", "serve", *map(str, arguments), "--local"]
        self.all[name] = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def kill(self, name: str) -> None:
        self.all[name].send_signal(signal.SIGKILL)
        self.all.pop(name).wait()

    def end(self) -> None:
        for process in self.all.values():
            with contextlib.suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)
            process.wait()


def journal(run: RunDir) -> list[Row]:
    try:
        return read_rows(run.journal)
    except InterlockError:
        return []  # it begins


def rounds(rows: list[Row]) -> int:
    return max((row.body.round for row in rows if isinstance(row.body, Committed)), default=0)


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def wait_for(run: RunDir, wanted: int) -> list[Row]:
    """The journal, once so many rounds are in it."""
    end = time.monotonic() + WAIT_S
    while rounds(rows := journal(run)) < wanted:
        assert time.monotonic() < end, (run.folder("coordinator") / "log.txt").read_text()
        time.sleep(0.1)
    return rows


def test_another_machine_goes_on_with_what_gates_keep(tmp_path: Path) -> None:
    run = small(tmp_path, rounds=10_000)
    made = run.manifest()
    started = Processes()
    try:
        started.serve("coordinator", "coordinator", run.path)
        wait_until(run.url.exists)
        url = parse_url(run.url.read_text().strip())
        inviter = Identity.load(run.key("keyholder-ada"))
        for keyholder in made.committee.keyholders:
            name, key = keyholder.name, run.key(f"keyholder-{keyholder.name}")
            started.serve(name, "gate", run.folder(name), "--key", key, "--operator", name, "--url", url)
        for role, name in (("relay", "relay-0"), ("node", "node-0"), ("node", "node-1")):
            ticket = tmp_path / f"{name}.invitation"
            nonce = name.encode().ljust(16)
            invitation = make_invitation(inviter, run=made.run, role=role, label=name, nonce=nonce)  # type: ignore[arg-type]
            ticket.write_text(encode(invitation).hex())
            options = ["--key", run.key(name), "--operator", name, "--url", url, "--invitation", ticket]
            started.serve(name, role, run.folder(name), *options)
        wait_for(run, 3)
        started.kill("coordinator")
        before = journal(run)

        other = RunDir(tmp_path / "another machine")
        (other.path / "keys").mkdir(parents=True)
        for name in ("manifest", "corpus", "keys/coordinator.key"):  # what a backup holds
            shutil.copy2(run.path / name, other.path / name)
        started.serve("coordinator", "coordinator", other.path, "--recover")
        wait_until(other.url.exists)
        assert parse_url(other.url.read_text().strip()).port != url.port
        for name in ("ada", "bela", "cleo", "relay-0", "node-0", "node-1"):  # by hand: nobody knows the new place
            shutil.copy(other.url, run.folder(name) / "orders" / "moved.url")
        after = wait_for(other, rounds(before) + 3)
    finally:
        started.end()
    verify_chain(after, run=made.run, coordinator=made.coordinator, previous=GENESIS, number=0)
    done = [row.body.round for row in after if isinstance(row.body, Committed) and row.body.round]
    assert done == sorted(done)
    common = sum(a == b for a, b in zip(before, after, strict=False))
    assert common > len(before) - 8  # all but the last tick, at most
    for keyholder in made.committee.keyholders:  # who keep the same chain
        kept = read_rows(run.folder(keyholder.name) / "store.sqlite")
        assert [row for row, other_row in zip(kept, after, strict=False) if row != other_row] == []
