"""A relay as a process: listens for members, and tells the run where."""

from __future__ import annotations

from .. import messages
from ..addresses import is_local
from ..errors import Misused
from ..members import Invitation, Join, make_record
from ..net.zeromq import ZeroMQTransport
from ..relay import Relay
from .process import PART_BYTES_MAX, Member, Process, join
from .url import endpoint, reachable


def serve(guest: Member, *, bind: str, advertise: str, invitation: Invitation | None) -> None:
    """Carry frames until a signal comes.

    Args:
        bind: HOST:PORT, port 0 for any. advertise: what members are told instead, or empty.

    Raises:
        InterlockError: E701, E704, E714; E717, it would name an address of this machine only; or what stopped this
            process.
    """
    identity, operator = guest.identity, guest.operator
    transport = ZeroMQTransport(
        identity.curve_secret,
        bind=endpoint(bind),
        part_bytes=PART_BYTES_MAX,
        upload_bytes_per_s=guest.upload_bytes_per_s,
    )

    async def main(process: Process) -> None:
        try:
            await transport.start()
            host, port = reachable(transport.address, advertise)
            if is_local(host) and not is_local(guest.url.host):
                raise Misused(
                    717,
                    f"this relay would tell other machines that it is at {host}",
                    expected="an address at which they reach this machine",
                    todo="Give --bind 0.0.0.0:PORT and --advertise HOST, and let TCP through to that port.",
                )
            address = f"tcp://{host}:{port}"
            request = Join(record=make_record(identity, "relay", operator, address), invitation=invitation)
            manifest = await join(transport, guest, request, keep=guest.folder)
            role = Relay(identity, manifest, operator=operator, address=address, invitation=invitation)
            await process.drive(
                role, transport, manifest, identity=identity, kinds=messages.BY_RELAY, metrics=guest.metrics
            )
        finally:
            await transport.close()

    Process(guest.folder, log_json=guest.log_json).run(main)
