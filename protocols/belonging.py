"""How a node or an asker comes to belong to a run: it joins, learns of the relays, and reaches them."""

from __future__ import annotations

from .boundary import Here
from .effects import Connect, Effects, Send
from .manifest import Manifest
from .members import Join, Roster, Still, verify_join


class Belonging:
    """What a member knows of the run's servers.

    Attributes:
        welcomed: whether the coordinator let us in. relays: who joined, and where they listen. reached: those whose
            connection to us is up.
    """

    def __init__(self, manifest: Manifest, join: Join) -> None:
        self._manifest, self._join = manifest, join
        self.welcomed = False
        self.relays: dict[bytes, str] = {}
        self.reached: set[bytes] = set()
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

    def reach(self, relay: bytes) -> bool:
        """A relay answered; whether that is news."""
        new = relay not in self.reached
        self.reached.add(relay)
        return new
