"""Nearly right messages: refused by number, and a role that breaks under them is found, saved and played again."""

from __future__ import annotations

import json
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.protocols import messages
from interlock.protocols.boundary import Here
from interlock.protocols.canonical import encode
from interlock.protocols.effects import Effects
from interlock.protocols.relay import Relay
from interlock.protocols.round import Trouble
from interlock.specs.messages import messages as any_message
from interlock.specs.run import COORDINATOR, RunSpec, identity, key

from .campaign import replay, run
from .episode import Episode
from .mutations import bytes_changed, drawn, fields_changed, read, signed_again

SHORT = 3000


def test_a_few_thousand_messages_crash_nobody() -> None:
    outcome = run(20, SHORT)
    assert outcome.found is None, outcome.found
    assert outcome.heard == SHORT
    assert outcome.holds
    assert set(outcome.by_kind) == {"c", "g", "r", "n"}
    for number in (0, 201, 202, 204, 206, 210, 304):
        assert outcome.by_number[number], f"nothing was refused as E{number}: {outcome.by_number}"


def test_a_campaign_is_a_function_of_its_seed() -> None:
    first, again, other = run(1, 150), run(1, 150), run(2, 150)
    assert first.by_number == again.by_number
    assert first.by_kind == again.by_kind
    assert first.by_number != other.by_number


def test_what_one_role_keeps_is_bounded() -> None:
    """The same run hears few or many messages: what its roles hold afterwards does not grow with them."""
    kept = []
    for a_real in (0, 2):
        episode = Episode("memory", drawn(30, 1), a_real=a_real)
        tracemalloc.start()
        try:
            for arrival in episode.play():
                episode.hear(arrival)
            episode.last = None
            episode.real.clear()
            kept.append(tracemalloc.get_traced_memory()[0])
        finally:
            tracemalloc.stop()
    assert kept[1] < kept[0] + 4 * 2**20, kept


# --- what would be found ---


class Careless(Relay):
    """A relay that takes every tick for a small number."""

    def on_message(self, source: bytes, message: object, blobs: tuple[Any, ...]) -> Effects:
        """As a relay, and once more."""
        if isinstance(message, Here) and message.tick > 99:
            raise IndexError("no such tick")
        return super().on_message(source, message, blobs)


class Flooding(Relay):
    """A relay that answers a node ahead of it far too often."""

    def on_message(self, source: bytes, message: object, blobs: tuple[Any, ...]) -> Effects:
        """As a relay, many times over."""
        effects = super().on_message(source, message, blobs)
        return effects * (20_000 if isinstance(message, Here) and message.tick > 99 else 1)


def relay_of(kind: type[Relay]) -> Callable[[RunSpec, bytes], Any]:
    """Roles of a run with relays of another kind."""

    class Other(RunSpec):
        relay_role = kind

    return lambda spec, name: Other().role(name)


@pytest.mark.parametrize(
    ("kind", "fault"), [(Careless, "IndexError: no such tick"), (Flooding, "effects of one input")]
)
def test_a_careless_role_is_found_saved_and_played_again(kind: type[Relay], fault: str, tmp_path: Path) -> None:
    outcome = run(3, 20_000, role=relay_of(kind))
    assert outcome.found is not None
    assert fault in outcome.found.fault
    assert not outcome.holds
    path = tmp_path / "faults" / "one.json"
    outcome.found.save(path)
    said = json.loads(path.read_text())
    assert said["last"]["to"] == "r0"
    assert fault in said["fault"]
    again = replay(path, role=relay_of(kind))
    assert again is not None
    assert (again.fault, again.heard) == (outcome.found.fault, outcome.found.heard)
    assert replay(path) is None  # the program's own relay


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 9, "seed": 1, "episode": 0, "heard": 1}', "\x00"])
def test_a_file_that_is_no_saved_fault_is_said_to_be_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "no.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"no\.json is"):
        replay(path)


# --- the mutations ---

ANY = any_message(messages.EVERY).map(encode)


@given(st.integers(0, 2**32), ANY, ANY)
def test_mutations_give_bytes_and_leave_what_they_are_given(seed: int, data: bytes, other: bytes) -> None:
    before = bytes(data)
    for change in (bytes_changed, fields_changed):
        assert isinstance(change(random.Random(seed), data, other), bytes)
        assert change(random.Random(seed), data, other) == change(random.Random(seed), data, other)
    assert data == before


def test_many_changes_of_fields_are_messages_again() -> None:
    data = encode(Trouble(tick=3, number=401, what="a value is not finite"))
    changed = [fields_changed(random.Random(seed), data, data) for seed in range(300)]
    good = [each for each in changed if read(each, Trouble) is not None]
    assert len(set(good)) > 20
    assert len(good) < len(changed)


def test_signatures_made_anew_verify() -> None:
    spec = RunSpec()
    join = spec.role(key("n0"))._belonging._join
    renamed = msgspec.structs.replace(join, record=msgspec.structs.replace(join.record, operator="other"))
    labels = {key(label): label for label in ("g0", "n0")}
    again = signed_again(
        renamed, spec.manifest.run, lambda who: identity(labels[who]) if who in labels else identity(COORDINATOR)
    )
    assert again != join
    again.record.verify()  # type: ignore[attr-defined]
