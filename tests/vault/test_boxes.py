"""Sealing: who opens what, and that nobody else does."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from nacl.public import Box, PrivateKey, PublicKey, SealedBox

from interlock.vault import BoxKey, Erased, NotOpened, Secret, open_sealed, seal, seal_to
from interlock.vault.boxes import NONCE_BYTES, SEALED_EXTRA

KEYS = st.binary(min_size=32, max_size=32)
KEY = Secret(bytes(range(32)))
DRAWN = bytes(range(100, 132))


@given(KEYS, st.binary(max_size=200))
def test_what_is_sealed_to_a_box_key_opens_with_it(drawn: bytes, data: bytes) -> None:
    key = BoxKey(drawn)
    sealed = seal_to(key.public, Secret(data), drawn=DRAWN)
    assert len(sealed) == len(data) + 48
    assert key.open(sealed) == Secret(data)
    assert SealedBox(PrivateKey(drawn)).decrypt(sealed) == data


@given(KEYS)
def test_the_public_half_is_x25519(drawn: bytes) -> None:
    expected = X25519PrivateKey.from_private_bytes(drawn).public_key().public_bytes_raw()
    assert BoxKey(drawn).public == expected


@given(st.binary(max_size=40), st.integers(0), st.integers(1, 255))
def test_a_changed_box_does_not_open(data: bytes, at: int, change: int) -> None:
    key = BoxKey(KEY.reveal())
    sealed = bytearray(seal_to(key.public, Secret(data), drawn=DRAWN))
    sealed[at % len(sealed)] ^= change
    # X25519 ignores the top bit of the ephemeral key, but the nonce is a hash of all of it.
    with pytest.raises(NotOpened, match="E103"):
        key.open(bytes(sealed))


@pytest.mark.parametrize("size", [0, 1, 47, 48, 100])
def test_bytes_that_were_never_sealed_do_not_open(size: int) -> None:
    with pytest.raises(NotOpened):
        BoxKey(KEY.reveal()).open(bytes(size))


def test_the_box_of_another_does_not_open() -> None:
    sealed = seal_to(BoxKey(b"a" * 32).public, Secret(b"data"), drawn=DRAWN)
    with pytest.raises(NotOpened):
        BoxKey(b"b" * 32).open(sealed)


def test_after_the_tick_a_box_opens_for_nobody() -> None:
    key = BoxKey(KEY.reveal())
    sealed = seal_to(key.public, Secret(b"data"), drawn=DRAWN)
    private = key._private._buffer
    key.erase()
    assert private == bytes(32)
    with pytest.raises(Erased):
        key.open(sealed)


def test_a_box_key_shows_its_public_half_only() -> None:
    key = BoxKey(KEY.reveal())
    assert repr(key) == f"BoxKey({key.public.hex()[:12]})"


def test_a_box_is_what_libsodium_makes_of_the_same_one_time_key() -> None:
    """Another draw, other bytes; and any sealed-box reader opens them."""
    key = BoxKey(KEY.reveal())
    sealed = seal_to(key.public, Secret(b"data"), drawn=DRAWN)
    assert sealed == seal_to(key.public, Secret(b"data"), drawn=DRAWN)
    assert sealed != seal_to(key.public, Secret(b"data"), drawn=KEY.reveal())
    assert SealedBox(PrivateKey(KEY.reveal())).decrypt(sealed) == b"data"
    assert sealed[:32] == bytes(PrivateKey(DRAWN).public_key)


@given(st.lists(st.tuples(st.binary(max_size=8), st.binary(max_size=8)), min_size=2, max_size=8, unique=True))
def test_no_nonce_serves_two_messages(messages: list[tuple[bytes, bytes]]) -> None:
    sealed = [seal(KEY, data, context=context) for data, context in messages]
    assert len({one[:NONCE_BYTES] for one in sealed}) == len(messages)
    data, context = messages[0]
    assert sealed[0] == seal(KEY, data, context=context)


@given(KEYS, st.binary(max_size=200), st.binary(max_size=50))
def test_what_is_sealed_under_a_key_and_context_opens_under_them(key: bytes, data: bytes, context: bytes) -> None:
    sealed = seal(Secret(key), data, context=context)
    assert len(sealed) == len(data) + SEALED_EXTRA
    assert open_sealed(Secret(key), sealed, context=context) == data
    assert open_sealed(Secret(key), memoryview(sealed), context=context) == data


@given(st.binary(max_size=40), st.integers(0), st.integers(1, 255))
def test_changed_sealed_bytes_do_not_open(data: bytes, at: int, change: int) -> None:
    sealed = bytearray(seal(KEY, data, context=b"context"))
    sealed[at % len(sealed)] ^= change
    with pytest.raises(NotOpened):
        open_sealed(KEY, bytes(sealed), context=b"context")


@given(st.binary(max_size=9), st.binary(max_size=9))
def test_another_context_does_not_open(a: bytes, b: bytes) -> None:
    sealed = seal(KEY, b"data", context=a)
    if a != b:
        with pytest.raises(NotOpened):
            open_sealed(KEY, sealed, context=b)


def test_another_key_does_not_open() -> None:
    sealed = seal(KEY, b"data", context=b"")
    with pytest.raises(NotOpened):
        open_sealed(Secret(bytes(32)), sealed, context=b"")


@pytest.mark.parametrize("size", range(SEALED_EXTRA + 1))
def test_too_few_bytes_do_not_open(size: int) -> None:
    with pytest.raises(NotOpened):
        open_sealed(KEY, bytes(size), context=b"")


def test_every_reason_gives_one_error() -> None:
    sealed = seal(KEY, b"data", context=b"a")
    said = set()
    for key, data, context in [
        (KEY, sealed, b"b"), (Secret(bytes(32)), sealed, b"a"), (KEY, sealed[:-1], b"a"), (KEY, b"", b"a"),
    ]:  # fmt: skip
        with pytest.raises(NotOpened) as caught:
            open_sealed(key, data, context=context)
        said.add(str(caught.value))
    assert len(said) == 1


def chacha_block(key: bytes, counter_nonce: bytes, *, feed: bool) -> list[int]:
    """The ChaCha20 block function; without the feed-forward it is HChaCha20's core. Source: RFC 8439, 2.3."""
    words = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574]
    data = key + counter_nonce
    words += [int.from_bytes(data[i : i + 4], "little") for i in range(0, 48, 4)]
    state = list(words)

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[x] = (state[x] + state[y]) % 2**32
            mixed = state[z] ^ state[x]
            state[z] = (mixed << turn | mixed >> 32 - turn) % 2**32

    for _ in range(10):
        for i in range(4):
            quarter(i, 4 + i, 8 + i, 12 + i)
        for i in range(4):
            quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4)
    return [(s + w) % 2**32 for s, w in zip(state, words, strict=True)] if feed else state


def little(words: list[int]) -> bytes:
    return b"".join(w.to_bytes(4, "little") for w in words)


@given(KEYS, st.binary(max_size=150), st.binary(max_size=40))
def test_sealed_bytes_are_xchacha20_poly1305(key: bytes, data: bytes, context: bytes) -> None:
    # Source: draft-irtf-cfrg-xchacha-03, section 2; RFC 8439, sections 2.5 and 2.8.
    sealed = seal(Secret(key), data, context=context)
    nonce, text, tag = sealed[:NONCE_BYTES], sealed[NONCE_BYTES:-16], sealed[-16:]
    state = chacha_block(key, nonce[:16], feed=False)
    subkey, rest = little(state[:4] + state[12:]), bytes(4) + nonce[16:]
    blocks = [little(chacha_block(subkey, n.to_bytes(4, "little") + rest, feed=True)) for n in range(4)]
    stream = b"".join(blocks[1:])
    assert bytes(a ^ b for a, b in zip(text, stream, strict=False)) == data

    r = int.from_bytes(blocks[0][:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    padded = context + bytes(-len(context) % 16) + text + bytes(-len(text) % 16)
    padded += len(context).to_bytes(8, "little") + len(text).to_bytes(8, "little")
    total = 0
    for i in range(0, len(padded), 16):
        total = (total + int.from_bytes(padded[i : i + 16], "little") + 2**128) * r % (2**130 - 5)
    expected = (total + int.from_bytes(blocks[0][16:32], "little")) % 2**128
    assert tag == expected.to_bytes(16, "little")


def test_the_nonce_of_a_sealed_box_is_the_hash_of_both_keys() -> None:
    # What the comment on changed boxes rests on: crypto_box_seal's nonce is BLAKE2b-192(ephemeral || receiver).
    key = BoxKey(KEY.reveal())
    sealed = seal_to(key.public, Secret(b"data"), drawn=DRAWN)
    nonce = hashlib.blake2b(sealed[:32] + key.public, digest_size=24).digest()
    assert Box(PrivateKey(KEY.reveal()), PublicKey(sealed[:32])).decrypt(sealed[32:], nonce) == b"data"
