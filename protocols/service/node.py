"""A node as a process: one replica of one stage, computed by its engine in a thread of its own."""

from __future__ import annotations

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


class Computes(Event, frozen=True, kw_only=True):
    """The library, its version and the device that compute this node's stage."""

    backend: str
    version: str
    device: str


def serve(guest: Member, *, invitation: Invitation | None, backend: str, device: str, disclose: Path | None) -> None:
    """Hold a replica of a stage until a signal comes.

    Args:
        backend, device: what runs forward and backward, and where. disclose: see `Engine`; None for every real run.

    Raises:
        InterlockError: E704, it does not let us in; E740, E741, E723, no such library or device; or what stopped this
            process.
    """
    stage_of(backend, device=device)  # before anybody is asked to let us in
    computes = Computes(backend=backend, version=version(backend), device=device)
    identity, operator = guest.identity, guest.operator
    transport = ZeroMQTransport(identity.curve_secret, part_bytes=PART_BYTES_MAX)
    request = Join(record=make_record(identity, "node", operator), invitation=invitation)

    async def main(process: Process) -> None:
        try:
            manifest = await join(transport, guest, request, keep=guest.folder)
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
            )
        finally:
            await transport.close()

    Process(guest.folder).run(main)
