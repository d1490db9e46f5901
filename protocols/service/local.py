"""All processes of a run on this machine, as children of this one, started again when they die.

No child outlives this process: each asks the system to be ended with its parent. Who is killed is started again, so
many times in so many minutes; a node then joins again, without its state, which its partners have. The run ends early
only with its coordinator, when that stops with an error or cannot be kept up.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Literal

from interlock.vault import Identity

from ..errors import Failed, Misused
from ..manifest import Manifest
from . import found
from .backends import importable
from .children import Child, Children, quoted
from .events import EventTail, log_end
from .links import HOST, Links, free_port
from .progress import Progress
from .rundir import RunDir, write_whole
from .store import JournalFile
from .url import parse_url

POLL_S = 0.2
BEGIN_S = 60.0  # for the coordinator to listen
FATES = 100  # that are kept
STARTS_MAX, STARTS_S = 5, 600.0  # a process is started again so many times in so many seconds


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that has ended, and how; again: whether it was started again."""

    process: str
    how: str
    again: bool

    def __str__(self) -> str:
        return f"{self.process} {self.how}; {'it was started again' if self.again else 'the run goes on without it'}"


class Local:
    """A run under way on this machine.

    Where stages have partners and JAX can be imported, one node computes with it, so its partners check it and it them;
    all others do with torch.

    Args:
        disclose: let every node write its stage's seed to its folder, for the plain comparison.
        log_json: let every process log as JSON lines.
        metrics: port at which the coordinator shows its figures; the others follow, in the order of their start.
        links: what every connection goes through, so that it can be cut: each process's to the coordinator by the
            process's name, and everybody's to a relay by "to" and its name.
        patience_s: the coordinator's.

    Attributes:
        children: its processes, by name. fates: of those that ended, the last ones.

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
        links: Links | None = None,
        patience_s: float = 120.0,
    ) -> None:
        self.run, self.manifest = run, run.manifest()
        self.progress = Progress(self.manifest)
        self.times: dict[int, float] = {}  # row number -> unix seconds
        self.waiting = "the coordinator"
        self._disclose, self._links, self._patience_s = disclose, links, patience_s
        self._metrics = metrics
        self.ports: dict[str, int] = {}  # of metrics, by process
        self.stopping = False
        self.fates: deque[Ended] = deque(maxlen=FATES)
        self._news: list[object] = []
        self._port = 0  # the coordinator's: any, and then always that
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
        self.children = Children(run.folder("local"), threads=threads, log_json=log_json)

    def start(self) -> None:
        """Start every process; leave off when `stopping` is set.

        Raises:
            Failed: E708, one ended at once.
        """
        run = self.run
        run.url.unlink(missing_ok=True)
        self._coordinate(self._port)
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
        self._port = parse_url(run.url.read_text().strip()).port
        for name in self._keyholders:
            self._join(f"gate-{name}", "gate", run.key(f"keyholder-{name}"), [], operator=name)
        for number in range(self.manifest.relays):
            self._invited(f"relay-{number}", "relay", self._listen(f"relay-{number}"))
        for name in self.backends:
            self._node(name)

    def add_node(self) -> str:
        """Start one node more, with a key of its own; give its name. It waits for a place at a stage."""
        name = f"node-{len(self.backends)}"
        Identity.generate().save(self.run.key(name))
        self.backends[name] = "torch"
        self._node(name)
        return name

    def restart(self, name: str) -> None:
        """Start a process again that has ended.

        Raises:
            Misused: E750, there was none, or it runs.
        """
        if name == "coordinator":
            self._coordinate(self._port)
            return
        child = self.children[name]
        self.children.start(name, child.folder, child.arguments)

    def cut(self, name: str) -> None:
        """Cut a process off from the coordinator, and everybody off from a relay. It takes `links`."""
        assert self._links is not None
        for link in self._links_of(name):
            self._links.cut(link)

    def bar(self, name: str) -> None:
        """Cut everybody off from a relay, and nobody from the coordinator. It takes `links`."""
        assert self._links is not None
        self._links.cut(f"to {name}")

    def mend(self, name: str) -> None:
        """Let it be reached again; what was under way is lost."""
        assert self._links is not None
        for link in self._links_of(name):
            self._links.mend(link)

    def _links_of(self, name: str) -> list[str]:
        return [link for link in (name, f"to {name}") if self._links is not None and link in self._links]

    def check(self) -> None:
        """Take note of who has ended, and start again whom nobody ended on purpose.

        Raises:
            Failed: E708, the coordinator stopped with an error, or somebody did before the run began; with the last
                lines of its log. E751, the coordinator is killed again and again.
        """
        for child in self.children.ended():
            name, how = child.name, child.how
            again = not (self.stopping or child.is_ours) and self._is_kept(child)
            self.fates.append(Ended(name, how, again))
            self._news.append(self.fates[-1])
            if again:
                self.restart(name)

    def _is_kept(self, child: Child) -> bool:
        """Whether a process is started again that ended on its own."""
        name, status = child.name, child.process.returncode
        stopped = status > 0 and (name == "coordinator" or not self.progress.members)
        if stopped and not (name.startswith("gate-") and self._gates_left() >= self.manifest.committee.release):
            raise Failed(
                708,
                f"{name} {child.how}; the end of its log:\n{quoted(log_end(child.folder))}",
                todo=f"Its whole log is {child.folder / 'log.txt'}; everything else was stopped.",
            )
        lately = sum(time.monotonic() - start < STARTS_S for start in child.starts)
        kept = lately <= STARTS_MAX
        if name == "coordinator" and not kept:
            raise Failed(
                751,
                f"the coordinator {child.how}, and was started {lately} times in the last {STARTS_S / 60:.0f} minutes",
                todo=f"Who ends it? Is memory short? Its log is {child.folder / 'log.txt'}; the rest was stopped.",
            )
        return kept and (status != 0 or name == "coordinator")  # who ends without an error was asked to

    def _gates_left(self) -> int:
        return len(self.children.running("gate-"))

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
        self.children.stop()
        self.run.url.unlink(missing_ok=True)  # a coordinator that was killed has not removed it

    def kill(self) -> None:
        """End everyone at once."""
        self.children.kill()

    def _coordinate(self, port: int) -> None:
        """Start the coordinator; others know the port that it had before."""
        listen = ["--bind", f"{HOST}:{port}"] if self._links is None else self._listen("coordinator")
        patience = ["--patience", str(self._patience_s)]
        self._start("coordinator", ["serve", "coordinator", str(self.run.path), "--local", *listen, *patience])

    def _listen(self, name: str) -> list[str]:
        """Where a server listens whose connections can be cut: at one port for good."""
        links, link = self._links, f"to {name}"
        if links is None:
            return []
        if link not in links:
            links.open(link, free_port())
        return ["--bind", f"{HOST}:{links.target(link)}", "--advertise", f"{HOST}:{links.port(link)}"]

    def _node(self, name: str) -> None:
        disclose = ["--disclose-seed", str(self.run.disclosed(name))] if self._disclose else []
        self._invited(name, "node", ["--backend", self.backends[name], *disclose])

    def _invited(self, name: str, role: Literal["node", "relay"], more: list[str]) -> None:
        folder = self.run.folder(name)
        folder.mkdir(exist_ok=True)
        file = folder / "invitation"
        inviter = Identity.load(self.run.key(f"keyholder-{self._keyholders[0]}"))
        found.write_invitation(file, found.invite(inviter, run=self.manifest.run, role=role, label=name))
        self._join(name, role, self.run.key(name), ["--invitation", str(file), *more], operator=name)

    def _join(self, name: str, role: str, key: os.PathLike[str], more: list[str], *, operator: str) -> None:
        arguments = ["serve", role, str(self.run.folder(name)), "--key", str(key), "--operator", operator]
        self._start(name, [*arguments, "--url-file", str(self._url_file(name)), *more])

    def _url_file(self, name: str) -> Path:
        """The join URL; where links can be cut, one of its own for each process."""
        links = self._links
        if links is None:
            return self.run.url
        url = parse_url(self.run.url.read_text().strip())
        if name not in links:
            links.open(name, links.target("to coordinator"))
        file = self.run.path / f"url-{name}"
        write_whole(file, f"{replace(url, port=links.port(name))}\n".encode())
        return file

    def _start(self, name: str, arguments: list[str]) -> None:
        if self._metrics is not None:
            port = self.ports.setdefault(name, self._metrics and self._metrics + len(self.ports))
            arguments = [*arguments, "--metrics", str(port)]
        self.children.start(name, self.run.folder(name), arguments)


def follow(
    local: Local,
    told: Callable[[list[object]], None],
    *,
    ended: Callable[[], None] = lambda: None,
    serve: bool = False,
    meddle: Callable[[], None] = lambda: None,
) -> bool:
    """Start a run and follow it to its end; whatever happens, every process is stopped.

    The first SIGINT or SIGTERM ends the run cleanly, the second at once.

    Args:
        told: called a few times a second with what is new. ended: called once when all rounds are taken, while every
            process still answers. serve: go on answering then, until a signal comes. meddle: called a few times a
            second until then; what it does to processes is on purpose.

    Returns:
        Whether the run took all its rounds; False after a signal.

    Raises:
        Failed: E708, E751.
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
                if not done:
                    meddle()
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
