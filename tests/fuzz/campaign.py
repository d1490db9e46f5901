"""Many episodes, until so many mutated messages have been heard; a fault is saved in a file that replays it."""

from __future__ import annotations

import json
import resource
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interlock.specs.run import RunSpec

from .episode import Episode, Fault, Heard
from .mutations import drawn

POOL = 400  # messages drawn from the wire's spec
A_REAL = 3  # mutated messages before each real one
GROWTH_MIB_MAX = 192  # of the process since its first episode; a role alone may keep 256 messages of a coming tick
VERSION = 1

MakeRole = Callable[[RunSpec, bytes], Any]


@dataclass(frozen=True)
class Found:
    """Where a fault came up: so many mutated messages into an episode of a seed."""

    seed: int
    episode: int
    heard: int
    fault: str
    trace: str
    last: Heard | None

    def save(self, path: Path) -> None:
        """Write it as JSON, with the last mutated message in it for people to read."""
        last = self.last and {
            "to": self.last.to,
            "from": self.last.source,
            "admitted": self.last.known,
            "parts": [part.hex() for part in self.last.parts],
        }
        found = {"version": VERSION, "seed": self.seed, "episode": self.episode, "heard": self.heard}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**found, "fault": self.fault, "trace": self.trace, "last": last}, indent=2) + "\n")


@dataclass
class Outcome:
    """What a campaign did."""

    seed: int
    heard: int = 0
    episodes: int = 0
    by_number: Counter[int] = field(default_factory=Counter)  # 0: not refused
    by_kind: Counter[str] = field(default_factory=Counter)
    growth_mib: float = 0.0
    found: Found | None = None

    @property
    def holds(self) -> bool:
        """No fault, and no more memory than it may take."""
        return self.found is None and self.growth_mib <= GROWTH_MIB_MAX


def run(
    seed: int, count: int, told: Callable[[Outcome], None] = lambda outcome: None, role: MakeRole = RunSpec.role
) -> Outcome:
    """Let roles hear `count` mutated messages, or as many as there are before a fault.

    Args:
        told: hears how far it is after each episode. role: makes a participant's role.
    """
    outcome, pool, begun_mib = Outcome(seed), drawn(POOL, seed), 0.0
    while outcome.heard < count and outcome.found is None:
        outcome.found = _episode(outcome, pool, count - outcome.heard, role)
        outcome.episodes += 1
        if not begun_mib:
            begun_mib = _peak_mib()
        outcome.growth_mib = _peak_mib() - begun_mib
        told(outcome)
    return outcome


def replay(path: Path, role: MakeRole = RunSpec.role) -> Found | None:
    """Play a saved fault's episode again as far as it went: the fault that comes up now, if there is one.

    Raises:
        ValueError: the file is not one of these.
    """
    try:
        said = json.loads(path.read_text())
        version, seed, episode, heard = (int(said[name]) for name in ("version", "seed", "episode", "heard"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no saved fault: {type(error).__name__}: {error}") from None
    if version != VERSION:
        raise ValueError(f"{path} is of version {version}, not {VERSION}")
    outcome = Outcome(seed, episodes=episode)
    return _episode(outcome, drawn(POOL, seed), heard + 1, role)


def _episode(outcome: Outcome, pool: Sequence[bytes], most: int, role: MakeRole) -> Found | None:
    heard = 0
    episode = Episode(f"{outcome.seed}/{outcome.episodes}", pool, a_real=A_REAL, role=role)
    try:
        for arrival in episode.play():
            outcome.by_kind[arrival.to[0]] += 1
            heard += 1
            outcome.heard += 1
            outcome.by_number[episode.hear(arrival)] += 1
            if heard >= most:
                break
    except Fault as fault:
        trace = "".join(traceback.format_exception(fault.__cause__ or fault, limit=-6))
        return Found(outcome.seed, outcome.episodes, heard, str(fault), trace, episode.last)
    return None


def _peak_mib() -> float:
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 1024 if sys.platform == "linux" else kib / 2**20
