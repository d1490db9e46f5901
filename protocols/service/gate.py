"""A keyholder's gate as a process. It opens one connection, to the coordinator."""

from __future__ import annotations

from .. import messages
from ..gate import Gate
from ..members import Join, make_record
from ..net.zeromq import ZeroMQTransport
from .process import PART_BYTES_MAX, Member, Process, join


def serve(guest: Member) -> None:
    """Answer the coordinator's plans until a signal comes.

    Raises:
        InterlockError: E704, it does not let us in; or what stopped this process.
    """
    transport = ZeroMQTransport(guest.identity.curve_secret, part_bytes=PART_BYTES_MAX)
    request = Join(record=make_record(guest.identity, "gate", guest.operator), invitation=None)

    async def main(process: Process) -> None:
        try:
            manifest = await join(transport, guest, request, keep=guest.folder)
            role = Gate(guest.identity, manifest, operator=guest.operator)
            await process.drive(
                role,
                transport,
                manifest,
                identity=guest.identity,
                kinds=messages.BY_GATE,
                metrics=guest.metrics,
            )
        finally:
            await transport.close()

    Process(guest.folder, log_json=guest.log_json).run(main)
