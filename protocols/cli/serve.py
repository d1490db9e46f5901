"""`interlock serve`: one process of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import Misused
from ..service import machine
from .app import app, note, say

if TYPE_CHECKING:
    from ..members import Invitation
    from ..service.process import Guest

serve = typer.Typer(no_args_is_help=True, help="Run one process of a run, until a signal ends it.")
app.add_typer(serve, name="serve")

Threads = Annotated[int, typer.Option(help="Threads of the numeric libraries. More than 1 seldom pays.")]
Memory = Annotated[
    float | None,
    typer.Option(help="Bound on this process's address space in GiB (torch reserves two or three that it never uses)."),
]
Parent = Annotated[int | None, typer.Option(hidden=True)]
Folder = Annotated[Path, typer.Argument(help="Folder of this process, made if missing: its store, events and log.")]
Url = Annotated[str, typer.Option(help="Join URL of the run, in quotes.")]
UrlFile = Annotated[Path | None, typer.Option(help="File that holds the join URL.")]
Key = Annotated[Path, typer.Option(help="Key file of this process.")]
Operator = Annotated[str, typer.Option(help="Who runs this process: a name that everyone in the run sees.")]
Invited = Annotated[Path | None, typer.Option(help="Invitation by a keyholder; none where admission is open.")]
Wait = Annotated[float, typer.Option(help="Give up after so many seconds without an answer.")]
Bind = Annotated[str, typer.Option(help="HOST:PORT to listen at; port 0 is any free one.")]
Advertise = Annotated[str, typer.Option(help="HOST or HOST:PORT at which others reach it, where that differs.")]


def settle(threads: int, memory: float | None, parent: int | None) -> None:
    """Set this process's limits, before anything heavy is imported."""
    machine.set_threads(threads)
    machine.forbid_core_dumps()
    if parent is not None:
        machine.die_with(parent)
    if memory is not None:
        machine.limit_memory(memory)


def _guest(folder: Path, url: str, url_file: Path | None, key: Path, operator: str, wait: float) -> Guest:
    from interlock.vault import Identity

    from ..service.process import Guest
    from ..service.url import parse_url

    if bool(url) == (url_file is not None):
        raise Misused(613, "where is the run?", expected="--url or --url-file, one of them")
    if url_file is not None:
        try:
            url = url_file.read_text().strip()
        except OSError as error:
            raise Misused(
                613, f"{url_file} cannot be read: {error.strerror}", todo="The coordinator writes it once it listens."
            ) from None
    if not 1 <= len(operator) <= 80:
        raise Misused(617, "--operator", expected="1 to 80 characters", actual=len(operator))
    parsed, identity = parse_url(url), Identity.load(key)
    return Guest(url=parsed, identity=identity, operator=operator, folder=folder, wait_s=wait)


def _invitation(guest: Guest, path: Path | None, role: str) -> Invitation | None:
    from ..service.process import read_invitation

    return None if path is None else read_invitation(path, run=guest.url.run, role=role)


@serve.command()
def coordinator(
    directory: Annotated[Path, typer.Argument(help="The run's directory, made by `interlock new`.")],
    bind: Bind = "127.0.0.1:0",
    advertise: Advertise = "",
    patience: Annotated[
        float, typer.Option(help="Seconds that a tick may take; then the run stops and says who is missing.")
    ] = 120.0,
    threads: Threads = 1,
    memory: Memory = None,
    parent: Parent = None,
) -> None:
    """Coordinate a run: plans, journal, corpus. Sees no weight, no activation and no secret.

    Prints the join URL once it listens, and keeps it in the directory's file 'url' until it ends.
    """
    settle(threads, memory, parent)
    from ..service import coordinator
    from ..service.rundir import RunDir

    coordinator.serve(RunDir(directory), bind=bind, advertise=advertise, patience_s=patience, told=say)


@serve.command()
def gate(
    folder: Folder,
    key: Key,
    operator: Operator,
    url: Url = "",
    url_file: UrlFile = None,
    wait: Wait = 60.0,
    threads: Threads = 1,
    memory: Memory = None,
    parent: Parent = None,
) -> None:
    """Release ticks as one keyholder. Opens one outbound connection; nothing moves without a quorum of gates."""
    settle(threads, memory, parent)
    from ..service import gate

    gate.serve(_guest(folder, url, url_file, key, operator, wait))


@serve.command()
def relay(
    folder: Folder,
    key: Key,
    operator: Operator,
    url: Url = "",
    url_file: UrlFile = None,
    invitation: Invited = None,
    bind: Bind = "127.0.0.1:0",
    advertise: Advertise = "",
    wait: Wait = 60.0,
    threads: Threads = 1,
    memory: Memory = None,
    parent: Parent = None,
) -> None:
    """Carry masked frames between nodes. Holds nothing secret; must be reachable by every node."""
    settle(threads, memory, parent)
    from ..service import relay

    guest = _guest(folder, url, url_file, key, operator, wait)
    relay.serve(guest, bind=bind, advertise=advertise, invitation=_invitation(guest, invitation, "relay"))


@serve.command()
def node(
    folder: Folder,
    key: Key,
    operator: Operator,
    url: Url = "",
    url_file: UrlFile = None,
    invitation: Invited = None,
    device: Annotated[str, typer.Option(help="Where forward and backward run: cpu, cuda, cuda:1, mps.")] = "cpu",
    disclose_seed: Annotated[
        Path | None,
        typer.Option(help="Write the secret seed of this node's stage to a file. For comparison runs only."),
    ] = None,
    wait: Wait = 60.0,
    threads: Threads = 1,
    memory: Memory = None,
    parent: Parent = None,
) -> None:
    """Compute one replica of a stage. Opens outbound connections only; weights stay in memory."""
    settle(threads, memory, parent)
    from ..service import node

    if disclose_seed is not None:
        note(f"warning: the seed of this node's first weights goes to {disclose_seed}; whoever reads it and those of")
        note("warning: the other stages knows where the model began.")
    guest = _guest(folder, url, url_file, key, operator, wait)
    node.serve(guest, invitation=_invitation(guest, invitation, "node"), device=device, disclose=disclose_seed)
