"""A manifest that cannot work is refused with its number, and its hash is the run."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols.world import number_of
from tests.runs import identity, manifest

from interlock.protocols.canonical import encode
from interlock.protocols.manifest import Committee, Keyholder, Manifest, Policy, read_manifest, readable
from interlock.protocols.versions import Versions

MADE = manifest()
replace = msgspec.structs.replace


def with_committee(**changes: Any) -> Manifest:
    """The manifest with another committee."""
    return replace(MADE, committee=replace(MADE.committee, **changes))


def seats(*names: str) -> tuple[Keyholder, ...]:
    """Keyholders."""
    return tuple(Keyholder(name=name, key=identity(name).public) for name in names)


ADA, BELA, CLEO = seats("ada", "bela", "cleo")
IMPOSSIBLE: dict[str, tuple[int, Manifest]] = {
    "one name twice": (610, with_committee(keyholders=(ADA, BELA, replace(CLEO, name="ada")))),
    "one key twice": (610, with_committee(keyholders=(ADA, BELA, replace(CLEO, key=ADA.key)))),
    "a weak key": (610, with_committee(keyholders=(ADA, BELA, replace(CLEO, key=bytes(32))))),
    "a weak key of the coordinator": (610, replace(MADE, coordinator=bytes(32))),
    "the coordinator is a keyholder": (610, replace(MADE, coordinator=ADA.key)),
    "more releases than gates": (610, with_committee(release=4, resume=4)),
    "more halts than keyholders": (610, with_committee(halt=4)),
    "more resumes than keyholders": (610, with_committee(resume=4)),
    "two plans could open": (610, with_committee(release=1)),
    "half of four": (610, with_committee(keyholders=seats("a", "b", "c", "d"), release=2)),
    "a liar too many": (610, with_committee(lying=1)),
    "resuming is easier than halting": (610, with_committee(halt=3, resume=2)),
    "resuming is easier than releasing": (610, with_committee(release=3, resume=2)),
    "heads that do not divide the width": (611, replace(MADE, model=replace(MADE.model, heads=3))),
    "an odd head": (611, replace(MADE, model=replace(MADE.model, width=6))),
    "too wide": (611, replace(MADE, model=replace(MADE.model, width=8192))),
    "too few micro-batches": (612, replace(MADE, training=replace(MADE.training, microbatches=1))),
    "too little text to train on": (602, replace(MADE, data=replace(MADE.data, train_bytes=33))),
    "too little text to validate on": (602, replace(MADE, data=replace(MADE.data, validation_bytes=33))),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_an_impossible_manifest_is_refused_with_its_number(case: str) -> None:
    number, made = IMPOSSIBLE[case]
    assert number_of(made.verify) == number
    assert number_of(lambda: read_manifest(encode(made))) == number


def test_text_for_one_micro_batch_is_enough() -> None:
    replace(MADE, data=replace(MADE.data, train_bytes=34, validation_bytes=34)).verify()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9))
def test_thresholds_pass_exactly_if_any_two_openings_share_an_honest_gate(n: int, release: int, lying: int) -> None:
    made = with_committee(
        keyholders=seats(*(f"k{i}" for i in range(n))), release=release, halt=1, resume=n, lying=lying
    )
    shared = 2 * release - n  # at least so many gates are in both
    assert (number_of(made.verify) == 0) == (release <= n and shared > lying)


def test_a_manifest_reads_back_from_its_bytes_and_is_its_run() -> None:
    assert read_manifest(encode(MADE), run=MADE.run) == MADE
    assert number_of(lambda: read_manifest(encode(MADE), run=bytes(32))) == 204
    assert number_of(lambda: read_manifest(encode(MADE) + b"\0")) == 201
    assert number_of(lambda: read_manifest(encode(MADE)[:-1])) == 201


@pytest.mark.parametrize("field", sorted(set(Manifest.__struct_fields__) - {"version"}))
def test_every_field_changes_the_run(field: str) -> None:
    # `version` has one value.
    others: dict[str, Any] = dict(
        name="other",
        nonce=b"n" * 16,
        coordinator=identity("other").public,
        committee=replace(MADE.committee, halt=1),
        model=replace(MADE.model, hidden=64),
        stages=2,
        replicas=1,
        relays=1,
        data=replace(MADE.data, train_bytes=49_999),
        training=replace(MADE.training, rate=0.01),
        admission="open",
        release="manual",
        frame_width=32,
        frame_fraction=11,
        gradient_exponent=-9,
        policy=Policy(pause_hours=1),
        wire=Versions(oldest=1, newest=2),
    )
    assert replace(MADE, **{field: others[field]}).run != MADE.run


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stages", 1),
        ("stages", 65),
        ("replicas", 0),
        ("replicas", 16),
        ("relays", 0),
        ("frame_width", 20),
        ("version", 2),
    ],
)
def test_values_outside_their_range_are_malformed(field: str, value: object) -> None:
    assert number_of(lambda: read_manifest(encode(replace(MADE, **{field: value})))) == 201


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, float("nan"), float("inf")])
def test_a_rate_that_is_no_rate_is_malformed(rate: float) -> None:
    made = replace(MADE, training=replace(MADE.training, rate=rate))
    assert number_of(lambda: read_manifest(encode(made))) == 201


def test_the_rate_rises_stays_and_falls() -> None:
    training = replace(MADE.training, rounds=10, rate=0.5, warmup=2, decay=4)
    rates = [training.rate_at(r) for r in range(10)]
    assert rates == pytest.approx([0.25, 0.5, 0.5, 0.5, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert min(replace(training, warmup=10, decay=10).rate_at(r) for r in range(10)) > 0


def test_readable_has_names_and_hex_and_no_bytes() -> None:
    shown = readable(MADE)
    assert shown["coordinator"] == MADE.coordinator.hex()
    assert shown["committee"]["keyholders"][0] == {"name": "ada", "key": ADA.key.hex()}
    assert shown["model"] == {
        "width": 16,
        "heads": 2,
        "layers_per_stage": 1,
        "hidden": 32,
        "mlp": "relu2",
        "context": 16,
    }
    assert set(shown) == set(Manifest.__struct_fields__)
    msgspec.json.encode(shown)


def test_thresholds_are_told_in_sentences() -> None:
    meaning = " / ".join(MADE.committee.meaning())
    assert "2 of 3 gates" in meaning
    assert "any 2 keyholders stop the run by doing nothing" in meaning
    assert isinstance(MADE.committee, Committee)
