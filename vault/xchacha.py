"""XChaCha20-Poly1305 at the speed of OpenSSL's ChaCha20-Poly1305, which is six times libsodium's in PyNaCl.

The 24-byte nonce makes a subkey (HChaCha20 of its first 16 bytes); under that, RFC 8439's cipher does the rest.
HChaCha20 is ChaCha20's block function without its last addition of the words that it began with. OpenSSL has the
block function, so those words are taken off again: they are known, and the key's own are not among them.

Source: draft-irtf-cfrg-xchacha-03, sections 2.2 and 2.3.
"""

from __future__ import annotations

import struct

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

NONCE_BYTES, TAG_BYTES = 24, 16
_CONSTANT = struct.unpack("<4I", b"expand 32-byte k")


def encrypt(key: bytes, nonce: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Ciphertext and tag under a 32-byte key and a 24-byte nonce, `context` as associated data."""
    return ChaCha20Poly1305(_subkey(key, nonce)).encrypt(bytes(4) + nonce[16:], plaintext, context)


def decrypt(key: bytes, nonce: bytes, sealed: bytes | memoryview, context: bytes) -> bytes | None:
    """The plaintext of ciphertext and tag; None if they are not of this key, nonce and context."""
    try:
        return ChaCha20Poly1305(_subkey(key, nonce)).decrypt(bytes(4) + nonce[16:], sealed, context)
    except InvalidTag:
        return None


def _subkey(key: bytes, nonce: bytes) -> bytes:
    """HChaCha20 of the key and the nonce's first 16 bytes."""
    start = nonce[:16]
    block = struct.unpack("<16I", Cipher(algorithms.ChaCha20(key, start), None).encryptor().update(bytes(64)))
    began = (*_CONSTANT, *struct.unpack("<4I", start))
    words = (*block[:4], *block[12:])
    return struct.pack("<8I", *((w - b) % 2**32 for w, b in zip(words, began, strict=True)))
