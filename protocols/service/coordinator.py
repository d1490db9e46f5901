"""The coordinator's process: listens, serves the corpus, keeps the journal, and writes the join URL."""

from __future__ import annotations

from collections.abc import Callable

from interlock.vault import Identity

from .. import corpus, messages
from ..coordinator import Coordinator
from ..errors import Misused
from ..net.zeromq import Door, ZeroMQTransport
from .process import Process
from .rundir import RunDir, write_whole
from .url import JoinURL, endpoint, is_only_here, reachable


def serve(
    run: RunDir,
    *,
    bind: str,
    advertise: str,
    patience_s: float,
    told: Callable[[str], None],
    metrics: int | None = None,
    log_json: bool = False,
) -> None:
    """Coordinate the run of a directory until a signal comes.

    Args:
        bind: HOST:PORT, port 0 for any. advertise: what others are told instead, or empty.
        patience_s: how long a tick may take before the run stops and names who is missing.
        told: hears the join URL once it listens. log_json: log as JSON lines.
        metrics: port at which this machine may read its figures.

    Raises:
        InterlockError: E616, the key is not the manifest's; E701, E705, E714; or what stopped the run.
    """
    manifest = run.manifest()
    identity = Identity.load(run.key("coordinator"))
    if identity.public != manifest.coordinator:
        raise Misused(
            616,
            f"{run.key('coordinator')} is not the key of this run's coordinator",
            expected=manifest.coordinator.hex()[:16],
            actual=identity.public.hex()[:16],
            todo="Restore the key that 'interlock new' made: no other can coordinate this run.",
        )
    text, index = run.corpus(manifest)
    role = Coordinator(
        identity,
        manifest,
        index=index,
        chunk=lambda number: corpus.chunk(text, number),
        patience_s=patience_s,
        local=is_only_here(bind, advertise),
    )
    transport = ZeroMQTransport(
        identity.curve_secret, bind=endpoint(bind), door=Door(), part_bytes=messages.limits(manifest).part_bytes
    )

    def begun() -> None:
        host, port = reachable(transport.address, advertise)
        url = JoinURL(host=host, port=port, run=manifest.run, key=identity.public, curve=identity.curve_public)
        write_whole(run.url, f"{url}\n".encode())
        told(str(url))

    async def main(process: Process) -> None:
        try:
            await process.drive(
                role,
                transport,
                manifest,
                identity=identity,
                kinds=messages.BY_COORDINATOR,
                metrics=metrics,
                door_kinds=messages.BY_STRANGERS,
                begun=begun,
            )
        finally:
            run.url.unlink(missing_ok=True)

    Process(run.folder("coordinator"), log_json=log_json).run(main)
