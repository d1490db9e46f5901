"""A coordinator that may have forgotten something: gates are let in and asked, and everything else waits.

Until gates have told how the run goes on (`recovery`), it writes no row, opens nothing and plans nothing: a row written
now could take the place of one that others follow.
"""

from __future__ import annotations

from collections.abc import Collection

from .canonical import encode
from .effects import Admit, Effects, Send
from .errors import Failed, Refused
from .kept import Kept
from .ledger import Ledger
from .manifest import Manifest
from .members import Join, Still, Welcome, verify_join
from .proposal import Propose, verify_proposal
from .recovery import Found, Recall, Recalled, Recovery
from .release import Opening, Plan, Ready

STORES_MAX = 1000  # of one step, while a journal is rebuilt


class Recalling:
    """What a coordinator does while it asks others what it forgot.

    Args:
        kept: its own rows, which become those that are found. newest: the newest tick that these open.
        lost, without: see `Recovery`.

    Attributes:
        found: what others said, once that is enough. ledger: what it comes to.
        guests: gates that are asked, and stand in no row of ours. said: by members, meanwhile.
    """

    def __init__(
        self, manifest: Manifest, kept: Kept, *, newest: int, lost: bool, without: Collection[bytes] = ()
    ) -> None:
        self._manifest, self._kept, self._newest = manifest, kept, newest
        self._recovery = Recovery(manifest, kept.rows(), lost=lost, without=without)
        self._stores: Effects = []
        self.found: Found | None = None
        self.ledger = Ledger(manifest)
        self.guests: dict[bytes, Join] = {}
        self.said: dict[bytes, Ready] = {}

    @property
    def missing(self) -> list[str]:
        """Names of the keyholders whose gates must still answer."""
        return self._recovery.missing()

    @property
    def proven(self) -> bool:
        """Whether rows were lost for certain."""
        return self._recovery.proven

    @property
    def fetched(self) -> int:
        """How many of the rows that were found are not our own."""
        return self._recovery.fetched

    def released(self, plan: Plan) -> bool:
        """Whether a gate has released this plan, so that it may have been opened."""
        return self._recovery.released(plan)

    def ask(self, gates: Collection[bytes]) -> Effects:
        """Ask gates that are there; others are asked when they come."""
        return [self._recovery.ask(gate) for gate in sorted(gates)]

    def again(self) -> Effects:
        """Ask once more: a message may have been lost, and a gate may have got rows."""
        return [*self._recovery.again(), *self._look()]

    def tell(self, opening: Opening) -> None:
        """Take in an opening that somebody knows.

        Raises:
            Refused: E204, E206, E301, E302: it is none.
        """
        self._recovery.tell(opening)

    def hear(self, source: bytes, message: object, join: Join | None) -> Effects:
        """Gates are let in and asked; whoever else is there is remembered; the rest is said again later.

        Args:
            join: the source's, if it is known.

        Raises:
            Refused: E205, E208, E209, or why a gate is not let in; E336, what it says is wrong; as `tell`.
        """
        if isinstance(message, Join):
            return self._let_in(source, message, join)
        if isinstance(message, Still):
            return []
        if join is None:
            raise Refused(208, f"{source.hex()[:12]} has not joined")
        gate = join.record.role == "gate"
        if isinstance(message, Ready):
            self.said[source] = message
            if gate:
                return [self._recovery.ask(source)]
            return [Send(source, Recall(first=0))] if message.known > self._newest else []
        if isinstance(message, Recalled) and gate:
            return [*self._recovery.take(source, message), *self._look()]
        if isinstance(message, Recalled) and message.opening is not None:
            self.tell(message.opening)
            return self._look()
        return []

    def store(self) -> Effects:
        """Store some of the rows that were found, until `stored`."""
        effects, self._stores = self._stores[:STORES_MAX], self._stores[STORES_MAX:]
        return effects

    @property
    def stored(self) -> bool:
        """Whether all rows that were found are stored."""
        return not self._stores

    def _let_in(self, source: bytes, join: Join, known: Join | None) -> Effects:
        record = join.record
        if record.identity != source:
            raise Refused(205, "a join for another identity", expected=source.hex()[:12])
        if record.role != "gate":
            return []  # it asks again, and has lost its state if it is known
        welcome = Send(source, Welcome(manifest=encode(self._manifest)))
        if known is not None and known.record == record:
            return [welcome]
        if known is not None:
            raise Refused(209, f"{record.operator} joined before with another record")
        keyholders = self._manifest.committee.identities()
        verify_join(join, run=self._manifest.run, keyholders=keyholders, open_admission=False, used=frozenset())
        self.guests[source] = join
        return [Admit(record.identity, record.curve), welcome]

    def _look(self) -> Effects:
        """See whether what was said is enough; a plan that breaks the rules counts for nothing."""
        while isinstance(found := self._recovery.look(), Found):
            ledger = Ledger(self._manifest)
            for row in found.rows:
                ledger.fold(row)
            if found.plan is not None:
                rows, earlier = tuple(ledger.recent), ledger.lasting_since(0)
                proposal = Propose(plan=found.plan, opening=ledger.opening, rows=rows, earlier=earlier)
                try:
                    verify_proposal(proposal, self._manifest)
                except Refused:
                    self._recovery.dismiss(found.plan)
                    continue
            self.found, self.ledger = found, ledger
            self._stores = self._kept.become(found.rows)
            return []
        return found


def damaged(refused: Refused) -> Failed:
    """E334: the rows on our disk are no journal."""
    return Failed(
        334,
        f"the journal is damaged: {refused.text}",
        todo="Start it once with: interlock serve coordinator DIR --recover   (rows come from the gates)",
    )


def forgotten(known: str, number: str) -> Failed:
    """E335: an empty journal, and others know one."""
    return Failed(
        335,
        "others know more of this run than the journal here, which began anew",
        expected=known,
        actual=number,
        todo="Restore the coordinator's folder, or start with: interlock serve coordinator DIR --recover",
    )
