"""Disturb a run on this machine at random, within what it promises to bear, and see that nothing comes of it.

Which disturbance is next, whom it meets and for how long comes from a seed; when it comes depends on the run, which is
given time to recover: of each stage one replica at a time, never all relays, always k_e gates, and the coordinator
comes back every time. What was done is in the folder `local` of the run's directory, beside who was started and ended.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..effects import Event
from ..errors import Failed
from .choices import Choices
from .local import Ended, Local
from .progress import Evaluated, Mark, Trained, Void

EVERY_S = 5.0  # between two disturbances, on average
LONGEST_S = 10.0  # of one; a process that is silent for half as long counts as dead
BARRED_S = 20.0  # likewise, of a relay's entrance; one that nodes do not reach for half as long is left out
RECOVERY_S = 120.0  # that the run may take at the end to do without disturbances
LEAVE_S = 15.0  # for a process that was asked to leave
BURST_S = 0.4  # standing and going, where a process is slowed down

# What can befall each kind of process. A relay that is barred lives, and the coordinator hears it: nobody else does.
KINDS = {
    "node": ("kill", "stop", "slow", "cut", "restart"),
    "relay": ("kill", "stop", "slow", "cut", "bar", "restart"),
    "gate": ("kill", "stop", "cut", "restart"),
    "coordinator": ("kill", "stop", "slow", "restart"),
}

CHOICES = Choices(
    name="chaos", local=3, stages=2, replicas=2, relays=2, width=32, heads=2, layers_per_stage=1, hidden=64,
    context=64, rounds=1_000_000, decay=0, epoch_rounds=10, microbatches=4, rows=2, evaluate_every=50,
    validation_bytes=10_000, data=(Path(__file__).parents[1] / "explained",),
)  # fmt: skip
"""A run small enough to be disturbed often."""


class Disturbed(Event, frozen=True, kw_only=True):
    """Something befell a process, for so long."""

    kind: str
    process: str
    seconds: float


class Healed(Event, frozen=True, kw_only=True):
    """It is over; the run may still have to recover."""

    kind: str
    process: str


@dataclass(frozen=True, slots=True)
class Act:
    """A disturbance to come. pick: in [0, 1), which of those it may meet. after: seconds since the one before."""

    role: str
    kind: str
    pick: float
    seconds: float
    after: float


@dataclass(slots=True)
class Trouble:
    """A disturbance under way. began, until: on a clock that never goes back. healed: seconds since 1970, or None."""

    act: Act
    process: str
    began: float
    until: float
    healed: float | None = None


def acts(seed: int, *, every_s: float = EVERY_S) -> Iterator[Act]:
    """What a seed brings, without end."""
    draw = random.Random(seed)  # noqa: S311  repeated by whoever has the seed
    roles = list(KINDS)
    while True:
        role = draw.choices(roles, weights=(5, 3, 2, 2))[0]
        kind = draw.choice(KINDS[role])
        longest_s = BARRED_S if kind == "bar" else LONGEST_S / 2 if role == "coordinator" else LONGEST_S
        yield Act(
            role=role,
            kind=kind,
            pick=draw.random(),
            seconds=round(draw.uniform(0.2, longest_s), 2),
            after=round(draw.uniform(0.2, 1.8) * every_s, 2),
        )


class Chaos:
    """Disturbs a run whenever it is called, a few times a second, until its time is over; then it ends the run.

    Args:
        seed: None: disturb nothing, to compare. told: hears each thing that is done, in words.

    Attributes:
        done: how often each kind of disturbance came, by role and kind.
    """

    def __init__(
        self,
        local: Local,
        *,
        seed: int | None,
        seconds: float,
        every_s: float = EVERY_S,
        told: Callable[[str], None] = lambda said: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._local, self._seconds, self._told, self._clock = local, seconds, told, clock
        self._acts = None if seed is None else acts(seed, every_s=every_s)
        self._next: Act | None = None
        self._due = 0.0
        self._end: float | None = None
        self._troubles: list[Trouble] = []
        self._moved_at = 0.0
        self.done: Counter[tuple[str, str]] = Counter()
        self.longest_s = 0.0  # without a round
        self.seconds = 0.0  # that it lasted, from the first round to the end of disturbances
        self.rounds = 0  # in that time

    def hear(self, news: list[object]) -> None:
        """What is new of the run."""
        for item in news:
            if isinstance(item, Trained | Evaluated):
                now = self._clock()
                if self._moved_at:
                    self.longest_s = max(self.longest_s, now - self._moved_at)
                self._moved_at = now

    def __call__(self) -> None:
        """Do what is due.

        Raises:
            Failed: E753, the run has not recovered though nothing disturbs it any more.
        """
        now, progress = self._clock(), self._local.progress
        if not progress.rounds:
            return  # before its first round a run needs everybody
        if self._end is None:
            self._end = now + self._seconds
            self._due = now
        self._heal(now)
        self._troubles = [trouble for trouble in self._troubles if not self._recovered(trouble)]
        if now < self._end:
            self._disturb(now)
            return
        if not self.seconds:
            self.seconds, self.rounds = now - self._end + self._seconds, progress.round
        if not self._troubles:
            self._local.stopping = True
        elif now > self._end + RECOVERY_S:
            names = ", ".join(f"{trouble.process} ({trouble.act.kind})" for trouble in self._troubles)
            raise Failed(
                753,
                f"the run has not recovered {RECOVERY_S:.0f} s after the last disturbance; of {names}",
                expected="a tick with them",
                actual=self._local.waiting or "none",
                todo=f"What was done: {self._local.run.folder('local') / 'events.jsonl'}; logs are beside it.",
            )

    # -- disturbing ---------------------------------------------------------------------------------------------

    def _disturb(self, now: float) -> None:
        if self._acts is None:
            return
        if self._next is None:
            self._next = next(self._acts)
            self._due += self._next.after
        if now < self._due:
            return
        act = self._next
        victims = sorted(self._bearable(act.role))
        if not victims:
            return  # its turn comes when the run has recovered
        process = victims[int(act.pick * len(victims))]
        self._next, self._due = None, now
        self._troubles.append(Trouble(act, process, now, now + act.seconds))
        self.done[act.role, act.kind] += 1
        children = self._local.children
        children.note(Disturbed(kind=act.kind, process=process, seconds=act.seconds))
        self._told(f"{act.kind} {process}, {act.seconds:.1f} s")
        if act.kind == "kill":
            children.send(process, signal.SIGKILL)
        elif act.kind == "restart":
            children.send(process, signal.SIGINT)
        elif act.kind == "cut":
            self._local.cut(process)
        elif act.kind == "bar":
            self._local.bar(process)
        else:
            children.send(process, signal.SIGSTOP)

    def _bearable(self, role: str) -> list[str]:
        """Whom the run can do without now."""
        local, manifest = self._local, self._local.manifest
        running = set(local.children.running(role))
        troubled = {trouble.process for trouble in self._troubles}
        free = running - troubled
        if role == "coordinator":
            return list(free)
        if role == "relay":
            return list(free) if len(free) > 1 else []
        if role == "gate":
            return list(free) if len(free) > manifest.committee.release else []
        found: list[str] = []
        for group in local.progress.members:
            names = [local.progress.name(who) for who in group]
            if len(names) == manifest.replicas and free.issuperset(names):
                found += names
        return found

    # -- healing ------------------------------------------------------------------------------------------------

    def _heal(self, now: float) -> None:
        for trouble in self._troubles:
            if trouble.healed is None:
                self._treat(trouble, now)

    def _treat(self, trouble: Trouble, now: float) -> None:
        """Let a disturbance go on, or end it when its time is over."""
        local, process, kind = self._local, trouble.process, trouble.act.kind
        children = local.children
        runs = process in children.running()
        over = now >= trouble.until
        if kind in ("kill", "restart"):
            if runs and now > trouble.until + LEAVE_S:
                children.send(process, signal.SIGKILL)
            if runs or not over:
                return
            local.check()  # its end is noted before its next start
            local.restart(process)
        elif kind in ("cut", "bar"):
            if not over:
                return
            local.mend(process)
        else:
            if not over and kind == "slow":
                stands = int((now - trouble.began) / BURST_S) % 2 == 0
                if runs and stands != children[process].is_stopped:
                    children.send(process, signal.SIGSTOP if stands else signal.SIGCONT)
            if not over:
                return
            if runs:
                children.send(process, signal.SIGCONT)
        trouble.healed = time.time()
        children.note(Healed(kind=kind, process=process))

    def _recovered(self, trouble: Trouble) -> bool:
        """Whether a tick was planned since with whom it met, and has moved something."""
        progress, healed = self._local.progress, trouble.healed
        if healed is None or not progress.moved:
            return False
        tick = progress.moved[-1]
        if self._local.times.get(progress.row_of[tick][0], 0.0) < healed:
            return False
        plan = progress.openings[tick].plan
        if trouble.act.role == "node":
            return trouble.process in {progress.name(who) for group in progress.members_of(tick) for who in group}
        if trouble.act.role == "relay":
            return trouble.process in {progress.name(who) for who in plan.relays}
        return True

    def found(self) -> dict[str, Any]:
        """What was done and how the run bore it."""
        return {
            "disturbances": sum(self.done.values()),
            "by_kind": {f"{kind} {role}": count for (role, kind), count in sorted(self.done.items())},
            "seconds": self.seconds,
            "rounds": self.rounds,
            "longest_without_a_round_s": self.longest_s,
        }


def said(news: list[object]) -> Iterator[str]:
    """What is new of a run, as lines; its rounds are not, they are many."""
    for item in news:
        if isinstance(item, Ended):
            yield f"{item.process} {item.how}"
        elif isinstance(item, Void):
            yield f"tick {item.tick} is void: E{item.number} {item.reason}"
        elif isinstance(item, Mark):
            yield str(item)


def orphans(local: Local) -> list[int]:
    """Processes that are left of a run that was stopped: whoever is in a session that one of its processes began."""
    sessions = {pid for child in local.children for pid in child.pids}
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            session = os.getsid(int(entry.name))
        except (ProcessLookupError, PermissionError):
            continue
        if session in sessions:
            found.append(int(entry.name))
    return sorted(found)
