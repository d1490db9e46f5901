"""The plan of the next tick, from what the journal says and who is there."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from .ledger import Ledger
from .manifest import Manifest
from .membership import Due, due
from .release import Plan, Session
from .sharing import share_out


def next_plan(
    ledger: Ledger,
    manifest: Manifest,
    *,
    relays: Sequence[bytes],
    waiting: Sequence[bytes],
    gone: Collection[bytes],
    leaving: Collection[bytes],
    session: Session | None,
) -> Plan | None:
    """What to do next; None when all is done.

    Args:
        relays: those that are there. waiting: nodes that could be given a stage. gone: members that do not hold
            theirs any more. leaving: those that want to go. session: the one whose turn it is, if it is somebody's;
            the plan is for it unless members must change first.
    """
    training = manifest.training
    change: str = ""
    kind = "train"
    wanted: Due | None = None
    if ledger.base is not None:
        wanted = due(ledger, manifest, gone=gone, leaving=leaving, waiting=waiting)
    measure = ledger.evaluated < 0 or (training.evaluate_every and ledger.round % training.evaluate_every == 0)
    if ledger.base is None:
        kind, change, session = "change", "start", None
    elif wanted is not None:
        kind, change, session = "change", "members", None
    elif session is not None:
        kind = "session"
    elif ledger.round != ledger.evaluated and (measure or ledger.round == training.rounds):
        kind = "evaluate"
    elif ledger.round >= training.rounds:
        return None
    elif ledger.round // training.epoch_rounds > ledger.epoch:
        kind, change = "change", "turn"
    elif not ledger.measured:
        kind = "measure"
    members, candidates = ledger.members, tuple[bytes, ...]()
    if change == "start":
        members, candidates = (), tuple(sorted(waiting))
    elif wanted is not None:
        members, candidates = wanted.members, wanted.candidates
    return Plan(
        run=manifest.run,
        tick=ledger.newest + 1,
        head=ledger.head,
        base=ledger.base,
        kind=kind,  # type: ignore[arg-type]  # one of the literals above
        change=change,  # type: ignore[arg-type]
        round=ledger.round,
        epoch=ledger.epoch + (change == "turn"),
        epoch_tick=ledger.epoch_tick,
        attempt=ledger.attempt,
        relays=tuple(relays[: manifest.relays]),
        candidates=candidates,
        members=members,
        exponents=tuple(ledger.exponents),
        lifts=tuple(ledger.lifts),
        work=() if change else _share_out(ledger, manifest, kind, session),
        session=session,
        bound=wanted.bound if wanted is not None else (),
        leaving=wanted.leaving if wanted is not None else (),
    )


def _share_out(ledger: Ledger, manifest: Manifest, kind: str, session: Session | None) -> tuple[tuple[int, ...], ...]:
    """Micro-batches to replicas by their pace; a micro-batch's gradient returns along the same replicas."""
    training = manifest.training
    count, first = training.microbatches, 0
    if session is not None:  # a single text is not always the same replicas' work
        count, first = len(session.shapes), session.number
    if kind == "evaluate":
        windows = (manifest.data.validation_bytes - 1) // manifest.model.context
        count = windows // training.rows  # the last, smaller one is left out: every frame has one shape
    shares = [share_out(count, [ledger.pace.get(w, 0.0) for w in s], first=first) for s in ledger.members]
    return tuple(zip(*shares, strict=True))
