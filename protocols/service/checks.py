"""What makes a machine fit for a run. A check is a pure function: facts in, lines out; `facts` asks the machine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "error"]

MEMORY_GIB, MEMORY_LITTLE_GIB = 0.7, 2.5  # one node of the demo; the demo
ADDRESS_SPACE_GIB = 4.0  # torch reserves two or three
DISK_GIB, DISK_LITTLE_GIB = 0.1, 2.0
DESCRIPTORS = 256
KEYSTREAM_GB_S = 0.5  # a processor without instructions for AES has a tenth of it
FLOAT32_TFLOP_S = 0.005
SKEW = 0.05  # how much wall clock and monotonic clock may differ over a short time


@dataclass(frozen=True, slots=True)
class Line:
    """One finding: which part, what about, how it is, what was seen, and what to do unless it is well."""

    part: str
    name: str
    status: Status
    said: str
    todo: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Library:
    """One library as it is here: its version, or why it cannot be imported."""

    name: str
    least: str
    version: str = ""
    missing: str = ""
    needed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Memory, processors and limits. None: the system does not say, or there is no limit."""

    free_gib: float | None
    address_space_gib: float | None
    swap_gib: float | None
    core_dumps: bool
    descriptors: int
    processors: int
    allowed: int
    threads: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """A short wait by the monotonic clock and by the wall clock, and the year that the latter gives."""

    monotonic_s: float
    wall_s: float
    resolution_s: float
    year: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """How this process reads and writes text."""

    files: str
    output: str
    locale: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A place that a run writes to."""

    path: str
    free_gib: float
    writable: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A key file, and why it is refused, if it is."""

    path: str
    refused: str = ""
    todo: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An address to listen at, and why it cannot be had, if it cannot."""

    address: str
    what: str
    refused: str = ""
    ours: bool = False  # the run's own process listens there


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A coordinator or relay, and how far it could be reached."""

    name: str
    address: str
    how: Literal["handshake", "connected", "no handshake", "no connection"]
    why: str = ""
    seconds: float = 0.0


# --- checks ---


def libraries(found: Iterable[Library]) -> Iterator[Line]:
    """Every library is there and new enough."""
    again = "Set up again: make clean demo"
    for library in found:
        part, name = "versions", library.name
        if library.missing:
            if library.needed:
                yield Line(part, name, "error", f"cannot be imported: {library.missing}", again)
            else:
                yield Line(part, name, "warning", f"not there: {library.missing}", "Install it for what needs it.")
        elif _numbers(library.version) < _numbers(library.least):
            yield Line(part, name, "error", f"{library.version}, at least {library.least} is needed", again)
        else:
            yield Line(part, name, "ok", library.version)


def curve(has: bool, libzmq: str) -> Iterator[Line]:
    """ZeroMQ can encrypt."""
    if has:
        yield Line("versions", "libzmq", "ok", f"{libzmq} with CURVE")
    else:
        todo = "Install pyzmq from its own wheel: pip install --force-reinstall pyzmq"
        yield Line("versions", "libzmq", "error", f"{libzmq} was built without CURVE", todo)


def answer(name: str, source: str, expected: str, got: str) -> Line:
    """A primitive gives its known answer; `got` may be the words of an error."""
    if got == expected:
        return Line("answers", name, "ok", source)
    said = f"expected {expected[:32]}, got {got[:80]}"
    todo = (
        "Do not use this machine: a library is damaged or built for another processor. Set up again, then look again."
    )
    return Line("answers", name, "error", f"{said} ({source})", todo)


def arithmetic(found: Mapping[str, str]) -> Iterator[Line]:
    """Floating point is what the exact update is proved for. found: what was tried, and what is wrong with it or ''."""
    todo = "Do not compute a node here: its replica would differ from the others. Use the wheels of numpy and torch."
    for name, wrong in found.items():
        yield (
            Line("arithmetic", name, "error", wrong, todo) if wrong else Line("arithmetic", name, "ok", "as it must be")
        )


def speed(name: str, value: float | None, unit: str, least: float, path: str) -> Line:
    """How fast something is, and which way it goes; None: it cannot be done here."""
    if value is None:
        return Line("speed", name, "ok", f"not on this machine ({path})")
    said = f"{value:,.3g} {unit} ({path})"
    if value < least:
        todo = (
            "Is the machine loaded, or its processor without vector instructions? A run here is slow and still right."
        )
        return Line("speed", name, "warning", f"{said}, less than {least:g}", todo)
    return Line("speed", name, "ok", said)


def machine(facts: Machine) -> Iterator[Line]:
    """Memory, limits and threads."""
    yield _memory(facts.free_gib)
    bound = facts.address_space_gib
    if bound is None:
        yield Line("machine", "address space", "ok", "no bound")
    elif bound < ADDRESS_SPACE_GIB:
        todo = f"Nodes need {ADDRESS_SPACE_GIB:g} GiB, more than they use. Raise it with: ulimit -v unlimited"
        yield Line("machine", "address space", "warning", f"bounded at {bound:.1f} GiB", todo)
    else:
        yield Line("machine", "address space", "ok", f"bounded at {bound:.1f} GiB")
    if facts.swap_gib:
        todo = "Pages of memory may reach the disk, secrets among them: swapoff -a, or encrypt the swap."
        yield Line("machine", "swap", "warning", f"{facts.swap_gib:.1f} GiB", todo)
    else:
        yield Line("machine", "swap", "ok", "none")
    if facts.core_dumps:
        todo = "Ask who runs the system why RLIMIT_CORE cannot be set to 0."
        yield Line(
            "machine", "core dumps", "error", "cannot be switched off: a crash would write secrets to disk", todo
        )
    else:
        yield Line("machine", "core dumps", "ok", "off in every process of a run")
    if facts.descriptors < DESCRIPTORS:
        todo = f"Raise it with: ulimit -n {4 * DESCRIPTORS}"
        yield Line("machine", "open files", "warning", f"at most {facts.descriptors}", todo)
    else:
        yield Line("machine", "open files", "ok", f"at most {facts.descriptors}")
    yield _threads(facts)


def _memory(free_gib: float | None) -> Line:
    if free_gib is None:
        return Line("machine", "memory", "warning", "the system does not say how much is free", "Look yourself.")
    said = f"{free_gib:.1f} GiB free"
    if free_gib < MEMORY_GIB:
        return Line("machine", "memory", "error", said, f"A node needs about {MEMORY_GIB:g} GiB: end other programs.")
    if free_gib < MEMORY_LITTLE_GIB:
        todo = f"Enough for a node; the demo, which runs twelve processes, takes {MEMORY_LITTLE_GIB:g} GiB."
        return Line("machine", "memory", "warning", said, todo)
    return Line("machine", "memory", "ok", said)


def _threads(facts: Machine) -> Line:
    set_to = ", ".join(f"{name}={value}" for name, value in facts.threads.items())
    said = f"{facts.allowed} of {facts.processors} processors may be used" + (f"; {set_to}" if set_to else "")
    if facts.allowed < 1 or any(not value.isdigit() or value == "0" for value in facts.threads.values()):
        return Line("machine", "threads", "error", said, "Set these variables to a whole number, or unset them.")
    if any(int(value) > facts.allowed for value in facts.threads.values()):
        todo = "More threads than processors cost two to five times the time: unset them, processes of a run use one."
        return Line("machine", "threads", "warning", said, todo)
    return Line("machine", "threads", "ok", said)


def clocks(facts: Clocks, *, asked: bool) -> Iterator[Line]:
    """Clocks go forward, and at one pace. asked: whether there is a coordinator to compare with."""
    if facts.monotonic_s <= 0:
        todo = "Do not use this machine: timers would not ring."
        yield Line("clock", "monotonic", "error", f"went by {facts.monotonic_s:g} s in a short wait", todo)
    else:
        yield Line("clock", "monotonic", "ok", f"resolution {facts.resolution_s:.0e} s")
    if facts.year < 2025:
        todo = "Set it: messages after a restart are refused (E207) when the clock is behind."
        yield Line("clock", "wall", "error", f"it is the year {facts.year} here", todo)
    elif facts.monotonic_s > 0 and abs(facts.wall_s / facts.monotonic_s - 1) > SKEW:
        said = f"went by {facts.wall_s:.3f} s in {facts.monotonic_s:.3f} s"
        yield Line("clock", "wall", "warning", said, "Was it being set just now? Look again.")
    else:
        yield Line("clock", "wall", "ok", "steady")
    if asked:
        yield Line("clock", "coordinator", "ok", "not compared: the protocol tells no time, and needs none in common")


def text(facts: Text) -> Iterator[Line]:
    """Text is UTF-8."""
    for name, encoding in (("file names", facts.files), ("output", facts.output), ("locale", facts.locale)):
        if encoding.lower().replace("-", "") == "utf8":
            yield Line("text", name, "ok", encoding)
        else:
            todo = "Names in the run may not be shown as they are: export LC_ALL=C.UTF-8"
            yield Line("text", name, "warning", f"{encoding or 'unknown'}, not UTF-8", todo)


def folder(facts: Folder) -> Iterator[Line]:
    """There is room to write, and leave to."""
    said = f"{facts.free_gib:.1f} GiB free at {facts.path}"
    if not facts.writable:
        todo = "Name a folder that is yours, or mend its permissions."
        yield Line("files", "disk", "error", f"{facts.path} cannot be written", todo)
    elif facts.free_gib < DISK_GIB:
        yield Line("files", "disk", "error", said, "Make room: a process whose disk is full ends (E707, E722).")
    elif facts.free_gib < DISK_LITTLE_GIB:
        yield Line("files", "disk", "warning", said, "A long run writes journal, events and logs: make room.")
    else:
        yield Line("files", "disk", "ok", said)


def keys(found: Iterable[Key]) -> Iterator[Line]:
    """Key files are whole, and their owner's alone."""
    for key in found:
        if key.refused:
            yield Line("files", "key", "error", key.refused, key.todo)
        else:
            yield Line("files", "key", "ok", f"{key.path}: whole, and its owner's alone")


def ports(found: Iterable[Port]) -> Iterator[Line]:
    """Addresses can be listened at."""
    for port in found:
        if port.ours:
            yield Line("ports", port.what, "ok", f"{port.address}: the run's own coordinator answers there")
        elif port.refused:
            todo = "Choose another port (--bind HOST:0 takes any free one), or stop who listens there: ss -ltnp"
            yield Line("ports", port.what, "error", f"{port.address}: {port.refused}", todo)
        else:
            yield Line("ports", port.what, "ok", f"{port.address} can be had")


def peers(found: Iterable[Peer]) -> Iterator[Line]:
    """Coordinator and relays can be reached, and which part of that was tried."""
    for peer in found:
        took = f"{1e3 * peer.seconds:.0f} ms"
        if peer.how == "handshake":
            said = f"{peer.address}: connected, and it proved its key, in {took}"
            yield Line("reach", peer.name, "ok", said)
        elif peer.how == "connected":
            said = f"{peer.address}: connected in {took}; its key was not asked for, as it answers members only"
            yield Line("reach", peer.name, "ok", said)
        elif peer.how == "no handshake":
            todo = (
                "Somebody else listens there, or the URL's key is not its key: take the URL from its file 'url' again."
            )
            yield Line("reach", peer.name, "error", f"{peer.address}: connected, but {peer.why}", todo)
        else:
            todo = "Is it running? Does a firewall lie between? Is the address one that others use (--advertise)?"
            yield Line("reach", peer.name, "error", f"{peer.address}: {peer.why}", todo)


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version.

    >>> _numbers("2.13.0+cpu") < _numbers("2.13.1")
    True
    """
    found: list[int] = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
        if digits != part:
            break
    return tuple(found)
