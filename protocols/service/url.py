"""The join URL: where a run's coordinator is, and what proves that it is the right one.

    interlock://HOST:PORT/?run=<64 hex>&key=<64 hex>&curve=<64 hex>[&invitation=<base64url>]

`run` is the manifest's hash, `key` the coordinator's identity, `curve` the key of its socket. Whoever has the URL
from a source they trust needs to trust nothing else. With a keyholder's invitation in it, it is all that a newcomer
needs, and a secret until it is used: who joins with it first is let in.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from ..addresses import is_local
from ..canonical import decode, encode
from ..errors import Misused, Refused
from ..members import Invitation

_URL = re.compile(
    r"interlock://(?P<host>[A-Za-z0-9._-]{1,253}):(?P<port>[1-9][0-9]{0,4})/"
    r"\?run=(?P<run>[0-9a-f]{64})&key=(?P<key>[0-9a-f]{64})&curve=(?P<curve>[0-9a-f]{64})"
    r"(?:&invitation=(?P<invitation>[A-Za-z0-9_-]{1,1000}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinURL:
    """A run's address and trust anchor; `invitation` lets in whoever uses it first."""

    host: str
    port: int
    run: bytes
    key: bytes
    curve: bytes
    invitation: Invitation | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """The coordinator's endpoint, as the transport takes it."""
        return f"tcp://{self.host}:{self.port}"

    def __str__(self) -> str:
        keys = f"run={self.run.hex()}&key={self.key.hex()}&curve={self.curve.hex()}"
        if self.invitation is not None:
            keys += f"&invitation={_base64(encode(self.invitation))}"
        return f"interlock://{self.host}:{self.port}/?{keys}"


def parse_url(text: str) -> JoinURL:
    """Read a join URL strictly.

    Raises:
        Misused: E613, or E615, the invitation in it is none, or of another run.

    >>> url = JoinURL(host="example.org", port=7700, run=bytes(32), key=bytes(32), curve=bytes(32))
    >>> parse_url(str(url)) == url
    True
    """
    found = _URL.fullmatch(text)
    if found is None or not 1 <= int(found["port"]) <= 65535:
        raise Misused(
            613,
            "not a join URL",
            expected="interlock://HOST:PORT/?run=...&key=...&curve=... with three values of 64 hex digits",
            actual=repr(text[:60]),
            todo="Copy the whole line that the coordinator wrote to its file 'url', and put it in quotes.",
        )
    run = bytes.fromhex(found["run"])
    return JoinURL(
        host=found["host"],
        port=int(found["port"]),
        run=run,
        key=bytes.fromhex(found["key"]),
        curve=bytes.fromhex(found["curve"]),
        invitation=None if found["invitation"] is None else _invitation(found["invitation"], run),
    )


def _invitation(text: str, run: bytes) -> Invitation:
    todo = "Copy the whole URL that the keyholder gave you, or ask for it again."
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        invitation: Invitation = decode(data, Invitation, whose="invitation")
    except (binascii.Error, Refused):
        raise Misused(615, "the invitation in the join URL is damaged", todo=todo) from None
    if _base64(data) != text:
        raise Misused(615, "the invitation in the join URL is not written in the one way that it has", todo=todo)
    if invitation.run != run:
        raise Misused(615, "the invitation in the join URL is for another run", todo=todo)
    return invitation


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def verify_not_local(url: JoinURL) -> None:
    """Check that a URL that comes from another machine does not lead to this one.

    Raises:
        Misused: E715.
    """
    if is_local(url.host):
        raise Misused(
            715,
            f"the join URL leads to {url.host}, which on every machine is that machine itself",
            expected="a name or address at which this machine reaches the coordinator's",
            todo="Ask for the URL of a coordinator that was started with --bind and --advertise; if it runs on this "
            "machine, add --local.",
        )


def reachable(bound: str, advertise: str) -> tuple[str, int]:
    """Host and port under which others reach a listening process.

    Args:
        bound: "tcp://host:port" as the transport reports it. advertise: "HOST" or "HOST:PORT", or empty.

    Raises:
        Misused: E714, it listens at every address and nobody said which one others use, or the form is wrong.
    """
    host, _, port = bound.removeprefix("tcp://").rpartition(":")
    if advertise:
        match = re.fullmatch(r"([A-Za-z0-9._-]{1,253})(?::([1-9][0-9]{0,4}))?", advertise)
        if match is None:
            raise Misused(
                714,
                "--advertise",
                expected="HOST or HOST:PORT",
                actual=repr(advertise[:60]),
                todo="Such as example.org:7700; an IPv6 address cannot be named, a name with an IPv4 address can.",
            )
        return match[1], int(match[2] or port)
    if host in ("0.0.0.0", "*"):  # noqa: S104  compared, not bound
        raise Misused(
            714,
            f"listening at {bound} says nothing about where others reach this machine",
            todo="Add --advertise HOST with a name or address that they can reach.",
        )
    return host, int(port)


def is_only_here(bind: str, advertise: str) -> bool:
    """Whether a process with these options is reached from its own machine only.

    >>> is_only_here("127.0.0.1:7700", ""), is_only_here("127.0.0.1:7700", "example.org")
    (True, False)
    """
    return is_local((advertise or bind).removeprefix("tcp://").partition(":")[0])


def endpoint(bind: str) -> str:
    """The transport's form of "HOST:PORT"; port 0 means any free one.

    Raises:
        Misused: E714.

    >>> endpoint("127.0.0.1:0")
    'tcp://127.0.0.1:*'
    """
    match = re.fullmatch(r"(?:tcp://)?([A-Za-z0-9._-]{1,253}):([0-9]{1,5})", bind)
    if match is None or int(match[2]) > 65535:
        raise Misused(714, "--bind", expected="HOST:PORT", actual=repr(bind[:60]), todo="Such as 0.0.0.0:7700.")
    return f"tcp://{match[1]}:{match[2] if int(match[2]) else '*'}"
