"""A coordinator's new place is believed on its signature alone, and only if it is newer."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest
from tests.runs import identity, manifest

from interlock.protocols.boundary import Here
from interlock.protocols.effects import Admit, Connect, Send
from interlock.protocols.errors import Refused
from interlock.protocols.moved import Moved, Whereabouts, make_moved
from interlock.protocols.relay import Relay

MADE = manifest()
COORDINATOR = identity("coordinator")


def moved(when: int = 5, *, by: str = "coordinator", run: bytes = MADE.run) -> Moved:
    """A signed place."""
    return make_moved(identity(by), run=run, address=f"tcp://host:{when}", when=when)


@dataclass(frozen=True)
class Wrong:
    """A place that must be refused."""

    number: int
    place: Moved


@pytest.mark.parametrize(
    "wrong",
    [
        Wrong(204, moved(run=bytes(32))),
        Wrong(206, moved(by="node0")),
        Wrong(206, msgspec.structs.replace(moved(), address="tcp://elsewhere:1")),
        Wrong(206, msgspec.structs.replace(moved(), when=6)),
        Wrong(206, msgspec.structs.replace(moved(), curve=bytes(32))),
    ],
)
def test_a_place_that_the_coordinator_did_not_sign_is_refused(wrong: Wrong) -> None:
    known = Whereabouts(MADE)
    with pytest.raises(Refused) as caught:
        known.learn(wrong.place)
    assert caught.value.number == wrong.number and known.newest is None


def test_only_a_newer_place_counts() -> None:
    known = Whereabouts(MADE)
    assert known.learn(moved(5)) == [Connect(COORDINATOR.public, COORDINATOR.curve_public, "tcp://host:5")]
    assert known.learn(moved(5)) == known.learn(moved(4)) == []
    assert known.learn(moved(6)) == [Connect(COORDINATOR.public, COORDINATOR.curve_public, "tcp://host:6")]


def test_a_relay_lets_the_coordinator_in_and_tells_everybody() -> None:
    relay = Relay(
        identity("relay0"),
        MADE,
        operator="relay0",
        address="tcp://relay:1",
        invitation=None,
        coordinator_curve=COORDINATOR.curve_public,
    )
    assert Admit(COORDINATOR.public, COORDINATOR.curve_public) in relay.restore({})
    relay._known[identity("node0").public] = "node0"
    place = moved()
    said = relay.on_message(COORDINATOR.public, place, ())
    assert said == [
        Connect(COORDINATOR.public, COORDINATOR.curve_public, place.address),
        Send(identity("node0").public, place),
    ]
    with pytest.raises(Refused):
        relay.on_message(identity("node0").public, place, ())
    assert relay.on_message(identity("node0").public, Here(tick=0, have=()), ())
