"""`interlock serve`: one process of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import Misused
from ..service import machine
from .app import app, note, say
from .options import flatten

if TYPE_CHECKING:
    from ..errors import Warned
    from ..members import Invitation
    from ..service.process import Member

serve = typer.Typer(no_args_is_help=True, help="Run one process of a run, until a signal ends it.")
app.add_typer(serve, name="serve")

Bind = Annotated[str, typer.Option(help="HOST:PORT to listen at; port 0 is any free one.")]
Advertise = Annotated[str, typer.Option(help="HOST or HOST:PORT at which others reach it, where that differs.")]
Invited = Annotated[Path | None, typer.Option(help="Invitation by a keyholder; none where admission is open.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a process takes of its machine."""

    threads: Annotated[int, "Threads of the numeric libraries. More than 1 seldom pays."] = 1
    memory: Annotated[
        float | None,
        "Bound on this process's address space in GiB (torch reserves two or three that it never uses).",
    ] = None
    parent: Annotated[int | None, typer.Option(hidden=True)] = None

    def settle(self) -> None:
        """Set them, before anything heavy is imported.

        Raises:
            Misused: E720. Failed: E721, the parent is gone.
        """
        machine.set_threads(self.threads)
        machine.forbid_core_dumps()
        machine.keep_memory()
        if self.parent is not None:
            machine.die_with(self.parent)
        if self.memory is not None:
            machine.limit_memory(self.memory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Computing:
    """What computes a node's stage."""

    backend: Annotated[Literal["torch", "jax"], "Library that runs forward and backward: torch or jax."] = "torch"
    device: Annotated[str, "Where they run, as the library names it: cpu, cuda, cuda:1, mps (torch), tpu (jax)."] = (
        "cpu"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """What a process that joins a run by its URL is told."""

    folder: Annotated[Path, typer.Argument(help="Folder of this process, made if missing: its store, events and log.")]
    key: Annotated[Path, "Key file of this process."]
    operator: Annotated[str, "Who runs this process: a name that everyone in the run sees."]
    url: Annotated[str, "Join URL of the run, in quotes."] = ""
    url_file: Annotated[Path | None, "File that holds the join URL."] = None
    wait: Annotated[float, "Give up after so many seconds without an answer."] = 60.0

    def guest(self) -> Member:
        """Read key and URL.

        Raises:
            Misused: E613 the URL, E617 the name. KeyFileRefused: E101.
        """
        from interlock.vault import Identity

        from ..service.process import Member
        from ..service.url import parse_url

        if bool(self.url) == (self.url_file is not None):
            raise Misused(613, "where is the run?", expected="--url or --url-file, one of them", todo="Name one.")
        url = self.url
        if self.url_file is not None:
            try:
                url = self.url_file.read_text(encoding="ascii", errors="replace").strip()
            except OSError as error:
                what = f"{self.url_file} cannot be read: {error.strerror}"
                raise Misused(613, what, todo="The coordinator writes it once it listens.") from None
        if not 1 <= len(self.operator) <= 80:
            raise Misused(
                617, "--operator", expected="1 to 80 characters", actual=len(self.operator), todo="Give a short name."
            )
        parsed, identity = parse_url(url), Identity.load(self.key)
        return Member(url=parsed, identity=identity, operator=self.operator, folder=self.folder, wait_s=self.wait)


def _invitation(guest: Member, path: Path | None, role: str) -> Invitation | None:
    from ..service.process import read_invitation

    return None if path is None else read_invitation(path, run=guest.url.run, role=role)


@serve.command()
@flatten
def coordinator(
    directory: Annotated[Path, typer.Argument(help="The run's directory, made by `interlock new`.")],
    *,
    bind: Bind = "127.0.0.1:0",
    advertise: Advertise = "",
    patience: Annotated[
        float, typer.Option(help="Seconds that a tick may take; then the run stops and says who is missing.")
    ] = 120.0,
    recover: Annotated[
        bool, typer.Option(help="The journal is lost or damaged: rebuild it from what all gates keep, then go on.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(help="With --recover: a keyholder whose gate will not come back. Repeat for each."),
    ] = None,
    limits: Limits,
) -> None:
    """Coordinate a run: plans, journal, corpus. Sees no weight, no activation and no secret.

    Prints the join URL once it listens, and keeps it in the directory's file 'url' until it ends.
    On another machine, DIR needs the files manifest and corpus and the key keys/coordinator.key; --recover does the
    rest.
    """
    limits.settle()
    from ..service import coordinator
    from ..service.rundir import RunDir

    def warned(warning: Warned) -> None:
        note(f"warning: {warning}")
        note(f"hint: {warning.todo}")

    if without and not recover:
        raise Misused(733, "--without", expected="--recover with it", todo="Add --recover, or leave it out.")
    coordinator.serve(
        RunDir(directory),
        bind=bind,
        advertise=advertise,
        patience_s=patience,
        told=say,
        recover=recover,
        without=without or (),
        warned=warned,
    )


@serve.command()
@flatten
def gate(joining: Joining, limits: Limits) -> None:
    """Release ticks as one keyholder. Opens one outbound connection; nothing moves without a quorum of gates."""
    limits.settle()
    from ..service import gate

    gate.serve(joining.guest())


@serve.command()
@flatten
def relay(
    joining: Joining,
    *,
    invitation: Invited = None,
    bind: Bind = "127.0.0.1:0",
    advertise: Advertise = "",
    limits: Limits,
) -> None:
    """Carry masked frames between nodes. Holds nothing secret; must be reachable by every node."""
    limits.settle()
    from ..service import relay

    guest = joining.guest()
    relay.serve(guest, bind=bind, advertise=advertise, invitation=_invitation(guest, invitation, "relay"))


@serve.command()
@flatten
def node(
    joining: Joining,
    *,
    invitation: Invited = None,
    computing: Computing,
    disclose_seed: Annotated[
        Path | None,
        typer.Option(help="Write the secret seed of this node's stage to a file. For comparison runs only."),
    ] = None,
    limits: Limits,
) -> None:
    """Compute one replica of a stage. Opens outbound connections only; weights stay in memory."""
    limits.settle()
    from ..service import node

    if disclose_seed is not None:
        note(f"warning: the seed of this node's first weights goes to {disclose_seed}; whoever reads it and those of")
        note("warning: the other stages knows where the model began.")
    guest = joining.guest()
    node.serve(
        guest,
        invitation=_invitation(guest, invitation, "node"),
        backend=computing.backend,
        device=computing.device,
        disclose=disclose_seed,
    )
