"""What a run came to, in numbers: recomputed from the journal and the processes' events, never from memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .events import read_events
from .progress import Progress, Trained
from .rundir import RunDir
from .stopping import stops
from .store import read_rows

GAP_ROUNDS = 60
# From about round 80 on any rounding difference grows as in ordinary training; before it the runs must agree.
GAP_MAX = 1e-3  # nats a byte
APART_MAX = 0.01  # validation losses, nats a byte
VALIDATION_MAX, VALIDATION_ROUNDS = 2.1, 80  # nats a byte, from about 5.5; fewer rounds do not get there
WALL_MAX = 300.0  # seconds, the plain run included
STOP_MAX = 1.0  # seconds from the last signature of a halt
# Fields that the journals do not hold.
OUTSIDE = ("wall_seconds", "bars", "failed")  # failed: why a run ended early, if it did


def speed(progress: Progress, times: Mapping[int, float], last: int | None = None) -> float:
    """Tokens a second over the last rounds (None: all), from plan to commit, gates' answers included."""
    chosen = progress.rounds if last is None else progress.rounds[-last:]
    seconds = tokens = 0.0
    before = progress.rounds[-len(chosen) - 1].tokens if len(chosen) < len(progress.rounds) else 0
    for trained in chosen:
        first, end = progress.row_of[trained.tick][0], progress.row_of[trained.tick][-1]
        if first in times and end in times:
            seconds += times[end] - times[first]
            tokens += trained.tokens - before
        before = trained.tokens
    return tokens / seconds if seconds > 0 else 0.0


def measure(run: RunDir) -> dict[str, Any]:
    """The report of an ended run, without the fields in `OUTSIDE`. Plain fields are null without a plain run.

    val_*: nats a byte over the held-out text. gap_60: largest difference of training losses to the plain run in the
    first 60 rounds. cpu_seconds_per_token: of all nodes, between the first and the last round. masked_fraction_of_cpu:
    the part of it for masks, fixed point and hashes of frames. boundary_bytes_per_token: frames that relays carried in
    rounds. joins, leaves: of members, after the first ones (`progress.Mark`). relay_failovers: relays that the next
    plan left out. deaths: those, and members that vanished; gates do not matter as long as enough are left.
    rounds_lost_to_death: that were planned again because a process died. halts, updates_after_halt, seconds_to_stop,
    resumed: see `stopping.Stops`. operators_to_cover: how few of the last members' operators hold every stage.
    sessions: that were answered; scored_* and sample* are what the demo asked and got. backends: the library that
    computes, by node.

    Raises:
        Misused: E705. Refused: E201.
    """
    manifest = run.manifest()
    progress = Progress(manifest)
    progress.follow(read_rows(run.journal))
    times = {e["number"]: e["time"] for e in read_events(run.folder("coordinator")) if e["event"] == "Wrote"}
    ticks = {trained.tick for trained in progress.rounds}
    tokens = progress.tokens
    carried = sum(
        event["size"]
        for folder in sorted(run.path.glob("relay-*"))
        for event in read_events(folder)
        if event["event"] == "Carried" and event["tick"] in ticks
    )
    cpu, masking = _spent(run, ticks)
    halted = stops(run)
    evaluations = progress.evaluations
    found: dict[str, Any] = {
        "run": manifest.run.hex(),
        "rounds": progress.round,
        "epochs": progress.epoch + 1,
        "stages": manifest.stages,
        "nodes": len(progress.of("node")),
        "backends": _backends(run),
        "gates": len(progress.of("gate")),
        "relays": len(progress.of("relay")),
        "ticks": max(progress.openings, default=0),
        "voids": len(progress.voids),
        "deaths": progress.counted("death") + progress.counted("failover"),
        "rounds_lost_to_death": progress.rounds_lost_to_death,
        "joins": progress.counted("join"),
        "leaves": progress.counted("leave"),
        "relay_failovers": progress.counted("failover"),
        "halts": halted.halts,
        "updates_after_halt": halted.updates,
        "seconds_to_stop": halted.seconds,
        "resumed": halted.resumed,
        "operators_to_cover": len(cover.operators) if (cover := progress.cover()) is not None else None,
        "tokens": tokens,
        "clamped": sum(trained.clamped for trained in progress.rounds),
        "val_bytes": evaluations[-1].bytes if evaluations else 0,
        "val_loss_first": evaluations[0].loss if evaluations else None,
        "val_loss_last": evaluations[-1].loss if evaluations else None,
        "plain_val_loss_last": None,
        "gap_60": None,
        "tokens_per_second": speed(progress, times),
        "plain_tokens_per_second": None,
        "cpu_seconds_per_token": cpu / tokens if tokens else None,
        "plain_cpu_seconds_per_token": None,
        "boundary_bytes_per_token": carried / tokens if tokens else None,
        "masked_fraction_of_cpu": masking / cpu if cpu else None,
        "sessions": progress.sessions,
    }
    if run.answers.is_file():
        found |= json.loads(run.answers.read_text())
    if run.plain.is_file():
        plain = json.loads(run.plain.read_text())
        found["plain_val_loss_last"] = plain["val_losses"][-1]
        found["gap_60"] = gap(progress.rounds, plain["losses"], GAP_ROUNDS)
        found["plain_tokens_per_second"] = plain["tokens_per_second"]
        found["plain_cpu_seconds_per_token"] = plain["cpu_seconds_per_token"]
    return found


def gap(rounds: list[Trained], losses: list[float], first: int) -> float:
    """The largest difference of training losses in the first rounds, in nats a byte."""
    pairs = list(zip(rounds, losses, strict=False))[:first]
    return max((abs(trained.loss - loss) for trained, loss in pairs), default=0.0)


def _backends(run: RunDir) -> dict[str, str]:
    """The library that each node of this machine computed with."""
    folders = sorted(run.path.glob("node-*"))
    found = {folder.name: [e["backend"] for e in read_events(folder) if e["event"] == "Computes"] for folder in folders}
    return {name: said[-1] for name, said in found.items() if said}


def _spent(run: RunDir, ticks: set[int]) -> tuple[float, float]:
    """CPU seconds of all nodes from before the first round to after the last; and those for masking.

    The first tick in which the first nodes spend is the one that measures, which trains nothing. Whoever comes later,
    or comes again, counts from its own beginning.
    """
    cpu = masking = 0.0
    first, last = min(ticks, default=0), max(ticks, default=0)
    for folder in sorted(run.path.glob("node-*")):
        before = (0.0, 0.0)
        for event in read_events(folder):
            if event["event"] != "Spent" or event["tick"] > last:
                continue
            spent = event["cpu_s"], event["masking_s"]
            if event["tick"] >= first:
                began_again = spent[0] < before[0]
                cpu += spent[0] - (0.0 if began_again else before[0])
                masking += spent[1] - (0.0 if began_again else before[1])
            before = spent
    return cpu, masking


def demo_bars(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the demo promises, from its report."""
    bars = [("wall_seconds", found["wall_seconds"], WALL_MAX)]
    bars.append(("rounds_lost_to_death", found["rounds_lost_to_death"], found["deaths"]))
    if found["seconds_to_stop"] is not None:
        bars.append(("updates_after_halt", found["updates_after_halt"], 0))
        bars.append(("seconds_to_stop", found["seconds_to_stop"], STOP_MAX))
    if found["rounds"] >= VALIDATION_ROUNDS:
        bars.append(("val_loss_last", found["val_loss_last"], VALIDATION_MAX))
    if found["gap_60"] is not None:
        apart = abs(found["val_loss_last"] - found["plain_val_loss_last"])
        bars += [("gap_60", found["gap_60"], GAP_MAX), ("val_loss_apart_from_plain", apart, APART_MAX)]
    return [
        {"name": name, "value": value, "limit": limit, "holds": value is not None and value <= limit}
        for name, value, limit in bars
    ]
