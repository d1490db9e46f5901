"""A relay that may be to blame for ticks that failed, though it lives and everybody reaches it."""

from __future__ import annotations

from collections.abc import Sequence


class Doubt:
    """One relay at most is left out on suspicion: until it starts again, or another is suspected."""

    def __init__(self) -> None:
        self._relay: bytes | None = None

    def suspect(self, relay: bytes) -> None:
        """It changed what it carried, says who received it."""
        self._relay = relay

    def turn(self, relays: Sequence[bytes]) -> None:
        """A tick came to nothing and nobody knows why: suspect one of its relays, and the next time another.

        Args:
            relays: in the order of their keys.
        """
        before = self._relay
        self._relay = next((relay for relay in relays if before is None or relay > before), relays[0])

    def trust(self, relay: bytes) -> None:
        """It starts again."""
        if self._relay == relay:
            self._relay = None

    def without(self, relays: Sequence[bytes]) -> list[bytes]:
        """These relays but the suspect, unless it is the only one."""
        return [relay for relay in relays if relay != self._relay] or list(relays)
