"""Where a run stands, from its journal."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from ..manifest import Manifest
from .events import read_events
from .progress import Progress
from .report import speed
from .rundir import RunDir
from .store import read_rows


def snapshot(run: RunDir) -> dict[str, Any]:
    """The state of a run as plain values.

    Raises:
        Misused: E705, no run, or it has not begun. Failed: E722. Refused: E201.
    """
    manifest = run.manifest()
    progress = Progress(manifest)
    progress.follow(read_rows(run.journal))
    times = {e["number"]: e["time"] for e in read_events(run.folder("coordinator")) if e["event"] == "Wrote"}
    plan, last = progress.plan, progress.rounds[-1] if progress.rounds else None
    evaluated = progress.evaluations[-1] if progress.evaluations else None
    name = {identity: join.record.operator for identity, join in progress.joins.items()}
    return {
        "run": manifest.run.hex(),
        "name": manifest.name,
        "state": _state(run, progress),
        "rows": progress.rows,
        "last_row_time": times.get(progress.rows - 1),
        "tick": plan.tick if plan else 0,
        "kind": (plan.change or plan.kind) if plan else None,
        "round": progress.round,
        "rounds": manifest.training.rounds,
        "epoch": progress.epoch,
        "tokens": progress.tokens,
        "loss": last.loss if last else None,
        "val_loss": evaluated.loss if evaluated else None,
        "val_round": evaluated.round if evaluated else None,
        "tokens_per_second": speed(progress, times, 10),
        "members": [[name[who] for who in stage] for stage in progress.members],
        **{f"{role}s": [join.record.operator for join in progress.of(role)] for role in ("node", "gate", "relay")},
        "voids": [{"tick": void.tick, "number": void.number, "reason": void.reason} for void in progress.voids],
    }


def _state(run: RunDir, progress: Progress) -> str:
    if progress.ended:
        return "ended"
    if not run.url.exists():
        return "stopped"  # its coordinator removes the URL when it leaves
    return "in a tick" if progress.is_open else "between ticks"


def lines(found: dict[str, Any], manifest: Manifest) -> list[str]:
    """The same for people."""
    age_s = time.time() - (found["last_row_time"] or time.time())
    said = [
        f"run '{found['name']}' {found['run'][:16]}: {found['state']}",
        f"{found['rows']} journal rows, the last {timedelta(seconds=int(age_s))} ago",
        f"tick {found['tick']} ({found['kind'] or 'none planned'}), round {found['round']} of {found['rounds']}, "
        f"epoch {found['epoch']}",
        f"{found['tokens']:,} bytes at {found['tokens_per_second']:,.0f} a second",
    ]
    if found["loss"] is not None:
        said.append(f"training loss {found['loss']:.4f} nats a byte")
    if found["val_loss"] is not None:
        said.append(f"validation loss {found['val_loss']:.4f} nats a byte after round {found['val_round']}")
    said += [f"stage {i}: {', '.join(stage)}" for i, stage in enumerate(found["members"])]
    said += [f"{role}: {', '.join(sorted(found[role])) or 'none yet'}" for role in ("nodes", "gates", "relays")]
    said += [f"void: tick {v['tick']}, E{v['number']} {v['reason']}" for v in found["voids"]]
    return said + manifest.committee.meaning()
