"""Known answers of every primitive that a run depends on, and what the libraries of this machine answer.

A library that is damaged, or was built for another processor, is found here and not in a run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answer:
    """One primitive: whose test it is, what must come out, and how to get it here."""

    name: str
    source: str
    expected: str
    get: Callable[[], bytes]


def answers() -> Iterator[Answer]:
    """All of them, in the order in which a run uses them."""
    yield Answer("SHA-256", "FIPS 180-4, 'abc'", _SHA_256, lambda: hashlib.sha256(b"abc").digest())
    yield Answer("BLAKE2b", "RFC 7693, appendix A", _BLAKE2B, lambda: hashlib.blake2b(b"abc").digest())
    yield Answer("HKDF-SHA256", "RFC 5869, A.1", _HKDF, _hkdf)
    yield Answer("Ed25519", "RFC 8032, 7.1, test 1", _ED25519, _ed25519)
    yield Answer("X25519", "RFC 7748, 5.2", _X25519, _x25519)
    yield Answer("XChaCha20-Poly1305", "draft-irtf-cfrg-xchacha-03, A.3.1", _XCHACHA, _xchacha)
    yield Answer("AES-256-CTR", "NIST SP 800-38A, F.5.5", _AES_CTR, _aes_ctr)
    yield Answer("keystream", "AES-256 of the zero block under the zero key", _KEYSTREAM, _keystream)
    yield Answer("frame", "the frame format, counted out by hand", _FRAME, _frame)


_SHA_256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
_BLAKE2B = (
    "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
    "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
)
_HKDF = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
_ED25519 = (
    "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
    "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
)
_X25519 = "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
_XCHACHA = (
    "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
    "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
    "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
    "21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49"
)
_AES_CTR = "601ec313775789a5b7a7f504bbf3d228"
_KEYSTREAM = "dc95c078a2408989ad48a21492842087"
_FRAME = "f29001b629499ed0a9f39a6addaef7"


def _hkdf() -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = bytes(range(0xF0, 0xFA))
    return HKDF(algorithm=SHA256(), length=42, salt=bytes(range(13)), info=info).derive(b"\x0b" * 22)


def _ed25519() -> bytes:
    """Public key and signature of the empty message; the signature is verified too."""
    from nacl.signing import SigningKey

    key = SigningKey(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    signature = bytes(key.sign(b"").signature)
    key.verify_key.verify(b"", signature)
    return bytes(key.verify_key) + signature


def _x25519() -> bytes:
    from nacl.bindings import crypto_scalarmult

    scalar = bytes.fromhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    point = bytes.fromhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    return bytes(crypto_scalarmult(scalar, point))


def _xchacha() -> bytes:
    """Ciphertext and tag, opened again."""
    from interlock.vault import xchacha

    text = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you "
        b"only one tip for the future, sunscreen would be it."
    )
    context, key, nonce = bytes.fromhex("50515253c0c1c2c3c4c5c6c7"), bytes(range(0x80, 0xA0)), bytes(range(0x40, 0x58))
    sealed = xchacha.encrypt(key, nonce, text, context)
    return sealed if xchacha.decrypt(key, nonce, sealed, context) == text else b""


def _aes_ctr() -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    cipher = Cipher(algorithms.AES(key), modes.CTR(bytes(range(0xF0, 0x100)))).encryptor()
    return cipher.update(bytes.fromhex("6bc1bee22e409f96e93d7e117393172a"))


def _keystream() -> bytes:
    from interlock.kernels.mask import keystream

    return keystream(bytes(32), 16).tobytes()


def _frame() -> bytes:
    """A frame of five integers at the edges of 24 bits, taken off its mask again."""
    import numpy as np

    from interlock.kernels.mask import mask, unmask

    integers, key = np.array([0, 1, -1, 2**23 - 1, -(2**23)], np.int32), bytes(range(32))
    frame = mask(integers, key, width=24)
    back = unmask(frame.data, key, count=5, width=24)
    return frame.tobytes() if np.array_equal(back, integers) else b""
