"""`interlock explain`: what a numbered error means."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from .app import Json, app, say, say_json


@app.command()
def explain(
    number: Annotated[str, typer.Argument(help="Number of an error, such as 306 or E306; none lists all.")] = "",
    json: Json = False,
) -> None:
    """Say what a numbered error means, why it is one, and what to do."""
    from ..service import explain as explained

    if not number:
        for each in explained.numbers():
            title = explained.title(each)
            if json:
                say_json({"number": each, "title": title})
            else:
                say(f"E{each}  {title}")
        return
    digits = re.fullmatch(r"[Ee]?([0-9]{1,9})", number.strip())
    if digits is None:
        raise typer.BadParameter(f"{number!r} is no number of an error")
    wanted = int(digits[1])
    page = explained.page(wanted)
    if json:
        say_json({"number": wanted, "title": explained.title(wanted), "page": page})
    else:
        _show(page)


def _show(page: str) -> None:
    """Formatted on a terminal, as it is elsewhere."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    if console.is_terminal:
        console.print(Markdown(page))
    else:
        say(page.rstrip("\n"))
