"""XChaCha20-Poly1305 out of OpenSSL's parts gives libsodium's bytes."""

from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_encrypt

from interlock.vault import xchacha

KEYS = st.binary(min_size=32, max_size=32)
NONCES = st.binary(min_size=24, max_size=24)


@given(KEYS, NONCES, st.binary(max_size=300), st.binary(max_size=40))
def test_it_gives_the_bytes_of_libsodium(key: bytes, nonce: bytes, data: bytes, context: bytes) -> None:
    sealed = xchacha.encrypt(key, nonce, data, context)
    assert sealed == crypto_aead_xchacha20poly1305_ietf_encrypt(data, context, nonce, key)
    assert xchacha.decrypt(key, nonce, sealed, context) == data
    assert xchacha.decrypt(key, nonce, memoryview(sealed), context) == data


@given(KEYS, NONCES, st.binary(max_size=40), st.integers(0), st.integers(1, 255))
def test_changed_bytes_give_nothing(key: bytes, nonce: bytes, data: bytes, at: int, change: int) -> None:
    sealed = bytearray(xchacha.encrypt(key, nonce, data, b"context"))
    sealed[at % len(sealed)] ^= change
    assert xchacha.decrypt(key, nonce, bytes(sealed), b"context") is None


@given(KEYS, NONCES, st.integers(0, 23))
def test_each_byte_of_the_nonce_counts(key: bytes, nonce: bytes, at: int) -> None:
    other = bytearray(nonce)
    other[at] ^= 1
    assert xchacha.decrypt(key, bytes(other), xchacha.encrypt(key, nonce, b"data", b""), b"") is None


def test_too_few_bytes_give_nothing() -> None:
    assert xchacha.decrypt(bytes(32), bytes(24), bytes(15), b"") is None
