"""What can go wrong with keys and secrets. Every error has a stable number; messages never hold a secret.

VaultError
  KeyFileRefused   101  a key file is missing, malformed or readable by others
  BadSignature     102  a signature does not verify under the key that should have made it
  NotOpened        103  sealed bytes do not open: wrong key, wrong context or changed bytes
  Erased           104  a secret was asked for after its erasure, or for a tick before its own
  CustodyRefused   105  somebody would hold what custody forbids
  BackupRefused    106  a key's backup is malformed, changed, or under another passphrase
"""

from __future__ import annotations


class VaultError(Exception):
    """Base of all errors of `interlock.vault`."""

    number = 100
    todo = ""

    def __init__(self, what: str, *, todo: str = "") -> None:
        self.what = what
        self.todo = todo or self.todo
        super().__init__(f"E{self.number} {what}")


class KeyFileRefused(VaultError):
    """A key file is missing, malformed or readable by others."""

    number = 101


class BadSignature(VaultError):
    """A signature does not verify under the key that should have made it."""

    number = 102


class NotOpened(VaultError):
    """Sealed bytes do not open; one error for every reason, so that it is no oracle."""

    number = 103


class Erased(VaultError):
    """A secret was asked for after its erasure, or for a tick before its own."""

    number = 104


class CustodyRefused(VaultError):
    """Somebody would hold what custody forbids."""

    number = 105


class BackupRefused(VaultError):
    """A key's backup is malformed, changed, or under another passphrase."""

    number = 106
