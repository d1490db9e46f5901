"""The coordinator alone: what it does after a restart."""

from __future__ import annotations

from typing import Any

import pytest
from tests.runs import identity, manifest, play, text

from interlock.protocols import corpus
from interlock.protocols.canonical import decode
from interlock.protocols.coordinator import MOVES_MAX, Coordinator
from interlock.protocols.effects import Admit, After, Effects, Send, Store
from interlock.protocols.errors import Refused
from interlock.protocols.journal import Changed, Committed, Measured, Opened, Row
from interlock.protocols.members import Join, make_invitation, make_record
from interlock.protocols.proposal import Propose
from interlock.protocols.recovery import knows
from interlock.protocols.release import Ready

NODES = [f"node{i}" for i in range(6)]


@pytest.fixture(scope="module")
def rows() -> list[tuple[str, bytes]]:
    values = play(manifest()).stores["coordinator"].values
    return sorted(values.items())


def restarted(rows: list[tuple[str, bytes]], kind: type) -> tuple[list[Any], list[Any], Row]:
    """A coordinator restored from the rows up to the first of `kind`: its first effects, and what it then proposes."""
    decoded = [decode(value, Row) for _, value in rows]
    end = next(i for i, row in enumerate(decoded) if isinstance(row.body, kind))
    made, whole = manifest(), text()
    index = corpus.index(whole)
    role = Coordinator(identity("coordinator"), made, index=index, chunk=lambda n: corpus.chunk(whole, n))
    first = role.restore(dict(rows[: end + 1]))
    effects: list[Any] = []
    for name in [*NODES, "ada", "bela"]:
        effects += role.on_message(identity(name).public, Ready(known=0), ())
    assert not [e for e in effects if isinstance(e, Send) and isinstance(e.message, Propose)]  # gates may know more
    for name in ("ada", "bela"):
        effects += role.on_message(identity(name).public, knows(None), ())
    return first, effects, decoded[end]


@pytest.mark.parametrize("kind", [Committed, Changed, Measured])
def test_a_coordinator_that_restarts_after_a_finished_tick_plans_the_next(rows: Any, kind: type) -> None:
    _, effects, last = restarted(rows, kind)
    asks = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Propose)]
    assert {ask.plan.tick for ask in asks} == {last.body.tick + 1}
    assert asks[0].plan.head == last.digest


def test_a_coordinator_that_restarts_in_an_open_tick_gives_it_its_time_and_plans_no_other(rows: Any) -> None:
    first, effects, last = restarted(rows, Opened)
    assert f"patience {last.body.tick}" in [e.name for e in first if isinstance(e, After)]
    assert not [e for e in effects if isinstance(e, Send) and isinstance(e.message, Propose)]


# --- where relays are ---


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:7701", "tcp://localhost:7701", "tcp://0.0.0.0:7701"])
@pytest.mark.parametrize("local", [True, False])
def test_a_relay_that_leads_everybody_to_themselves_is_let_in_where_all_are_on_one_machine(
    address: str, local: bool
) -> None:
    made, whole, relay = manifest(), text(), identity("relay0")
    index = corpus.index(whole)
    role = Coordinator(identity("coordinator"), made, index=index, chunk=lambda n: corpus.chunk(whole, n), local=local)
    role.restore({})
    invited = make_invitation(identity("ada"), run=made.run, role="relay", label="r", nonce=bytes(16))
    asks = Join(record=make_record(relay, "relay", "r", address), invitation=invited)
    if local:
        assert Admit(relay.public, relay.curve_public) in role.on_message(relay.public, asks, ())
        return
    with pytest.raises(Refused, match=f"E214 relay r says that it listens at {address}") as caught:
        role.on_message(relay.public, asks, ())
    assert "--advertise" in caught.value.todo
    there = Join(record=make_record(relay, "relay", "r", "tcp://10.0.0.127:7701"), invitation=invited)
    assert Admit(relay.public, relay.curve_public) in role.on_message(relay.public, there, ())  # it may try again


def test_a_relay_moves_so_often_and_not_for_ever() -> None:
    made, whole, relay = manifest(), text(), identity("relay0")
    index = corpus.index(whole)
    role = Coordinator(identity("coordinator"), made, index=index, chunk=lambda n: corpus.chunk(whole, n))
    role.restore({})
    invited = make_invitation(identity("ada"), run=made.run, role="relay", label="r", nonce=bytes(16))

    def moves(number: int) -> Effects:
        record = make_record(relay, "relay", "r", f"tcp://10.0.0.1:{number}")
        return role.on_message(relay.public, Join(record=record, invitation=invited), ())

    for number in range(1, MOVES_MAX + 2):  # the first is where it begins
        assert any(isinstance(effect, Store) for effect in moves(number))
    assert not any(isinstance(effect, Store) for effect in moves(MOVES_MAX + 1))  # it is there already
    with pytest.raises(Refused, match="E212 relay r has moved 64 times"):
        moves(MOVES_MAX + 2)
