"""Secrets: what they show, what they refuse, what is left after erasure."""

import copy
import json
import pickle

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.vault import Erased, Secret

LONG = st.binary(min_size=8, max_size=64)


@given(LONG)
def test_a_secret_gives_back_its_bytes(data: bytes) -> None:
    assert Secret(data).reveal() == data
    assert Secret(bytearray(data)).reveal() == data


@given(LONG)
def test_no_way_of_printing_shows_a_secret(data: bytes) -> None:
    secret = Secret(data)
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r:>60}", "%s" % secret, repr([secret])):  # noqa: UP031
        assert data.hex() not in shown
        assert repr(data)[2:-1] not in shown
        assert f"{len(data)} bytes" in shown


def test_an_error_does_not_show_a_secret() -> None:
    secret = Secret(b"correct horse battery")
    secret.erase()
    with pytest.raises(Erased) as caught:
        secret.reveal()
    assert "horse" not in str(caught.value)
    assert caught.value.number == 104


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_secret_does_not_pickle(protocol: int) -> None:
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(Secret(b"bytes"), protocol)


@pytest.mark.parametrize(
    "encode",
    [copy.copy, copy.deepcopy, hash, bytes, msgspec.msgpack.encode, msgspec.json.encode, json.dumps, iter, vars, len],
)
def test_a_secret_is_not_copied_hashed_or_encoded(encode) -> None:
    with pytest.raises(TypeError):
        encode(Secret(b"bytes"))


@given(LONG, LONG)
def test_secrets_are_equal_exactly_if_their_bytes_are(a: bytes, b: bytes) -> None:
    assert Secret(a) == Secret(bytes(a))
    assert (Secret(a) == Secret(b)) == (a == b)


def test_a_secret_equals_no_bytes() -> None:
    assert Secret(b"bytes") != b"bytes"


@given(LONG)
def test_erasing_overwrites_the_buffer(data: bytes) -> None:
    secret = Secret(data)
    buffer = secret._buffer
    secret.erase()
    assert buffer == bytes(len(data))
    assert secret.erased
    assert repr(secret) == "Secret(erased)"


def test_what_is_erased_is_gone_and_erasing_again_does_nothing() -> None:
    secret = Secret(b"bytes")
    assert not secret.erased
    secret.erase()
    secret.erase()
    with pytest.raises(Erased):
        secret.reveal()
    with pytest.raises(Erased):
        assert secret == Secret(b"bytes")


def test_a_secret_keeps_its_own_copy() -> None:
    given_bytes = bytearray(b"bytes")
    secret = Secret(given_bytes)
    given_bytes[:] = bytes(5)
    assert secret.reveal() == b"bytes"
    secret.erase()
    other = bytearray(b"other")
    Secret(other).erase()
    assert other == b"other"
