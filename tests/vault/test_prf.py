"""The keyed function: RFC 7693's, over an encoding that no two inputs share."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.vault import Erased, Secret, prf

KEYS = st.binary(min_size=32, max_size=32)
PARTS = st.lists(st.binary(max_size=5), max_size=4)
DOMAINS = st.text(st.characters(codec="utf-8"), max_size=5)
KEY = Secret(bytes(range(32)))


def test_the_primitive_gives_the_answers_of_the_rfc() -> None:
    # RFC 7693, appendix A.
    assert hashlib.blake2b(b"abc").hexdigest() == (
        "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
        "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
    )


def sequence(size: int, seed: int) -> bytes:
    """Deterministic bytes. Source: `selftest_seq` in RFC 7693, appendix E."""
    a, b, out = 0xDEAD4BAD * seed % 2**32, 1, bytearray()
    for _ in range(size):
        a, b = b, (a + b) % 2**32
        out.append(b >> 24)
    return bytes(out)


def test_the_primitive_passes_the_self_test_of_the_rfc_with_and_without_a_key() -> None:
    # RFC 7693, appendix E: a hash over the hashes of 6 inputs, at 4 lengths, without and with a key.
    total = hashlib.blake2b(digest_size=32)
    for out in (20, 32, 48, 64):
        for size in (0, 3, 128, 129, 255, 1024):
            data = sequence(size, size)
            total.update(hashlib.blake2b(data, digest_size=out).digest())
            total.update(hashlib.blake2b(data, digest_size=out, key=sequence(out, out)).digest())
    assert total.hexdigest() == "c23a7800d98123bd10f506c61e29da5603d763b8bbad2e737f5e765a7bccd475"


@given(KEYS, DOMAINS, PARTS)
def test_the_prf_is_keyed_blake2b_over_prefixed_parts(key: bytes, domain: str, parts: list[bytes]) -> None:
    data = b"".join(len(part).to_bytes(8, "big") + part for part in [domain.encode(), *parts])
    assert prf(Secret(key), domain, *parts) == hashlib.blake2b(data, key=key, digest_size=32).digest()


@given(DOMAINS, PARTS, DOMAINS, PARTS)
def test_inputs_share_an_output_only_if_they_are_the_same(a: str, one: list[bytes], b: str, other: list[bytes]) -> None:
    assert (prf(KEY, a, *one) == prf(KEY, b, *other)) == ((a, one) == (b, other))


@given(st.binary(max_size=6))
def test_moving_bytes_between_fields_changes_the_output(data: bytes) -> None:
    text = data.hex()
    outputs = {prf(KEY, text[:i], text[i:j].encode(), text[j:].encode()) for i, j in cuts(len(text))}
    outputs |= {prf(KEY, text[:i], text[i:].encode()) for i in range(len(text) + 1)}
    outputs.add(prf(KEY, text))
    assert len(outputs) == len(cuts(len(text))) + len(text) + 2


def cuts(size: int) -> list[tuple[int, int]]:
    """All ways of cutting `size` bytes into three fields."""
    return [(i, j) for i in range(size + 1) for j in range(i, size + 1)]


@given(st.binary(max_size=20))
def test_no_part_looks_like_two_even_if_it_holds_a_prefix(data: bytes) -> None:
    prefix = len(data).to_bytes(8, "big")
    assert prf(KEY, "d", data + prefix + data) != prf(KEY, "d", data, data)
    assert prf(KEY, "d", b"") != prf(KEY, "d")


@given(KEYS, KEYS)
def test_another_key_gives_another_output(one: bytes, other: bytes) -> None:
    assert (prf(Secret(one), "d", b"x") == prf(Secret(other), "d", b"x")) == (one == other)


def test_an_erased_key_gives_nothing() -> None:
    key = Secret(bytes(32))
    key.erase()
    with pytest.raises(Erased):
        prf(key, "d")
