"""Every kind of finding, from facts that are given; and what the examination says of this machine and of a run."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runs import identity

from interlock.protocols.errors import Misused
from interlock.protocols.net.zeromq import Door, ZeroMQTransport
from interlock.protocols.service import checks, facts
from interlock.protocols.service.answers import answers
from interlock.protocols.service.checks import (
    Clocks,
    Folder,
    Key,
    Library,
    Line,
    Machine,
    Peer,
    Port,
    Text,
)
from interlock.protocols.service.facts import Place
from interlock.protocols.service.rundir import RunDir
from interlock.protocols.service.url import JoinURL

WELL = Machine(
    free_gib=8.0,
    address_space_gib=None,
    swap_gib=0.0,
    core_dumps=False,
    descriptors=1024,
    processors=4,
    allowed=4,
    threads={},
)
STEADY = Clocks(monotonic_s=0.05, wall_s=0.05, resolution_s=1e-9, year=2026)


def statuses(lines: Iterable[Line]) -> dict[str, str]:
    """How each thing is; what is not well says what to do, and what is well does not."""
    found = list(lines)
    assert all(bool(line.todo) == (line.status != "ok") and line.said for line in found), found
    return {line.name: line.status for line in found}


def changed(facts: Any, **changes: Any) -> Any:
    return type(facts)(**{name: getattr(facts, name) for name in facts.__slots__} | changes)


@pytest.mark.parametrize(
    ("library", "status"),
    [
        (Library(name="a", least="1.2", version="1.2"), "ok"),
        (Library(name="a", least="1.2", version="1.10.0+cpu"), "ok"),
        (Library(name="a", least="1.2", version="1.1.9"), "error"),
        (Library(name="a", least="1.2", missing="ImportError: no a"), "error"),
        (Library(name="a", least="1.2", missing="ImportError: no a", needed=False), "warning"),
        (Library(name="a", least="3", version="3.0rc1, with more"), "ok"),
    ],
)
def test_a_library_is_there_and_new_enough(library: Library, status: str) -> None:
    assert statuses(checks.libraries([library])) == {"a": status}


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.lists(st.integers(0, 99), min_size=1, max_size=4))
def test_versions_are_compared_by_their_numbers(one: list[int], other: list[int]) -> None:
    least, version = (".".join(map(str, each)) for each in (one, other))
    found = statuses(checks.libraries([Library(name="a", least=least, version=version)]))
    assert (found["a"] == "ok") == (other >= one)


def test_zeromq_needs_curve() -> None:
    assert statuses(checks.curve(True, "4.3.5")) == {"libzmq": "ok"}
    assert statuses(checks.curve(False, "4.3.5")) == {"libzmq": "error"}


def test_a_primitive_with_another_answer_is_an_error_that_shows_both() -> None:
    assert checks.answer("SHA-256", "FIPS", "00ff", "00ff").status == "ok"
    wrong = checks.answer("SHA-256", "FIPS", "00ff", "ImportError: no such library")
    assert wrong.status == "error"
    assert "expected 00ff, got ImportError: no such library" in wrong.said
    assert wrong.todo


def test_every_primitive_answers_as_published_here() -> None:
    found = {known.name: known.get().hex() == known.expected for known in answers()}
    assert found == dict.fromkeys(found, True)
    assert len(found) == 9


def test_arithmetic_is_as_it_must_be_here_and_an_error_otherwise() -> None:
    found = facts.arithmetic()
    assert statuses(checks.arithmetic(found)) == dict.fromkeys(found, "ok")
    assert statuses(checks.arithmetic({"rounding": "0.5 is rounded to 1"})) == {"rounding": "error"}


def test_speed_below_its_bound_is_a_warning() -> None:
    assert checks.speed("a", 0.6, "GB/s", 0.5, "x").status == "ok"
    slow = checks.speed("a", 0.4, "GB/s", 0.5, "x")
    assert (slow.status, "0.4 GB/s (x), less than 0.5" in slow.said, bool(slow.todo)) == ("warning", True, True)
    assert checks.speed("a", None, "GB/s", 0.5, "no such thing").status == "ok"


@pytest.mark.parametrize(
    ("name", "changes", "status"),
    [
        ("memory", {"free_gib": None}, "warning"),
        ("memory", {"free_gib": 0.5}, "error"),
        ("memory", {"free_gib": 1.0}, "warning"),
        ("address space", {"address_space_gib": 1.0}, "warning"),
        ("address space", {"address_space_gib": 9.0}, "ok"),
        ("swap", {"swap_gib": 2.0}, "warning"),
        ("swap", {"swap_gib": None}, "ok"),
        ("core dumps", {"core_dumps": True}, "error"),
        ("open files", {"descriptors": 64}, "warning"),
        ("threads", {"threads": {"OMP_NUM_THREADS": "1"}}, "ok"),
        ("threads", {"threads": {"OMP_NUM_THREADS": "16"}}, "warning"),
        ("threads", {"threads": {"OMP_NUM_THREADS": "many"}}, "error"),
        ("threads", {"threads": {"OMP_NUM_THREADS": "0"}}, "error"),
    ],
)
def test_each_limit_of_the_machine_has_its_finding(name: str, changes: dict[str, Any], status: str) -> None:
    well = statuses(checks.machine(WELL))
    assert set(well.values()) == {"ok"}
    assert statuses(checks.machine(changed(WELL, **changes))) == well | {name: status}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, {"monotonic": "ok", "wall": "ok"}),
        ({"monotonic_s": 0.0}, {"monotonic": "error", "wall": "ok"}),
        ({"wall_s": 0.2}, {"monotonic": "ok", "wall": "warning"}),
        ({"wall_s": -3600.0}, {"monotonic": "ok", "wall": "warning"}),
        ({"year": 1970}, {"monotonic": "ok", "wall": "error"}),
    ],
)
def test_clocks_go_forward_at_one_pace(changes: dict[str, Any], found: dict[str, str]) -> None:
    assert statuses(checks.clocks(changed(STEADY, **changes), asked=False)) == found
    asked = list(checks.clocks(changed(STEADY, **changes), asked=True))
    assert "not compared" in asked[-1].said


def test_text_that_is_not_utf_8_is_a_warning() -> None:
    assert statuses(checks.text(Text(files="utf-8", output="UTF-8", locale="utf8"))) == {
        "file names": "ok",
        "output": "ok",
        "locale": "ok",
    }
    found = statuses(checks.text(Text(files="utf-8", output="latin-1", locale="ANSI_X3.4-1968")))
    assert found == {"file names": "ok", "output": "warning", "locale": "warning"}
    assert statuses(checks.text(Text(files="utf-8", output="", locale="UTF-8")))["output"] == "warning"


@pytest.mark.parametrize(
    ("free_gib", "writable", "status"),
    [(9.0, True, "ok"), (1.0, True, "warning"), (0.01, True, "error"), (9.0, False, "error")],
)
def test_a_disk_needs_room_and_leave_to_write(free_gib: float, writable: bool, status: str) -> None:
    assert statuses(checks.folder(Folder(path="runs", free_gib=free_gib, writable=writable))) == {"disk": status}


def test_a_key_file_that_is_refused_is_an_error_with_its_hint() -> None:
    good, bad = Key(path="a.key"), Key(path="b.key", refused="b.key is open to others", todo="chmod 600 b.key")
    lines = list(checks.keys([good, bad]))
    assert [line.status for line in lines] == ["ok", "error"]
    assert (lines[1].said, lines[1].todo) == (bad.refused, bad.todo)


def test_a_port_that_cannot_be_had_is_an_error_unless_the_run_has_it() -> None:
    taken = "Address already in use"
    assert statuses(checks.ports([Port(address="127.0.0.1:1", what="a")])) == {"a": "ok"}
    assert statuses(checks.ports([Port(address="127.0.0.1:1", what="a", refused=taken)])) == {"a": "error"}
    assert statuses(checks.ports([Port(address="127.0.0.1:1", what="a", ours=True)])) == {"a": "ok"}


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [
        ("handshake", "ok", "it proved its key"),
        ("connected", "ok", "its key was not asked for"),
        ("no handshake", "error", "connected, but nobody proved it"),
        ("no connection", "error", "nobody proved it"),
    ],
)
def test_a_peer_is_reached_and_the_line_says_what_was_tried(how: Any, status: str, said: str) -> None:
    (line,) = checks.peers([Peer(name="coordinator", address="h:1", how=how, why="nobody proved it")])
    assert (line.status, said in line.said, bool(line.todo)) == (status, True, status != "ok")


# --- what is asked of the network and of files ---


class Listening:
    """A process with an open door, as a coordinator has one."""

    def __init__(self) -> None:
        self.who = identity("coordinator")

    def examined(self, curve: bytes) -> list[Peer]:
        """What the examination finds with a URL that names this CURVE key."""

        async def both() -> list[Peer]:
            transport = ZeroMQTransport(self.who.curve_secret, bind="tcp://127.0.0.1:*", door=Door())
            await transport.start()
            port = int(transport.address.rpartition(":")[2])
            url = JoinURL(host="127.0.0.1", port=port, run=bytes(32), key=self.who.public, curve=curve)
            try:
                return await asyncio.to_thread(lambda: list(facts.peers(Place(None, url))))
            finally:
                await transport.close(0)

        return asyncio.run(both())


def test_a_coordinator_proves_its_key_and_another_key_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator = Listening()
    (peer,) = coordinator.examined(coordinator.who.curve_public)
    assert (peer.how, peer.name) == ("handshake", "coordinator")
    monkeypatch.setattr(facts, "HANDSHAKE_S", 0.5)
    (peer,) = coordinator.examined(identity("other").curve_public)
    assert peer.how == "no handshake"


@pytest.fixture
def port() -> Iterator[int]:
    """A port where somebody listens who does not speak."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_a_closed_port_and_a_silent_one_are_told_apart(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "HANDSHAKE_S", 0.3)
    url = JoinURL(host="127.0.0.1", port=port, run=bytes(32), key=bytes(32), curve=identity("a").curve_public)
    (peer,) = facts.peers(Place(None, url))
    assert (peer.how, peer.address) == ("no handshake", f"127.0.0.1:{port}")
    assert facts._port("127.0.0.1", port, "a").refused == "Address already in use"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = free.getsockname()[1]
    (peer,) = facts.peers(
        Place(None, JoinURL(host="127.0.0.1", port=closed, run=bytes(32), key=bytes(32), curve=url.curve))
    )
    assert (peer.how, peer.why) == ("no connection", "Connection refused")
    assert not facts._port("127.0.0.1", closed, "a").refused


def test_a_target_is_a_url_a_run_or_nothing(tmp_path: Path) -> None:
    assert facts.place("") == Place(None, None)
    url = JoinURL(host="example.org", port=1, run=bytes(32), key=bytes(32), curve=bytes(32))
    assert facts.place(str(url)) == Place(None, url)
    for target, number in (("interlock://nowhere", 613), (str(tmp_path), 705)):
        with pytest.raises(Misused) as caught:
            facts.place(target)
        assert caught.value.number == number


def test_key_files_open_to_others_are_found(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    for name in ("a", "b"):
        identity(name).save(tmp_path / "keys" / f"{name}.key")
    (tmp_path / "keys" / "b.key").chmod(0o644)
    found = list(facts.keys(Place(RunDir(tmp_path), None)))
    assert [bool(key.refused) for key in found] == [False, True]
    assert "chmod 600" in found[1].todo


def test_lines_are_json() -> None:
    line = checks.speed("a", 1.0, "GB/s", 0.5, "x")
    assert msgspec.json.decode(msgspec.json.encode(line))["status"] == "ok"
