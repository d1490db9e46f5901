"""Addresses that mean something on one machine only."""

from __future__ import annotations

from .errors import Refused
from .members import Record

_NAMES = {"localhost", "0.0.0.0", "*"}  # noqa: S104  compared, not bound


def is_local(host: str) -> bool:
    """Whether a host's name or IPv4 address leads every machine to itself.

    >>> [is_local(host) for host in ("127.0.0.1", "127.1", "localhost", "a.localhost", "0.0.0.0")]
    [True, True, True, True, True]
    >>> [is_local(host) for host in ("10.0.0.127", "localhost.example.org", "example.org")]
    [False, False, False]
    """
    host = host.lower().rstrip(".")
    return host in _NAMES or host.startswith("127.") or host.endswith(".localhost")


def verify_address(record: Record) -> None:
    """Check that others can mean a server's address.

    Raises:
        Refused: E214, it leads every machine to itself.
    """
    host = record.address.removeprefix("tcp://").rpartition(":")[0]
    if is_local(host):
        raise Refused(
            214,
            f"{record.role} {record.operator} says that it listens at {record.address}",
            expected="an address at which other machines reach it",
        )
