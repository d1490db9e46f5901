"""Group and pair secrets, stepped by tick number, and what is derived from them for one tick.

A *group secret* is shared by the replicas of one stage, a *pair secret* by both stages at a boundary. Both are new
at every change that touches the group; between changes they step: `k_(t+1) = H("ratchet", k_t)`. Whoever opens tick
t steps to k_t and erases what was before, so that voided ticks, lost messages and idle ticks change nothing, and no
secret of an earlier tick is left to steal.
"""

from __future__ import annotations

import hashlib
import hmac

from .errors import Erased, NotOpened
from .prf import prf
from .secret import Secret

STEPS_MAX = 1_000_000  # ticks between two changes; a million hashes take a second


def secret_id(secret: Secret) -> bytes:
    """H("id", secret): names a dealt secret without showing it."""
    return hashlib.sha256(b"interlock/secret-id/v1" + secret.reveal()).digest()


class Ratchet:
    """A secret that steps with the tick number and never back.

    Args:
        secret: 32 fresh random bytes that the lead dealt in tick `tick`; the ratchet owns it and erases it when it
            steps.
        tick: the change that dealt it.
    """

    __slots__ = ("_secret", "tick")

    def __init__(self, secret: Secret, tick: int) -> None:
        self._secret = secret
        self.tick = tick

    def at(self, tick: int) -> Secret:
        """Step to `tick`, erase what was before, and return that tick's key (a copy its holder erases).

        Raises:
            Erased: `tick` lies before the tick already reached, or absurdly far ahead.
        """
        if tick < self.tick:
            raise Erased(f"the secret of tick {tick} was erased when tick {self.tick} opened")
        if tick - self.tick > STEPS_MAX:
            raise Erased(f"tick {tick} is more than {STEPS_MAX} ticks after {self.tick}")
        key = self._secret.reveal()
        for _ in range(tick - self.tick):
            key = hashlib.sha256(b"interlock/ratchet/v1" + key).digest()
        self._secret.erase()
        self._secret, self.tick = Secret(key), tick
        return Secret(key)

    def erase(self) -> None:
        """Forget the secret."""
        self._secret.erase()

    def __repr__(self) -> str:
        return f"Ratchet(tick {self.tick})"


class GroupKey:
    """What the replicas of one stage share in one tick."""

    __slots__ = ("_key",)

    def __init__(self, key: Secret) -> None:
        self._key = key

    def tau(self, unit: bytes, state: bytes, inputs: bytes) -> bytes:
        """The 16-byte nonce of a unit: one value for each (unit, state read, inputs read).

        Same weights and same input give the same mask, anything else an independent one, so that no mask serves
        two values. The group's key, not the pair's: with the pair's key the receiver could test guesses of the
        sender's input.
        """
        return prf(self._key, "tau", unit, state, inputs)[:16]

    def salt(self, run: bytes, tick: int, purpose: str) -> bytes:
        """Salt for digests of secret things that leave the group."""
        return prf(self._key, "salt", run, tick.to_bytes(8, "big"), purpose.encode())

    def seal_key(self, purpose: str, sender: bytes, tick: int) -> Secret:
        """Key under which `sender` seals group traffic of one purpose in one tick."""
        return Secret(prf(self._key, f"seal/{purpose}", sender, tick.to_bytes(8, "big")))

    def erase(self) -> None:
        """Forget the key."""
        self._key.erase()


class PairKey:
    """What both stages at a boundary share in one tick."""

    __slots__ = ("_key",)

    def __init__(self, key: Secret) -> None:
        self._key = key

    def mask_key(self, unit: bytes, tau: bytes) -> bytes:
        """The 32-byte keystream key of one frame."""
        return prf(self._key, "frame", unit, tau)

    def check(self, unit: bytes, tau: bytes) -> bytes:
        """16 bytes that show that the sender masked under this key: a wrong key would unmask to noise unnoticed."""
        return prf(self._key, "check", unit, tau)[:16]

    def verify_check(self, unit: bytes, tau: bytes, check: bytes) -> None:
        """Compare in constant time.

        Raises:
            NotOpened: the frame was masked under another key or for another unit.
        """
        if not hmac.compare_digest(self.check(unit, tau), check):
            raise NotOpened("a frame was masked under another key or for another unit")

    def turn(self, matrix: bytes) -> bytes:
        """32 bytes by which both groups show the committee that they turned by one matrix."""
        return prf(self._key, "turn", matrix)

    def seal_key(self, purpose: str, sender: bytes, tick: int) -> Secret:
        """Key under which `sender` seals traffic across the boundary."""
        return Secret(prf(self._key, f"seal/{purpose}", sender, tick.to_bytes(8, "big")))

    def erase(self) -> None:
        """Forget the key."""
        self._key.erase()


def salted(salt: bytes, digest: bytes) -> bytes:
    """H(salt || digest): how a digest of something secret leaves its group."""
    return hashlib.sha256(salt + digest).digest()
