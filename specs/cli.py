"""`interlock spec`: check specs, read what broke, list them, begin one.

Results go to standard output (`--json`: one JSON value a line), progress, errors and hints to standard error. Exit
status: 0 all held; 1 something is broken (under --strict also what was not tried); 2 nothing was learned: no action
ran, or a spec, property or schedule is not one; 3 wrong usage.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args

import typer
from typer.core import TyperGroup

from interlock.protocols.cli.app import Json, fail, note, say, say_json
from interlock.protocols.errors import InterlockError, Misused

from .judge import World

HELD, BROKEN, NOTHING_LEARNED, USAGE = range(4)
WIDTHS = (60, 200)  # of a diagram, in characters
WIDTH = 100  # where nobody knows how wide the terminal is
PROGRESS_S, LINES_S = 0.2, 10.0  # between signs of progress, on a terminal and elsewhere
RUNS, RUNS_WIRE = 1000, 5
VIRTUAL: tuple[World, ...] = ("model", "code")  # what broke is tried in the other of these by itself
_UsageError: Any = typer.BadParameter.__base__  # Click's, wherever this version of Typer has it


class Commands(TyperGroup):
    """The commands below. Wrong usage is status 3: 2 says that nothing was learned."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the arguments."""
        return _as_usage(partial(super().make_context, *args, **kwargs))

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        return _as_usage(partial(super().invoke, ctx))


def _as_usage(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except _UsageError as error:
        error.exit_code = USAGE
        raise
    except InterlockError as error:
        fail(str(error), error.todo, USAGE)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="State a protocol as an executable spec, check it, and read the counterexample.",
)

Specs = Annotated[
    list[str] | None, typer.Argument(metavar="[SPEC]...", help="Names (see list) or Python files. Default: all.")
]


def _world(text: str) -> World:
    found: World | None = next((world for world in get_args(World) if world == text), None)
    if found is None:
        raise typer.BadParameter(f"'{text}' is not one of {', '.join(get_args(World))}.")
    return found


Worlds = Annotated[
    list[str] | None,
    typer.Option("--in", help="model (default), code or wire: where it runs; repeat.", metavar="WORLD", parser=_world),
]


class Told(NamedTuple):
    """What a check was told. runs: None where nobody said; see `Spec.cost`."""

    runs: int | None
    seed: int
    mutants: bool
    strict: bool
    json: bool


class Task(NamedTuple):
    """One spec in one world. text: what it was called."""

    text: str
    world: World


@app.command()
def check(
    specs: Specs = None,
    worlds: Worlds = None,
    runs: Annotated[
        int | None, typer.Option(help="Random runs of each spec, after its small scope. [default: by its cost]", min=0)
    ] = None,
    seed: Annotated[int, typer.Option(help="Which random runs.", min=0)] = 1,
    jobs: Annotated[int, typer.Option(help="How many specs and worlds at a time.", min=1, max=256)] = 1,
    replay: Annotated[
        Path | None,
        typer.Option(help="Run this saved schedule only.", exists=True, dir_okay=False, metavar="FILE"),
    ] = None,
    journal: Annotated[
        Path | None,
        typer.Option(
            help="Judge what the real run in this directory wrote down.", exists=True, file_okay=False, metavar="DIR"
        ),
    ] = None,
    mutants: Annotated[bool, typer.Option("--mutants", help="Also check that wrong roles break the spec.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings: on what was never tried.")] = False,
    json: Json = False,
) -> None:
    """Look for runs that break a spec: its saved ones, then all of a small scope, then random ones."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    from hypothesis.configuration import set_hypothesis_home_dir

    set_hypothesis_home_dir(cache / "interlock" / "hypothesis")  # else it leaves a folder wherever we are run
    told = Told(runs=runs, seed=seed, mutants=mutants, strict=strict, json=json)
    chosen: list[World] = [_world(world) for world in dict.fromkeys(worlds or ["model"])]
    if replay is not None:
        if mutants or journal is not None or len(specs or []) > 1:
            raise typer.BadParameter("--replay takes one spec, no --mutants and no --journal.")
        statuses = [_replayed(replay, (specs or [""])[0], world, told) for world in chosen]
        raise typer.Exit(worst(statuses))
    from . import find

    names = list(dict.fromkeys(specs)) if specs else [spec.name for spec in find.every()]
    found = [spec for name in names for spec in find.find(name)]  # a wrong name is known before anything runs
    if journal is not None:
        if mutants or worlds:
            raise typer.BadParameter("--journal takes no --mutants and no --in.")
        from .run import RunSpec

        about = found if specs else [spec for spec in found if issubclass(spec, RunSpec)]
        raise typer.Exit(worst(_over_journal(spec, journal, told) for spec in about))
    tasks = [Task(name, world) for name in names for world in chosen]
    if jobs == 1 or len(tasks) == 1:
        statuses = [_checked(task, told) for task in tasks]
    else:
        statuses = _side_by_side(tasks, told, jobs)
    raise typer.Exit(worst(statuses))


def worst(statuses: Iterable[int]) -> int:
    """The status of several checks: broken before nothing learned before held."""
    found = set(statuses)
    return next((status for status in (USAGE, BROKEN, NOTHING_LEARNED) if status in found), HELD)


def _checked(task: Task, told: Told) -> int:
    """Check one spec, or the few in one file, in one world; say what came out."""
    from . import find

    return worst(_one(spec, task, told) for spec in find.find(task.text))


def _one(spec: Any, task: Task, told: Told) -> int:
    from . import find, search

    progress = Progress(f"{spec.name} {task.world}")
    few = RUNS_WIRE if task.world == "wire" else RUNS
    runs = max(1, few // spec.cost) if told.runs is None else told.runs
    try:
        outcome = search.check(spec, task.world, runs=runs, seed=told.seed, progress=progress)
        killed, toothless = None, []
        if told.mutants:
            wrong = find.mutants_of(spec)
            killed = search.check_mutants(wrong, world=task.world, runs=runs, seed=told.seed, progress=progress)
            toothless = search.toothless(spec, killed) if wrong else []
    except InterlockError as error:
        progress.close()
        return _not_one(spec.name, task.world, error, told)
    progress.close()
    return _say(spec, task, outcome, told, mutants=killed, toothless=toothless)


def _replayed(file: Path, text: str, world: World, told: Told) -> int:
    from . import find, search
    from .schedule import Schedule

    name = text or str(file)
    try:
        schedule = Schedule.load(file)
        spec = find.named(find.find(text), schedule.spec) if text else find.spec_of(schedule, file)
        outcome = search.replay(spec, schedule, world)
    except InterlockError as error:
        return _not_one(name, world, error, told)
    return _say(spec, Task(text or spec.name, world), outcome, told, replayed=file)


def _over_journal(spec: Any, directory: Path, told: Told) -> int:
    from . import report
    from .journal import judge_journal, labels

    try:
        outcome = judge_journal(spec, directory)
    except InterlockError as error:
        return _not_one(spec.name, "journal", error, told)
    status: int = outcome.exit_code
    if told.json:
        say_json(report.plain(outcome) | {"history": None, "status": status})
    else:
        for line in report.journal_lines(outcome, labels(directory), width=width()):
            say(line)
    return status


def _not_one(name: str, world: str, error: InterlockError, told: Told) -> int:
    """A spec, property or schedule that is not one: nothing is learned from it."""
    if told.json:
        said = {"spec": name, "world": world, "error": str(error), "hint": error.todo, "status": NOTHING_LEARNED}
        say_json(said)
    else:
        say(f"{name}   {world}   nothing learned")
    note(f"error: {error}")
    if error.todo:
        note(f"hint: {error.todo}")
    return NOTHING_LEARNED


def _say(
    spec: Any,
    task: Task,
    outcome: Any,
    told: Told,
    *,
    mutants: Any = None,
    toothless: Sequence[str] = (),
    replayed: Path | None = None,
) -> int:
    """Print an outcome; give its status."""
    import msgspec

    from . import report, search

    status: int = outcome.exit_code(strict=told.strict)
    found, file, new = outcome.counterexample, replayed, False
    if found is not None:
        exact = task.world != "wire"
        others = {w: search.compare(spec, found, w, exact=exact) for w in VIRTUAL if w != task.world}
        found = msgspec.structs.replace(found, other_worlds=others)
        outcome = msgspec.structs.replace(outcome, counterexample=found)
        if replayed is None:
            file, new = _saved(spec, found)
    if mutants is not None and status == HELD and told.strict and report.mutant_warnings(mutants, toothless):
        status = BROKEN
    if told.json:
        data = report.plain(outcome) | {"status": status}
        if found is not None:
            data["counterexample"]["file"] = None if file is None else shown_path(file)
        if mutants is not None:
            data["mutants"] = [report.plain(each) | {"counterexample": None} for each in mutants]
            data["toothless"] = list(toothless)
        say_json(data)
        return status
    if found is None:
        for line in report.outcome_lines(outcome):
            say(line)
    else:
        hints = _hints(task, file, new=new)
        for line in report.broken_lines(outcome, found, report.Cast(spec), width=width(), next_lines=hints):
            say(line)
    if mutants is not None:
        for line in report.mutant_lines(mutants, toothless):
            say(line)
    return status


def _saved(spec: Any, found: Any) -> tuple[Path | None, bool]:
    from . import report

    try:
        return report.save(spec, found)
    except OSError as error:
        note(f"warning: the counterexample cannot be saved: {error.filename}: {error.strerror}")
        return None, False


def _hints(task: Task, file: Path | None, *, new: bool) -> Iterator[str]:
    if file is None:
        return
    if new:
        yield f"  saved:    {shown_path(file)}"
    place = "" if task.world == "model" else f" --in {task.world}"
    yield f"  again:    interlock spec check {task.text}{place} --replay {shown_path(file)}"
    yield f"  as page:  interlock spec show {shown_path(file)}{place} --html FILE"


def _side_by_side(tasks: Sequence[Task], told: Told, jobs: int) -> list[int]:
    """Each task in a process of its own; what they say comes in the order of the tasks."""
    progress = Progress(f"{len(tasks)} checks")
    statuses = []
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(_child, task, told) for task in tasks]
        for task, future in zip(tasks, running, strict=True):
            while not future.done():
                progress(f"{sum(each.done() for each in running)} done", None)
                time.sleep(0.05)
            child = future.result()
            progress.close()
            sys.stdout.write(child.stdout)
            sys.stdout.flush()
            sys.stderr.write("".join(line + "\n" for line in child.stderr.splitlines() if line.strip()))
            if not 0 <= child.returncode <= USAGE:
                note(f"error: the check of {task.text} in {task.world} ended with status {child.returncode}")
            statuses.append(child.returncode if 0 <= child.returncode <= USAGE else NOTHING_LEARNED)
    return statuses


def _child(task: Task, told: Told) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", __package__, "check", task.text, "--in", task.world, "--seed", str(told.seed)]
    command += [] if told.runs is None else ["--runs", str(told.runs)]
    command += [f"--{name}" for name in ("mutants", "strict", "json") if getattr(told, name)]
    environment = os.environ | {"COLUMNS": str(width())}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)  # noqa: S603


@app.command("list")
def list_specs(json: Json = False) -> None:
    """Name the specs that come with Interlock, and what they state."""
    from . import find

    found = find.every()
    widest = max(len(spec.name) for spec in found)
    for spec in found:
        properties = [{"kind": p.kind, "name": p.name, "text": p.text} for p in spec.properties().values()]
        if json:
            say_json(
                {
                    "name": spec.name,
                    "statement": spec.statement(),
                    "actions": list(spec.actions()),
                    "faults": sorted(spec.faults),
                    "properties": properties,
                }
            )
        else:
            say(f"{spec.name:<{widest}}   {spec.statement()}")


@app.command()
def show(
    schedule: Annotated[Path, typer.Argument(help="A saved schedule.", exists=True, dir_okay=False)],
    spec: Annotated[
        str, typer.Option(help="Name or Python file of its spec, where the schedule does not lie with it.")
    ] = "",
    world: Annotated[str, typer.Option("--in", help="model, code or wire.", metavar="WORLD", parser=_world)] = "model",
    watch: Annotated[
        list[str] | None,
        typer.Option(help="Print the value of this after each step, such as count(Vote); repeat.", metavar="EXPR"),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page of its own with a slider over the steps.", metavar="FILE")
    ] = None,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="Print the diagram in Mermaid's language.")] = False,
    json: Json = False,
) -> None:
    """Draw the run of a schedule, all of it."""
    from . import draw, find, report, search
    from .page import page
    from .schedule import Schedule
    from .watch import Watch, watched

    plan = Schedule.load(schedule)
    found = find.named(find.find(spec), plan.spec) if spec else find.spec_of(plan, schedule)
    cast = report.Cast(found)
    run = search.play(found, plan, _world(world))
    columns = watched(run.history, [Watch(text, cast.names) for text in watch or []])
    broken = "" if run.broken is None else f"{run.broken.property} BROKEN"
    if html is not None:
        about = next((p.text for p in found.properties().values() if run.broken and p.name == run.broken.property), "")
        text = page(
            run.history,
            cast.labels,
            title=f"{plan.spec} in {world}: {plan.summary}",
            broken=broken,
            statement=about or found.statement(),
            names=cast.names,
            columns=columns,
        )
        html.write_text(text, encoding="utf-8")
        say(f"wrote {html}")
        return
    if json:
        steps = report.history_data(run.history, cast.names)
        said = [{"step": step} | {"watch": {t: c[n] for t, c in columns.items()}} for n, step in enumerate(steps)]
        say_json({"spec": plan.spec, "world": world, "broken": report.plain(run.broken), "steps": said})
        return
    if mermaid:
        say(draw.mermaid(run.history, cast.labels, cast.names))
        return
    say(f"{plan.spec}   {world}   {broken or 'nothing broken'}   {plan.summary}   {run.seconds:.2f} virtual seconds")
    say("")
    say(draw.text(run.history, cast.labels, names=cast.names, width=width(), columns=columns))


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="Of the protocol: a word in lower case.")],
) -> None:
    """Begin a spec: write NAME.py, which holds as it is and is yours to change."""
    from .examples import lock

    if not (name.isidentifier() and name.islower()) or name in sys.stdlib_module_names:
        raise Misused(813, "a spec's name", expected="a word in lower case that no Python module has", actual=name)
    path = Path(f"{name}.py")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(skeleton(Path(lock.__file__).read_text(encoding="utf-8"), name))
    except FileExistsError:
        raise Misused(813, f"{path} is there already", todo="Name another, or remove it yourself.") from None
    say(f"wrote {path}: a lock among three peers, to change into your protocol")
    say(f"  next: interlock spec check {path}")


def skeleton(text: str, name: str) -> str:
    """The example of the lock as a file of its own, with the name of another protocol.

    >>> print(skeleton("from .. import Spec\\nfrom ..history import Seen\\nclass Lock(Spec):", "ballot_box"))
    from interlock.specs import Spec
    from interlock.specs.history import Seen
    class BallotBox(Spec):
    """
    title = "".join(word.capitalize() for word in name.split("_"))
    text = text.replace("from .. import", f"from {__package__} import").replace("from ..", f"from {__package__}.")
    return text.replace('"""Lock:', f'"""{title}:').replace("class Lock(", f"class {title}(")


class Progress:
    """Says on standard error how far a search is: on one line of a terminal, else a line once in a while."""

    def __init__(self, title: str) -> None:
        self._title, self._next = title, time.monotonic() + PROGRESS_S
        self._terminal, self._shown = sys.stderr.isatty(), False
        if not self._terminal:
            self._next += LINES_S

    def __call__(self, what: str, runs: int | None) -> None:
        """So many runs so far."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + (PROGRESS_S if self._terminal else LINES_S)
        text = f"{self._title}: {what}" + ("" if runs is None else f", {runs} runs")
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text[: width() - 1]}")
            sys.stderr.flush()
            self._shown = True
        else:
            note(text)

    def close(self) -> None:
        """Clear the line."""
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._shown = False


def width() -> int:
    """How wide diagrams may be."""
    return min(max(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTHS[0]), WIDTHS[1])


def shown_path(path: Path) -> str:
    """A path as it is typed here."""
    whole, here = path.resolve(), Path.cwd()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
