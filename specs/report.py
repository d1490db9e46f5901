"""What a check found, as text for people and as plain data for programs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from . import draw
from .history import History, Step
from .journal import JournalOutcome
from .judge import Counterexample, MutantOutcome, Outcome, Verdict, World
from .schedule import Schedule
from .search import regressions_folder
from .spec import Spec

LINES_MOST = 60  # of a diagram beside a verdict; `spec show` draws all of it
JOURNAL_LINES = 25  # before a break in a run's directory
IN_WORLD: Mapping[World, str] = {"model": "in the model", "code": "in code", "wire": "on the wire"}
_HAPPENED = ("send", "announce", "timer", "store", "refused", "done", "drawn", "back")  # said last, most first


class Cast:
    """The participants of a spec, for diagrams. labels: in the order of the cast. names: labels of identity keys."""

    def __init__(self, spec: type[Spec]) -> None:
        made = spec()
        everybody = dict.fromkeys([*made.cast(), *spec.traitors])
        self.labels = [made.label(name) for name in everybody]
        self.names = {name: made.label(name) for name in everybody if isinstance(name, bytes)}


def outcome_lines(outcome: Outcome) -> Iterator[str]:
    """A spec that held in a world: one line a property, then how much was tried, then warnings."""
    runs = f"{outcome.runs} run{'s' * (outcome.runs != 1)}"
    yield f"{outcome.spec}   {outcome.world}   {runs}   {outcome.seconds:.1f} s   seed {outcome.seed}"
    yield from verdict_lines(outcome.verdicts)
    if outcome.enumerated:
        whole = "all of up to 3 inputs and 1 fault" if outcome.complete else "not all that there are"
        yield f"  {'small':<10}  {outcome.enumerated} schedules: {whole}"
    yield f"  {'steps':<10}  {', '.join(counted(outcome.counts))}"
    for warning in outcome.warnings:
        yield f"WARN  {outcome.spec}: {warning}"
    if not outcome.learned:
        why = "a rate needs more runs" if any(v.result == "unknown" for v in outcome.verdicts) else "no action ran"
        yield f"{outcome.spec}: nothing learned, {why}"


def verdict_lines(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """One line a property: its kind, name, verdict and statement."""
    width = max((len(verdict.name) for verdict in verdicts), default=0)
    for verdict in verdicts:
        yield f"  {verdict.kind:<10}  {verdict.name:<{width}}  {_result(verdict):<7}  {verdict.text}".rstrip()
        if verdict.kind == "rate" and verdict.message:
            yield f"  {'':<10}  {'':<{width}}  {'':<7}  {verdict.message}"


def _result(verdict: Verdict) -> str:
    if verdict.kind == "sometimes" and verdict.share is None:
        return verdict.result
    if verdict.kind == "sometimes":
        return "never" if not verdict.share else f"{100 * verdict.share:.0f} %" if verdict.share >= 0.01 else "< 1 %"
    return "BROKEN" if verdict.result == "broken" else verdict.result


def counted(counts: Mapping[str, int]) -> list[str]:
    """What happened: messages, actions, faults, then the rest."""
    first = ["deliver", *(name for name in counts if name.startswith("act "))]
    rest = [name for name in counts if name not in first and name not in _HAPPENED]
    last = [name for name in _HAPPENED if name in counts]
    rest.sort(key=lambda name: -counts[name])
    return [f"{name.removeprefix('act ')} {counts[name]}" for name in (*first, *rest, *last) if counts.get(name)]


def broken_lines(
    outcome: Outcome, found: Counterexample, cast: Cast, *, width: int, next_lines: Iterable[str]
) -> Iterator[str]:
    """A property that broke: which, how it came to that, and what to type next (`next_lines`)."""
    broken = found.broken
    statement = next((verdict.text for verdict in outcome.verdicts if verdict.name == broken.property), "")
    yield f"{outcome.spec}   {outcome.world}   {broken.property} BROKEN: {statement}".rstrip(": ")
    for line in broken.message.splitlines():
        yield f"  {line}"
    yield ""
    yield draw.text(found.history, cast.labels, names=cast.names, width=width, most=LINES_MOST)
    yield ""
    yield f"  schedule: {found.schedule.summary}"
    after = f" after {outcome.runs} run{'s' * (outcome.runs != 1)}"
    yield f"  found:    {found.found}{after if found.found in ('small scope', 'random') else ''}"
    yield from next_lines
    others = [f"{IN_WORLD[world]}: {what}" for world, what in _others(outcome.world, found)]
    yield f"  {'   '.join(others)}"


def _others(world: World, found: Counterexample) -> Iterator[tuple[World, str]]:
    for other in IN_WORLD:
        if other != world:
            yield other, found.other_worlds.get(other, f"not tried (add --in {other})")


def journal_lines(outcome: JournalOutcome, cast: Sequence[str], *, width: int) -> Iterator[str]:
    """What a run's directory says of a spec; the last lines of its history where a property broke."""
    yield f"{outcome.spec}   {outcome.directory}   {outcome.rows} rows   {outcome.events} events"
    yield from verdict_lines(outcome.verdicts)
    if any(verdict.result == "unknown" for verdict in outcome.verdicts):
        yield "  unknown: it asks for what no run writes down, such as messages"
    for verdict in outcome.verdicts:
        if verdict.result == "broken" and verdict.message:
            yield f"  {verdict.name}: {verdict.message}"
    if outcome.broken is not None:
        yield ""
        yield f"  {outcome.broken.property} BROKEN at the end of this:"
        yield ""
        yield draw.text(outcome.history[-JOURNAL_LINES:], cast, width=width)
        yield ""
    if outcome.exit_code == 2:
        yield f"{outcome.spec}: nothing learned, no property can be judged by what a run writes down"


def mutant_lines(outcomes: Sequence[MutantOutcome], toothless: Sequence[str]) -> Iterator[str]:
    """What became of each wrong role, and the properties that killed none."""
    killed = sum(outcome.killed for outcome in outcomes)
    yield f"  {'mutants':<10}  {killed} of {len(outcomes)} killed"
    width = max((len(outcome.name) for outcome in outcomes), default=0)
    property_width = max((len(outcome.breaks) for outcome in outcomes), default=0)
    for outcome in outcomes:
        what = f"killed after {outcome.runs} run{'s' * (outcome.runs != 1)}" if outcome.killed else "SURVIVED"
        if outcome.broke is not None and outcome.broke != outcome.breaks:
            what += f", {outcome.broke} broke first"
        yield f"  {'':<10}  {outcome.name:<{width}}  {outcome.breaks:<{property_width}}  {what}"
    for warning in mutant_warnings(outcomes, toothless):
        yield f"WARN  {warning}"


def mutant_warnings(outcomes: Sequence[MutantOutcome], toothless: Iterable[str]) -> list[str]:
    """What `--strict` does not bear."""
    if not outcomes:
        return ["there are no mutants: whether the properties can break is not known"]
    left = [f"mutant '{o.name}' survived: it should break {o.breaks}" for o in outcomes if not o.killed]
    return left + [f"property {name} killed no mutant" for name in toothless]


def save(spec: type[Spec], found: Counterexample) -> tuple[Path, bool]:
    """Keep a counterexample's schedule: (its file, whether it is new). A file that is there is never changed.

    Raises:
        OSError: it cannot be written.
    """
    folder = regressions_folder(spec)
    if (there := saved_as(folder, found.schedule)) is not None:
        return there, False
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^A-Za-z0-9_]+", "-", found.broken.property)
    number = 1
    while True:
        path = folder / f"{stem}-{number}.json"
        try:
            with path.open("xb") as file:
                file.write(found.schedule.to_json())
        except FileExistsError:
            number += 1
        else:
            return path, True


def saved_as(folder: Path, schedule: Schedule) -> Path | None:
    """The file that holds this schedule already."""
    data = schedule.to_json()
    return next((path for path in sorted(folder.glob("*.json")) if path.read_bytes() == data), None)


def plain(value: Any) -> Any:
    """Outcomes, counterexamples and schedules as JSON holds them; steps of a history as readers see them."""
    if isinstance(value, Step):
        return step_data(value)
    if isinstance(value, Schedule):
        return msgspec.to_builtins(value)
    if isinstance(value, msgspec.Struct):
        return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    return value


def step_data(step: Step, names: Mapping[bytes, str] = draw.NAMES_NONE) -> dict[str, Any]:
    """A step as plain data; `shown` is what diagrams say of it."""
    found: dict[str, Any] = {"at": round(step.at, 9), "kind": step.kind, "who": step.who}
    for name in ("peer", "name", "mark", "text"):
        if getattr(step, name):
            found[name] = getattr(step, name)
    if step.arguments:
        found["arguments"] = step.arguments
    if step.number is not None:
        found["number"] = step.number
    if step.sent >= 0:
        found["sent"] = step.sent
    return found | {"shown": draw.note(step, names)}


def history_data(history: History, names: Mapping[bytes, str]) -> list[dict[str, Any]]:
    """A history as plain data."""
    return [step_data(step, names) for step in history]
