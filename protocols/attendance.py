"""Says who is here and who is not, whenever that has changed: gates by name, and members and relays that are silent."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from .effects import Announce, Effects, Event
from .manifest import Committee


class Present(Event, frozen=True, kw_only=True):
    """Who is here has changed.

    ready, missing: keyholders whose gates are, and are not. needed: k_e. silent: operators of nodes and relays that
    joined and are not heard.
    """

    ready: tuple[str, ...]
    missing: tuple[str, ...]
    needed: int
    silent: tuple[str, ...]


class Attendance:
    """Compares who is here with the last look."""

    def __init__(self, committee: Committee) -> None:
        self._committee = committee
        self._said: Present | None = None

    def look(self, gates: Collection[bytes], silent: Iterable[str]) -> Effects:
        """Say who is here and who is not, the first time and at every change. gates: keys of those that are ready."""
        keyholders = self._committee.keyholders
        now = Present(
            ready=tuple(k.name for k in keyholders if k.key in gates),
            missing=tuple(k.name for k in keyholders if k.key not in gates),
            needed=self._committee.release,
            silent=tuple(sorted(silent)),
        )
        if now == self._said:
            return []
        self._said = now
        return [Announce(now)]
