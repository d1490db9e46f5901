"""The command tree, and how errors are shown.

Packages above this one add commands by an entry point of the group `interlock.commands`: its name is the command's,
its object a `typer.Typer`. None is loaded before somebody asks for it, or for the list of all commands.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from interlock import __version__
from interlock.vault import VaultError

from ..errors import Failed, InterlockError


class Commands(TyperGroup):
    """Our own commands, and those that other packages add."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Own ones first. One of ours cannot be replaced."""
        own = super().list_commands(ctx)
        return own + sorted({added.name for added in _added()} - set(own))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Load it if it is another package's."""
        found = super().get_command(ctx, cmd_name)
        added = [] if found else [each for each in _added() if each.name == cmd_name]
        return _loaded(added[0]) if added else found


def _added() -> list[EntryPoint]:
    return list(entry_points(group="interlock.commands"))


def _loaded(added: EntryPoint) -> Any:
    """The command of an entry point; one that says what is wrong if it cannot be loaded."""
    try:
        part = added.load()
        if not isinstance(part, typer.Typer):
            raise TypeError(f"{added.value} is {type(part).__name__}, not typer.Typer")
    except Exception as error:
        # Whatever another package raises while it is imported: the other commands go on.
        package = added.dist.name if added.dist else "another package"
        part = _broken(
            Failed(
                726,
                f"command {added.name} of {package} cannot be loaded: {type(error).__name__}: {error}",
                todo=f"Install {package} again, or report it to those who make it.",
            )
        )
    command = typer.main.get_command(part)
    command.name = added.name
    return command


def _broken(error: Failed) -> typer.Typer:
    broken = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @broken.command(help=error.text, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def fail() -> None:
        raise error

    return broken


app = typer.Typer(
    name="interlock",
    cls=Commands,
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


def run(arguments: Sequence[str] | None, commands: typer.Typer = app, *, name: str = "interlock") -> NoReturn:
    """Run one command, by default the process's own arguments, and exit."""
    from . import (  # noqa: F401  they register their commands
        ask,
        chaos,
        doctor,
        explain,
        identity,
        join,
        keyholder,
        orders,
        runs,
        serve,
    )

    try:
        commands(args=None if arguments is None else list(arguments), prog_name=name)
    except InterlockError as error:
        fail(str(error), error.todo)
    except VaultError as error:
        fail(str(error), error.todo)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone
        sys.exit(1)
    except MemoryError:
        fail("E724 there is not enough memory", "Give this process more --memory, or the model less.")
    except ImportError as error:
        fail(f"E725 a library cannot be loaded: {error}", "Give more --memory; or set up again: make clean demo")
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        fail(f"E707 {error.strerror or error}{where}", "Is the disk full? Is the folder there, and yours to write in?")
    sys.exit(0)


def fail(text: str, hint: str, status: int = 1) -> NoReturn:
    """Show an error and what to do about it, and exit."""
    note(f"error: {text}")
    if hint:
        note(f"hint: {hint}")
    sys.exit(status)
