"""`interlock keyholder`: what a committee member does by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, get_args

import typer

from ..errors import Misused
from ..members import Invited
from .app import Json, app, say, say_json

keyholder = typer.Typer(
    no_args_is_help=True, help="Make a keyholder's key, invite to a run, pause, halt and resume it."
)
app.add_typer(keyholder, name="keyholder")


@keyholder.command()
def init(
    file: Annotated[Path, typer.Argument(help="Key file to make; never overwritten.")], json: Json = False
) -> None:
    """Make a key and print its public part, which the founder of a run takes as --keyholder NAME=PUBLICKEY.

    The file is the whole key: keep it on the machine of your gate, and a copy offline.
    """
    from interlock.vault import Identity

    identity = Identity.generate()
    identity.save(file)
    if json:
        say_json({"file": str(file), "public": identity.public.hex()})
    else:
        say(identity.public.hex())


@keyholder.command()
def invite(
    key: Annotated[Path, typer.Option(help="Your key file.")],
    role: Annotated[str, typer.Option(help="node, relay or asker.")],
    label: Annotated[str, typer.Option(help="Whom you invite; the journal binds the first user to it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Invitation file to write.")],
    directory: Annotated[Path | None, typer.Argument(help="Directory or folder with the run's manifest.")] = None,
    run: Annotated[str, typer.Option(help="The run's id instead (64 hex digits, as in its join URL).")] = "",
    json: Json = False,
) -> None:
    """Invite one node, relay or asker, once. Send the file to its operator over a channel that nobody else reads."""
    from interlock.vault import Identity

    from ..service import found
    from ..service.rundir import RunDir

    if (directory is None) == (not run):
        raise Misused(615, "which run?", expected="a directory or --run, one of them", todo="Name one.")
    identity = Identity.load(key)
    if directory is not None:
        manifest = RunDir(directory).manifest()
        run_id = manifest.run
        if identity.public not in manifest.committee.identities():
            raise Misused(615, f"{key} is not the key of a keyholder of this run", todo="Name the right --key.")
    elif re.fullmatch(r"[0-9a-f]{64}", run):
        run_id = bytes.fromhex(run)
    else:
        raise Misused(
            615,
            "--run",
            expected="64 hex digits",
            actual=repr(run[:70]),
            todo="Copy it from the join URL, after 'run='.",
        )
    for known in get_args(Invited):
        if role == known:
            invitation = found.invite(identity, run=run_id, role=known, label=label)
            break
    else:
        raise Misused(
            615,
            "--role",
            expected=" or ".join(get_args(Invited)),
            actual=repr(role[:20]),
            todo="Gates need no invitation: the manifest names their keys.",
        )
    found.write_invitation(output, invitation)
    if json:
        say_json({"file": str(output), "run": run_id.hex(), "role": role, "label": label})
    else:
        say(f"invitation for {role} '{label}' of run {run_id.hex()[:16]}: {output}")
