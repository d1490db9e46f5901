"""Who should hold which stage from now on: what a change of members must name, given who is gone and who waits."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .ledger import Ledger
from .manifest import Manifest
from .members import owner
from .round import Members


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """Fields of a plan (`release.Plan`) that changes members."""

    members: Members
    leaving: tuple[bytes, ...]
    candidates: tuple[bytes, ...]
    bound: tuple[int, ...]


def orphaned(ledger: Ledger, gone: Collection[bytes]) -> list[int]:
    """Stages whose state nobody holds who is not `gone`."""
    return [index for index, stage in enumerate(ledger.members) if all(who in gone for who in stage)]


def due(
    ledger: Ledger, manifest: Manifest, *, gone: Collection[bytes], leaving: Collection[bytes], waiting: Iterable[bytes]
) -> Due | None:
    """The change of members that is due, if any. No stage may be orphaned.

    Whoever leaves goes at once where others hold what it holds; else it stays until somebody has taken over.

    Args:
        waiting: nodes that could hold a stage, those that came first first.
    """
    kept = [tuple(who for who in stage if who not in gone) for stage in ledger.members]
    stay = tuple(tuple(who for who in stage if who not in leaving) or stage for stage in kept)
    staying = [who for stage in stay for who in stage]
    owners = {owner(ledger.joins[who]) for who in staying}
    candidates: list[bytes] = []
    for who in waiting:
        its = owner(ledger.joins[who])
        if who not in staying and its not in owners:
            owners.add(its)
            candidates.append(who)
    candidates.sort()
    bound = tuple(ledger.held.get(owner(ledger.joins[who]), -1) + 1 for who in candidates)
    sizes = [sum(who not in leaving for who in stage) for stage in stay]
    vacant = {stage for stage, size in enumerate(sizes) if size < manifest.replicas}
    taken = any(vacant if stage == 0 else stage - 1 in vacant for stage in bound)
    if stay == ledger.members and not taken:
        return None
    going = tuple(sorted(who for stage in kept for who in stage if who in leaving))
    return Due(members=stay, leaving=going, candidates=tuple(candidates), bound=bound)
