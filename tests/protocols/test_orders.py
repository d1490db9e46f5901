"""An order is one text: what differs by a character is another order or none."""

from __future__ import annotations

import base64
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols.ordered import ALL, NOW, halt, make, pause, resume, signed
from tests.protocols.world import number_of
from tests.runs import identity, manifest

from interlock.protocols.errors import Refused
from interlock.protocols.manifest import Committee, Keyholder
from interlock.protocols.orders import (
    ORDER_BYTES_MAX,
    Order,
    key_id,
    read_order,
    read_text,
    shown_time,
    sign,
    signer,
)
from interlock.protocols.wordlist import WORDS

MADE = manifest()
HALT = halt(MADE)
NOTE = HALT.note(MADE.committee)

hashes = st.binary(min_size=32, max_size=32)
times = st.integers(0, 253_402_300_799)  # to the end of 9999
reasons = st.text(st.characters(categories=("L", "N", "P", "S")), min_size=1, max_size=60)


@st.composite
def orders(draw: Any) -> Order:
    """Any order of the test run."""
    action = draw(st.sampled_from(("pause", "halt", "resume", "release")))
    seq = 0 if action == "release" else draw(st.integers(2 if action == "resume" else 1, 2**31))
    begins = draw(st.integers(0, 253_402_300_798))
    return Order(
        run=MADE.run,
        seq=seq,
        action=action,
        cites=draw(st.integers(1, seq - 1)) if action == "resume" else None,
        epoch=draw(st.integers(0, 2**31)) if action == "release" else None,
        prev=draw(hashes) if seq > 1 else None,
        not_before=begins,
        expires=None if action == "halt" else draw(st.integers(begins + 1, 253_402_300_799)),
        reason=draw(reasons),
    )


@given(orders(), st.sets(st.sampled_from(ALL), min_size=1))
def test_an_order_reads_back_from_its_text(order: Order, names: set[str]) -> None:
    made = signed(order, *sorted(names))
    assert read_text(order.text) == order
    assert read_order(made.note(MADE.committee), MADE) == made


@given(st.data())
def test_a_text_that_differs_by_a_character_is_refused(data: Any) -> None:
    at = data.draw(st.integers(0, len(NOTE) - 1))
    way = data.draw(st.sampled_from(("other", "gone", "more")))
    char = data.draw(st.characters(codec="utf-8"))
    changed = NOTE[:at] + ("" if way == "gone" else char) + (NOTE[at + 1 :] if way != "more" else NOTE[at:])
    if changed != NOTE:
        assert number_of(lambda: read_order(changed, MADE)) in (340, 341, 342)


LINES = NOTE.splitlines(keepends=True)


@pytest.mark.parametrize("at", range(len(LINES)))
def test_every_line_is_needed_once_and_in_its_place(at: int) -> None:
    without = LINES[:at] + LINES[at + 1 :]
    twice = [*LINES[: at + 1], *LINES[at:]]
    swapped = [*LINES[:at], *LINES[at : at + 2][::-1], *LINES[at + 2 :]]
    if LINES[at].startswith("—"):  # one signature is fewer, and an order all the same
        assert len(read_order("".join(without), MADE).signatures) == 1
    else:
        assert number_of(lambda: read_order("".join(without), MADE)) in (340, 342)
    assert number_of(lambda: read_order("".join(twice), MADE)) in (340, 342)
    if swapped != LINES:
        assert number_of(lambda: read_order("".join(swapped), MADE)) in (340, 342)


@pytest.mark.parametrize(
    ("change", "number"),
    [
        (dict(action="stop"), 340),
        (dict(expires=NOW + 1), 340),
        (dict(cites=1), 340),
        (dict(epoch=1), 340),
        (dict(seq=0), 340),
        (dict(prev=bytes(32)), 340),
        (dict(seq=2), 340),
        (dict(reason=""), 340),
        (dict(reason="a\nb"), 340),
        (dict(reason=" a"), 340),
        (dict(reason="a\u202eb"), 340),
        (dict(reason="x" * 301), 340),
        (dict(run=bytes(32)), 341),
    ],
)
def test_what_an_order_says_goes_together(change: dict[str, Any], number: int) -> None:
    order = Order(**(dict(run=MADE.run, seq=1, action="halt", not_before=NOW, expires=None, reason="a") | change))
    assert number_of(lambda: read_order(sign(order, identity("ada")).note(MADE.committee), MADE)) == number


@pytest.mark.parametrize(
    ("action", "change"),
    [
        ("resume", dict(cites=2)),
        ("resume", dict(cites=0)),
        ("resume", dict(cites=None)),
        ("resume", dict(expires=None)),
        ("resume", dict(expires=NOW)),
        ("pause", dict(cites=1)),
        ("pause", dict(expires=None)),
        ("release", dict(epoch=None)),
        ("release", dict(seq=1)),
    ],
)
def test_every_kind_of_order_has_its_own_fields(action: Any, change: dict[str, Any]) -> None:
    own = {"resume": dict(seq=2, cites=1, prev=bytes(32)), "pause": dict(seq=1), "release": dict(seq=0, epoch=1)}
    fields: dict[str, Any] = dict(run=MADE.run, action=action, not_before=NOW, expires=NOW + 1, reason="a")
    fields |= own[action]
    assert read_text(Order(**fields).text).action == action
    assert number_of(lambda: read_text(Order(**(fields | change)).text)) == 340


def test_only_keyholders_sign_and_only_this_text() -> None:
    assert number_of(lambda: read_order(sign(HALT.order, identity("eve")).note(MADE.committee), MADE)) == 342
    stranger = identity("eve")
    data = base64.b64encode(key_id("ada", stranger.public) + stranger.sign(HALT.order.text.encode())).decode()
    assert number_of(lambda: read_order(f"{HALT.order.text}\n— ada {data}\n", MADE)) == 342
    other = pause(MADE).signatures[identity("cleo").public]
    data = base64.b64encode(key_id("cleo", identity("cleo").public) + other).decode()
    assert number_of(lambda: read_order(f"{HALT.order.text}\n— cleo {data}\n", MADE)) == 342


def test_an_error_does_not_show_more_than_a_line_of_what_was_sent() -> None:
    with pytest.raises(Refused) as caught:
        read_order("x" * 100_000, MADE)
    assert len(str(caught.value)) < 200
    with pytest.raises(Refused) as caught:
        read_text("interlock/order/v1\n" + "y" * 5000)
    assert len(str(caught.value)) < 200


def test_the_largest_committee_with_the_longest_names_can_sign() -> None:
    names = [f"{'𝔸' * 78}{n:02}" for n in range(64)]
    seats = tuple(Keyholder(name=name, key=identity(name).public) for name in names)
    committee = Committee(keyholders=seats, release=33, halt=64, resume=64, lying=0)
    made = msgspec.structs.replace(MADE, committee=committee)
    text = signed(make(made, 1, "halt", reason="𝔸" * 300), *names).note(committee)
    assert ORDER_BYTES_MAX // 2 < len(text.encode()) <= ORDER_BYTES_MAX
    assert read_order(text, made).complete(committee)


def test_names_with_spaces_are_signed_with_none() -> None:
    assert signer("Ada Lovelace+1") == "Ada_Lovelace_1"


def test_ids_of_keys_are_those_of_signed_notes() -> None:
    # Source: the verifier key of Go's checksum database, golang.org/x/mod.
    name, number, data = "sum.golang.org", "033de0ae", "Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8"
    assert key_id(name, base64.b64decode(data)[1:]).hex() == number


def test_words_are_the_first_bits_of_the_hash() -> None:
    bits = bin(int.from_bytes(HALT.order.hash, "big"))[2:].zfill(256)
    assert HALT.order.words.split("-") == [WORDS[int(bits[at : at + 11], 2)] for at in range(0, 66, 11)]
    assert len(set(WORDS)) == 2048
    assert len({word[:4] for word in WORDS}) == 2048
    assert (WORDS[0], WORDS[-1]) == ("abandon", "zoo")
    assert resume(MADE, HALT).order.words != HALT.order.words


@given(times)
def test_times_are_those_of_the_calendar(seconds: int) -> None:
    assert shown_time(seconds) == time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def test_a_time_that_no_order_can_name_is_shown_as_the_last_that_one_can() -> None:
    assert shown_time(2**60) == shown_time(253_402_300_799) == "9999-12-31T23:59:59Z"


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-29T00:00:00Z",
        "2026-02-31T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-01-00T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:60Z",
        "1969-12-31T23:59:59Z",
        "2026-01-01T00:00:00+00:00",
        "2026-1-1T00:00:00Z",
        "2026-01-01 00:00:00Z",
        "２026-01-01T00:00:00Z",
    ],
)
def test_a_time_has_one_form(text: str) -> None:
    changed = HALT.order.text.replace(shown_time(NOW), text)
    assert changed != HALT.order.text
    assert number_of(lambda: read_text(changed)) == 340
