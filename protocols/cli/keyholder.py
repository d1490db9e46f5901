"""`interlock keyholder`: what a committee member does by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, get_args

import typer

from ..errors import Misused
from ..members import Invited
from .app import Json, app, say, say_json
from .serve import read_url

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
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write. With a URL, by default it is printed.")
    ] = None,
    directory: Annotated[Path | None, typer.Argument(help="Directory or folder with the run's manifest.")] = None,
    run: Annotated[str, typer.Option(help="The run's id instead (64 hex digits, as in its join URL).")] = "",
    url: Annotated[str, typer.Option(help="The run's join URL: the invitation is written into it.")] = "",
    url_file: Annotated[Path | None, typer.Option(help="File that holds the join URL.")] = None,
    days: Annotated[float, typer.Option(help="How long it may be used first.", min=0.01, max=366)] = 7,
    json: Json = False,
) -> None:
    """Invite one node, relay or asker, once. Send what it writes over a channel that nobody else reads.

    With the run's join URL it writes a join URL that is all a newcomer needs: interlock join URL. Else it writes a file
    with the invitation alone.
    """
    from interlock.vault import Identity

    from ..service import found
    from ..service.rundir import RunDir, write_whole

    where = read_url(url, url_file, local=True) if url or url_file else None
    if where is not None and not run:
        run = "" if directory is not None else where.run.hex()
    if (directory is None) == (not run):
        raise Misused(615, "which run?", expected="a directory, --run or --url, one of them", todo="Name one.")
    if where is None and output is None:
        raise Misused(615, "--output", expected="a file to write", todo="Name one: -o FILE; or give the run's --url.")
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
    if where is not None and where.run != run_id:
        raise Misused(
            615,
            "the join URL is another run's",
            expected=run_id.hex()[:16],
            actual=where.run.hex()[:16],
            todo="Take the URL of this run.",
        )
    for known in get_args(Invited):
        if role == known:
            invitation = found.invite(identity, run=run_id, role=known, label=label, days=days)
            break
    else:
        raise Misused(
            615,
            "--role",
            expected=" or ".join(get_args(Invited)),
            actual=repr(role[:20]),
            todo="Gates need no invitation: the manifest names their keys.",
        )
    said = {"run": run_id.hex(), "role": role, "label": label}
    whole = None if where is None else str(replace(where, invitation=invitation))
    if output is None:
        say_json({"url": whole, **said}) if json else say(str(whole))
        return
    if whole is None:
        found.write_invitation(output, invitation)
    else:
        write_whole(output, f"{whole}\n".encode(), mode=0o600)
    if json:
        say_json({"file": str(output), **said})
    else:
        say(f"invitation for {role} '{label}' of run {run_id.hex()[:16]}: {output}")
