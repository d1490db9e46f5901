"""How a node or an asker comes to belong to a run: it joins, learns of the relays, and reaches them."""

from __future__ import annotations

from .boundary import Here
from .effects import Connect, Effects, Send
from .manifest import Manifest
from .members import Join, Roster, Still, verify_join
from .release import Ready


class Belonging:
    """What a member knows of the run's servers.

    Attributes:
        welcomed: whether the coordinator let us in. relays: who joined, and where they listen. reached: those that
            have answered us. missing: those that did not when they were last asked.
    """

    def __init__(self, manifest: Manifest, join: Join) -> None:
        self._manifest, self._join = manifest, join
        self.welcomed = False
        self.relays: dict[bytes, str] = {}
        self.reached: set[bytes] = set()
        self.missing: set[bytes] = set()
        self._asked: set[bytes] = set()  # and did not answer yet
        self._joined: set[bytes] = set()

    @property
    def known(self) -> bool:
        """Whether we are in, and know a relay."""
        return self.welcomed and bool(self.relays)

    @property
    def joins(self) -> int:
        """How many joins we know of."""
        return len(self._joined)

    @property
    def whole(self) -> bool:
        """Whether we have reached one; what is sent to the others waits."""
        return bool(self.reached)

    def ask(self) -> Send:
        """Ask to be let in; an answer that was lost comes again."""
        return Send(self._manifest.coordinator, self._join)

    def here_still(self) -> Send:
        """Say who we are, once we are in: a coordinator that lost rows may not know us any more."""
        return Send(self._manifest.coordinator, Still(join=self._join))

    def ready(self, known: int) -> Ready:
        """What the coordinator should know of us, whose newest opening is of tick `known`."""
        return Ready(known=known, joins=self.joins, missing=tuple(sorted(self.missing)))

    def where(self) -> tuple[str, ...]:
        """Relays that are missing, as people see them."""
        return tuple(f"{relay.hex()[:12]} at {self.relays[relay]}" for relay in sorted(self.missing))

    def roster(self, roster: Roster, here: Here) -> Effects:
        """Connect to relays that are new, or listen elsewhere now, and say `here` to them.

        Raises:
            Refused: a relay's join is not in order.
        """
        effects: Effects = []
        self._joined.update(join.record.identity for join in roster.joins)
        for join in roster.joins:
            record = join.record
            if record.role != "relay" or self.relays.get(record.identity) == record.address:
                continue
            verify_join(
                join,
                run=self._manifest.run,
                keyholders=self._manifest.committee.identities(),
                open_admission=self._manifest.admission == "open",
                used=frozenset(),
            )
            self.relays[record.identity] = record.address
            effects.append(Connect(record.identity, record.curve, record.address))
            effects.append(Send(record.identity, here))
        return effects

    def look(self, here: Here, *, quiet: bool) -> Effects:
        """See which relays answered since the last look, and ask again: all when it has been quiet, or the missing."""
        self.missing |= self._asked
        self._asked = set(self.relays) if quiet else set(self.missing)
        return [Send(relay, here) for relay in sorted(self._asked)]

    def reach(self, relay: bytes) -> bool:
        """Something came of a relay; whether it is news that we reach it."""
        new = relay not in self.reached or relay in self.missing
        self.reached.add(relay)
        self.missing.discard(relay)
        self._asked.discard(relay)
        return new
