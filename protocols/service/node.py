"""A node as a process: one replica of one stage, computed by its engine in a thread of its own."""

from __future__ import annotations

from pathlib import Path

import torch

from .. import messages
from ..errors import Misused
from ..members import Invitation, Join, make_record
from ..net.zeromq import ZeroMQTransport
from ..node import Node
from .engine import Engine
from .process import PART_BYTES_MAX, Member, Process, join


def serve(guest: Member, *, invitation: Invitation | None, device: str, disclose: Path | None) -> None:
    """Hold a replica of a stage until a signal comes.

    Args:
        device: where forward and backward run. disclose: see `Engine`; None for every real run.

    Raises:
        InterlockError: E704, it does not let us in; E723, no such device; or what stopped this process.
    """
    _verify_device(device)
    identity, operator = guest.identity, guest.operator
    transport = ZeroMQTransport(identity.curve_secret, part_bytes=PART_BYTES_MAX)
    request = Join(record=make_record(identity, "node", operator), invitation=invitation)

    async def main(process: Process) -> None:
        try:
            manifest = await join(transport, guest, request, keep=guest.folder)
            role = Node(identity, manifest, operator=operator, invitation=invitation)
            engine = Engine(manifest, device=device, disclose=disclose)
            await process.drive(role, transport, manifest, identity=identity, kinds=messages.BY_NODE, compute=engine)
        finally:
            await transport.close()

    Process(guest.folder).run(main)


def _verify_device(device: str) -> None:
    try:
        torch.ones(1, device=device).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch raises all three
        first = str(error).partition("\n")[0]
        raise Misused(723, f"--device {device!r} cannot be used: {first}", todo="Name another, such as cpu.") from None
