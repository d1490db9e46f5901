"""A key file's copy that may lie anywhere: its seed, sealed under a passphrase.

    interlock-backup-v1
    # public <64 hex>
    argon2id 3 268435456 <32 hex: salt>
    <144 hex: nonce, and the sealed seed>

Argon2id with libsodium's parameters MODERATE (three passes over 256 MiB, about a second) makes the key, secretbox
(XSalsa20-Poly1305) seals the 32 bytes. The public part is there for people; opening checks it against the seed.

Source: libsodium, "The pwhash API" and "Authenticated encryption"; RFC 9106.
"""

from __future__ import annotations

import os
import re

from nacl import pwhash
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from .errors import BackupRefused
from .identity import Identity
from .secret import Secret

HEADER = "interlock-backup-v1"
PASSES, MEMORY_BYTES = 3, 256 << 20
BACKUP_BYTES_MAX = 4096  # read of a file
_FORM = re.compile(
    HEADER + r"\n# public (?P<public>[0-9a-f]{64})\n"
    rf"argon2id {PASSES} {MEMORY_BYTES} (?P<salt>[0-9a-f]{{32}})\n"
    r"(?P<sealed>[0-9a-f]{144})\n?"
)


def seal_backup(identity: Identity, passphrase: Secret) -> str:
    """The text of a backup. Without the passphrase it is worth nothing to anybody, its owner included."""
    salt = os.urandom(pwhash.argon2id.SALTBYTES)
    sealed = _box(passphrase, salt).encrypt(identity.seed.reveal())
    public = f"# public {identity.public.hex()}"
    return f"{HEADER}\n{public}\nargon2id {PASSES} {MEMORY_BYTES} {salt.hex()}\n{bytes(sealed).hex()}\n"


def open_backup(text: str, passphrase: Secret) -> Identity:
    """The identity of a backup.

    Raises:
        BackupRefused: it is not of its form, the passphrase is another, or it was changed.
    """
    parts = _FORM.fullmatch(text)
    if parts is None:
        raise BackupRefused(
            f"this is not a whole backup: expected the line '{HEADER}' and three more",
            todo="It was cut short or changed, or is another file: take another copy.",
        )
    try:
        seed = Secret(_box(passphrase, bytes.fromhex(parts["salt"])).decrypt(bytes.fromhex(parts["sealed"])))
    except CryptoError:
        raise BackupRefused(
            "this backup does not open: the passphrase is another, or the file was changed",
            todo="Type the passphrase again; is the keyboard's layout the one it was made with?",
        ) from None
    identity = Identity(seed)
    if identity.public.hex() != parts["public"]:
        raise BackupRefused(
            f"this backup contradicts itself: its key is {identity.public.hex()[:16]}, but it says "
            f"{parts['public'][:16]}",
            todo="Its second line was changed: suspect who kept it.",
        )
    return identity


def _box(passphrase: Secret, salt: bytes) -> SecretBox:
    key = pwhash.argon2id.kdf(SecretBox.KEY_SIZE, passphrase.reveal(), salt, opslimit=PASSES, memlimit=MEMORY_BYTES)
    return SecretBox(key)
