"""Joining from nothing but a URL: a folder with a key is made once, and found again by whoever may use it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.protocols.world import number_of
from tests.runs import identity, manifest

from interlock.protocols.members import Invitation, make_invitation
from interlock.protocols.service.joining import FOLDERS_MAX, Settled, settle
from interlock.protocols.service.process import claim
from interlock.protocols.service.rundir import save_manifest
from interlock.protocols.service.url import JoinURL

RUN = manifest().run
URL = JoinURL(host="example.org", port=7700, run=RUN, key=bytes(32), curve=bytes(32))


def invitation(label: str) -> Invitation:
    return make_invitation(identity("ada"), run=RUN, role="node", label=label, nonce=label.encode().ljust(16))


MIRA, NURU = invitation("mira"), invitation("nuru")


class Machine:
    """A machine on which processes join and end."""

    def __init__(self) -> None:
        self.running: list[int] = []

    def joins(self, invited: Invitation | None = None, folder: Path | None = None, operator: str = "") -> Settled:
        settled = settle(URL, folder=folder, operator=operator, invitation=invited)
        self.running.append(settled.claimed)
        return settled

    def all_end(self) -> None:
        while self.running:
            os.close(self.running.pop())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    made = Machine()
    yield made
    made.all_end()


def test_nothing_is_needed_and_everything_is_kept(machine: Machine, tmp_path: Path) -> None:
    first = machine.joins(MIRA)
    assert first.folder == tmp_path / "interlock" / RUN.hex()[:16] / "node-1"
    assert (first.made, first.operator, first.invitation) == (True, "mira", MIRA)
    assert first.folder.stat().st_mode & 0o777 == 0o700
    assert first.key.stat().st_mode & 0o777 == (first.folder / "invitation").stat().st_mode & 0o777 == 0o600
    machine.all_end()
    for invited in (MIRA, None):  # the same URL again, or the run's without an invitation
        again = machine.joins(invited)
        assert (again.folder, again.made, again.operator, again.invitation) == (first.folder, False, "mira", MIRA)
        assert again.identity.public == first.identity.public
        machine.all_end()


def test_a_second_node_on_the_machine_gets_a_folder_and_a_key_of_its_own(machine: Machine) -> None:
    first, second = machine.joins(MIRA), machine.joins(NURU)
    assert (first.folder.name, second.folder.name) == ("node-1", "node-2")
    assert first.identity.public != second.identity.public
    assert (first.operator, second.operator) == ("mira", "nuru")
    machine.all_end()
    assert machine.joins(NURU).folder == second.folder  # by its invitation, though node-1 is free
    assert machine.joins(MIRA).folder == first.folder


def test_who_joins_twice_at_once_with_open_admission_gets_two_keys(machine: Machine) -> None:
    first, second = machine.joins(), machine.joins()
    assert first.folder != second.folder
    assert first.operator == second.operator == socket.gethostname()[:80]


def test_a_new_invitation_never_takes_the_key_of_an_old_one(machine: Machine) -> None:
    machine.joins(MIRA)
    machine.all_end()
    assert machine.joins(NURU).made


def test_a_name_once_used_stays_until_another_is_given(machine: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    assert machine.joins(MIRA, folder, "Zoë").operator == "Zoë"
    machine.all_end()
    assert machine.joins(None, folder).operator == "Zoë"
    machine.all_end()
    assert machine.joins(None, folder, "mira").operator == "mira"
    for name in ("x" * 81, "a\nb", "\x1b[2J"):
        machine.all_end()
        assert number_of(lambda name=name: machine.joins(MIRA, folder, name)) == 617  # type: ignore[misc]


def test_a_folder_belongs_to_one_process_of_one_run(machine: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    machine.joins(MIRA, folder)
    assert number_of(lambda: machine.joins(MIRA, folder)) == 709
    machine.all_end()
    save_manifest(folder, manifest(name="another"))
    assert number_of(lambda: machine.joins(MIRA, folder)) == 719


def test_an_invitation_that_was_damaged_on_the_disk_is_taken_from_the_url(machine: Machine) -> None:
    first = machine.joins(MIRA)
    machine.all_end()
    (first.folder / "invitation").write_text("00ff")
    assert machine.joins(None).invitation is None


def test_a_machine_has_a_bound_on_its_folders(machine: Machine, tmp_path: Path) -> None:
    base = tmp_path / "interlock" / RUN.hex()[:16]
    machine.running += [claim(base / f"node-{number}") for number in range(1, FOLDERS_MAX + 1)]
    assert number_of(lambda: machine.joins(MIRA)) == 719


def test_a_url_of_another_run_has_other_folders(machine: Machine) -> None:
    first = machine.joins(MIRA)
    other = settle(replace(URL, run=bytes(32)), folder=None, operator="mira", invitation=None)
    machine.running.append(other.claimed)
    assert other.folder.parent != first.folder.parent
