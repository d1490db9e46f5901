"""What a node's operator sees of it while it works, folded from what it announces."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ..effects import Event
from ..manifest import Manifest
from ..node import Adopted, GaveUp, NodeOpened, OutOfReach
from ..seat import FrameSent

RECENT = 10  # counted rounds that the speed is measured over


class Onlooker(Protocol):
    """Whoever is told how a node fares."""

    def joined(self, manifest: Manifest, uploaded: Callable[[], int]) -> None:
        """The coordinator let it in. uploaded: says how many bytes it has sent."""

    def seen(self, event: Event) -> None:
        """It announced something."""

    def look(self) -> None:
        """A second has passed."""

    def leaving(self) -> None:
        """It takes its leave."""


class Nobody:
    """An onlooker who does not look."""

    def joined(self, manifest: Manifest, uploaded: Callable[[], int]) -> None:
        """Do nothing."""

    def seen(self, event: Event) -> None:
        """Do nothing."""

    def look(self) -> None:
        """Do nothing."""

    def leaving(self) -> None:
        """Do nothing."""


@dataclass
class Standing:
    """A node's own account.

    Attributes:
        stage: which it was drawn to. rounds: those with work of ours that the run went on from. tokens: how many bytes
            of text went through this node in them. trouble: the last tick that it could not finish, and why. unreached:
            relays that do not answer.
    """

    manifest: Manifest | None = None
    stage: int | None = None
    tick: int = 0
    kind: str = ""
    rounds: int = 0
    tokens: int = 0
    trouble: str = ""
    unreached: str = ""
    is_leaving: bool = False
    _work: dict[int, set[int]] = field(default_factory=dict)  # tick that trains -> micro-batches of ours
    _counted: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RECENT + 1))

    def seen(self, event: Event, now_s: float) -> None:
        """Take note of an event."""
        if isinstance(event, NodeOpened):
            self.stage, self.tick, self.kind = event.stage, event.tick, event.kind
            self._work = {event.tick: set()} if event.kind == "train" else {}  # what is left was of a void tick
            if event.kind == "train" and not self._counted:
                self._counted.append((now_s, 0))
        elif isinstance(event, FrameSent) and event.tick in self._work:
            self._work[event.tick].add(event.microbatch)
        elif isinstance(event, Adopted) and event.made in self._work:
            assert self.manifest is not None
            work = self._work.pop(event.made)
            self.rounds += bool(work)
            self.tokens += len(work) * self.manifest.training.rows * self.manifest.model.context
            self._counted.append((now_s, self.tokens))
        elif isinstance(event, GaveUp):
            self.trouble = f"tick {event.tick}: E{event.number} {event.what}"
        elif isinstance(event, OutOfReach):
            self.unreached = ", ".join(event.relays)

    @property
    def tokens_per_second(self) -> float:
        """Bytes of text a second that went through this node in the rounds that counted lately."""
        if len(self._counted) < 2:
            return 0.0
        (began_s, before), (ended_s, after) = self._counted[0], self._counted[-1]
        return (after - before) / (ended_s - began_s) if ended_s > began_s else 0.0

    @property
    def state(self) -> str:
        """What it does, in one word or a few."""
        if self.is_leaving:
            return "leaving"
        if self.manifest is None:
            return "asking to be let in"
        if self.stage is None:
            return "let in, waits for a stage"
        return f"at stage {self.stage}"
