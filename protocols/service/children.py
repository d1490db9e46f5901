"""Processes that this one starts: each ends with it, and each can be ended, stopped for a while and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..effects import Event
from ..errors import Failed, Misused
from .events import EventFile

POLL_S = 0.05
HAND_OVER_S, CLOSE_S, LEAVE_S = 0.2, 5.0, 10.0  # that a process has before it is asked again, and again, and killed


class ProcessStarted(Event, frozen=True, kw_only=True):
    """A process was started: for the first time, or again."""

    process: str
    pid: int


class ProcessEnded(Event, frozen=True, kw_only=True):
    """A process has ended. status: as the system gives it, a signal's number as a negative one."""

    process: str
    pid: int
    status: int


class Signalled(Event, frozen=True, kw_only=True):
    """A process was sent a signal on purpose."""

    process: str
    signal: str


@dataclass(slots=True)
class Child:
    """One process. starts: when it was started, in seconds of a clock that never goes back; pids: its numbers then.

    status: how it ended, None while it runs or nobody has looked since.
    is_ours: whether its last end was our doing. is_stopped: whether it stands still until it is told to go on.
    """

    name: str
    folder: Path
    arguments: list[str]
    process: subprocess.Popen[bytes]
    starts: list[float] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    status: int | None = None
    is_ours: bool = False
    is_stopped: bool = False

    @property
    def how(self) -> str:
        """How it ended, in words."""
        return how(self.process.returncode)


class Children:
    """The processes of a run on this machine, by name.

    Args:
        threads: of each. log: folder where it is noted, as events, who was started, ended and sent a signal.
        log_json: let each log as JSON lines.
    """

    def __init__(self, log: Path, *, threads: int = 1, log_json: bool = False) -> None:
        self._log = log
        self._events: EventFile | None = None
        self._more = ["--threads", str(threads), *(["--log-json"] if log_json else [])]
        self._children: dict[str, Child] = {}

    def note(self, event: Event) -> None:
        """Add to the log what was done.

        Raises:
            Failed: E707.
        """
        if self._events is None:
            self._log.mkdir(exist_ok=True)
            self._events = EventFile(self._log)
        self._events(event)

    def __getitem__(self, name: str) -> Child:
        """A process by its name.

        Raises:
            Misused: E750, there is none.
        """
        try:
            return self._children[name]
        except KeyError:
            raise Misused(
                750,
                f"there is no process '{name}'",
                expected=", ".join(self._children) or "none was started",
                todo="Name one of these.",
            ) from None

    def __iter__(self) -> Iterator[Child]:
        """Every process that was ever started, those started first first."""
        return iter(self._children.values())

    def __contains__(self, name: str) -> bool:
        """Whether it was ever started."""
        return name in self._children

    def running(self, prefix: str = "") -> list[str]:
        """Those that run, stopped ones included, and whose names begin so."""
        return [c.name for c in self if c.name.startswith(prefix) and c.process.poll() is None]

    def start(self, name: str, folder: Path, arguments: list[str]) -> None:
        """Start `interlock` with these arguments; for a process that has ended, again.

        Raises:
            Misused: E750, it runs.
        """
        old = self._children.get(name)
        if old is not None and old.process.poll() is None:
            raise Misused(750, f"the process '{name}' runs", todo="End it before you start it again.")
        if old is not None:
            self._note_end(old)
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "interlock.protocols.cli", *arguments]
        command += [*self._more, "--parent", str(os.getpid())]
        with (folder / "log.txt").open("ab") as log:
            # A session of its own: the terminal's Ctrl-C reaches this process only, which then stops the others.
            process = subprocess.Popen(  # noqa: S603  our own command
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        child = self._children[name] = Child(name, folder, arguments, process)
        if old is not None:
            child.starts, child.pids = old.starts, old.pids
        child.starts.append(time.monotonic())
        child.pids.append(process.pid)
        self.note(ProcessStarted(process=name, pid=process.pid))

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a running process a signal; the end that it may bring is our doing.

        Raises:
            Misused: E750, there is no such process, or it has ended.
        """
        child = self[name]
        if child.process.poll() is not None:
            raise Misused(750, f"the process '{name}' has ended", todo="Start it again first.")
        self.note(Signalled(process=name, signal=number.name))
        child.process.send_signal(number)
        if number in (signal.SIGSTOP, signal.SIGCONT):
            child.is_stopped = number == signal.SIGSTOP
        else:
            child.is_ours = True

    def ended(self) -> list[Child]:
        """Those that have ended since the last call."""
        found = [child for child in self if child.status is None and child.process.poll() is not None]
        for child in found:
            self._note_end(child)
        return found

    def _note_end(self, child: Child) -> None:
        if child.status is None:
            child.status = child.process.returncode
            self.note(ProcessEnded(process=child.name, pid=child.process.pid, status=child.status))

    def stop(self) -> None:
        """Ask everyone to leave, those started last first; kill whoever has not after a while.

        They need not hand over: nobody is left to take over.
        """
        for patience_s in (HAND_OVER_S, CLOSE_S, LEAVE_S):  # see `Process`: hand over, stop cleanly, stop at once
            for name in reversed(self.running()):
                child = self[name]
                child.process.send_signal(signal.SIGCONT)
                child.process.terminate()
            end = time.monotonic() + patience_s
            while self.running() and time.monotonic() < end:
                time.sleep(POLL_S)
        self.kill()
        for child in self:
            child.process.wait()
        self.ended()
        if self._events is not None:
            self._events.close()
            self._events = None

    def kill(self) -> None:
        """End everyone at once."""
        for name in self.running():
            self[name].process.kill()


def run_child(arguments: list[str], log: Path) -> None:
    """Run one `interlock` command to its end as a child that ends with this process.

    Raises:
        Failed: E708, it failed; with the last lines that it wrote.
    """
    command = [sys.executable, "-m", "interlock.protocols.cli", *arguments, "--parent", str(os.getpid())]
    with log.open("wb") as output:
        child = subprocess.Popen(  # noqa: S603  our own command
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        status = child.wait()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
    if status:
        said = quoted(log.read_text(errors="replace").splitlines()[-5:])
        raise Failed(
            708,
            f"'interlock {arguments[0]}' {how(status)}; the end of what it said:\n{said}",
            todo=f"All of it: {log}",
        )


def how(status: int) -> str:
    """How a process ended.

    >>> how(-9), how(1)
    ('was killed by signal 9 (Killed)', 'ended with status 1')
    """
    return (
        f"was killed by signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"ended with status {status}"
    )


def quoted(lines: list[str]) -> str:
    """Lines of a log inside an error."""
    return "\n".join(f"  | {line}" for line in lines)
