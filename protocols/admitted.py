"""Who was admitted to a run, and which stage each operator was ever granted: what a gate remembers of all its rows."""

from __future__ import annotations

from collections.abc import Iterable

from interlock.vault import VaultError, verify_grants

from .errors import Refused
from .journal import Joined
from .manifest import Manifest
from .members import Role, owner, verify_join
from .round import Members

Entry = tuple[bytes, Role, bytes, str]  # identity, role, nonce of the invitation, operator


class Admitted:
    """Admissions and grants, row by row.

    Args:
        joined: of the rows so far. held: operator -> the stage that it was ever granted, likewise.
    """

    def __init__(self, manifest: Manifest, *, joined: Iterable[Entry], held: Iterable[tuple[str, int]]) -> None:
        self._manifest = manifest
        self._roles: dict[bytes, Role] = {}
        self._nonces: dict[bytes, bytes] = {}
        self._owners: dict[bytes, str] = {}
        for who, role, nonce, operator in joined:
            self._roles[who], self._nonces[who], self._owners[who] = role, nonce, operator
        self._held = dict(held)

    @property
    def joined(self) -> tuple[Entry, ...]:
        """Everyone who was admitted, by identity."""
        return tuple((who, self._roles[who], self._nonces[who], self._owners[who]) for who in sorted(self._roles))

    @property
    def held(self) -> tuple[tuple[str, int], ...]:
        """The stage of every operator who was ever granted one, by its name."""
        return tuple(sorted(self._held.items()))

    def of(self, role: Role) -> set[bytes]:
        """Who joined in a role."""
        return {who for who, its in self._roles.items() if its == role}

    def owner(self, who: bytes) -> str:
        """The operator of somebody who was admitted."""
        return self._owners[who]

    def bound(self, who: bytes) -> int:
        """The stage that somebody's operator held, plus one; 0 for none: as plans say it."""
        return self._held.get(self._owners[who], -1) + 1

    def join(self, row: Joined) -> None:
        """Take in an admission.

        Raises:
            Refused: `members.verify_join`.
        """
        record, invitation = row.join.record, row.join.invitation
        used = frozenset(n for who, n in self._nonces.items() if n and who != record.identity)
        verify_join(
            row.join,
            run=self._manifest.run,
            keyholders=self._manifest.committee.identities(),
            open_admission=self._manifest.admission == "open",
            used=used,
        )
        self._roles[record.identity] = record.role
        self._nonces[record.identity] = invitation.nonce if invitation is not None else b""
        self._owners[record.identity] = owner(row.join)

    def verify_grants(self, members: Members) -> None:
        """Check that nobody gets a second stage or replica, and no keyholder any.

        Raises:
            Refused: E316.
        """
        grants, keyholders = _grants(members), self._manifest.committee.identities()
        if not grants.keys() <= self.of("node"):
            raise Refused(316, "a stage for somebody who did not join as a node")
        try:
            verify_grants(grants, owners=self._owners, held=self._held, keyholders=keyholders)
        except VaultError as error:
            raise Refused(316, error.what) from None

    def grant(self, members: Members) -> None:
        """Remember who got which stage."""
        self._held.update((self._owners[who], stage) for who, stage in _grants(members).items())


def _grants(members: Members) -> dict[bytes, int]:
    return {who: index for index, stage in enumerate(members) for who in stage}
