"""`interlock join`: lend this machine to a run, with nothing but its URL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .app import Json, app
from .options import flatten
from .serve import Computing, Elsewhere, Invited, Limits, Logging, Metrics, Upload, invitation_of, read_url

if TYPE_CHECKING:
    from ..service.url import JoinURL


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Which run."""

    url: Annotated[str, typer.Argument(help="Join URL of the run, in quotes.", show_default=False)] = ""
    url_file: Annotated[Path | None, "File that holds the join URL: an invitation in it is then seen by nobody."] = None
    local: Elsewhere = False

    def read(self) -> JoinURL:
        """Read the URL.

        Raises:
            Misused: E613, E615, E715.
        """
        return read_url(self.url, self.url_file, local=self.local)


@app.command()
@flatten
def join(
    where: Where,
    *,
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder of this node, with its key. Default: one for the run in ~/.local/share/interlock."),
    ] = None,
    operator: Annotated[
        str, typer.Option(help="A name that everyone in the run sees. Default: the invitation's, or this machine's.")
    ] = "",
    invitation: Invited = None,
    wait: Annotated[float, typer.Option(help="Give up after so many seconds without an answer.")] = 60.0,
    metrics: Metrics = None,
    upload: Upload,
    computing: Computing,
    limits: Limits,
    logging: Logging,
    json: Json = False,
) -> None:
    """Join a run as a node: compute one replica of a stage, until Ctrl-C.

    Makes a key if there is none. Opens outbound connections only. The first Ctrl-C leaves: the node hands over and then
    ends; the second ends it at once.
    """
    limits.settle()
    from ..service import joining, node
    from ..service.process import Member
    from .joined import Status

    url = where.read()
    settled = joining.settle(
        url, folder=folder, operator=operator, invitation=invitation_of(url, invitation, role="node")
    )
    guest = Member(
        url=url,
        identity=settled.identity,
        operator=settled.operator,
        folder=settled.folder,
        claimed=settled.claimed,
        wait_s=wait,
        log_json=logging.log_json,
        metrics=metrics,
        upload_bytes_per_s=upload.bytes_per_s(),
    )
    status = Status(json=json)
    status.begin(url, settled, computing, limits)
    try:
        node.serve(
            guest,
            invitation=settled.invitation,
            backend=computing.backend,
            device=computing.device,
            onlooker=status,
        )
    finally:
        status.end()
