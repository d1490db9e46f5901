"""`interlock identity`: look at a key, keep a copy of it, and bring it to another machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Misused
from .app import Json, app, note, say, say_json

if TYPE_CHECKING:
    from interlock.vault import Identity, Secret

PASSPHRASE_MIN = 12  # characters; Argon2id makes each guess cost a second and 256 MiB

identity = typer.Typer(no_args_is_help=True, help="Look at a process's key, back it up, and restore it.")
app.add_typer(identity, name="identity")

PassphraseFile = Annotated[
    Path | None, typer.Option(help="File with the passphrase in its first line, instead of asking for it.")
]


@identity.command()
def show(file: Annotated[Path, typer.Argument(help="Key file.")], json: Json = False) -> None:
    """Print a key's public part, by which everyone in a run knows its process."""
    from interlock.vault import Identity

    _say(file, Identity.load(file), json=json)


@identity.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Key file.")],
    output: Annotated[Path, typer.Argument(help="Backup to write; never overwritten.")],
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Write a copy of a key, sealed under a passphrase, and see that it opens again.

    Keep it where the key's machine is not, and the passphrase where the copy is not.
    """
    from interlock.vault import Identity, open_backup, seal_backup

    from ..service.rundir import write_new

    loaded = Identity.load(file)
    secret = _passphrase(passphrase_file, new=True)
    text = seal_backup(loaded, secret)
    write_new(output, text.encode())
    open_backup(_read(output), secret)
    _say(output, loaded, json=json)


@identity.command()
def restore(
    backup: Annotated[Path, typer.Argument(help="Backup, as 'interlock identity backup' wrote it.")],
    file: Annotated[Path | None, typer.Argument(help="Key file to make; never overwritten.")] = None,
    test: Annotated[bool, typer.Option("--test", help="Write nothing: only see that the backup opens.")] = False,
    passphrase_file: PassphraseFile = None,
    json: Json = False,
) -> None:
    """Make a key file from a backup, and read it again; or with --test only see that the backup opens.

    One key, one process: stop it on the old machine before it starts on the new one.
    """
    from interlock.vault import Identity, open_backup

    if (file is None) != test:
        raise Misused(736, "where to?", expected="a key file to make, or --test, one of them", todo="Name one.")
    opened = open_backup(_read(backup), _passphrase(passphrase_file, new=False))
    if file is None:
        _say(backup, opened, json=json)
        return
    opened.save(file)
    _say(file, Identity.load(file), json=json)


def _say(file: Path, known: Identity, *, json: bool) -> None:
    if json:
        say_json({"file": str(file), "public": known.public.hex()})
    else:
        say(known.public.hex())


def _read(backup: Path) -> str:
    from interlock.vault.backup import BACKUP_BYTES_MAX

    try:
        with backup.open("rb") as file:
            return file.read(BACKUP_BYTES_MAX).decode("ascii", errors="replace")
    except OSError as error:
        raise Misused(
            736, f"the backup {backup} cannot be read: {error.strerror}", todo="Name the file that was backed up to."
        ) from None


def _passphrase(file: Path | None, *, new: bool) -> Secret:
    """Ask for it, or read it; a new one twice.

    Raises:
        Misused: E735, it is too short, or cannot be had.
    """
    from interlock.vault import Secret

    if file is None:
        said = str(typer.prompt("Passphrase", hide_input=True, confirmation_prompt=new, err=True))
    else:
        try:
            said = file.read_text(encoding="utf-8").partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            raise Misused(735, f"the passphrase in {file} cannot be read: {error}", todo="Name a text file.") from None
        if file.stat().st_mode & 0o077:
            note(f"warning: others on this machine may read {file}")
    if new and len(said) < PASSPHRASE_MIN:
        raise Misused(
            735,
            "the passphrase is too short",
            expected=f"{PASSPHRASE_MIN} characters or more",
            actual=len(said),
            todo="Take five words or more, drawn at random.",
        )
    return Secret(said.encode())
