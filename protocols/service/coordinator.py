"""The coordinator's process: listens, serves the corpus, keeps the journal, and writes the join URL."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from interlock.vault import Identity

from .. import corpus, messages
from ..coordinator import Coordinator
from ..errors import Misused, Warned
from ..manifest import Manifest
from ..net.zeromq import Door, ZeroMQTransport
from .process import Process
from .rundir import RunDir, write_whole
from .salvage import salvage
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
    recover: bool = False,
    without: Sequence[str] = (),
    warned: Callable[[Warned], None] = lambda warning: None,
) -> None:
    """Coordinate the run of a directory until a signal comes.

    Args:
        bind: HOST:PORT, port 0 for any. advertise: what others are told instead, or empty.
        patience_s: how long a tick may take before the run stops and names who is missing.
        told: hears the join URL once it listens. log_json: log as JSON lines.
        metrics: port at which this machine may read its figures.
        recover: the journal may be lost or damaged: it is rebuilt from what gates keep before anything else. without:
            names of keyholders whose gates will not come back. warned: hears what was damaged and who is left out.

    Raises:
        InterlockError: E616, the key is not the manifest's; E701, E705, E714, E731, E733; or what stopped the run.
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
    gone = left_out(manifest, without)
    role = Coordinator(
        identity,
        manifest,
        index=index,
        chunk=lambda number: corpus.chunk(text, number),
        patience_s=patience_s,
        local=is_only_here(bind, advertise),
        recover=recover,
        without=frozenset(gone.values()),
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
        if recover and (damage := salvage(run.journal, manifest)) is not None:
            warned(damage)
        if gone:
            warned(
                Warned(
                    734,
                    f"the journal is rebuilt without asking the gate of {', '.join(gone)}",
                    todo="What only that gate knows is lost. Leave it out only if it cannot come back.",
                )
            )
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


def left_out(manifest: Manifest, names: Sequence[str]) -> dict[str, bytes]:
    """The keys of these keyholders.

    Raises:
        Misused: E733, one is no keyholder of the run, or too few gates are left to open anything.
    """
    keys = {keyholder.name: keyholder.key for keyholder in manifest.committee.keyholders}
    unknown = next((name for name in names if name not in keys), None)
    if unknown is not None:
        raise Misused(
            733,
            f"--without {unknown}",
            expected=f"one of {', '.join(keys)}",
            todo="Name keyholders as the manifest does.",
        )
    left, need = len(keys) - len(set(names)), manifest.committee.release
    if left < need:
        raise Misused(
            733,
            "--without leaves too few gates",
            expected=f"{need} or more",
            actual=left,
            todo="No tick can open without them: they must come back.",
        )
    return {name: keys[name] for name in names}
