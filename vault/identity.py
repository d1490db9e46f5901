"""Identities: one 32-byte seed a process, from it an Ed25519 signing key and a CURVE key.

Both keys come from the seed by HKDF-SHA256 (RFC 5869), so one file is the whole identity. The public name of a
process is its Ed25519 key. Secrets for others are never sealed to these keys: see `boxes`.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_scalarmult_base
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from .errors import BadSignature, KeyFileRefused
from .secret import Secret

HEADER = "interlock-key-v1"  # what every key file begins with
_FORM = re.compile(HEADER + r"\n# public (?P<public>[0-9a-f]{64})\n(?P<seed>[0-9a-f]{64})\n?")


def _derive(seed: Secret, purpose: str) -> bytes:
    hkdf = HKDF(algorithm=SHA256(), length=32, salt=None, info=f"interlock/{purpose}/v1".encode())
    return hkdf.derive(seed.reveal())


class Identity:
    """A process's own keys.

    Attributes:
        public: 32-byte Ed25519 public key, the name by which others know this process.
        curve_public: 32-byte Curve25519 key that its ZeroMQ sockets use.
    """

    __slots__ = ("_curve", "_seed", "_signing", "curve_public", "public")

    def __init__(self, seed: Secret) -> None:
        self._seed = seed
        self._signing = SigningKey(_derive(seed, "ed25519"))
        self._curve = Secret(_derive(seed, "curve"))
        self.public = bytes(self._signing.verify_key)
        self.curve_public = crypto_scalarmult_base(self._curve.reveal())

    @classmethod
    def generate(cls) -> Identity:
        """A fresh identity from the operating system's randomness."""
        return cls(Secret(os.urandom(32)))

    def sign(self, message: bytes) -> bytes:
        """Ed25519 signature (64 bytes, deterministic)."""
        return self._signing.sign(message).signature

    @property
    def seed(self) -> Secret:
        """What everything of this identity comes from, for a copy of it."""
        return self._seed

    @property
    def curve_secret(self) -> Secret:
        """The CURVE secret key, for the socket that needs it."""
        return self._curve

    def save(self, path: Path) -> None:
        """Write the key file, readable by its owner only. It is on the disk, name and all, when this returns.

        Raises:
            KeyFileRefused: the file exists (a key is never overwritten), or cannot be written whole: none is left then.
        """
        text = f"{HEADER}\n# public {self.public.hex()}\n{self._seed.reveal().hex()}\n"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise KeyFileRefused(
                f"{path} exists and a key is never overwritten",
                todo="Name another file, or remove it yourself.",
            ) from None
        except OSError as error:
            raise _unwritten(path, error) from None
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            _synchronise(path.parent)
        except OSError as error:
            path.unlink()
            raise _unwritten(path, error) from None

    @classmethod
    def load(cls, path: Path) -> Identity:
        """Read a key file.

        Raises:
            KeyFileRefused: missing, malformed, or readable by anyone but its owner.
        """
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                mode, owner = stat.S_IMODE(status.st_mode), status.st_uid
                if mode & (stat.S_IRWXG | stat.S_IRWXO) or owner not in (os.geteuid(), 0):
                    raise KeyFileRefused(
                        f"{path} is open to others: expected mode 600 and our own file, got {mode:o} of user {owner}",
                        todo=f"Type: chmod 600 {path}   (and make a new key if others may have read it)",
                    )
                text = file.read(4096).decode()
        except OSError as error:
            raise KeyFileRefused(
                f"{path} cannot be read: {error.strerror}", todo="Make one with: interlock keyholder init FILE"
            ) from None
        except UnicodeDecodeError:
            raise _malformed(path) from None
        parts = _FORM.fullmatch(text)
        if parts is None:
            raise _malformed(path)
        identity = cls(Secret(bytes.fromhex(parts["seed"])))
        if identity.public.hex() != parts["public"]:
            raise KeyFileRefused(
                f"{path} contradicts itself: its seed gives public key {identity.public.hex()[:16]}, but it says "
                f"{parts['public'][:16]}",
                todo="It was changed or damaged: restore it from your copy.",
            )
        return identity

    def __repr__(self) -> str:
        return f"Identity({self.public.hex()[:12]})"


def _synchronise(folder: Path) -> None:
    """Make the names in a folder durable: a file that is on the disk is lost without its name."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritten(path: Path, error: OSError) -> KeyFileRefused:
    return KeyFileRefused(
        f"{path} cannot be written: {error.strerror}",
        todo="Name a file in a folder that is there, is yours and has space.",
    )


def _malformed(path: Path) -> KeyFileRefused:
    return KeyFileRefused(
        f"{path} is not a whole interlock key file: expected the lines '{HEADER}', '# public' with 64 hex digits, "
        "and 64 hex digits",
        todo="It was cut short or changed: restore it from your copy.",
    )


def verify_key(public: bytes, *, whose: str) -> None:
    """Check an Ed25519 key once, when it is first met: on the curve, of prime order, canonical.

    Raises:
        BadSignature: nothing signed by such a key can be trusted.
    """
    if len(public) != 32 or not crypto_core_ed25519_is_valid_point(public):
        raise BadSignature(f"the key of {whose} is not a valid Ed25519 key")


def verify_signature(public: bytes, message: bytes, signature: bytes, *, whose: str) -> None:
    """Check an Ed25519 signature with libsodium, the one verifier used everywhere.

    Raises:
        BadSignature: naming `whose`.
    """
    try:
        VerifyKey(public).verify(message, signature)
    except (BadSignatureError, ValueError, TypeError):
        raise BadSignature(f"the signature of {whose} does not verify") from None
