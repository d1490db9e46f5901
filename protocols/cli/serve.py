"""`interlock serve`: one process of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..errors import InterlockError, Misused, Warned
from ..service import machine
from .app import app, note, say
from .options import flatten

if TYPE_CHECKING:
    from ..errors import Warned
    from ..members import Invitation
    from ..members import Invited as Role
    from ..service.process import Member
    from ..service.url import JoinURL

serve = typer.Typer(no_args_is_help=True, help="Run one process of a run, until a signal ends it.")
app.add_typer(serve, name="serve")

Bind = Annotated[str, typer.Option(help="HOST:PORT to listen at; port 0 is any free one.")]
Advertise = Annotated[str, typer.Option(help="HOST or HOST:PORT at which others reach it, where that differs.")]
Metrics = Annotated[
    int | None,
    typer.Option(
        help="Port for Prometheus at http://127.0.0.1:PORT/metrics; 0 is any free one, which the log names.",
        min=0,
        max=65535,
    ),
]
Patience = Annotated[
    float,
    typer.Option(
        help="Seconds that a tick may take, and a stage be without anybody who holds it: then the tick is done again, "
        "or the run ends."
    ),
]
Invited = Annotated[
    Path | None,
    typer.Option(help="Invitation by a keyholder, if the join URL has none; no need where admission is open."),
]
Elsewhere = Annotated[
    bool, typer.Option("--local", help="All processes of the run are on this machine, so that its URL may say so.")
]
LogJson = Annotated[
    bool, typer.Option("--log-json", help="Log as JSON lines to log.jsonl in its folder, not as text to log.txt.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a process takes of its machine."""

    threads: Annotated[int, "Threads of the numeric libraries. More than 1 seldom pays."] = 1
    memory: Annotated[
        float | None,
        "Bound on this process's address space in GiB (torch reserves two or three that it never uses, a GPU's driver "
        "far more: not with --device cuda).",
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
        machine.share_devices()
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
class Upload:
    """What a process may send."""

    upload_limit: Annotated[float | None, "Most that it sends, in MB a second (10**6 bytes)."] = None

    def bytes_per_s(self) -> float | None:
        """The limit in bytes.

        Raises:
            Misused: E718.
        """
        if self.upload_limit is None:
            return None
        if not 0.001 <= self.upload_limit < math.inf:
            raise Misused(
                718,
                "--upload-limit",
                expected="at least 0.001 MB a second",
                actual=self.upload_limit,
                todo="Leave it out for no limit.",
            )
        return self.upload_limit * 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Logging:
    """How a process logs."""

    log_json: LogJson = False


def read_url(url: str, file: Path | None, *, local: bool) -> JoinURL:
    """Read a join URL from where it is given.

    One that leads to this machine itself is taken only with `local`, or from the directory of its run, which then is on
    this machine.

    Raises:
        Misused: E613, E615, E715.
    """
    from ..service.rundir import RunDir
    from ..service.url import parse_url, verify_not_local

    if bool(url) == (file is not None):
        raise Misused(613, "where is the run?", expected="its URL, or --url-file, one of them", todo="Name one.")
    if file is not None:
        try:
            url = file.read_text(encoding="ascii", errors="replace").strip()
        except OSError as error:
            what = f"{file} cannot be read: {error.strerror}"
            raise Misused(613, what, todo="The coordinator writes it once it listens.") from None
    parsed = parse_url(url)
    if file is not None and not local:
        try:
            local = RunDir(file.parent).manifest().run == parsed.run
        except InterlockError:
            local = False
    if not local:
        verify_not_local(parsed)
    return parsed


def invitation_of(url: JoinURL, file: Path | None, *, role: Role) -> Invitation | None:
    """The invitation of a file, else of the URL, if there is one.

    Raises:
        Misused: E615. Refused: E204, E209.
    """
    from ..service.process import read_invitation, verify_role

    if file is not None:
        return read_invitation(file, run=url.run, role=role)
    if url.invitation is not None:
        verify_role(url.invitation, role, "the invitation in the join URL")
    return url.invitation


@dataclass(frozen=True, slots=True, kw_only=True)
class Joining:
    """What a process that joins a run by its URL is told."""

    folder: Annotated[Path, typer.Argument(help="Folder of this process, made if missing: its store, events and log.")]
    key: Annotated[Path, "Key file of this process."]
    operator: Annotated[str, "Who runs this process: a name that everyone in the run sees."]
    url: Annotated[str, "Join URL of the run, in quotes."] = ""
    url_file: Annotated[Path | None, "File that holds the join URL."] = None
    local: Elsewhere = False
    wait: Annotated[float, "Give up after so many seconds without an answer."] = 60.0
    metrics: Metrics = None
    log_json: LogJson = False

    def guest(self, upload: Upload | None = None) -> Member:
        """Read key and URL.

        Raises:
            Misused: E613 or E715 the URL, E617 the name, E718 the limit. KeyFileRefused: E101.
        """
        from interlock.vault import Identity

        from ..service.process import Member

        url = read_url(self.url, self.url_file, local=self.local)
        if not 1 <= len(self.operator) <= 80:
            raise Misused(
                617, "--operator", expected="1 to 80 characters", actual=len(self.operator), todo="Give a short name."
            )
        return Member(
            url=url,
            identity=Identity.load(self.key),
            operator=self.operator,
            folder=self.folder,
            wait_s=self.wait,
            metrics=self.metrics,
            log_json=self.log_json,
            upload_bytes_per_s=None if upload is None else upload.bytes_per_s(),
        )


@serve.command()
@flatten
def coordinator(
    directory: Annotated[Path, typer.Argument(help="The run's directory, made by `interlock new`.")],
    *,
    bind: Bind = "127.0.0.1:0",
    advertise: Advertise = "",
    patience: Patience = 120.0,
    metrics: Metrics = None,
    local: Elsewhere = False,
    recover: Annotated[
        bool, typer.Option(help="The journal is lost or damaged: rebuild it from what all gates keep, then go on.")
    ] = False,
    without: Annotated[
        list[str] | None,
        typer.Option(help="With --recover: a keyholder whose gate will not come back. Repeat for each."),
    ] = None,
    limits: Limits,
    logging: Logging,
) -> None:
    """Coordinate a run: plans, journal, corpus. Sees no weight, no activation and no secret.

    Prints the join URL once it listens, and keeps it in the directory's file 'url' until it ends.
    On another machine, DIR needs the files manifest and corpus and the key keys/coordinator.key; --recover does the
    rest.
    """
    limits.settle()
    from ..service import coordinator
    from ..service.rundir import RunDir
    from ..service.url import is_only_here

    def warned(warning: Warned) -> None:
        note(f"warning: {warning}")
        note(f"hint: {warning.todo}")

    if without and not recover:
        raise Misused(733, "--without", expected="--recover with it", todo="Add --recover, or leave it out.")
    if is_only_here(bind, advertise) and not local:
        what, todo = "only this machine reaches a coordinator at", "Others need --bind 0.0.0.0:7700 --advertise HOST"
        warned(Warned(716, f"{what} {advertise or bind}", todo=f"{todo}; if there are none, say so with --local."))
    coordinator.serve(
        RunDir(directory),
        bind=bind,
        advertise=advertise,
        patience_s=patience,
        told=say,
        metrics=metrics,
        log_json=logging.log_json,
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
    upload: Upload,
    limits: Limits,
) -> None:
    """Carry masked frames between nodes. Holds nothing secret; must be reachable by every node."""
    limits.settle()
    from ..service import relay

    guest = joining.guest(upload)
    invited = invitation_of(guest.url, invitation, role="relay")
    relay.serve(guest, bind=bind, advertise=advertise, invitation=invited)


@serve.command()
@flatten
def node(
    joining: Joining,
    *,
    invitation: Invited = None,
    upload: Upload,
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
    guest = joining.guest(upload)
    node.serve(
        guest,
        invitation=invitation_of(guest.url, invitation, role="node"),
        backend=computing.backend,
        device=computing.device,
        disclose=disclose_seed,
    )
