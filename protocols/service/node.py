"""A node as a process: one replica of one stage, computed by its engine in a thread of its own."""

from __future__ import annotations

import asyncio
from importlib.metadata import version
from pathlib import Path

from .. import messages
from ..effects import Event
from ..members import Invitation, Join, make_record
from ..net.zeromq import ZeroMQTransport
from ..node import Node
from .backends import stage_of
from .engine import Engine
from .process import PART_BYTES_MAX, Member, Process, join
from .standing import Nobody, Onlooker

LOOK_S = 1.0


class Computes(Event, frozen=True, kw_only=True):
    """The library, its version and the device that compute this node's stage."""

    backend: str
    version: str
    device: str


def serve(
    guest: Member,
    *,
    invitation: Invitation | None,
    backend: str,
    device: str,
    disclose: Path | None = None,
    onlooker: Onlooker | None = None,
) -> None:
    """Hold a replica of a stage until a signal comes; at the first one it hands over before it ends.

    Args:
        backend, device: what runs forward and backward, and where. disclose: see `Engine`; None for every real run.
        onlooker: is told how it fares.

    Raises:
        InterlockError: E704, it does not let us in; E740, E741, E723, no such library or device; or what stopped this
            process.
    """
    stage_of(backend, device=device)  # before anybody is asked to let us in
    computes = Computes(backend=backend, version=version(backend), device=device)
    identity, operator = guest.identity, guest.operator
    transport = ZeroMQTransport(
        identity.curve_secret, part_bytes=PART_BYTES_MAX, upload_bytes_per_s=guest.upload_bytes_per_s
    )
    told = onlooker or Nobody()
    request = Join(record=make_record(identity, "node", operator), invitation=invitation)

    async def look() -> None:
        while True:
            told.look()
            await asyncio.sleep(LOOK_S)

    async def main(process: Process) -> None:
        looking = asyncio.get_running_loop().create_task(look())
        try:
            manifest = await join(transport, guest, request, keep=guest.folder)
            told.joined(manifest, lambda: transport.sent_bytes)
            role = Node(identity, manifest, operator=operator, invitation=invitation)
            engine = Engine(manifest, backend=backend, device=device, disclose=disclose)
            await process.drive(
                role,
                transport,
                manifest,
                identity=identity,
                kinds=messages.BY_NODE,
                metrics=guest.metrics,
                compute=engine,
                said=[computes],
                seen=told.seen,
            )
        finally:
            looking.cancel()
            await transport.close()

    Process(guest.folder, claimed=guest.claimed, log_json=guest.log_json, leaving=told.leaving).run(main)
