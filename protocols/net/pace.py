"""An upload limit: how many bytes a second this process hands to its connections.

A message may leave while nothing is owed, and is owed for afterwards, so one larger than the limit's second passes too.
In any span of t seconds at most `bytes_per_s * (t + BURST_S)` leave, and one message more.
"""

from __future__ import annotations

BURST_S = 0.25  # what was not used earlier is kept for so long
CONTROL_BYTES = 16 << 10  # messages up to this size do not wait for the limit, but count


class Pace:
    """The limit's account (a token bucket that may be overdrawn by one message).

    Args:
        bytes_per_s: more than 0. now_s, in every call: of a clock that begins at 0 or later and never goes back.
    """

    def __init__(self, bytes_per_s: float) -> None:
        self._bytes_per_s, self._filled_s = bytes_per_s, 0.0
        self._free_bytes = bytes_per_s * BURST_S

    def wait_s(self, now_s: float) -> float:
        """Seconds until the next message may leave; 0: now."""
        self._fill(now_s)
        return max(0.0, -self._free_bytes / self._bytes_per_s)

    def left(self, size_bytes: int, now_s: float) -> None:
        """Take note that a message left."""
        self._fill(now_s)
        self._free_bytes -= size_bytes

    def _fill(self, now_s: float) -> None:
        earned = (now_s - self._filled_s) * self._bytes_per_s
        self._free_bytes = min(self._bytes_per_s * BURST_S, self._free_bytes + earned)
        self._filled_s = now_s
