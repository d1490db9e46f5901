"""`interlock chaos`: a run on this machine whose processes are killed, stopped, cut off and started again at random."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import Failed
from ..service import machine
from .app import Json, app, note, say, say_json
from .runs import clear

Directory = Annotated[Path, typer.Argument(help="Run directory; an earlier chaos in it is replaced.")]
DEFAULT = Path("runs/chaos")


@app.command()
def chaos(
    directory: Directory = DEFAULT,
    *,
    minutes: Annotated[float, typer.Option(help="How long to disturb it, from its first round.", min=0.05)] = 2.0,
    seed: Annotated[int, typer.Option(help="What the disturbances are drawn from.", min=0)] = 1,
    every: Annotated[float, typer.Option(help="Seconds between two of them, on average.", min=0.5)] = 5.0,
    calm: Annotated[bool, typer.Option("--calm", help="Disturb nothing, to compare.")] = False,
    json: Json = False,
) -> None:
    """Disturb a small run at random, never beyond what a run promises to bear, and check that it held.

    Kills, stops, slows, cuts off and restarts nodes, relays, gates and the coordinator. At the end everything that the
    processes wrote is checked: equal digests, nothing counted twice, no tick open twice, a whole journal, nobody left
    behind. Writes report.json and chaos.json; status 1 if anything does not hold.
    """
    machine.set_threads(1)
    from ..service import chaos
    from ..service.found import found
    from ..service.links import Links
    from ..service.local import Local, follow
    from ..service.report import measure
    from ..service.rundir import write_whole
    from ..service.verify import contradictions

    clear(directory, chaos.CHOICES.name)
    run, _, _ = found(directory, chaos.CHOICES)
    tell, start, links = note if json else say, machine.now_s(), Links()
    local = Local(run, links=links, patience_s=30.0)
    play = chaos.Chaos(local, seed=None if calm else seed, seconds=minutes * 60, every_s=every, told=tell)

    def told(news: list[object]) -> None:
        play.hear(news)
        for line in chaos.said(news):
            tell(line)

    try:
        follow(local, told, meddle=play)
    finally:
        links.close()
    if not play.seconds:
        note("stopped before its time was over; nothing was checked")
        raise typer.Exit(130)
    report = measure(run) | {"wall_seconds": machine.now_s() - start, "bars": []}
    write_whole(run.report, jsonlib.dumps(report, indent=2).encode() + b"\n")
    disagreements = [*contradictions(run), *(f"process {pid} is left behind" for pid in chaos.orphans(local))]
    taken = ("ticks", "voids", "deaths", "rounds_lost_to_death", "joins", "leaves", "relay_failovers")
    result: dict[str, Any] = {
        "directory": str(directory),
        "seed": None if calm else seed,
        **play.found(),
        **{name: report[name] for name in taken},
        "disagreements": disagreements,
    }
    write_whole(run.path / "chaos.json", jsonlib.dumps(result, indent=2).encode() + b"\n")
    if json:
        say_json(result)
    else:
        _show(result)
    if disagreements:
        raise Failed(
            752,
            f"{directory}: what the processes of the run say does not agree: {len(disagreements)} times",
            todo="See 'disagreements' in its chaos.json; events and logs of every process are beside it.",
        )


def _show(result: dict[str, Any]) -> None:
    for name, value in result.items():
        if isinstance(value, float):
            say(f"{name:28} {value:.1f}")
        elif isinstance(value, dict):
            say(f"{name:28} {', '.join(f'{count} x {what}' for what, count in value.items())}")
        elif not isinstance(value, list):
            say(f"{name:28} {value}")
    say(f"{'disagreements':28} {len(result['disagreements'])}")
    for line in result["disagreements"]:
        say(f"  {line}")
