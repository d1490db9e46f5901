"""Sealing: to one receiver's box key, or to everyone who holds a key.

Box keys (X25519) are drawn in memory for one tick, and the private half is erased when the tick ends. So traffic
that was recorded opens for nobody later, whoever's disk is stolen.
"""

from __future__ import annotations

import hashlib

from nacl.bindings import crypto_box, crypto_box_seal_open, crypto_scalarmult_base
from nacl.exceptions import CryptoError

from . import xchacha
from .errors import NotOpened
from .prf import prf
from .secret import Secret

NONCE_BYTES = xchacha.NONCE_BYTES
SEALED_EXTRA = NONCE_BYTES + xchacha.TAG_BYTES  # what `seal` adds to a plaintext


class BoxKey:
    """A receiver's key pair for one tick, made from 32 random bytes."""

    __slots__ = ("_private", "public")

    def __init__(self, drawn: bytes) -> None:
        self._private = Secret(drawn)
        self.public = crypto_scalarmult_base(drawn)

    def open(self, sealed: bytes | memoryview) -> Secret:
        """Open what `seal_to` sealed to `public`.

        Raises:
            NotOpened: not for this key, or changed. Erased: the tick is over.
        """
        try:
            return Secret(crypto_box_seal_open(bytes(sealed), self.public, self._private.reveal()))
        except (CryptoError, TypeError):
            raise NotOpened("a sealed secret does not open with this tick's box key") from None

    def erase(self) -> None:
        """Forget the private half."""
        self._private.erase()

    def __repr__(self) -> str:
        return f"BoxKey({self.public.hex()[:12]})"


def seal_to(public: bytes, secret: Secret, *, drawn: bytes) -> bytes:
    """Seal to a box key: libsodium's sealed box, anonymous, 48 bytes longer.

    Args:
        drawn: 32 fresh random bytes for the sender's one-time key. Whoever repeats them shows that it was the same.

    Raises:
        NotOpened: `public` is no usable X25519 key; it comes from a peer.
    """
    try:
        once = crypto_scalarmult_base(drawn)
        nonce = hashlib.blake2b(once + public, digest_size=NONCE_BYTES).digest()
        return once + crypto_box(secret.reveal(), nonce, public, drawn)
    except (CryptoError, ValueError, TypeError, RuntimeError):
        raise NotOpened("a box key is not a usable X25519 key") from None


def seal(key: Secret, plaintext: bytes, *, context: bytes) -> bytes:
    """XChaCha20-Poly1305 under a 32-byte key, nonce in front, `context` as associated data.

    The nonce is a keyed hash of context and plaintext, as in SIV (Rogaway and Shrimpton, "Deterministic authenticated
    encryption", 2006). So equal inputs give equal bytes, which shows no more than that they are equal, no nonce ever
    serves two messages, and a role that seals needs no randomness.
    """
    nonce = prf(Secret(prf(key, "nonce-key")), "nonce", context, plaintext)[:NONCE_BYTES]
    return nonce + xchacha.encrypt(key.reveal(), nonce, plaintext, context)


def open_sealed(key: Secret, sealed: bytes | memoryview, *, context: bytes) -> bytes:
    """Open what `seal` made under the same key and context.

    Raises:
        NotOpened: wrong key, wrong context or changed bytes.
    """
    data = memoryview(sealed)
    plaintext = None
    if len(data) >= SEALED_EXTRA:
        plaintext = xchacha.decrypt(key.reveal(), bytes(data[:NONCE_BYTES]), data[NONCE_BYTES:], context)
    if plaintext is None:
        raise NotOpened("sealed bytes do not open")
    return plaintext
