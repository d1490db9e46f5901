"""A process speaks what it and its run have in common, reads nothing else, and says so before it takes part."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols.world import number_of
from tests.runs import identity, manifest

from interlock.protocols import effects as fx
from interlock.protocols.canonical import decode, encode
from interlock.protocols.errors import Misused, Refused
from interlock.protocols.fetching import GetIndex
from interlock.protocols.manifest import Manifest, read_manifest
from interlock.protocols.members import Join, Welcome, make_record
from interlock.protocols.net.runner import MemoryStore, Runner, SimulatedWorker
from interlock.protocols.net.simulated import Network, SimulatedTransport, in_order
from interlock.protocols.net.virtual import run as run_virtual
from interlock.protocols.service.process import Guest, join
from interlock.protocols.service.url import JoinURL
from interlock.protocols.versions import HELLO, OURS, Versions, common
from interlock.protocols.wire import Buffer, Envelope, Limits, pack, unpack

COORDINATOR, NODE = identity("coordinator"), identity("node0")
NUMBERS = st.integers(1, 9)
replace = msgspec.structs.replace


def versions(oldest: int, newest: int) -> Versions:
    return Versions(oldest=oldest, newest=newest)


RANGES = st.tuples(NUMBERS, NUMBERS).map(sorted).map(lambda pair: versions(*pair))


@given(RANGES, RANGES)
def test_what_two_have_in_common_is_what_both_speak(run: Versions, ours: Versions) -> None:
    both = {version for version in range(1, 10) if version in run and version in ours}
    if not both:
        assert number_of(lambda: common(run, ours)) == 216
        return
    assert common(run, ours) == versions(min(both), max(both))


@pytest.mark.parametrize(("run", "todo"), [(versions(2, 3), "a newer"), (versions(1, 1), "an older")])
def test_who_has_nothing_in_common_is_told_what_to_install(run: Versions, todo: str) -> None:
    ours = versions(1, 1) if run.oldest > 1 else versions(2, 2)
    with pytest.raises(Misused) as caught:
        common(run, ours)
    assert (caught.value.expected, caught.value.actual) == (f"version {run.text}", f"version {ours.text}")
    assert f"Install {todo} interlock" in caught.value.todo


def test_this_program_speaks_every_run_that_says_nothing_else() -> None:
    assert common(manifest().wire) == OURS
    assert HELLO in OURS


def test_a_manifest_names_its_versions_and_is_another_run_with_others() -> None:
    newer = replace(manifest(), wire=versions(2, 3))
    assert read_manifest(encode(newer)).wire == versions(2, 3)
    assert newer.run != manifest().run
    assert number_of(lambda: read_manifest(encode(replace(manifest(), wire=versions(3, 2))))) == 611
    assert number_of(lambda: read_manifest(encode(replace(manifest(), wire=versions(0, 1))))) == 201
    short = encode(msgspec.structs.astuple(manifest())[:-1])  # a default is not to make two manifests of one run
    assert number_of(lambda: read_manifest(short)) == 201


# --- messages ---


def said(message: Any, **changes: Any) -> list[Buffer]:
    run = manifest().run
    return pack(message, (), run=run, sender=NODE, to=COORDINATOR.public, sequence=1, **changes)


def heard(parts: list[Buffer], **changes: Any) -> object:
    context: dict[str, Any] = dict(kinds=GetIndex | Join, peer=NODE.public, limits=Limits())
    return unpack(parts, run=manifest().run, me=COORDINATOR.public, **(context | changes)).message


def version_of(parts: list[Buffer]) -> int:
    return decode(parts[0], Envelope).version


def test_a_newer_peer_speaks_the_runs_version_and_is_understood() -> None:
    newer = common(manifest().wire, versions(1, 3))
    assert heard(said(GetIndex(), version=newer.newest)) == GetIndex()
    beyond = said(GetIndex(), version=3)
    assert number_of(lambda: heard(beyond)) == 203
    assert heard(beyond, versions=versions(2, 3)) == GetIndex()
    assert number_of(lambda: heard(said(GetIndex(), version=1), versions=versions(2, 3))) == 203


def test_joining_is_the_same_in_all_versions() -> None:
    asks = Join(record=make_record(NODE, "node", "nora"), invitation=None)
    for spoken in (1, 7):
        parts = said(asks, version=spoken)
        assert version_of(parts) == HELLO
        assert heard(parts, versions=versions(7, 7)) == asks
    envelope = decode(said(asks)[0], Envelope)
    other = replace(envelope, version=7, signature=b"")
    content = encode(asks)
    forged: list[Buffer] = [encode(replace(other, signature=NODE.sign(other.body(content)))), content]
    assert number_of(lambda: heard(forged, versions=versions(7, 7))) == 203


class Asks:
    """A role that says one thing when it begins, and what it hears."""

    def restore(self, stored: object) -> fx.Effects:
        return [fx.Send(COORDINATOR.public, GetIndex()), fx.After(1.0, "end")]

    def on_timer(self, name: str) -> fx.Effects:
        return [fx.Stop()]


@pytest.mark.parametrize(("ours", "written"), [(versions(1, 1), 1), (versions(1, 2), 2), (versions(2, 9), 2)])
def test_a_process_writes_the_newest_version_in_common(ours: Versions, written: int) -> None:
    network, found = Network(in_order), []

    async def main() -> None:
        server = SimulatedTransport(network, COORDINATOR.public, COORDINATOR.curve_public, bind="sim://c")
        client = SimulatedTransport(network, NODE.public, NODE.curve_public)
        await server.start()
        await client.start()
        server.admit(NODE.public, NODE.curve_public)
        client.connect(COORDINATOR.public, COORDINATOR.curve_public, server.address)
        role: Any = Asks()
        runner = Runner(
            role,
            client,
            run=manifest().run,
            signer=NODE,
            kinds=GetIndex,
            limits=Limits(),
            store=MemoryStore(),
            worker=SimulatedWorker(lambda job: None),
            draw=bytes,
            observe=lambda event: None,
            clock=lambda: 0.0,
            versions=common(versions(1, 2), ours),
        )
        await runner.run()
        found.append(version_of(list((await server.receive()).parts)))

    run_virtual(main(), seconds_max=60)
    assert found == [written]


# --- joining ---


def joins(made: Manifest, folder: Path) -> Manifest:
    """Join a run by its URL; its coordinator answers everybody, whatever they speak."""
    network = Network(in_order)
    url = JoinURL(host="c", port=1, run=made.run, key=COORDINATOR.public, curve=COORDINATOR.curve_public)
    guest = Guest(url=url, identity=NODE, operator="nora", wait_s=10.0)
    asks = Join(record=make_record(NODE, "node", "nora"), invitation=None)

    async def answers(server: SimulatedTransport) -> None:
        arrival = await server.receive()
        received = unpack(
            arrival.parts,
            kinds=Join,
            run=made.run,
            me=COORDINATOR.public,
            peer=None,
            limits=Limits(),
            versions=made.wire,
        )
        server.greet(received.sender, arrival.curve)
        welcome = Welcome(manifest=encode(made))
        parts = pack(
            welcome, (), run=made.run, sender=COORDINATOR, to=NODE.public, sequence=1, version=made.wire.newest
        )
        server.send(NODE.public, parts)

    async def main() -> Manifest:
        server = SimulatedTransport(
            network, COORDINATOR.public, COORDINATOR.curve_public, bind="tcp://c:1", open_door=True
        )
        await server.start()
        client: Any = SimulatedTransport(network, NODE.public, NODE.curve_public)
        answering = asyncio.ensure_future(answers(server))
        try:
            return await join(client, guest, asks, keep=folder)
        finally:
            await answering

    return run_virtual(main(), seconds_max=60)


def test_who_joins_a_newer_run_is_told_at_once_and_keeps_nothing(tmp_path: Path) -> None:
    newer = replace(manifest(), wire=versions(2, 3))
    with pytest.raises(Misused) as caught:
        joins(newer, tmp_path)
    assert (caught.value.number, caught.value.expected) == (216, "version 2 to 3")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wire", [versions(1, 1), versions(1, 4)])
def test_who_speaks_one_of_the_runs_versions_is_in(tmp_path: Path, wire: Versions) -> None:
    made = replace(manifest(), wire=wire)
    assert joins(made, tmp_path) == made
    assert (tmp_path / "manifest").read_bytes() == encode(made)


def test_another_version_is_refused_before_the_rest_of_the_envelope_is_read() -> None:
    with pytest.raises(Refused) as caught:
        heard([encode([2, "a future envelope"]), b""])
    assert caught.value.number == 203
