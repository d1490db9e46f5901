"""A process's figures for Prometheus, at `http://127.0.0.1:PORT/metrics`: what it announced, counted as it happens.

They are read from this machine only: the figures of a run are its members' own. A page in a browser could be made to
ask this address by another name, so that a request by any other name is refused.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import HTTPServer
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import MetricsHandler
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..effects import Event
from ..errors import InterlockError, Misused
from ..manifest import Manifest, readable
from .events import EventFile
from .progress import Progress
from .store import JournalFile
from .tally import Tally

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
ASKED_S = 5.0  # for a reader to say what it wants
_log = logging.getLogger("interlock")


class Figures(Collector):
    """All that one process shows. Events are taken in on its loop, and read by the server's thread.

    Args:
        role: such as "node". journal: of a coordinator, else None. waiting_bytes: what waits to be sent.
    """

    def __init__(
        self, role: str, manifest: Manifest, *, journal: Path | None, waiting_bytes: Callable[[], int]
    ) -> None:
        self._role, self._manifest, self._waiting_bytes = role, manifest, waiting_bytes
        self._tally = Tally()
        self._journal = JournalFile(journal) if journal is not None else None
        self._progress = Progress(manifest)
        self._lock = threading.Lock()  # the reader sees every figure as of one event
        self._read()

    def take(self, event: Event, time_s: float) -> None:
        """Count one event."""
        name = type(event).__name__
        with self._lock:
            self._tally.follow([{**readable(event), "event": name, "time": time_s}])
            if name == "Wrote":
                self._read()

    def _read(self) -> None:
        """The rows since the last time: the coordinator stored them before it said so."""
        if self._journal is not None:
            self._progress.follow(self._journal.news())

    def collect(self) -> Iterator[Metric]:
        """Give every figure with its name, as Prometheus asks for them."""
        with self._lock:
            found = [*self._of_every_process(), *self._of_its_role()]
        yield from found

    def _of_every_process(self) -> Iterator[Metric]:
        tally = self._tally
        info = GaugeMetricFamily("interlock_process_info", "What this process is", labels=["role", "run", "name"])
        info.add_metric([self._role, self._manifest.run.hex()[:16], self._manifest.name], 1)
        yield info
        yield _counter("interlock_ticks", "Ticks that opened to this process", tally.ticks)
        yield _gauge("interlock_last_event_timestamp_seconds", "When it last announced something", tally.last)
        yield _gauge("interlock_queue_bytes", "What waits to be sent to its peers", self._waiting_bytes())
        yield _gauge("interlock_stands_still", "1 while it obeys a halt or pause", bool(tally.order))
        yield _numbered("interlock_refused", "Inputs dropped and messages not sent, by error", tally.refused)

    def _of_its_role(self) -> Iterator[Metric]:
        tally = self._tally
        if self._role == "node":
            yield _gauge("interlock_stage", "The stage that it holds, -1 before one is drawn", tally.stage)
            yield _counter("interlock_boundary_bytes", "Frames that it sent", tally.sent_bytes)
            yield _counter("interlock_frames", "Frames that it sent", tally.sent)
            yield _counter("interlock_frames_read", "Frames that it read", tally.read)
            yield _counter("interlock_states_reported", "States that it computed and reported", tally.reported)
            yield _counter("interlock_compute_cpu_seconds", "CPU time until its last report", tally.cpu_s)
            yield _counter("interlock_masking_cpu_seconds", "The part of it for masks", tally.masking_s)
            yield _numbered("interlock_given_up", "Ticks that it could not finish, by error", tally.gave_up)
        elif self._role == "relay":
            yield _counter("interlock_boundary_bytes", "Frames that it carried", tally.carried_bytes)
            yield _counter("interlock_frames", "Frames that it carried", tally.carried)
        elif self._role == "gate":
            yield _counter("interlock_released", "Plans that it released", tally.released)
            yield _numbered("interlock_declined", "Plans that it refused, by error", tally.declined)
        if self._journal is not None:
            yield from self._of_the_run()

    def _of_the_run(self) -> Iterator[Metric]:
        tally, progress, manifest = self._tally, self._progress, self._manifest
        yield _gauge("interlock_gates_ready", "Gates that it hears", len(tally.ready))
        yield _gauge("interlock_gates_needed", "Gates whose releases open a tick", manifest.committee.release)
        yield _gauge("interlock_silent", "Nodes and relays that joined and are not heard", len(tally.silent))
        yield _numbered("interlock_declined", "Plans that gates refused, by error", tally.declined)
        yield _gauge("interlock_journal_rows", "Rows of the journal", progress.rows)
        yield _counter("interlock_rounds", "Optimizer steps taken", progress.round)
        yield _gauge("interlock_rounds_planned", "Optimizer steps of the whole run", manifest.training.rounds)
        yield _counter("interlock_tokens", "Bytes of text trained on", progress.tokens)
        if progress.rounds:
            yield _gauge("interlock_loss_nats", "Training loss a byte, last round", progress.rounds[-1].loss)
        if progress.evaluations:
            loss = progress.evaluations[-1].loss
            yield _gauge("interlock_validation_loss_nats", "Loss a byte of held-out text", loss)
        voids = Counter(void.number for void in progress.voids)
        yield _numbered("interlock_voids", "Ticks that moved nothing, by error", voids)
        for kind, name, what in _MARKS:
            yield _counter(name, what, progress.counted(kind))
        yield _counter("interlock_sessions", "Sessions answered", progress.sessions)
        members = GaugeMetricFamily("interlock_members", "Replicas that hold a stage", labels=["stage"])
        for stage, group in enumerate(progress.members):
            members.add_metric([str(stage)], len(group))
        yield members
        if (cover := progress.cover()) is not None:
            few = len(cover.operators)
            yield _gauge("interlock_operators_to_cover", "How few operators together hold every stage", few)


_MARKS = (
    ("death", "interlock_deaths", "Members that vanished"),
    ("join", "interlock_joins", "Members that came after the first ones"),
    ("leave", "interlock_leaves", "Members that handed their stage over"),
    ("failover", "interlock_relay_failovers", "Relays that the next plan left out"),
    ("halt", "interlock_halts", "Halts that took effect"),
    ("pause", "interlock_pauses", "Pauses that took effect"),
    ("resume", "interlock_resumes", "Resumes that took effect"),
)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(name, what, value=value)


def _counter(name: str, what: str, value: float) -> Metric:
    return CounterMetricFamily(name, what, value=value)


def _numbered(name: str, what: str, counts: dict[int, int]) -> Metric:
    found = CounterMetricFamily(name, what, labels=["number"])
    for number, count in sorted(counts.items()):
        found.add_metric([f"E{number}"], count)
    return found


class Server:
    """Answers readers of this machine, one at a time, in a thread of its own.

    Args:
        port: 0 for any free one.

    Raises:
        Misused: E745, the port cannot be had.
    """

    def __init__(self, figures: Collector, port: int) -> None:
        registry = CollectorRegistry()
        registry.register(figures)
        ProcessCollector(registry=registry)  # CPU, memory and open files, under the names that every dashboard knows

        class Handler(_Handler):
            pass

        Handler.registry = registry
        try:
            self._server = HTTPServer((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise Misused(
                745,
                f"metrics cannot be served at {HOST}:{port}: {said}",
                todo="Name a port that no other process has, or --metrics 0 for any; the log says which.",
            ) from None
        self.port = int(self._server.server_port)
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Handler(MetricsHandler):
    timeout = ASKED_S

    def do_GET(self) -> None:
        """Give all figures."""
        name, _, _ = (self.headers.get("Host") or HOST).partition(":")
        if name not in NAMES:
            self.send_error(403, "ask this machine by its own name")
            return
        super().do_GET()


class Metrics:
    """A process's events, written to its folder and counted for whoever reads them at a port of this machine.

    Raises:
        Misused: E745.
    """

    def __init__(
        self, port: int, *, role: str, manifest: Manifest, folder: Path, waiting_bytes: Callable[[], int]
    ) -> None:
        journal = folder / "store.sqlite" if role == "coordinator" else None
        self._figures: Figures | None = Figures(role, manifest, journal=journal, waiting_bytes=waiting_bytes)
        self._server = Server(self._figures, port)
        self._file = EventFile(folder)
        _log.info("metrics at http://%s:%d/metrics", HOST, self._server.port)

    @property
    def port(self) -> int:
        """Where they are read."""
        return self._server.port

    def __call__(self, event: Event) -> None:
        """Write and count one event. One that cannot be counted ends the count, with a line in the log, and no more.

        Raises:
            Failed: E707, the disk does not take it.
        """
        self._file(event)
        if self._figures is not None:
            try:
                self._figures.take(event, time.time())
            except InterlockError as error:
                self._figures = None
                _log.warning("metrics stay as they are: %s", error)

    def close(self) -> None:
        """End the server, and close the file."""
        self._server.close()
        self._file.close()
