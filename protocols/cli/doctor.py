"""`interlock doctor`: is this machine fit, and can the run be reached from here?"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Failed
from .app import Json, app, say_json, visible

if TYPE_CHECKING:
    from rich.console import Console

    from ..service.checks import Line

STYLE = {"ok": "green", "warning": "yellow", "error": "red bold"}


@app.command()
def doctor(
    run: Annotated[str, typer.Argument(help="Join URL in quotes, or the directory of a run; none: the machine.")] = "",
    json: Json = False,
) -> None:
    """Examine this machine, and whether a run's coordinator and relays can be reached from here.

    Each line is ok, a warning or an error, with what to do. Ends with status 1 if there is an error.
    """
    from rich.console import Console

    from ..service.doctor import examine

    console, status = Console(markup=False, emoji=False, highlight=False), Console(stderr=True)
    errors, part = 0, ""
    with status.status("looking ...") as shown:
        for line in examine(run, lambda what: shown.update(f"looking at {what} ...")):
            errors += line.status == "error"
            if json:
                say_json(asdict(line))
                continue
            if line.part != part:
                part = line.part
                console.print(part)
            _show(console, line)
    if errors:
        counted = "1 error" if errors == 1 else f"{errors} errors"
        raise Failed(743, f"this machine is not fit for a run: {counted}", todo="See the lines marked 'error'.")


def _show(console: Console, line: Line) -> None:
    from rich.text import Text

    said = Text(f"  {line.status:<8}", style=STYLE[line.status])
    said.append(visible(f"{line.name}: {line.said}"), style="default not bold")
    console.print(said, soft_wrap=True)
    if line.todo:
        console.print(Text(visible(f"          {line.todo}"), style="dim"), soft_wrap=True)
