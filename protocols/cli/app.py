"""The command tree, and how errors are shown."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from interlock import __version__
from interlock.vault import VaultError

from ..errors import InterlockError

app = typer.Typer(
    name="interlock",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Train a model that no participant holds and that its committee can stop.",
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one value a line, instead of text.")]


def visible(text: str) -> str:
    """Show as an escape what a terminal would obey or hide: names and reasons come from others.

    >>> print(visible("a\\x1b[2Jb"))
    a\\x1b[2Jb
    """
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def say(text: str) -> None:
    """Print a result."""
    typer.echo(visible(text))


def say_json(value: Any) -> None:
    """Print a result as one line of JSON."""
    typer.echo(json.dumps(value))


def note(text: str) -> None:
    """Print what is not a result."""
    typer.echo(visible(text), err=True)


@app.callback(invoke_without_command=True)
def _top(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        say(__version__)
        raise typer.Exit


def run(arguments: Sequence[str] | None) -> NoReturn:
    """Run one command, by default the process's own arguments, and exit."""
    from . import keyholder, runs, serve  # noqa: F401  they register their commands

    try:
        app(args=None if arguments is None else list(arguments), prog_name="interlock")
    except InterlockError as error:
        _fail(str(error), error.todo)
    except VaultError as error:
        _fail(str(error), error.todo)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone
        sys.exit(1)
    except MemoryError:
        _fail("E724 there is not enough memory", "Give this process more --memory, or the model less.")
    except ImportError as error:
        _fail(f"E725 a library cannot be loaded: {error}", "Give more --memory; or set up again: make clean demo")
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        _fail(f"E707 {error.strerror or error}{where}", "Is the disk full? Is the folder there, and yours to write in?")
    sys.exit(0)


def _fail(text: str, hint: str) -> NoReturn:
    note(f"error: {text}")
    if hint:
        note(f"hint: {hint}")
    sys.exit(1)
