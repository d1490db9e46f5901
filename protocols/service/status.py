"""Where a run stands, as far as a folder knows: the run's own directory, or the folder of one process.

The coordinator's journal has the whole. A gate has the rows that it followed, so that a keyholder sees nearly as much
in the gate's folder. A node's and a relay's have what that process did.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from ..journal import Row
from .coverage import coverage, listed
from .coverage import lines as coverage_lines
from .events import EventTail
from .progress import Progress
from .report import speed
from .rundir import RunDir
from .store import JournalFile
from .tally import Tally

RECENT = 10  # rounds that the speed is measured over
LOOK_S = 1.0


class View:
    """What a folder knows of its run; `look` brings it up to date.

    Args:
        path: a run's directory or a process's folder.

    Raises:
        Misused: E705, it is neither, or the run has not begun.
    """

    def __init__(self, path: Path) -> None:
        if path.name == "coordinator" and not (path / "manifest").exists():
            path = path.parent  # its run's directory has all that it knows
        run = RunDir(path)
        self.manifest = run.manifest()
        self.whole = not (path / "events.jsonl").is_file()  # a run's own directory has no events
        self.run = run
        self._folder = folder = run.folder("coordinator") if self.whole else path
        self.progress, self.tally = Progress(self.manifest), Tally()
        self.times: dict[int, float] = {}  # of rows
        self._journal = _journal(folder, needed=self.whole)
        self._tail = EventTail(folder)
        relays = sorted(path.glob("relay-*")) if self.whole else []
        self._relays = [EventTail(relay) for relay in relays]
        self._carried: Counter[int] = Counter()  # bytes, by tick
        self.look()

    def look(self) -> None:
        """Read what is new.

        Raises:
            Failed: E722. Refused: E201.
        """
        if self._journal is not None:
            self.progress.follow(self._following(self._journal.news()))
        while news := self._tail.news():
            self.tally.follow(news)
            self.times |= {event["number"]: event["time"] for event in news if event["event"] == "Wrote"}
        for relay in self._relays:
            while news := relay.news():
                for event in news:
                    if event["event"] == "Carried":
                        self._carried[event["tick"]] += event["size"]

    def _following(self, rows: list[Row]) -> Iterator[Row]:
        """The rows up to the first that is missing: a gate may get earlier rows after later ones."""
        number = self.progress.rows
        for row in rows:
            if row.number != number:
                self._journal = JournalFile(self._folder / "store.sqlite", first=number)  # read again from there
                return
            yield row
            number += 1

    @property
    def boundary_bytes_per_token(self) -> float:
        """Bytes of frames for a byte of text: that relays of this directory carried in rounds, else as they will be."""
        ticks = {trained.tick for trained in self.progress.rounds}
        carried = sum(size for tick, size in self._carried.items() if tick in ticks)
        if carried and self.progress.tokens:
            return carried / self.progress.tokens
        manifest = self.manifest
        return 2 * (manifest.stages - 1) * manifest.model.width * manifest.frame_width / 8  # there and back

    @property
    def state(self) -> str:
        """What the run, or the process, is at."""
        progress, tally = self.progress, self.tally
        if tally.order and (not self.whole or self.run.url.exists()):
            return f"stands still by {tally.order}"
        if not self.whole:
            return f"tick {tally.tick}: {tally.kind}" if tally.kind else f"tick {tally.tick}"
        if progress.ended:
            return "ended"
        if not self.run.url.exists():
            return "stopped"  # its coordinator removes the URL when it leaves
        if tally.waiting:
            return f"waiting: {tally.waiting}"
        return "in a tick" if progress.is_open else "between ticks"

    @property
    def alarm(self) -> str:
        """What keyholders should hear now, or empty: nobody runs it, or all rounds are taken."""
        tally = self.tally
        if not tally.needed or not self.whole or self.progress.ended or not self.run.url.exists():
            return ""
        spare = len(tally.ready) - tally.needed
        if spare < 0:
            return f"training stands still until {-spare} more of {', '.join(tally.missing)} can be reached"
        return "one more keyholder unreachable and training stops" if spare == 0 else ""


def _journal(folder: Path, *, needed: bool) -> JournalFile | None:
    path = folder / "store.sqlite"
    return JournalFile(path) if needed or path.is_file() else None


def snapshot(view: View) -> dict[str, Any]:
    """All that is known, as plain values; what this folder does not know is null or empty."""
    manifest, progress, tally = view.manifest, view.progress, view.tally
    plan, last = progress.plan, progress.rounds[-1] if progress.rounds else None
    evaluated = progress.evaluations[-1] if progress.evaluations else None
    return {
        "run": manifest.run.hex(),
        "name": manifest.name,
        "state": view.state,
        "alarm": view.alarm or None,
        "order": tally.order or None,
        "rows": progress.rows,
        "last_row_time": view.times.get(progress.rows - 1),
        "tick": plan.tick if plan else tally.tick,
        "kind": (plan.change or plan.kind) if plan else tally.kind or None,
        "round": progress.round,
        "rounds": manifest.training.rounds,
        "epoch": progress.epoch,
        "tokens": progress.tokens,
        "loss": last.loss if last else None,
        "val_loss": evaluated.loss if evaluated else None,
        "val_round": evaluated.round if evaluated else None,
        "tokens_per_second": speed(progress, view.times, RECENT),
        "boundary_bytes_per_token": view.boundary_bytes_per_token,
        "members": [[progress.name(who) for who in stage] for stage in progress.members],
        "work": {
            progress.name(who): {"microbatches": share.microbatches, "per_second": share.per_second}
            for stage in progress.members
            for who in stage
            if (share := progress.shares.get(who)) is not None
        },
        "waiting": [name for join in progress.waiting() if (name := join.record.operator) not in tally.silent],
        "silent": list(tally.silent),
        **{f"{role}s": [join.record.operator for join in progress.of(role)] for role in ("node", "gate", "relay")},
        "relays_used": sorted(progress.name(who) for who in plan.relays) if plan else [],
        "gates_ready": list(tally.ready),
        "gates_missing": list(tally.missing),
        "gates_needed": manifest.committee.release,
        "deaths": progress.counted("death"),
        "joins": progress.counted("join"),
        "leaves": progress.counted("leave"),
        "relay_failovers": progress.counted("failover"),
        "rounds_lost_to_death": progress.rounds_lost_to_death,
        "voids": [{"tick": void.tick, "number": void.number, "reason": void.reason} for void in progress.voids],
        "coverage": coverage(progress),
        "admitted_by": progress.admitted(),
        "process": {
            "role": tally.role or None,
            "starts": tally.starts,
            "began": tally.began or None,
            "last_event": tally.last or None,
            "stage": tally.stage if tally.stage >= 0 else None,
            "ticks": tally.ticks,
            "states_reported": tally.reported,
            "frames_sent": tally.sent,
            "frames_read": tally.read,
            "bytes_sent": tally.sent_bytes,
            "frames_carried": tally.carried,
            "bytes_carried": tally.carried_bytes,
            "released": tally.released,
            "cpu_s": tally.cpu_s,
            "masking_s": tally.masking_s,
            "refused": {f"E{number}": count for number, count in sorted(tally.refused.items())},
            "given_up": {f"E{number}": count for number, count in sorted(tally.gave_up.items())},
            "declined": {f"E{number}": count for number, count in sorted(tally.declined.items())},
        },
    }


def lines(view: View) -> list[tuple[str, str]]:
    """The same for people: what each line is about, and the line."""
    found, progress, tally = snapshot(view), view.progress, view.tally
    said = [("run", f"'{found['name']}' {found['run'][:16]}: {found['state']}")]
    if view.alarm:
        said.append(("ALARM", view.alarm))
    if not view.whole:
        said += _own_work(found["process"], tally)
    if progress.rows:
        said += _of_the_journal(view, found)
    if view.whole:
        said += [("refused", _counts(found["process"]["refused"]))] if tally.refused else []
    return said + [("means", line) for line in view.manifest.committee.meaning()]


def _of_the_journal(view: View, found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    progress, tally = view.progress, view.tally
    ago = f", the last {_ago(found['last_row_time'])}" if found["last_row_time"] else ""
    yield "journal", f"{found['rows']} rows{ago}; tick {found['tick']} ({found['kind'] or 'none planned'})"
    yield "round", f"{found['round']} of {found['rounds']}, epoch {found['epoch']}"
    if found["loss"] is not None:
        rate = f", {found['tokens_per_second']:,.0f} bytes a second" if found["tokens_per_second"] else ""
        yield "training", f"{found['loss']:.4f} nats a byte{rate}, {found['tokens']:,} bytes so far"
    if found["val_loss"] is not None:
        yield "validation", f"{found['val_loss']:.4f} nats a byte after round {found['val_round']}"
    yield "boundaries", f"{found['boundary_bytes_per_token']:,.0f} bytes for a byte of text"
    members = {name for names in found["members"] for name in names}
    for stage, names in enumerate(found["members"]):
        yield f"stage {stage}", ", ".join(_heard(name, tally) + _work(found, name) for name in names) or "nobody"
    if not found["members"]:
        yield "nodes", ", ".join(sorted(found["nodes"])) or "none yet"
    elif found["waiting"]:
        yield "waiting", ", ".join(sorted(found["waiting"]))
    if found["members"] and (away := set(found["nodes"]) & set(tally.silent) - members):
        yield "away", ", ".join(sorted(away))
    yield "gates", _gates(found, known=bool(tally.needed))
    spare = sorted(set(found["relays"]) - set(found["relays_used"])) if found["relays_used"] else []
    relays = ", ".join(_heard(name, tally) for name in found["relays_used"] or sorted(found["relays"])) or "none yet"
    yield "relays", relays + (f"; others: {', '.join(_heard(name, tally) for name in spare)}" if spare else "")
    if found["coverage"] is not None:
        yield from coverage_lines(found["coverage"])
        yield "draws", "who lists the releases, the coordinator, can steer what is drawn a little"
    for inviter, names in sorted(found["admitted_by"].items()):
        yield "let in", f"by {inviter}: {listed(names)}" if inviter else f"without an invitation: {listed(names)}"
    for mark in progress.marks[-5:]:
        yield "event", f"{mark} in tick {mark.tick}"
    for void in progress.voids[-5:]:
        yield "void", f"tick {void.tick}, E{void.number} {void.reason}"


def _heard(name: str, tally: Tally) -> str:
    return f"{name} (silent)" if name in tally.silent else name


def _work(found: dict[str, Any], name: str) -> str:
    """A member's part of the last round."""
    work = found["work"].get(name)
    if work is None:
        return ""
    rate = f" at {work['per_second']:.3g}/s" if work["per_second"] else ""
    return f" (work {work['microbatches']}{rate})"


def _gates(found: dict[str, Any], *, known: bool) -> str:
    if not known:
        return ", ".join(sorted(found["gates"])) or "none yet"
    ready, missing = ", ".join(found["gates_ready"]) or "none", ", ".join(found["gates_missing"]) or "none"
    return f"{ready} ready; missing: {missing}; {found['gates_needed']} needed"


def _own_work(own: dict[str, Any], tally: Tally) -> Iterator[tuple[str, str]]:
    again = f", for the {own['starts']}th time" if own["starts"] > 1 else ""
    began = f"began {_ago(own['began'])}{again}; " if own["began"] else ""
    last = f"last event {_ago(own['last_event'])}" if own["last_event"] else "nothing announced yet"
    yield "process", f"{own['role'] or 'unknown'}: {began}{last}"
    if own["stage"] is not None:
        yield "stage", f"{own['stage']}, drawn and not chosen"
    if own["role"] == "gate":
        yield "released", f"{own['released']} plans"
    elif own["role"] == "relay":
        yield "carried", f"{own['frames_carried']:,} frames of {own['bytes_carried']:,} bytes in {own['ticks']} ticks"
    elif own["role"] == "node":
        yield "work", f"{own['states_reported']} states reported in {own['ticks']} ticks"
        yield "frames", f"{own['frames_sent']:,} sent ({own['bytes_sent']:,} bytes), {own['frames_read']:,} read"
        yield "cpu", f"{own['cpu_s']:,.1f} s, of them {own['masking_s']:,.1f} s for masks"
    for name in ("refused", "given_up", "declined"):
        if own[name]:
            yield name.replace("_", " "), _counts(own[name])
    if tally.reason:
        yield "reason", tally.reason


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{number} {count} times" for number, count in counts.items())


def _ago(then: float) -> str:
    return f"{timedelta(seconds=max(0, int(time.time() - then)))} ago"


def watch(view: View, told: Callable[[], None]) -> None:
    """Look and tell again and again, until a signal comes."""
    while True:
        told()
        time.sleep(LOOK_S)
        view.look()
