"""Who may ever receive what.

An operator holds at most one stage over a run's life, and no keyholder holds a stage. Gates and peers apply this to
every plan that grants somebody a stage's secrets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .errors import CustodyRefused


def verify_grants(
    grants: Mapping[bytes, int],
    *,
    owners: Mapping[bytes, str],
    held: Mapping[str, int],
    keyholders: Collection[bytes],
) -> None:
    """Check that no grant gives an operator a second stage, or a second replica of one, or a keyholder any.

    Args:
        grants: identity -> stage that the plan would let it hold.
        owners: identity -> operator.
        held: operator -> stage that it was ever granted in this run.
        keyholders: identities of the committee.

    Raises:
        CustodyRefused: naming who may not hold what.
    """
    granted: dict[str, bytes] = {}
    for identity, stage in grants.items():
        who, owner = identity.hex()[:12], owners[identity]
        if identity in keyholders:
            raise CustodyRefused(f"{who} is a keyholder and may hold no stage, but was granted stage {stage}")
        if held.get(owner, stage) != stage:
            raise CustodyRefused(f"{owner} has held stage {held[owner]} and may not hold stage {stage}")
        if granted.setdefault(owner, identity) != identity:
            raise CustodyRefused(
                f"{owner} may hold one replica, but was granted two: {granted[owner].hex()[:12]}, {who}"
            )
