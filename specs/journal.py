"""The properties of a spec over what a real run wrote down: its coordinator's rows, and every process's events.

A run's directory holds no messages, no crashes and no end of faults. A property that asks for those, every
`eventually` and `rate`, and what a spec calls `symbolic`, is not judged. The clocks of a run's processes order its
events: on one machine that is the order in which they happened, and a property needs no more than that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from interlock.protocols.canonical import encode
from interlock.protocols.coordinator import Wrote
from interlock.protocols.effects import Event
from interlock.protocols.errors import Failed, Misused
from interlock.protocols.journal import Joined, Row
from interlock.protocols.kept import ROW
from interlock.protocols.manifest import Manifest
from interlock.protocols.service.events import read_events
from interlock.protocols.service.rundir import RunDir
from interlock.protocols.service.store import read_rows

from .history import History, Step
from .judge import Broken, Judge, Result, Verdict
from .run import COORDINATOR, RunSpec
from .spec import Property, Spec

WRITTEN = ("announce", "store")  # kinds of steps that a run's directory holds


class JournalOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a run's directory says of a spec.

    rows, events: how many were read. verdicts: "unknown" is a property that asks for more than is written down.
    broken: the property that broke first. history: up to there, or all of it.
    """

    spec: str
    directory: str
    statement: str
    rows: int
    events: int
    verdicts: tuple[Verdict, ...]
    broken: Broken | None = None
    history: History = []

    @property
    def exit_code(self) -> int:
        """0 all that could be judged held; 1 broken; 2 nothing learned."""
        if self.broken is not None:
            return 1
        judged = any(verdict.result == "held" for verdict in self.verdicts)
        return 0 if judged and self.rows + self.events else 2


def judge_journal(spec: type[Spec], directory: Path) -> JournalOutcome:
    """Judge a run that is over, or as far as it is.

    Raises:
        Misused: E705 this is no run's directory; E814 the spec is not about a run; E802, E805 a property is not one.
        Failed: E722, a file is damaged. Refused: E201, the manifest or a row is.
    """
    if not issubclass(spec, RunSpec):
        raise Misused(
            814, f"spec {spec.name} is not about a run: no run writes down what it asks", todo="Name another spec."
        )
    run = RunDir(directory)
    manifest = run.manifest()
    rows = read_rows(run.journal)
    steps = _steps(run, manifest, rows)
    made = _of_run(spec, manifest, rows)
    verdicts, first = [], None
    for part in made.properties().values():
        result, broken = _judged(made, part, steps)
        message = "" if broken is None else broken.message
        verdicts.append(Verdict(kind=part.kind, name=part.name, text=part.text, result=result, message=message))
        if broken is not None and (first is None or broken.step < first.step):
            first = broken
    return JournalOutcome(
        spec=spec.name,
        directory=str(directory),
        statement=spec.statement(),
        rows=len(rows),
        events=sum(step.kind == "announce" for step in steps),
        verdicts=tuple(verdicts),
        broken=first,
        history=steps if first is None else steps[: first.step + 1],
    )


def labels(directory: Path) -> list[str]:
    """What specs call the processes of a run, in the order of a diagram's columns."""
    run = RunDir(directory)
    found = _labels(run, run.manifest()).values()
    return sorted(found, key=lambda label: (["c", "g", "r", "n"].index(label[0]), len(label), label))


def _labels(run: RunDir, manifest: Manifest) -> dict[str, str]:
    """The folders of a run's processes, and what specs call them."""
    found = {"coordinator": COORDINATOR}
    found |= {f"gate-{holder.name}": f"g{nth}" for nth, holder in enumerate(manifest.committee.keyholders)}
    for kind in ("relay", "node"):
        folders = [path.name for path in run.path.glob(f"{kind}-*") if path.name.removeprefix(f"{kind}-").isdigit()]
        found |= {name: f"{kind[0]}{name.removeprefix(f'{kind}-')}" for name in folders}
    return found


def _judged(spec: Spec, part: Property, steps: History) -> tuple[Result, Broken | None]:
    if part.kind not in ("always", "sometimes") or part.name in spec.symbolic:
        return "unknown", None
    judge = Judge(spec, {part.name})
    for step in steps:
        judge.take(step)
        if judge.decided:
            break
    if any(_unwritten(key) for key in judge.reads(part.name)):
        return "unknown", None  # also where it fell over what it missed
    judge.end()
    if part.kind == "sometimes":
        return ("reached" if part.name in judge.reached else "never"), None
    return ("held" if judge.broken is None else "broken"), judge.broken


def _unwritten(key: Any) -> bool:
    """Whether an answer that depends on this depends on what no run writes down."""
    if not isinstance(key, tuple):
        return False
    family, kind = key
    return family in ("send", "deliver") or (family == "step" and kind not in (None, *WRITTEN))


def _steps(run: RunDir, manifest: Manifest, rows: list[Row]) -> list[Step]:
    """Rows and events in the order of their times; a row comes right before the event that says it is written."""
    kinds = _kinds()
    timed: list[tuple[float, int, Step]] = []
    written = {row.number: row for row in rows}
    for folder, who in _labels(run, manifest).items():
        last = 0.0
        for fields in read_events(run.folder(folder)):
            at, kind = fields.pop("time", None), kinds.get(fields.pop("event", None))
            if not isinstance(at, float | int) or kind is None:
                continue  # an event of another version; the runner's own reports of refusals
            last = max(last, float(at))  # a clock that was set back does not undo what a process did
            event = _event(kind, fields, run.folder(folder))
            if isinstance(event, Wrote) and (row := written.pop(event.number, None)) is not None:
                timed.append((last, len(timed), _stored(row)))
            timed.append((last, len(timed), Step(at=0.0, kind="announce", who=who, event=event)))
    end = max((at for at, _, _ in timed), default=0.0)
    timed += [(end, len(timed) + nth, _stored(row)) for nth, row in enumerate(written.values())]
    timed.sort(key=lambda each: each[:2])
    start = timed[0][0] if timed else 0.0
    return [msgspec.structs.replace(step, at=at - start) for at, _, step in timed]


def _stored(row: Row) -> Step:
    return Step(at=0.0, kind="store", who=COORDINATOR, name=f"{ROW}{row.number:08d}", data=encode(row))


def _kinds() -> dict[Any, type[Event]]:
    """The classes of events that roles announce, by name."""
    found: dict[Any, type[Event]] = {}
    todo: list[type[Event]] = [Event]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if kind.__module__.startswith("interlock.protocols.") and ".net." not in kind.__module__:
            found[kind.__name__] = kind
    return found


def _event(kind: type[Event], fields: dict[str, Any], folder: Path) -> Event:
    try:
        return msgspec.convert(fields | {"type": kind.__name__}, kind)
    except msgspec.ValidationError as error:
        raise Failed(
            722, f"the events in {folder} are damaged: {kind.__name__}: {error}", todo="Restore them, or do without."
        ) from None


def _of_run(spec: type[RunSpec], manifest: Manifest, rows: list[Row]) -> RunSpec:
    """The spec with this run's numbers and keys in place of its small one's."""
    records = [row.body.join.record for row in rows if isinstance(row.body, Joined)]
    keys = {
        letter: tuple(
            record.identity
            for record in sorted(records, key=lambda record: (len(record.operator), record.operator))
            if record.role == role
        )
        for letter, role in (("r", "relay"), ("n", "node"))
    }
    keys["g"] = tuple(holder.key for holder in manifest.committee.keyholders)
    committee, training = manifest.committee, manifest.training
    numbers: dict[str, Any] = {
        "name": spec.name,
        "stages": manifest.stages,
        "replicas": manifest.replicas,
        "relays": manifest.relays,
        "keyholders": len(committee.keyholders),
        "release": committee.release,
        "lying": committee.lying,
        "rounds": training.rounds,
        "epoch_rounds": training.epoch_rounds,
        "microbatches": training.microbatches,
        "manifest": manifest,
        "named": lambda self, letter: keys[letter],
    }
    made: RunSpec = type(spec.__name__, (spec,), numbers | {"__module__": spec.__module__})()
    return made
