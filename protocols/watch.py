"""Notices that nothing comes any more, so that a role can say again what may have been lost."""

from __future__ import annotations

from .effects import After

LOOK_S, LOOK_MAX_S = 1.0, 16.0


class Watch:
    """Looks after LOOK_S; while it stays quiet after twice as long each time, up to LOOK_MAX_S."""

    def __init__(self) -> None:
        self._wait_s = LOOK_S
        self._moved = False

    def moved(self) -> None:
        """Something came."""
        self._moved = True

    def look(self) -> tuple[bool, After]:
        """Whether it has been quiet since the last look, and the timer for the next one."""
        quiet, self._moved = not self._moved, False
        self._wait_s = min(2 * self._wait_s, LOOK_MAX_S) if quiet else LOOK_S
        return quiet, After(self._wait_s, "look")
