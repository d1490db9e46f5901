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
    held: Mapping[bytes, int],
    keyholders: Collection[bytes],
) -> None:
    """Check that no grant gives an identity a second stage or a keyholder any.

    Args:
        grants: identity -> stage that the plan would let it hold.
        held: identity -> stage that it was ever granted in this run.
        keyholders: identities of the committee.

    Raises:
        CustodyRefused: naming the identity and what it may not hold.
    """
    for identity, stage in grants.items():
        who = identity.hex()[:12]
        if identity in keyholders:
            raise CustodyRefused(f"{who} is a keyholder and may hold no stage, but was granted stage {stage}")
        if held.get(identity, stage) != stage:
            raise CustodyRefused(f"{who} has held stage {held[identity]} and may not hold stage {stage}")
