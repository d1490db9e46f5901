"""What it costs a run that a process dies, that somebody joins, and that a quorum must release every tick.

    python tests/benchmarks/recovery.py [--json] [--only PART] [--repeats N] [--minutes M]

Whole runs of small models, every process on this machine and every message over loopback:

    gate, relay, coordinator, node
        One process is killed with SIGKILL in the middle of a round, and what is lost is read from the journal: how
        much longer than in calm that round and the next took, and how many had to be done again. Gate, relay and
        coordinator start again on their folders, the last at once. A node's place goes to a newcomer: how long from
        the start of `interlock join`, with nothing but the URL and an invitation, to the end of the first round that
        counts its work.
    release
        Committees of 3, 10 and 50 gates of which a majority must answer: the time from a plan to its opening, its
        share of a round, and the processor time a tick of the coordinator and all gates. Here they share one machine;
        keyholders have one each.
    chaos
        `interlock chaos` for M minutes with a disturbance a minute, and as long without: rounds, and whether everything
        that the processes wrote agrees.

Times are of this machine and of small rounds, so that only what is lost in rounds has a bar.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

from bars import Bar, report

from interlock.protocols.service.choices import Choices
from interlock.protocols.service.found import found, invite, write_invitation
from interlock.protocols.service.local import Local
from interlock.vault import Identity

STAGES, REPLICAS = 3, 2
ENDLESS = 10_000  # rounds of a run that ends when everything was measured
CALM = 5  # rounds before a death that say how long one takes
GATES = (3, 10, 50)
ROUNDS_A_REPEAT = 4  # over which releases are timed
PATIENCE_S = 120.0
LOOK_S = 0.01
TICKS = os.sysconf("SC_CLK_TCK")


class Shaken(Local):
    """A run on this machine whose processes are killed and started."""

    def __init__(self, folder: Path, choices: Choices, more_keyholders: dict[str, Identity]) -> None:
        run, _, _ = found(folder / "run", choices)
        for name, identity in more_keyholders.items():
            identity.save(run.key(f"keyholder-{name}"))
        super().__init__(run)
        self.backends = dict.fromkeys(self.backends, "torch")

    def strike(self, name: str) -> None:
        """Kill a process."""
        self.children.send(name, signal.SIGKILL)
        self.children[name].process.wait()

    def revive(self, name: str) -> None:
        """Start a process again on its folder, where the others look for it, until it takes part again."""
        events = self.run.folder(name) / "events.jsonl"
        said = events.stat().st_size
        self.restart(name)
        self.until(lambda: events.stat().st_size > said, f"{name} to be back")

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Follow the run until something holds."""
        end = time.monotonic() + PATIENCE_S
        while not done():
            if time.monotonic() > end:
                raise RuntimeError(f"waited {PATIENCE_S:.0f} s for {what}")
            self.news()
            self.check()
            time.sleep(LOOK_S)

    def rounds_end(self, number: int) -> float:
        """Follow the run until a round is over; unix seconds at which it was."""
        self.until(lambda: len(self.progress.rounds) >= number and self._at(number) in self.times, f"round {number}")
        return self.times[self._at(number)]

    def _at(self, number: int) -> int:
        return self.progress.row_of[self.progress.rounds[number - 1].tick][-1]

    def voided_rounds(self) -> int:
        """Training ticks that opened and moved nothing."""
        opened = (self.progress.openings.get(void.tick) for void in self.progress.voids)
        return sum(opening is not None and opening.plan.kind == "train" for opening in opened)

    def spent_s(self, *roles: str) -> float:
        """Processor time of the processes of these roles so far."""
        return sum(_spent_s(child.process.pid) for child in self.children if child.name.partition("-")[0] in roles)

    def join(self, name: str) -> None:
        """Start a node that nobody knows yet, as its operator would."""
        inviter = Identity.load(self.run.key("keyholder-ada"))
        invitation = self.run.path / f"{name}.invitation"
        write_invitation(invitation, invite(inviter, run=self.manifest.run, role="node", label=name))
        folder = self.run.folder(name)
        arguments = ["join", "--local", "--url-file", str(self.run.url), "--invitation", str(invitation)]
        self.children.start(name, folder, [*arguments, "--folder", str(folder), "--operator", name])


def majority(gates: int) -> int:
    """How many gates must answer, so that two plans of one tick never both open."""
    return gates // 2 + 1


@contextmanager
def shaken(gates: int = 3) -> Iterator[Shaken]:
    """A run that has taken its first round."""
    more = {f"more{number:02}": Identity.generate() for number in range(gates - 3)}
    choices = Choices(
        name="recovery",
        local=3,
        keyholders=tuple((name, identity.public) for name, identity in more.items()),
        release=majority(gates),
        resume=max(3, majority(gates)),
        stages=STAGES,
        replicas=REPLICAS,
        rounds=ENDLESS,
        epoch_rounds=ENDLESS,
        decay=0,
        rate=0.01,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = Shaken(Path(folder), choices, more)
        try:
            run.start()
            run.rounds_end(1)
            yield run
        finally:
            run.kill()
            run.stop()


@dataclass(frozen=True)
class Lost:
    """What one death cost. seconds: beyond calm rounds. rounds: opened and not counted. calm_s: of one round."""

    seconds: float
    rounds: int
    calm_s: float


def death(run: Shaken, name: str) -> Lost:
    """Kill a process in the middle of a round, and follow the run to the end of the next."""
    first = len(run.progress.rounds) + 1
    ends = [run.rounds_end(first + i) for i in range(CALM)]
    calm = statistics.median(later - earlier for earlier, later in itertools.pairwise(ends))
    before = run.voided_rounds()
    time.sleep(calm / 2)
    run.strike(name)
    struck = time.time()
    run.news()
    last = len(run.progress.rounds)  # the newest that had ended
    if name == "coordinator":
        run.revive(name)
    after = next(n for n in range(last + 1, ENDLESS) if run.rounds_end(n) > struck)
    took = run.rounds_end(after + 1) - run.rounds_end(after - 1)
    return Lost(max(0.0, took - 2 * calm), run.voided_rounds() - before, calm)


def _spent_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@dataclass(frozen=True)
class Releases:
    """What one tick's release costs: from plan to opening, of which share of a round, by whose processor."""

    seconds: float
    share: float
    cpu_s: float


def releases(gates: int, rounds: int) -> Releases:
    """Time a committee's releases over so many rounds."""
    with shaken(gates) as run:
        first = len(run.progress.rounds) + 1
        run.rounds_end(first)
        before, begun = run.spent_s("gate", "coordinator"), run.progress.rounds[-1].tick
        run.rounds_end(first + rounds)
        cpu_s = (run.spent_s("gate", "coordinator") - before) / (run.progress.rounds[-1].tick - begun)
        waits, lengths, previous = [], [], run.rounds_end(first)
        for number in range(first + 1, first + rounds + 1):
            planned, opened, *_ = run.progress.row_of[run.progress.rounds[number - 1].tick]
            end = run.rounds_end(number)
            waits.append(run.times[opened] - run.times[planned])
            lengths.append(end - previous)
            previous = end
    return Releases(statistics.median(waits), sum(waits) / sum(lengths), cpu_s)


def deaths(victim: str, repeats: int) -> list[Lost]:
    """Kill one process several times, and start it again each time."""
    found = []
    with shaken() as run:
        for _ in range(repeats):
            found.append(death(run, victim))
            if victim not in run.children.running():
                run.revive(victim)
    return found


@dataclass(frozen=True)
class Joined:
    """Seconds from a newcomer's start until it was admitted, held a stage, and had work of its own counted."""

    admitted: float
    placed: float
    counted: float


def replaced(repeats: int) -> Iterator[tuple[Lost, Joined]]:
    """Kill one node after the other; a newcomer takes the place of each."""
    with shaken() as run:
        for number in range(repeats):
            lost = death(run, f"node-{number}")
            start = time.time()
            run.join(f"new-{number}")
            yield lost, newcomer(run, f"new-{number}", start)


def newcomer(run: Shaken, name: str, start: float) -> Joined:
    """Follow a newcomer to its first counted work."""
    progress = run.progress

    def identity() -> bytes | None:
        return next((join.record.identity for join in progress.of("node") if join.record.operator == name), None)

    run.until(lambda: identity() is not None, "a newcomer's admission")
    admitted, who = time.time(), identity()
    run.until(lambda: any(who in stage for stage in progress.members), "a newcomer's place")
    placed = time.time()

    def works(tick: int) -> bool:
        plan = progress.openings[tick].plan
        replicas = [
            (stage, number) for stage, its in enumerate(plan.members) for number, x in enumerate(its) if x == who
        ]
        return any(chain[stage] == number for chain in plan.work for stage, number in replicas)

    run.until(lambda: any(works(trained.tick) for trained in progress.rounds), "a newcomer's work")
    return Joined(admitted - start, placed - start, time.time() - start)


def death_bars(kind: str, lost: Sequence[Lost]) -> Iterator[Bar]:
    yield Bar(f"death of a {kind}: rounds lost", max(each.rounds for each in lost), 0 if kind == "gate" else 1, "")
    yield Bar(f"death of a {kind}: time lost", statistics.median(each.seconds for each in lost), None, "s")
    yield Bar(f"death of a {kind}: a calm round", statistics.median(each.calm_s for each in lost), None, "s")


def node_bars(repeats: int) -> Iterator[Bar]:
    pairs = list(replaced(repeats))
    yield from death_bars("node", [lost for lost, _ in pairs])
    for name in ("admitted", "placed", "counted"):
        seconds = statistics.median(getattr(joined, name) for _, joined in pairs)
        yield Bar(f"a newcomer, from its start until it is {name}", seconds, None, "s")


def release_bars(repeats: int) -> Iterator[Bar]:
    for gates in GATES:
        cost, who = releases(gates, ROUNDS_A_REPEAT * repeats), f"{majority(gates)} of {gates} gates"
        yield Bar(f"{who}: from a plan to its opening", 1e3 * cost.seconds, None, "ms")
        yield Bar(f"{who}: of a round", 100 * cost.share, None, "%")
        yield Bar(f"{who}: coordinator and gates, processor time a tick", 1e3 * cost.cpu_s, None, "ms")


def chaos_bars(minutes: float) -> Iterator[Bar]:
    """A run that is disturbed once a minute, against one that is not."""
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for name, more in (("calm", ["--calm"]), ("chaos", ["--every", "60"])):
            command = [sys.executable, "-m", "interlock.protocols.cli", "chaos", f"{folder}/{name}", *more, "--json"]
            done = subprocess.run([*command, "--minutes", str(minutes)], capture_output=True, text=True, check=False)
            found[name] = json.loads(done.stdout)
    calm, shaken = found["calm"], found["chaos"]
    disagreements = len(calm["disagreements"]) + len(shaken["disagreements"])
    yield Bar("chaos: disagreements", disagreements, 0, "")
    lost = 1 - (shaken["rounds"] / shaken["seconds"]) / (calm["rounds"] / calm["seconds"])
    yield Bar("chaos: share of the calm run's rounds that it lacks", lost, 0.4, "")
    yield Bar("chaos: disturbances", shaken["disturbances"], None, "")
    yield Bar("chaos: rounds lost to deaths", shaken["rounds_lost_to_death"], None, "")
    yield Bar("chaos: longest without a round", shaken["longest_without_a_round_s"], None, "s")
    yield Bar("calm: rounds a minute", 60 * calm["rounds"] / calm["seconds"], None, "")


PARTS: dict[str, Callable[[argparse.Namespace], Iterable[Bar]]] = {
    "gate": lambda given: death_bars("gate", deaths("gate-ada", given.repeats)),
    "relay": lambda given: death_bars("relay", deaths("relay-0", given.repeats)),
    "coordinator": lambda given: death_bars("coordinator", deaths("coordinator", given.repeats)),
    "node": lambda given: node_bars(given.repeats),
    "release": lambda given: release_bars(given.repeats),
    "chaos": lambda given: chaos_bars(given.minutes),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="What it costs a run that a process dies and that it is released.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", action="append", choices=PARTS, help="one part; may be given again")
    parser.add_argument("--repeats", type=int, default=3, help="deaths of each kind (default: 3)")
    parser.add_argument("--minutes", type=float, default=10.0, help="of chaos, and as long calm (default: 10)")
    given = parser.parse_args()
    bars: list[Bar] = []
    for part in given.only or PARTS:
        bars += PARTS[part](given)
        print(f"{part}: measured", file=sys.stderr)
    report(bars, {}, as_json=given.json)


if __name__ == "__main__":
    main()
