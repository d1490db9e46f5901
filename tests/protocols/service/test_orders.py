"""Orders as files and messages, and the commands by which keyholders make, sign and read them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.protocols import test_cli
from tests.protocols.ordered import NOW, halt, make, pause, resume, signed
from tests.runs import identity, manifest, text

from interlock.protocols import corpus, messages
from interlock.protocols.canonical import encode
from interlock.protocols.coordinator import Coordinator
from interlock.protocols.effects import Announce, Connect, Effects, Stop, Store
from interlock.protocols.errors import Misused, Refused
from interlock.protocols.gate import Gate
from interlock.protocols.manifest import Manifest
from interlock.protocols.net.runner import MemoryStore, Runner, ThreadWorker
from interlock.protocols.net.zeromq import Door, ZeroMQTransport
from interlock.protocols.obeying import Obeyed
from interlock.protocols.orders import ORDER_BYTES_MAX, read_order
from interlock.protocols.service import orders, process
from interlock.protocols.service.rundir import STORE, RunDir
from interlock.protocols.service.store import SQLiteStore
from interlock.protocols.service.url import JoinURL
from interlock.vault import Identity

MADE = manifest()
call, run, texts = test_cli.call, test_cli.run, test_cli.texts
Call = test_cli.Call


class Sitting:
    """A gate without its network: it stores, and looks into its folder."""

    def __init__(self, folder: Path, name: str, made: Manifest, *, now: float | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.now = folder, now
        self.store = SQLiteStore(folder / STORE)
        self.events: list[Any] = []
        self.stopped: list[Any] = []
        self.connected: list[Connect] = []
        self.role = Gate(identity(name), made, operator=name)
        self.perform(lambda: self.role.restore(self.store.load()))
        self.inbox = orders.Inbox(folder, self.role, self.perform, moved=self.moved)

    def moved(self, text: str) -> Effects:
        """A coordinator's new place, from a file."""
        return process.moved(text, MADE, identity("ada"))

    def perform(self, wanted: Callable[[], Effects]) -> None:
        """Carry out what the tests need of effects."""
        self.role.at(orders.now() if self.now is None else self.now)
        for effect in wanted():
            if isinstance(effect, Store):
                self.store.put({effect.key: effect.value})
            elif isinstance(effect, Announce):
                self.events.append(effect.event)
            elif isinstance(effect, Connect):
                self.connected.append(effect)
            elif isinstance(effect, Stop):
                self.stopped.append(effect.error)


@pytest.fixture
def sitting(tmp_path: Path) -> Iterator[Sitting]:
    (tmp_path / "manifest").write_bytes(encode(MADE))
    made = Sitting(tmp_path / "gate-ada", "ada", MADE, now=NOW)
    yield made
    made.store.close()


def drop(sitting: Sitting, name: str, data: str | bytes) -> Path:
    """Put a file into its folder, and let it look."""
    path = sitting.folder / "orders" / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    sitting.inbox.look()
    return path


def result(path: Path) -> tuple[bool, str]:
    """Whether a file was accepted, and what was said."""
    accepted, refused = path.with_name(path.name + ".accepted"), path.with_name(path.name + ".refused")
    assert accepted.exists() != refused.exists()
    return accepted.exists(), (accepted if accepted.exists() else refused).read_text()


def test_an_order_in_the_folder_is_obeyed_and_said_to_be_accepted(sitting: Sitting) -> None:
    path = drop(sitting, "any name.order", halt(MADE).note(MADE.committee))
    assert result(path) == (True, "accepted\n")
    assert [event.seq for event in sitting.events if isinstance(event, Obeyed)] == [1]
    assert list(orders.waiting(path.parent)) == []


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (b"", 340),
        (b"\xff\xfe", 357),
        (b"x" * (ORDER_BYTES_MAX + 1), 357),
        (pause(MADE, hours=48).note(MADE.committee).encode(), 353),
        (halt(MADE).note(MADE.committee).replace("test", "lie").encode(), 342),
        (halt(manifest(name="other")).note(MADE.committee).encode(), 341),
    ],
)
def test_what_is_no_order_is_refused_beside_it_with_what_to_do(sitting: Sitting, data: bytes, number: int) -> None:
    accepted, said = result(drop(sitting, "bad.order", data))
    assert not accepted
    assert said.startswith(f"error: E{number} ")
    assert "\nhint: " in said
    assert not sitting.stopped
    assert sitting.role.orders.in_force is None


def test_a_file_is_looked_at_once_and_again_when_it_has_changed(sitting: Sitting) -> None:
    order = make(MADE, 1, "halt")
    path = drop(sitting, "a.order", signed(order, "ada").note(MADE.committee))
    before = len(sitting.events)
    sitting.inbox.look()
    assert len(sitting.events) == before
    drop(sitting, "a.order", signed(order, "ada", "bela").note(MADE.committee))
    assert sitting.role.orders.in_force is not None
    drop(sitting, "a.order", b"nonsense")
    assert not result(path)[0]


def test_other_files_are_left_alone(sitting: Sitting) -> None:
    drop(sitting, "a.order.new", halt(MADE).note(MADE.committee))
    (sitting.folder / "orders" / "folder.order").mkdir()
    sitting.inbox.look()
    assert sitting.role.orders.in_force is None
    assert not sitting.stopped
    (sitting.folder / "orders" / "gone.order").symlink_to("nowhere")
    sitting.inbox.look()


def test_a_role_that_has_ended_leaves_the_file_for_its_next_life(sitting: Sitting) -> None:
    inbox = orders.Inbox(sitting.folder, sitting.role, lambda wanted: None, moved=sitting.moved)
    path = sitting.folder / "orders" / "a.order"
    path.write_text(halt(MADE).note(MADE.committee))
    inbox.look()
    assert list(orders.waiting(path.parent)) == [path]
    sitting.inbox.look()
    assert result(path)[0]


def test_what_processes_know_is_read_from_their_stores_and_waiting_files(sitting: Sitting) -> None:
    order = make(MADE, 1, "halt")
    drop(sitting, "a.order", signed(order, "ada").note(MADE.committee))
    other = Sitting(sitting.folder.parent / "gate-bela", "bela", MADE, now=NOW)
    drop(other, "a.order", signed(order, "bela").note(MADE.committee))
    (other.folder / "orders" / "b.order").write_text(resume(MADE, halt(MADE), ("cleo",)).note(MADE.committee))
    (other.folder / "orders" / "c.order").write_text("rubbish")
    for directory in (sitting.folder.parent, other.folder):
        assert orders.manifest_of(directory) == MADE
    standing = orders.known(sitting.folder.parent, MADE)
    assert standing.known[order.hash].signatures.keys() == {identity(n).public for n in ("ada", "bela")}
    assert standing.in_force(NOW) is not None
    assert orders.known(sitting.folder, MADE).in_force(NOW) is None
    other.store.close()


def test_there_must_be_somebody_to_deliver_to(tmp_path: Path) -> None:
    with pytest.raises(Misused) as caught:
        orders.put(tmp_path, halt(MADE), MADE)
    assert caught.value.number == 359


# -- by message --------------------------------------------------------------------------------------------------------


class Listening:
    """A coordinator over ZeroMQ in a thread of its own."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.url: JoinURL | None = None
        self._up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._up.wait(20)

    async def _serve(self) -> None:
        who = identity("coordinator")
        transport = ZeroMQTransport(who.curve_secret, bind="tcp://127.0.0.1:*", door=Door())
        await transport.start()
        whole = text()
        role = Coordinator(who, MADE, index=corpus.index(whole), chunk=lambda n: corpus.chunk(whole, n))
        runner = Runner(
            role,
            transport,
            run=MADE.run,
            signer=who,
            kinds=messages.BY_COORDINATOR,
            door_kinds=messages.BY_STRANGERS,
            limits=messages.limits(MADE),
            store=MemoryStore(),
            worker=ThreadWorker(lambda job: None),
            draw=bytes,
            observe=self.events.append,
            clock=lambda: float(NOW),
        )
        port = int(str(transport.address).rpartition(":")[2])
        self.url = JoinURL(host="127.0.0.1", port=port, run=MADE.run, key=who.public, curve=who.curve_public)
        loop = asyncio.get_running_loop()
        self.stop = lambda: loop.call_soon_threadsafe(runner.interrupt, "leave")
        loop.call_soon(self._up.set)
        await runner.run(flush_s=0.1)

    def close(self) -> None:
        """End it."""
        self.stop()
        self._thread.join(20)


def test_anybody_may_bring_an_order_to_the_coordinator() -> None:
    coordinator = Listening()
    try:
        assert coordinator.url is not None
        with pytest.raises(Refused) as caught:
            orders.send(coordinator.url, pause(MADE, hours=48), MADE, wait_s=20)
        assert caught.value.number == 353
        orders.send(coordinator.url, halt(MADE), MADE, wait_s=20)
        assert [event.seq for event in coordinator.events if isinstance(event, Obeyed)] == [1]
        orders.send(coordinator.url, halt(MADE), MADE, wait_s=20)  # again is as good
    finally:
        coordinator.close()
    with pytest.raises(Misused) as absent:
        orders.send(coordinator.url, halt(MADE), MADE, wait_s=0.5)
    assert absent.value.number == 359


# -- commands ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def gate(run: RunDir) -> Iterator[Sitting]:
    """One gate of a local run, which looks into its folder now and then."""
    made = Sitting(run.folder("gate-ada"), "ada", run.manifest())
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.05):
            made.inbox.look()

    thread = threading.Thread(target=look)
    thread.start()
    yield made
    over.set()
    thread.join()
    made.store.close()


def key(run: RunDir, name: str) -> Path:
    return run.key(f"keyholder-{name}")


def said(result: tuple[int, str, str]) -> Any:
    """The JSON that a command printed."""
    status, out, error = result
    assert status == 0, error
    return json.loads(out)


def keyholder(call: Call, run: RunDir, action: str, name: str, *more: object) -> Any:
    """One keyholder signs."""
    return said(call("keyholder", action, run.path, "--key", key(run, name), "--yes", "--json", *more))


def test_keyholders_halt_and_resume_a_run(call: Call, run: RunDir, gate: Sitting) -> None:
    first = keyholder(call, run, "halt", "ada", "--reason", "the loss rises")
    assert (first["stands"], first["signed"], first["missing"]) == (
        "a proposal: 1 of 2 signatures",
        ["ada"],
        ["bela", "cleo"],
    )
    assert first["delivered"] == {"gate-ada": "accepted"}
    assert said(call("keyholder", "status", run.path, "--json"))["in_force"] is None
    (waiting,) = said(call("keyholder", "inbox", run.path, "--json"))
    assert waiting["hash"] == first["hash"]
    second = keyholder(call, run, "halt", "bela")
    assert (second["hash"], second["stands"], second["signed"]) == (first["hash"], "in force", ["ada", "bela"])
    assert gate.role.orders.in_force is not None
    _, out, _ = call("keyholder", "status", run.path)
    assert out.startswith("the run stands still by halt 1: the loss rises\n")
    third = keyholder(call, run, "resume", "ada", "--reason", "it falls again")
    assert (third["seq"], third["cites"]) == (2, 1)
    words = third["words"].split("-")[0]
    signed_too = said(call("keyholder", "sign", words, run.path, "--key", key(run, "bela"), "--yes", "--json"))
    assert signed_too["signed"] == ["ada", "bela"]
    assert keyholder(call, run, "resume", "cleo")["stands"] == "has taken effect"
    assert gate.role.orders.in_force is None
    assert said(call("keyholder", "status", run.path, "--json"))["answered"] == 1


def test_one_keyholder_pauses_for_as_long_as_the_run_allows(call: Call, run: RunDir, gate: Sitting) -> None:
    test_cli.refused(
        call(
            "keyholder", "pause", run.path, "--key", key(run, "ada"), "--yes", "--json", "--hours", 48, "--reason", "x"
        ),
        353,
    )
    found = keyholder(call, run, "pause", "ada", "--hours", 2, "--reason", "a disk is full")
    assert found["expires"] - found["not_before"] == 7200
    assert found["stands"] == "in force"
    again = call("keyholder", "pause", run.path, "--key", key(run, "bela"), "--yes", "--json", "--reason", "x")
    assert "stands still already" in test_cli.refused(again, 357)


def test_an_order_is_shown_whole_before_the_word_is_asked_for(
    call: Call, run: RunDir, gate: Sitting, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def prompt(text: str, **more: Any) -> str:
        asked.append(text)
        return answers.pop(0)

    monkeypatch.setattr("typer.prompt", prompt)
    answers = ["halt", "HALT"]
    arguments = ("keyholder", "halt", run.path, "--key", key(run, "ada"), "--reason", "the loss rises")
    status, _, error = call(*arguments)
    assert status == 1
    assert error.startswith("error: E358 ")
    assert not gate.role.orders.standing.known
    status, out, _ = call(*arguments)
    assert status == 0
    assert asked == ["type HALT to sign"] * 2
    (order,) = gate.role.orders.standing.known.values()
    for line in order.order.text.splitlines():
        assert f"  | {line}\n" in out
    assert f"words: {order.order.words}\n" in out
    assert "signing as ada" in out
    assert "if nobody else signs, nothing happens: it needs 2 more" in out


def test_everything_works_with_files_alone(call: Call, run: RunDir, tmp_path: Path) -> None:
    made, file = run.manifest(), tmp_path / "halt.order"
    out = ("--out", file)
    first = keyholder(call, run, "halt", "ada", "--reason", "by hand", *out)
    assert first["delivered"] == {}
    assert first["stands"] == "delivered to nobody yet"
    said(call("keyholder", "sign", file, run.path, "--key", key(run, "cleo"), "--yes", "--json", *out))
    whole = read_order(file.read_text(), made)
    assert whole.complete(made.committee)
    test_cli.refused(call("keyholder", "sign", file, run.path, "--key", key(run, "cleo"), "--yes", "--json"), 359)


def test_a_release_by_hand_reaches_the_gate(call: Call, run: RunDir, gate: Sitting) -> None:
    found = said(call("keyholder", "release", 3, run.path, "--key", key(run, "ada"), "--yes", "--json", "--days", 1))
    assert (found["seq"], found["epoch"], found["stands"]) == (0, 3, "allowed")
    made = Identity.load(key(run, "ada"))
    assert gate.role.orders.standing.allows(3, made.public, orders.now())


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        (("halt", "--reason", ""), 357),
        (("halt", "--reason", "two\nlines"), 357),
        (("resume", "--reason", "x"), 357),
        (("pause", "--reason", "x", "--hours", "48"), 353),
    ],
)
def test_what_makes_no_order_is_refused_before_it_is_signed(
    call: Call, run: RunDir, gate: Sitting, arguments: tuple[str, ...], number: int
) -> None:
    action, *more = arguments
    result = call("keyholder", action, run.path, "--key", key(run, "ada"), "--yes", "--json", *more)
    test_cli.refused(result, number)
    assert not gate.role.orders.standing.known


def test_only_a_keyholder_of_the_run_signs(call: Call, run: RunDir, gate: Sitting, tmp_path: Path) -> None:
    other = run.key("asker")
    for action, more in (("halt", ()), ("pause", ())):
        arguments = ("keyholder", action, run.path, "--key", other, "--yes", "--json", "--reason", "x", *more)
        test_cli.refused(call(*arguments), 357)
    test_cli.refused(call("keyholder", "sign", "abandon", run.path, "--key", other, "--yes"), 357)
    test_cli.refused(call("keyholder", "inbox", tmp_path / "nowhere"), 705)


def test_two_orders_with_one_number_are_shown_as_evidence(call: Call, run: RunDir, gate: Sitting) -> None:
    for reason in ("one", "two"):
        keyholder(call, run, "halt", "ada", "--reason", reason, "--out", run.path / f"{reason}.order")
    for reason in ("one", "two"):
        (gate.folder / "orders" / f"{reason}.order").write_text((run.path / f"{reason}.order").read_text())
    _, _, error = call("keyholder", "status", run.path)
    assert "warning: E355 two orders have number 1, signed by ada" in error


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        (lambda url: f"{url}\n", "accepted"),
        (lambda url: "interlock://nowhere", "error: E613"),
        (lambda url: str(replace(url, run=bytes(32))), "error: E339"),
        (lambda url: str(replace(url, key=bytes(32))), "error: E339"),
    ],
)
def test_a_coordinators_new_place_comes_as_a_file_too(
    sitting: Sitting, change: Callable[[JoinURL], str], outcome: str
) -> None:
    coordinator = identity("coordinator")
    url = JoinURL(host="there", port=7700, run=MADE.run, key=coordinator.public, curve=coordinator.curve_public)
    path = drop(sitting, "moved.url", change(url))
    (result,) = path.parent.glob("moved.url.*")
    assert result.read_text().startswith(outcome)
    wanted = [Connect(url.key, url.curve, "tcp://there:7700")] if outcome == "accepted" else []
    assert sitting.connected == wanted


def test_the_coordinator_looks_for_none() -> None:
    with pytest.raises(Misused, match="E338"):
        process.moved("", MADE, identity("coordinator"))
