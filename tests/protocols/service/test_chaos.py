"""Disturbances come from a seed, stay within what a run bears, and a real run bears them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.runs import manifest

from interlock.protocols.effects import Event
from interlock.protocols.errors import Failed
from interlock.protocols.service import chaos as module
from interlock.protocols.service.chaos import BARRED_S, KINDS, Chaos, acts
from interlock.protocols.service.progress import Trained


def test_a_seed_brings_the_same_disturbances_and_all_kinds_of_them() -> None:
    first, again, other = (list(islice(acts(seed), 300)) for seed in (7, 7, 8))
    assert first == again != other
    assert {(act.role, act.kind) for act in first} == {(role, kind) for role, kinds in KINDS.items() for kind in kinds}
    assert all(0 < act.seconds <= BARRED_S and 0 <= act.pick < 1 and act.after > 0 for act in first)


@dataclass
class Children:
    """Processes that do at once what they are told."""

    alive: set[str]
    stateless: set[str] = field(default_factory=set)  # nodes that were ended, and have got no state since
    notes: list[Event] = field(default_factory=list)
    stopped: set[str] = field(default_factory=set)

    def note(self, event: Event) -> None:
        self.notes.append(event)

    def running(self, prefix: str = "") -> list[str]:
        return [name for name in sorted(self.alive) if name.startswith(prefix)]

    def send(self, name: str, number: signal.Signals) -> None:
        assert name in self.alive
        if number == signal.SIGSTOP:
            self.stopped.add(name)
        elif number == signal.SIGCONT:
            self.stopped.discard(name)
        else:
            self.alive.discard(name)
            self.stateless.add(name)

    def __getitem__(self, name: str) -> Any:
        return SimpleNamespace(is_stopped=name in self.stopped)


class Local:
    """As much of a local run as a chaos knows. A second passes between two ticks, and everybody who works is in each.

    Operators are called by their processes' names; identities are those names.
    """

    def __init__(self) -> None:
        self.manifest = manifest()
        names = [f"node-{n}" for n in range(6)]
        self.stages = [names[:2], names[2:4], names[4:]]
        self.children = Children({*names, "relay-0", "relay-1", "gate-a", "gate-b", "gate-c", "coordinator"})
        self.unreached: set[str] = set()
        self.now = 0.0
        self.stopping = False
        self.waiting = ""
        self.run = SimpleNamespace(folder=Path)
        self.times: dict[int, float] = {}
        self.progress = SimpleNamespace(
            rounds=[1], round=1, moved=[], row_of={}, openings={}, members=(), name=str, members_of=self._members_of
        )
        self._ticks: dict[int, list[list[str]]] = {}

    def works(self, name: str) -> bool:
        return name in self.children.alive and name not in self.children.stopped | self.unreached

    def _members_of(self, tick: int) -> list[list[str]]:
        return self._ticks[tick]

    def cut(self, name: str) -> None:
        self.unreached.add(name)

    def bar(self, name: str) -> None:
        self.unreached.add(name)

    def mend(self, name: str) -> None:
        self.unreached.discard(name)

    def check(self) -> None:
        pass

    def restart(self, name: str) -> None:
        self.children.alive.add(name)

    def tick(self) -> None:
        self.now += 1.0
        progress = self.progress
        here = [[name for name in stage if self.works(name)] for stage in self.stages]
        stages = [[name for name in stage if name not in self.children.stateless] for stage in here]
        relays = [name for name in ("relay-0", "relay-1") if self.works(name)]
        gates = [name for name in ("gate-a", "gate-b", "gate-c") if self.works(name)]
        # What the run promises to bear, and no more.
        assert all(stages) and relays and len(gates) >= self.manifest.committee.release
        if not self.works("coordinator"):
            return
        number = len(progress.moved) + 1
        self.times[number] = self.now
        self._ticks[number] = stages
        progress.moved.append(number)
        progress.row_of[number] = [number]
        progress.openings[number] = SimpleNamespace(plan=SimpleNamespace(relays=relays))
        progress.members = stages
        progress.round += 1
        for stage in here:  # their partners give them one, from the next tick on
            self.children.stateless.difference_update(stage)


@pytest.mark.parametrize("seed", range(8))
def test_never_more_is_disturbed_than_a_run_bears(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    local: Any = Local()
    monkeypatch.setattr(module.time, "time", lambda: local.now)
    said: list[str] = []
    chaos = Chaos(local, seed=seed, seconds=2000.0, every_s=1.0, told=said.append, clock=lambda: local.now)
    while not local.stopping:
        local.tick()
        chaos.hear([Trained(1, local.progress.round, 0, 0, 1.0, 0)])
        chaos()
    assert sum(chaos.done.values()) == len(said) > 300
    assert {role for role, _ in chaos.done} == set(KINDS)
    events = Counter(type(event).__name__ for event in local.children.notes)
    assert events["Disturbed"] == events["Healed"] == len(said)
    assert local.children.stopped == local.unreached == set() and len(local.children.alive) == 12
    assert chaos.found()["disturbances"] == len(said)


def test_a_run_that_does_not_recover_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    local: Any = Local()
    monkeypatch.setattr(module.time, "time", lambda: local.now)
    chaos = Chaos(local, seed=1, seconds=60.0, every_s=1.0, clock=lambda: local.now)
    while local.now < 60.0:
        local.tick()
        chaos()
    assert sum(chaos.done.values())

    def go_on() -> None:
        while not local.stopping:
            local.now += 1.0  # and no tick moves anything any more
            chaos()

    with pytest.raises(Failed, match=r"E753 the run has not recovered 120 s after the last disturbance; of "):
        go_on()


def test_calm_disturbs_nothing() -> None:
    local: Any = Local()
    chaos = Chaos(local, seed=None, seconds=50.0, clock=lambda: local.now)
    while not local.stopping:
        local.tick()
        chaos()
    assert not chaos.done and not local.children.notes
    assert (chaos.seconds, chaos.rounds) == (50.0, local.progress.round)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks the system about processes as Linux does")
def test_a_disturbed_run_agrees_with_itself(tmp_path: Path) -> None:
    directory = tmp_path / "chaos"
    command = [sys.executable, "-m", "interlock.protocols.cli", "chaos", str(directory), "--json"]
    command += ["--minutes", "0.25", "--every", "2", "--seed", "2"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found == json.loads((directory / "chaos.json").read_text())
    assert found["disagreements"] == []
    assert found["disturbances"] >= 3 and found["rounds"] >= 1
    done = [json.loads(line) for line in (directory / "local" / "events.jsonl").read_text().splitlines()]
    assert sum(event["event"] == "Disturbed" for event in done) == found["disturbances"]
    started = {event["pid"] for event in done if event["event"] == "ProcessStarted"}
    assert started == {event["pid"] for event in done if event["event"] == "ProcessEnded"}
