"""Sessions: what is asked and answered is read by nobody else, stays nowhere, and keeps nobody from training.

Somebody asks for the continuation of a text while the run trains, needs two sessions for it, and may crash, or think
of something else, at any moment. Everybody else may crash and stumble as well.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar

from interlock.protocols.asker import Asker
from interlock.protocols.canonical import encode
from interlock.protocols.effects import Announce, Effects, Event
from interlock.protocols.inquiry import Continuation
from interlock.protocols.journal import Answered, Opened, Planned, Voided
from interlock.protocols.manifest import Manifest
from interlock.protocols.members import Invitation
from interlock.protocols.node import Forgot, NodeOpened
from interlock.protocols.round import Sealed
from interlock.protocols.session import GRACE_S, WHILE_TRAINING_S, Ask, Over, Sampling
from interlock.vault import Identity

from .boundary import terms
from .history import Seen
from .run import COORDINATOR, RunSpec
from .spec import action, always, eventually, sometimes

PROMPT, LENGTH = bytes(range(247, 255)), 6
TELLING = PROMPT[-5:]  # what the first session reads
SAMPLING = Sampling(temperature=1.0, top_p=1.0, seed=0)


class Heard(Event, frozen=True, kw_only=True):
    """The asker got a byte. nth: how many before it."""

    nth: int
    value: int


class Listening(Asker):
    """An asker that says what it heard."""

    def __init__(self, who: Identity, made: Manifest, label: str, invitation: Invitation, life: int) -> None:
        self.bytes: list[int] = []
        inquiry = Continuation(PROMPT, LENGTH, SAMPLING, made, told=self.bytes.append)
        number = 1000 * life  # higher in every life, as the clock makes it
        super().__init__(who, made, operator=label, invitation=invitation, inquiry=inquiry, number=number)

    def on_message(self, source: bytes, message: Any, blobs: tuple[Any, ...]) -> Effects:
        """As an asker does."""
        before = len(self.bytes)
        effects = super().on_message(source, message, blobs)
        new = range(before, len(self.bytes))
        return [*(Announce(Heard(nth=nth, value=self.bytes[nth])) for nth in new), *effects]

    def rethink(self) -> Effects:
        """Ask for something else, whatever is under way."""
        return self._close()


class Sessions(RunSpec):
    """Sessions: what is asked and answered is read by nobody else, stays nowhere, and keeps nobody from training."""

    name = "session"
    asker_role: ClassVar[type[Listening]] = Listening
    rounds = 2
    context = 8
    width = 12  # a frame of one position has room for two names
    askers = 1
    faults = ("drop", "twice", "delay", "reorder", "slow", "crash")
    crashing = ("coordinator", "g0", "g1", "g2", "r0", "a0")

    def cast(self) -> Any:
        """Everyone, by identity key."""
        self.lives = 0
        return super().cast()

    def asker(self, who: Identity, made: Manifest, label: str, invitation: Invitation) -> Any:
        """Asks for a few bytes."""
        self.lives += 1
        return self.asker_role(who, made, label, invitation, self.lives)

    @action(by=Listening)
    def rethink(self, role: Listening) -> Effects:
        "The asker drops its question and asks anew."
        return role.rethink()

    @always
    def sealed(self, seen: Seen) -> bool:
        "No sealed message, no question and nothing that is stored holds the text."
        sent = (*seen.sent(Sealed), *seen.sent(Ask))
        return not any(TELLING in data for m in sent for data in (encode(m.what), *m.blobs)) and not any(
            TELLING in stored.value for stored in seen.stored()
        )

    @always
    def one_value_a_mask(self, seen: Seen) -> bool:
        "No mask serves two values, in no step of no session."
        values: dict[bytes, bytes] = {}
        return all(values.setdefault(t.mask, t.plain) == t.plain for t in terms(seen))

    @always
    def in_order(self, seen: Seen) -> bool:
        "Bytes come once each and in their order: here each is the number of its step in its session."
        heard = [(event.what.nth, event.value) for event in seen(Heard)]
        return all(
            value == 0 or before == (nth - 1, value - 1)
            for before, (nth, value) in zip([(0, -1), *heard], heard, strict=False)
        )

    @always
    def training_has_its_turn(self, seen: Seen) -> bool:
        "While rounds are left, no session follows a session."
        plans = [row.body.plan for row in self.rows(seen) if isinstance(row.body, Planned)]
        return not any(a.session and b.session and b.round < self.rounds for a, b in pairwise(plans))

    @always
    def in_time(self, seen: Seen) -> bool:
        "Training waits for a session no longer than it may take, from when the coordinator last started."
        began: dict[int, float] = {}
        restarts = len(seen.steps("crash", COORDINATOR))
        for stored in seen.stored():
            body = self.row(stored).body if self.is_row(stored) else None
            if isinstance(body, Opened):
                began[body.tick] = stored.at
            elif isinstance(body, Answered | Voided):
                limit = (1 + restarts) * (WHILE_TRAINING_S + GRACE_S) + 5.0
                if stored.at - began[body.tick] > limit:
                    return False
        return True

    @eventually(within=400)
    def forgotten(self, seen: Seen) -> bool:
        "A node that hears that its session is over has forgotten it, or does with its next tick."
        forgot = {(event.by, event.tick) for event in seen(Forgot)}
        opened = [(event.by, event.tick, event.nth) for event in seen(NodeOpened)]
        return all(
            (over.receiver, over.tick) in forgot
            or not any((by, tick) == (over.receiver, over.tick) and nth < over.nth for by, tick, nth in opened)
            or any(by == over.receiver and over.tick < tick and nth < over.nth for by, tick, nth in opened)
            for over in seen.messages(Over)
        )

    @eventually(within=400)
    def goes_on(self, seen: Seen) -> bool:
        "Whatever the asker does, all rounds are taken."
        return self.ended(seen)

    @eventually(within=400)
    def answered(self, seen: Seen) -> bool:
        "Who asks is answered."
        return any(event.what.nth == LENGTH - 1 for event in seen(Heard))

    @sometimes
    def while_training(self, seen: Seen) -> bool:
        "A session is answered while rounds are left."
        return bool(seen.messages(Over)) and not self.ended(seen)
