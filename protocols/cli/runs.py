"""`interlock new`, `up`, `status`, `plain` and `demo`: a run from its directory."""

from __future__ import annotations

import json as jsonlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import Failed, InterlockError, Misused
from ..service import machine
from ..service.choices import Choices
from .app import Json, app, note, say, say_json
from .options import flatten
from .serve import Limits, LogJson, Metrics, Patience

if TYPE_CHECKING:
    from ..service.rundir import RunDir

Directory = Annotated[Path, typer.Argument(help="The run's directory.")]
DEMO = Path("runs/demo")
DEFAULT = Choices()
ASKED_BYTES, PROMPT = 8192, "def "  # what the demo asks


@app.command()
@flatten
def new(
    directory: Annotated[Path, typer.Argument(help="Directory to make; empty or not there yet.")],
    *,
    keyholder: Annotated[list[str] | None, typer.Option(help="NAME=PUBLICKEY of a keyholder; repeat.")] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Make all keys here, the keyholders' too. For trying things out.")
    ] = False,
    keyholders: Annotated[int, typer.Option(help="With --local: how many keyholders.", min=1, max=7)] = 3,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Text files or folders; repeat. Default: the source text of Python's standard library."),
    ] = None,
    choices: Choices,
    json: Json = False,
) -> None:
    """Found a run: corpus, manifest and the coordinator's key in a new directory.

    The manifest's hash is the run's id: nothing in it can change afterwards.
    """
    from ..service.found import parse_keyholder

    if local and keyholder:
        raise Misused(614, "--local makes the keyholders' keys itself", todo="Leave out --keyholder, or --local.")
    named = tuple(parse_keyholder(text) for text in keyholder or ())
    told = replace(choices, keyholders=named, local=keyholders if local else 0, data=tuple(data or ()))
    _found(directory, told, json=json)


def _found(directory: Path, choices: Choices, *, json: bool) -> RunDir:
    from ..manifest import readable
    from ..service.found import found

    run, manifest, skipped = found(directory, choices)
    if choices.local:
        note("warning: this machine holds all keys: good for trying things out, no protection")
    if manifest.admission == "open":
        note("warning: anyone may join: that an operator holds one stage binds only the honest")
    if json:
        say_json({"directory": str(directory), "run": manifest.run.hex(), "manifest": readable(manifest)})
        return run
    say(f"run '{manifest.name}' in {directory}")
    say(f"  id {manifest.run.hex()}")
    weights = sum(t.rows * t.columns for s in range(manifest.stages) for t in manifest.shape(s).tensors())
    say(f"  {weights:,} weights in {manifest.stages} stages of {manifest.replicas} nodes, {manifest.relays} relays")
    say(f"  {manifest.data.train_bytes:,} bytes to train on, {manifest.data.validation_bytes:,} held out")
    if skipped:
        say(f"  left out, because empty or not text: {skipped} files")
    training = manifest.training
    say(f"  {training.rounds} rounds of {manifest.tokens_per_round:,} bytes, bases turn every {training.epoch_rounds}")
    for line in (*manifest.committee.meaning(), *manifest.policy.meaning()):
        say(f"  {line}")
    if manifest.release == "manual":
        say("  every gate waits for its keyholder to allow an epoch: interlock keyholder release EPOCH")
    return run


@app.command()
def up(
    directory: Directory,
    json: Json = False,
    threads: Annotated[int, typer.Option(help="Threads of each process.")] = 1,
    serve: Annotated[
        bool, typer.Option("--serve", help="Go on after the last round, answering 'generate' and 'evaluate'.")
    ] = False,
    metrics: Metrics = None,
    patience: Patience = 120.0,
    log_json: LogJson = False,
) -> None:
    """Run all processes of a run that was made with --local, here, to its end.

    Whoever is killed is started again, five times in ten minutes; a node then gets its stage's state from a partner.
    Ctrl-C stops them cleanly, a second one at once. A stopped run cannot go on: weights are in memory only.
    """
    machine.set_threads(threads)
    from ..service.rundir import RunDir

    run, start = RunDir(directory), machine.now_s()

    def ended() -> None:
        if serve:
            note(f"all rounds are taken; it answers until Ctrl-C: interlock generate {directory} --prompt TEXT")

    _follow(
        run,
        json=json,
        disclose=False,
        threads=threads,
        ended=ended,
        serve=serve,
        metrics=metrics,
        patience_s=patience,
        log_json=log_json,
    )
    _finish(run, start, json=json, report=None)


@app.command()
def status(
    directory: Annotated[Path, typer.Argument(help="The run's directory, or the folder of one process.")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on showing it, until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Say where a run stands, and what whoever holds it could do; works while it runs.

    The run's directory, with the coordinator's journal, knows the whole; a gate's folder what the gate followed; a
    node's and a relay's what that process did.
    """
    from ..service.status import View, lines, snapshot
    from ..service.status import watch as watched
    from .display import Lines

    view = View(directory)
    with Lines(live=watch and not json) as shown:

        def tell() -> None:
            if json:
                say_json(snapshot(view))
            else:
                shown(lines(view))

        if watch:
            watched(view, tell)
        tell()


@app.command()
@flatten
def plain(directory: Directory, limits: Limits, json: Json = False) -> None:
    """Train a run's model again in one plain process, to compare. Only for runs whose nodes disclosed their seeds."""
    limits.settle()
    from ..service import plain
    from ..service.rundir import RunDir

    found = plain.train(RunDir(directory), (lambda round: None) if json else (lambda round: _count(round)))
    if json:
        say_json(found)
    else:
        say(f"validation {found['val_losses'][-1]:.4f} nats a byte, {found['tokens_per_second']:,.0f} bytes a second")


def _count(round: int) -> None:
    if round % 20 == 0:
        note(f"plain round {round}")


@app.command()
def demo(
    calm: Annotated[
        bool,
        typer.Option("--calm", help="Kill nobody, and let nobody halt it."),
    ] = False,
    no_plain: Annotated[bool, typer.Option("--no-plain", help="Leave out the plain run to compare with.")] = False,
    report: Annotated[Path | None, typer.Option(help="Also write the report to this file.")] = None,
    directory: Annotated[Path, typer.Option("--dir", help="Run directory; an earlier demo in it is replaced.")] = DEMO,
    rounds: Annotated[int, typer.Option(help="Optimizer steps.", min=1)] = DEFAULT.rounds,
    verify: Annotated[
        Path | None, typer.Option(help="Train nothing: recompute this directory's report from its journals.")
    ] = None,
    json: Json = False,
) -> None:
    """Train a small model on this machine, ask it, and train one plain process to compare.

    While it trains, a node, a relay and a gate are killed, a fresh node joins, and keyholders halt and resume it.
    Ends with report.json and loss.png in the run's directory, and status 1 if a bar does not hold.
    """
    if verify is not None:
        _verify(verify, json=json)
        return
    start = machine.now_s()
    machine.set_threads(1)
    clear(directory, "demo")
    tell = note if json else say
    if not no_plain:
        tell("demo: this process will know every stage's seed, to train a plain copy")
    run = _found(directory, Choices(name="demo", local=3, rounds=rounds, decay=rounds // 2), json=json)
    told = None if calm else tell
    _follow(run, json=json, disclose=not no_plain, threads=1, ended=lambda: _ask(run, tell), disturb=told)
    if not no_plain:
        tell("training the same model in one plain process ...")
        _compare(run)
    _finish(run, start, json=json, report=report, bars=True)


def clear(directory: Path, name: str) -> None:
    """Remove an earlier run of this name, and only that.

    Raises:
        Misused: E706, something else is there.
    """
    from ..service.rundir import RunDir

    if not directory.exists() or not any(directory.iterdir()):
        return
    if RunDir(directory).manifest().name != name:
        raise Misused(706, f"{directory} holds another run than a {name}", todo="Name another directory.")
    shutil.rmtree(directory)


def _ask(run: RunDir, tell: Callable[[str], None]) -> None:
    """Ask the model that was just trained, as anybody would who is let in, and keep what it said."""
    from ..service.children import run_child
    from ..service.rundir import write_whole

    tell("asking the model: a score of held-out text, and a continuation ...")
    text, _ = run.corpus(run.manifest())
    asked = run.path / "held-out.txt"
    readable = text.validation[:ASKED_BYTES].replace(b"\0", b"\n").decode(errors="ignore")  # cut anywhere
    write_whole(asked, readable.encode())
    run_child(["evaluate", str(run.path), "--data", str(asked), "--json"], run.path / "evaluate.txt")
    sampling = ["--length", "120", "--temperature", "0.5", "--seed", "1"]
    run_child(["generate", str(run.path), "--prompt", PROMPT, *sampling, "--json"], run.path / "generate.txt")
    scored, said = _last(run.path / "evaluate.txt"), _last(run.path / "generate.txt")
    tell(f"  {scored['nats_per_byte']:.4f} nats a byte over {scored['bytes']:,} bytes")
    tell("\n".join(f"  | {line}" for line in (said["prompt"] + said["text"]).splitlines()))
    answers = {
        "scored_bytes": scored["bytes"],
        "scored_loss": scored["nats_per_byte"],
        "sample": said["prompt"] + said["text"],
        "sample_first_s": said["first_s"],
        "sample_bytes_per_second": said["bytes_per_second"],
    }
    write_whole(run.answers, jsonlib.dumps(answers).encode() + b"\n")


def _last(path: Path) -> Any:
    """The JSON value in the last line of what a child said."""
    return jsonlib.loads(path.read_text().splitlines()[-1])


def _compare(run: RunDir) -> None:
    from ..service.children import run_child

    run_child(["plain", str(run.path), "--json", "--threads", "1"], run.path / "plain.txt")


def _follow(
    run: RunDir,
    *,
    json: bool,
    disclose: bool,
    threads: int,
    ended: Callable[[], None] = lambda: None,
    serve: bool = False,
    metrics: int | None = None,
    patience_s: float = 120.0,
    log_json: bool = False,
    disturb: Callable[[str], None] | None = None,
) -> None:
    """Follow a run to its end. disturb: do to it what the demo shows, and say so."""
    from ..service.local import Local, follow
    from ..service.script import Script
    from .display import JsonLines, Table

    local = Local(run, disclose=disclose, threads=threads, metrics=metrics, log_json=log_json, patience_s=patience_s)
    start = machine.now_s()
    script = None if disturb is None else Script(local, disturb)
    try:
        with JsonLines(local) if json else Table(local) as display:
            whole = follow(local, display, ended=ended, serve=serve, meddle=script or (lambda: None))
        if whole and script is not None:
            script.verify_over()
    except Failed as error:
        _report_of(run, error, machine.now_s() - start)
        raise
    if not whole:
        note(f"stopped after round {local.progress.round} of {local.manifest.training.rounds}")
        raise typer.Exit(130)


def _report_of(run: RunDir, failed: Failed, wall_seconds: float) -> None:
    """Write what a run came to that ended early; one that has written no row leaves none."""
    from ..service.report import measure
    from ..service.rundir import write_whole

    try:
        found = {**measure(run), "wall_seconds": wall_seconds, "bars": [], "failed": str(failed).partition("\n")[0]}
        write_whole(run.report, jsonlib.dumps(found, indent=2).encode() + b"\n")
    except (InterlockError, OSError) as error:
        note(f"warning: no report: {error}")
    else:
        note(f"report: {run.report}")


def _finish(run: RunDir, start: float, *, json: bool, report: Path | None, bars: bool = False) -> None:
    from ..service import picture
    from ..service.report import demo_bars, measure
    from ..service.rundir import write_whole

    picture.draw(run)
    found = measure(run)
    found["wall_seconds"] = machine.now_s() - start
    found["bars"] = demo_bars(found) if bars else []
    data = jsonlib.dumps(found, indent=2).encode() + b"\n"
    write_whole(run.report, data)
    if report is not None and report.resolve() != run.report.resolve():
        report.parent.mkdir(parents=True, exist_ok=True)
        write_whole(report, data)
    if json:
        say_json(found)
    else:
        _show(found)
        say(f"report: {run.report}   picture: {run.picture}")
    failed = [bar["name"] for bar in found["bars"] if not bar["holds"]]
    if failed:
        raise Failed(712, f"bars that do not hold: {', '.join(failed)}", todo=f"See {run.report}.")


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, show_header=False)
    for name, value in found.items():
        if isinstance(value, int | float):
            table.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:,.6g}")
    for backend in sorted(set(found["backends"].values())):
        table.add_row(backend, ", ".join(node for node, its in found["backends"].items() if its == backend))
    for bar in found["bars"]:
        verdict = "holds" if bar["holds"] else "[red]does not hold[/red]"
        table.add_row(f"bar: {bar['name']}", f"{bar['value']:.3g} <= {bar['limit']:g}  {verdict}")
    Console().print(table)


def _verify(directory: Path, *, json: bool) -> None:
    from ..service.rundir import RunDir
    from ..service.verify import contradictions

    found = contradictions(RunDir(directory))
    if json:
        say_json({"directory": str(directory), "contradictions": found})
    else:
        for line in found:
            say(line)
    if found:
        raise Failed(
            713,
            f"contradictions in {directory}: {len(found)}",
            todo="What the first one names was changed, or did wrong.",
        )
    if not json:
        say(f"{directory}: journal, events and report agree")
