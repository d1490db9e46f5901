"""Orders: what keyholders sign to pause, halt or resume a run, or to release an epoch by hand.

An order is text that a person reads before signing: lines `key value` in a fixed order, then an empty line and one
signature line for each signer, as in a signed note.

    interlock/order/v1
    run 7f3c...                      the run's id
    seq 3                            place among the run's orders; a release has none and says 0
    action resume                    pause, halt, resume or release
    cites 2                          the newest halt or pause that a resume ends, else none
    epoch none                       that a release allows, else none
    prev 91ab...                     hash of the order with the number before, or none
    log none                         there is no log yet
    not-before 2026-11-26T08:00:00Z
    expires 2026-11-29T08:00:00Z     none for a halt, and for a halt only
    reason the disk of relay two was replaced

    — ada TkX4...                    base64 of four bytes of a key's id and the Ed25519 signature

It is the same object from proposal to execution: below its threshold it is a proposal, and signatures are collected.

Source: C2SP signed-note, for lines of signatures and ids of keys.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, get_args

from interlock.vault import Identity, VaultError, verify_signature

from .errors import Refused
from .manifest import Committee, Manifest
from .wordlist import WORDS

HEADER = "interlock/order/v1"
ORDER_BYTES_MAX = 32 << 10  # 64 signers with the longest names fit
REASON_MAX = 300
SEQ_MAX = 2**31
WORDS_SHOWN = 6

Action = Literal["pause", "halt", "resume", "release"]
STOPS = ("halt", "pause")
KEYS = ("run", "seq", "action", "cites", "epoch", "prev", "log", "not-before", "expires", "reason")

_TIME = "%Y-%m-%dT%H:%M:%SZ"
_EPOCH = datetime(1970, 1, 1)
_LAST_S = (datetime(9999, 12, 31, 23, 59, 59) - _EPOCH) // timedelta(seconds=1)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_HASH = re.compile(r"[0-9a-f]{64}")
_LINE = re.compile(r"— (\S+) ([A-Za-z0-9+/]+={0,2})")
# As in names that people see: no control characters, no line separators, and nothing that turns or hides text.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\xa0\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What an order says. not_before, expires: seconds since 1970; see the module for the rest."""

    run: bytes
    seq: int
    action: Action
    cites: int | None = None
    epoch: int | None = None
    prev: bytes | None = None
    not_before: int
    expires: int | None
    reason: str

    @property
    def text(self) -> str:
        """What is signed: the canonical text, up to the empty line."""
        said = (
            self.run.hex(),
            str(self.seq),
            self.action,
            _or_none(self.cites),
            _or_none(self.epoch),
            "none" if self.prev is None else self.prev.hex(),
            "none",
            shown_time(self.not_before),
            "none" if self.expires is None else shown_time(self.expires),
            self.reason,
        )
        return "\n".join([HEADER, *(f"{key} {value}" for key, value in zip(KEYS, said, strict=True))]) + "\n"

    @property
    def hash(self) -> bytes:
        """SHA-256 of the text: what `prev` of the next order names."""
        return hashlib.sha256(self.text.encode()).digest()

    @property
    def words(self) -> str:
        """Six words of the hash, to read aloud: who signs compares them with the others (66 bits)."""
        bits = int.from_bytes(self.hash, "big")
        return "-".join(WORDS[bits >> 256 - 11 * (at + 1) & 2047] for at in range(WORDS_SHOWN))

    def need(self, committee: Committee) -> int:
        """Signatures that it takes effect with. A release is each gate's own keyholder's."""
        return {"pause": 1, "halt": committee.halt, "resume": committee.resume, "release": 1}[self.action]


@dataclass(frozen=True, slots=True)
class Signed:
    """An order and who signed it: key -> signature, all verified."""

    order: Order
    signatures: dict[bytes, bytes]

    def note(self, committee: Committee) -> str:
        """The whole text, signatures in the committee's order."""
        lines = [
            f"— {signer(k.name)} {base64.b64encode(key_id(signer(k.name), k.key) + self.signatures[k.key]).decode()}\n"
            for k in committee.keyholders
            if k.key in self.signatures
        ]
        return self.order.text + "\n" + "".join(lines)

    def complete(self, committee: Committee) -> bool:
        """Whether enough keyholders signed; with fewer it is a proposal."""
        return len(self.signatures) >= self.order.need(committee)

    def merged(self, other: Signed) -> Signed:
        """The same order with the signatures of both."""
        assert self.order == other.order
        return replace(self, signatures=other.signatures | self.signatures)


def sign(order: Order, keyholder: Identity) -> Signed:
    """An order with one signature."""
    return Signed(order, {keyholder.public: keyholder.sign(order.text.encode())})


def signer(name: str) -> str:
    """A keyholder's name as signature lines have it: a note's names have no spaces and no plus."""
    return re.sub(r"[\s+]", "_", name)


def key_id(name: str, key: bytes) -> bytes:
    """The four bytes by which a signature line names its key; 1 stands for Ed25519."""
    return hashlib.sha256(name.encode() + b"\n\x01" + key).digest()[:4]


def read_order(text: str, manifest: Manifest) -> Signed:
    """Read an order and verify every signature on it.

    Raises:
        Refused: E340 it is no order, E341 it is of another run, E342 a signature is of nobody in the committee or does
            not verify.
    """
    if len(text.encode(errors="replace")) > ORDER_BYTES_MAX:
        raise Refused(340, "an order is too long", expected=f"at most {ORDER_BYTES_MAX} bytes")
    said, gap, signatures = text.partition("\n\n")
    if not gap:
        raise Refused(340, "an order has no empty line before its signatures")
    if not signatures:
        raise Refused(342, "an order that nobody signed")
    order = read_text(said + "\n")
    if order.run != manifest.run:
        raise Refused(341, "an order of another run", expected=manifest.run.hex()[:16], actual=order.run.hex()[:16])
    found: dict[bytes, bytes] = {}
    signed = order.text.encode()
    known = {key_id(signer(k.name), k.key): k for k in manifest.committee.keyholders}
    for name, data in _lines(signatures):
        keyholder = known.get(data[:4])
        if keyholder is None or signer(keyholder.name) != name:
            raise Refused(342, f"a signature of {name[:80]}, who is no keyholder of this run by that key")
        if keyholder.key in found:
            raise Refused(340, f"{name} signed an order twice")
        try:
            verify_signature(keyholder.key, signed, data[4:], whose=f"{name} on an order")
        except VaultError as error:
            raise Refused(342, error.what) from None
        found[keyholder.key] = data[4:]
    made = Signed(order, found)
    if made.note(manifest.committee) != text:  # one order, one text: also the order of its signatures
        raise Refused(340, "an order's signatures are not in the order of the committee, or not canonical")
    return made


def read_text(text: str) -> Order:
    """Read what an order says, without signatures.

    Raises:
        Refused: E340.
    """
    header, *lines = text.removesuffix("\n").split("\n")
    if header != HEADER:
        raise Refused(340, "an order's first line", expected=HEADER, actual=repr(header[:40]))
    if len(lines) != len(KEYS):
        raise Refused(340, "an order's lines", expected=len(KEYS), actual=len(lines))
    said: dict[str, str] = {}
    for key, line in zip(KEYS, lines, strict=True):
        found, space, value = line.partition(" ")
        if found != key or not space:
            raise Refused(340, "an order's line", expected=f"'{key} ...'", actual=repr(line[:40]))
        said[key] = value
    action = said["action"]
    if action not in get_args(Action):
        raise Refused(340, "an order's action", expected="pause, halt, resume or release", actual=repr(action[:40]))
    if said["log"] != "none":
        raise Refused(340, "an order's log", expected="none", actual=repr(said["log"][:40]))
    order = Order(
        run=_read_hash("run", said["run"]),
        seq=_read_number("seq", said["seq"]),
        action=action,  # type: ignore[arg-type]  # one of them
        cites=None if said["cites"] == "none" else _read_number("cites", said["cites"]),
        epoch=None if said["epoch"] == "none" else _read_number("epoch", said["epoch"]),
        prev=None if said["prev"] == "none" else _read_hash("prev", said["prev"]),
        not_before=_read_time("not-before", said["not-before"]),
        expires=None if said["expires"] == "none" else _read_time("expires", said["expires"]),
        reason=said["reason"],
    )
    verify_order(order)
    return order


def verify_order(order: Order) -> None:
    """Check that what an order says goes together.

    Raises:
        Refused: E340.
    """
    release, resume = order.action == "release", order.action == "resume"
    if (order.expires is None) != (order.action == "halt"):
        raise Refused(340, f"a {order.action} {'needs an end' if order.expires is None else 'never expires'}")
    if order.expires is not None and order.expires <= order.not_before:
        raise Refused(340, "an order expires before it begins")
    if (order.cites is not None) != resume or (order.epoch is not None) != release:
        raise Refused(340, "a resume cites what it ends, a release names an epoch, and no other order does either")
    if (order.seq == 0) != release or (release and order.prev is not None):
        raise Refused(340, "orders are numbered from 1, and a release is not numbered", actual=order.seq)
    if order.cites is not None and not 1 <= order.cites < order.seq:
        raise Refused(340, "a resume cites an order before it", expected=f"1 to {order.seq - 1}", actual=order.cites)
    if (order.prev is None) != (order.seq <= 1):
        raise Refused(340, "an order names the one before it, and the first none")
    reason = order.reason
    if not 1 <= len(reason) <= REASON_MAX or _UNSEEN.search(reason) or reason != reason.strip():
        raise Refused(340, "an order's reason", expected=f"one line of 1 to {REASON_MAX} characters that can be seen")
    try:
        reason.encode()
    except UnicodeEncodeError:
        raise Refused(340, "an order's reason", expected="text") from None


def shown_time(seconds: int) -> str:
    """Seconds since 1970 as orders have them; beyond the year 9999, which none can name, its last second.

    >>> shown_time(1_789_000_000)
    '2026-09-10T00:26:40Z'
    """
    return f"{_EPOCH + timedelta(seconds=min(seconds, _LAST_S)):{_TIME}}"


def _read_time(key: str, text: str) -> int:
    try:
        seconds = (datetime.strptime(text, _TIME) - _EPOCH) // timedelta(seconds=1)
    except ValueError:
        seconds = -1
    if seconds < 0 or shown_time(seconds) != text:  # or the same moment in other words, such as single digits
        raise Refused(340, f"an order's {key}", expected="a time such as 2026-11-26T08:00:00Z", actual=repr(text[:40]))
    return seconds


def _read_number(key: str, text: str) -> int:
    if not _NUMBER.fullmatch(text) or int(text) > SEQ_MAX:
        raise Refused(340, f"an order's {key}", expected=f"a number up to {SEQ_MAX}", actual=repr(text[:40]))
    return int(text)


def _read_hash(key: str, text: str) -> bytes:
    if not _HASH.fullmatch(text):
        raise Refused(340, f"an order's {key}", expected="64 hex digits", actual=repr(text[:70]))
    return bytes.fromhex(text)


def _lines(text: str) -> list[tuple[str, bytes]]:
    """Signature lines: the name, and the id of a key with a signature by it."""
    found = []
    for line in text.removesuffix("\n").split("\n"):
        match = _LINE.fullmatch(line)
        try:
            data = b"" if match is None else base64.b64decode(match[2], validate=True)
        except binascii.Error:
            data = b""
        if match is None or len(data) != 4 + 64:
            raise Refused(340, "an order's signature line", expected="'— NAME BASE64'", actual=repr(line[:40]))
        found.append((match[1], data))
    return found


def _or_none(value: int | None) -> str:
    return "none" if value is None else str(value)
