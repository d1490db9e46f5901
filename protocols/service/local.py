"""All processes of a run on this machine, as children of this one.

No child outlives this process: each asks the system to be ended with its parent. A child that ends on its own ends
the run, with its name and the last lines of its log; but gates may go while enough of them are left to release ticks.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from interlock.vault import Identity

from ..errors import Failed, Misused
from ..manifest import Manifest
from . import found
from .backends import importable
from .events import EventTail, log_end
from .progress import Progress
from .rundir import RunDir
from .store import JournalFile

POLL_S = 0.2
BEGIN_S = 60.0  # for the coordinator to listen
LEAVE_S = 15.0  # for everyone to leave before they are killed


@dataclass(frozen=True, slots=True)
class Ended:
    """A gate that the run goes on without, and how it ended."""

    process: str
    how: str


class Local:
    """A run under way on this machine.

    Where stages have partners and JAX can be imported, one node computes with it, so its partners check it and it them;
    all others do with torch.

    Args:
        disclose: let every node write its stage's seed to its folder, for the plain comparison.
        log_json: let every process log as JSON lines.
        metrics: port at which the coordinator shows its figures; the others follow, in the order of their start.

    Raises:
        Misused: E705, no run directory; E710, this run began before; E711, its keys are elsewhere.
    """

    def __init__(
        self,
        run: RunDir,
        *,
        disclose: bool = False,
        threads: int = 1,
        log_json: bool = False,
        metrics: int | None = None,
    ) -> None:
        self.run, self.manifest = run, run.manifest()
        self.progress = Progress(self.manifest)
        self.times: dict[int, float] = {}  # row number -> unix seconds
        self.waiting = "the coordinator"
        self._disclose, self._threads, self._log_json = disclose, threads, log_json
        self._metrics = metrics
        self.ports: dict[str, int] = {}  # of metrics, by process
        self.stopping = False
        self.ended: dict[str, str] = {}  # gates that the run goes on without, and how each ended
        self._news: list[object] = []
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._journal: JournalFile | None = None
        self._tail = EventTail(run.folder("coordinator"))
        if run.journal.exists():
            raise Misused(
                710,
                f"the run in {run.path} has begun before",
                todo="Nodes keep weights in memory only, so that it cannot go on: found another with interlock new.",
            )
        self._keyholders = _keyholders(run, self.manifest)
        self.backends = _backends(self.manifest)  # by node

    def start(self) -> None:
        """Start every process; leave off when `stopping` is set.

        Raises:
            Failed: E708, one ended at once.
        """
        run, manifest = self.run, self.manifest
        run.url.unlink(missing_ok=True)
        self._spawn("coordinator", ["coordinator", str(run.path), "--local"])
        end = time.monotonic() + BEGIN_S
        while not run.url.exists():
            if self.stopping:
                return
            self.check()
            if time.monotonic() > end:
                raise Failed(
                    708,
                    f"the coordinator did not listen within {BEGIN_S:.0f} s",
                    todo=f"Is this machine overloaded? Its log is {run.folder('coordinator') / 'log.txt'}",
                )
            time.sleep(POLL_S / 4)
        for name in self._keyholders:
            self._join(f"gate-{name}", "gate", run.key(f"keyholder-{name}"), [], operator=name)
        inviter = Identity.load(run.key(f"keyholder-{self._keyholders[0]}"))
        for number in range(manifest.relays):
            self._invited(f"relay-{number}", "relay", inviter, [])
        for name, backend in self.backends.items():
            disclose = ["--disclose-seed", str(run.disclosed(name))] if self._disclose else []
            self._invited(name, "node", inviter, ["--backend", backend, *disclose])

    def check(self) -> None:
        """See that everyone is still there who is needed.

        Raises:
            Failed: E708, naming who ended, with the last lines of its log.
        """
        for name, child in self._children.items():
            if name in self.ended or child.poll() is None:
                continue
            how = _how(child.returncode)
            if name.startswith("gate-") and self._gates_left() >= self.manifest.committee.release:
                self.ended[name] = how
                self._news.append(Ended(name, how))
                continue
            raise Failed(
                708,
                f"{name} {how}; the end of its log:\n{_quoted(log_end(self.run.folder(name)))}",
                todo=f"Its whole log is {self.run.folder(name) / 'log.txt'}; everything else was stopped.",
            )

    def _gates_left(self) -> int:
        return sum(name.startswith("gate-") and child.poll() is None for name, child in self._children.items())

    def news(self) -> list[object]:
        """What is new since the last call: `Ended`, and what the journal has (`Progress.follow`)."""
        news, self._news = self._news, []
        if self._journal is None:
            if not self.run.journal.exists():
                return news
            self._journal = JournalFile(self.run.journal)
        for event in self._tail.news():
            if event["event"] == "Wrote":
                self.times[event["number"]] = event["time"]
                self.waiting = ""
            elif event["event"] == "Waiting":
                self.waiting = event["what"]
        return news + self.progress.follow(self._journal.news())

    @property
    def quiet_s(self) -> float:
        """Seconds since the journal last grew."""
        return time.time() - max(self.times.values(), default=time.time())

    def stop(self) -> None:
        """Ask everyone to leave, nodes first; kill whoever has not after a while."""
        for child in reversed(self._children.values()):
            if child.poll() is None:
                child.terminate()
        end = time.monotonic() + LEAVE_S
        for child in self._children.values():
            try:
                child.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.run.url.unlink(missing_ok=True)  # a coordinator that was killed has not removed it

    def kill(self) -> None:
        """End everyone at once."""
        for child in self._children.values():
            if child.poll() is None:
                child.kill()

    def _invited(self, name: str, role: Literal["node", "relay"], inviter: Identity, more: list[str]) -> None:
        folder = self.run.folder(name)
        folder.mkdir(exist_ok=True)
        file = folder / "invitation"
        found.write_invitation(file, found.invite(inviter, run=self.manifest.run, role=role, label=name))
        self._join(name, role, self.run.key(name), ["--invitation", str(file), *more], operator=name)

    def _join(self, name: str, role: str, key: os.PathLike[str], more: list[str], *, operator: str) -> None:
        arguments = [role, str(self.run.folder(name)), "--key", str(key), "--operator", operator]
        self._spawn(name, [*arguments, "--url-file", str(self.run.url), *more])

    def _spawn(self, name: str, arguments: list[str]) -> None:
        folder = self.run.folder(name)
        folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "interlock.protocols.cli", "serve", *arguments]
        command += ["--threads", str(self._threads), "--parent", str(os.getpid())]
        command += ["--log-json"] if self._log_json else []
        if self._metrics is not None:
            port = self.ports.setdefault(name, self._metrics and self._metrics + len(self.ports))
            command += ["--metrics", str(port)]
        with (folder / "log.txt").open("ab") as log:
            # A session of its own: the terminal's Ctrl-C reaches this process only, which then stops the others.
            self._children[name] = subprocess.Popen(  # noqa: S603  our own command
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def follow(
    local: Local,
    told: Callable[[list[object]], None],
    *,
    ended: Callable[[], None] = lambda: None,
    serve: bool = False,
) -> bool:
    """Start a run and follow it to its end; whatever happens, every process is stopped.

    The first SIGINT or SIGTERM ends the run cleanly, the second at once.

    Args:
        told: called a few times a second with what is new. ended: called once when all rounds are taken, while every
            process still answers. serve: go on answering then, until a signal comes.

    Returns:
        Whether the run took all its rounds; False after a signal.

    Raises:
        Failed: E708.
    """
    with _signals(local):
        try:
            local.start()
            done = False
            while not local.stopping:
                told(local.news())
                if local.progress.ended and not done:
                    done = True
                    ended()
                if done and not serve:
                    return True
                local.check()
                time.sleep(POLL_S)
            return done
        finally:
            local.stop()


@contextmanager
def _signals(local: Local) -> Iterator[None]:
    def heard(number: int, frame: FrameType | None) -> None:
        if local.stopping:
            local.kill()
            sys.exit(128 + number)
        local.stopping = True

    old = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _keyholders(run: RunDir, manifest: Manifest) -> list[str]:
    names = list(found.keyholder_names(manifest.committee, run))
    if len(names) < manifest.committee.release or not run.key("node-0").is_file():
        raise Misused(
            711,
            f"{run.path} does not hold the keys of all its processes",
            todo="'interlock up' is for runs made with --local; start the others with interlock serve.",
        )
    return names


def _backends(manifest: Manifest) -> dict[str, str]:
    backends = {f"node-{number}": "torch" for number in range(manifest.stages * manifest.replicas)}
    if manifest.replicas > 1 and importable("jax"):
        backends[f"node-{len(backends) - 1}"] = "jax"
    return backends


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
        said = _quoted(log.read_text(errors="replace").splitlines()[-5:])
        raise Failed(
            708,
            f"'interlock {arguments[0]}' {_how(status)}; the end of what it said:\n{said}",
            todo=f"All of it: {log}",
        )


def _how(status: int) -> str:
    """How a process ended.

    >>> _how(-9), _how(1)
    ('was killed by signal 9 (Killed)', 'ended with status 1')
    """
    return (
        f"was killed by signal {-status} ({signal.strsignal(-status)})" if status < 0 else f"ended with status {status}"
    )


def _quoted(lines: list[str]) -> str:
    return "\n".join(f"  | {line}" for line in lines)
