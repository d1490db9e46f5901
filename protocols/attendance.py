"""Says which keyholders' gates are ready and which are missing, whenever that has changed."""

from __future__ import annotations

from collections.abc import Collection

from .effects import Announce, Effects, Event
from .manifest import Committee


class GatesHere(Event, frozen=True, kw_only=True):
    """The gates that are ready have changed. ready, missing: names of keyholders. needed: k_e."""

    ready: tuple[str, ...]
    missing: tuple[str, ...]
    needed: int


class Attendance:
    """Compares the gates that are ready with those of the last look."""

    def __init__(self, committee: Committee) -> None:
        self._committee = committee
        self._said: tuple[str, ...] | None = None

    def look(self, here: Collection[bytes]) -> Effects:
        """Say who is here and who is not, the first time and at every change. here: keys of gates."""
        ready = tuple(k.name for k in self._committee.keyholders if k.key in here)
        if ready == self._said:
            return []
        self._said = ready
        missing = tuple(k.name for k in self._committee.keyholders if k.key not in here)
        return [Announce(GatesHere(ready=ready, missing=missing, needed=self._committee.release))]
