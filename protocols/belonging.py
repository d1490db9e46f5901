"""How a node or an asker comes to belong to a run: it joins, learns of the relays, and reaches them."""

from __future__ import annotations

from collections import Counter

from .boundary import Here
from .effects import Connect, Effects, Send
from .manifest import Manifest
from .members import Join, Roster, Still, verify_join
from .release import Ready

ASKED_LOOKS = 2  # a busy relay may be slow to answer once
EAGER_LOOKS, RARE_LOOKS = 32, 16  # so often it is asked at every look, and then at one of so many


class Belonging:
    """What a member knows of the run's servers.

    Attributes:
        welcomed: whether the coordinator let us in. relays: who joined, and where they listen. reached: those that
            have answered us.
    """

    def __init__(self, manifest: Manifest, join: Join) -> None:
        self._manifest, self._join = manifest, join
        self.welcomed = False
        self.relays: dict[bytes, str] = {}
        self.reached: set[bytes] = set()
        self._asked: set[bytes] = set()  # since the last look, and did not answer yet
        self._unanswered: Counter[bytes] = Counter()  # looks at which an answer was missing, one after another
        self._looks = 0
        self._joined: set[bytes] = set()

    @property
    def known(self) -> bool:
        """Whether we are in, and know a relay."""
        return self.welcomed and bool(self.relays)

    @property
    def missing(self) -> set[bytes]:
        """Relays that did not answer when they were asked again and again."""
        return {relay for relay, looks in self._unanswered.items() if looks >= ASKED_LOOKS}

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
        self._joined = roster.known(self._joined)
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
        """Ask relays whether they are there: all when it has been quiet, else those that did not answer.

        What is said to a relay that is gone waits for it, so that after a while it is asked now and then only.
        """
        for relay in self._asked:
            self._unanswered[relay] += 1
        self._looks += 1
        turn = self._looks % RARE_LOOKS == 0
        again = {relay for relay, looks in self._unanswered.items() if turn or looks < EAGER_LOOKS}
        self._asked = set(self.relays) if quiet else again
        return [Send(relay, here) for relay in sorted(self._asked)]

    def reach(self, relay: bytes) -> bool:
        """Something came of a relay; whether it is news that we reach it."""
        new = relay not in self.reached or relay in self.missing
        self.reached.add(relay)
        self._asked.discard(relay)
        del self._unanswered[relay]
        return new
