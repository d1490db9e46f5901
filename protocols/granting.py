"""What a node itself checks before it hands its stage's state over: that the newcomer may hold it.

Gates check the same against the journal. A node knows what it has seen: who joined, and who held which stage in the
openings that came to it since it joined itself.
"""

from __future__ import annotations

from interlock.vault import VaultError, verify_grants

from .errors import Refused
from .manifest import Manifest
from .members import Roster, owner, verify_join
from .release import Plan
from .round import Members


class Granted:
    """Who may hold which stage, as far as one node knows."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._owners: dict[bytes, str] = {}
        self._nonces: dict[bytes, bytes] = {}
        self._held: dict[str, int] = {}

    def learn(self, roster: Roster) -> None:
        """Take in the joins of nodes.

        Raises:
            Refused: E204, E206, E209, E211: one is not in order.
        """
        manifest = self._manifest
        for join in roster.joins:
            who, invitation = join.record.identity, join.invitation
            if join.record.role != "node" or who in self._owners:
                continue
            verify_join(
                join,
                run=manifest.run,
                keyholders=manifest.committee.identities(),
                open_admission=manifest.admission == "open",
                used=frozenset(self._nonces.values()),
            )
            self._owners[who] = owner(join)
            if invitation is not None:
                self._nonces[who] = invitation.nonce

    def verify(self, plan: Plan, members: Members) -> None:
        """Check what the opening of a plan gives to whom; then remember it.

        Raises:
            Refused: E316, a keyholder would hold a stage, or an operator a second one.
        """
        known = {who: stage for stage, group in enumerate(members) for who in group if who in self._owners}
        keyholders = self._manifest.committee.identities()
        if any(who in keyholders for group in members for who in group):
            raise Refused(316, "a keyholder would hold a stage")
        try:
            verify_grants(known, owners=self._owners, held=self._held, keyholders=keyholders)
        except VaultError as error:
            raise Refused(316, error.what) from None
        if plan.change != "start":  # a void start leaves nobody anything
            self._held |= {self._owners[who]: stage for who, stage in known.items()}
