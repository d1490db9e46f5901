"""How every role hears of orders, passes them on, and knows whether it must stand still.

A role asks its `Orders` before it releases, applies or serves anything. Who stands still answers whatever else it is
sent with the order in force, so that a peer in the dark learns of it by its own next message; who hears that somebody
stands still by an order that has ended answers with the resume that ended it. Beyond that an order is passed on once,
to everybody whom a role talks to, when it is first heard and whenever signatures are added.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec

from .canonical import Count, Hash, Message, Plain, decode, encode
from .effects import After, Announce, Effects, Event, Send, Store
from .errors import Failed
from .manifest import Manifest
from .orders import ORDER_BYTES_MAX, Signed, read_order
from .standing import KNOWN_MAX, Standing

TIMER = "orders"
LOOK_MAX_S = 3600.0  # clocks are set now and then: how long one timer is trusted
STORED = "orders"  # key in a process's store

Text = Annotated[str, msgspec.Meta(max_length=ORDER_BYTES_MAX)]


class Ordering(Message, frozen=True, array_like=True, kw_only=True):
    """An order or a proposal, by whoever has it: it is valid by its signatures alone.

    stands: whoever sends it stands still by it, and wants to know if it has ended. Nothing else is ever answered, so
    that two who know the same do not tell each other for ever.
    """

    text: Text
    stands: bool = False


class Noted(Message, frozen=True, array_like=True, kw_only=True):
    """The coordinator's answer to an order from a stranger. number: of the error by which it is refused, or 0."""

    order: Hash
    number: Count
    what: Annotated[str, msgspec.Meta(max_length=500)]


class Known(Plain, frozen=True, array_like=True, kw_only=True):
    """What a process stores of orders. answered, answer: see `Standing`."""

    texts: Annotated[tuple[Text, ...], msgspec.Meta(max_length=2 * KNOWN_MAX + 1)]
    answered: Count
    answer: Text


class Obeyed(Event, frozen=True, kw_only=True):
    """From now on this process stands still. order: hash, in hex."""

    order: str
    seq: int
    action: str
    reason: str


class Resumed(Event, frozen=True, kw_only=True):
    """This process goes on. order: hash of the resume, in hex; empty if a pause has expired."""

    order: str
    seq: int


class Learnt(Event, frozen=True, kw_only=True):
    """This process knows an order, or more signatures on it: so many of those it needs."""

    order: str
    seq: int
    action: str
    signatures: int
    need: int


class Equivocated(Event, frozen=True, kw_only=True):
    """Two orders have one number (E355). first, second: their whole texts; by: keys that signed both, in hex."""

    seq: int
    first: str
    second: str
    by: str


@dataclass(frozen=True, slots=True)
class Heard:
    """What an order did. stops, resumes: what the role must do now. took: orders that took effect."""

    effects: Effects
    stops: bool = False
    resumes: bool = False
    took: tuple[Signed, ...] = ()


class Orders:
    """The orders that a role knows.

    Attributes:
        in_force: the halt or pause for which it stands still, or None. It changes in `take` and `look` only, so that
            a role never goes on without having been told.
        standing: all that is known. now: seconds since 1970, as the runner said before this input.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.standing = Standing(manifest)
        self.in_force: Signed | None = None
        self.now = 0.0

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Begin, with what an earlier life stored."""
        if STORED not in stored:
            return []
        known: Known = decode(stored[STORED], Known, whose="stored orders")
        standing = self.standing
        for text in known.texts:
            signed = read_order(text, self._manifest)
            standing.known[signed.order.hash] = signed
        standing.answered = known.answered
        standing.answer = read_order(known.answer, self._manifest) if known.answer else None
        return self._turn((), []).effects

    def at(self, seconds: float) -> None:
        """The time of the next input."""
        self.now = seconds

    def hear(self, source: bytes, message: Ordering, to: Iterable[bytes]) -> Heard:
        """Take in what somebody sent: `take`, and help them on if they are stuck.

        Raises:
            Refused: as `take`.
        """
        order = read_order(message.text, self._manifest).order
        if message.stands and order.seq <= self.standing.answered:
            return Heard(self.tell(source))
        return self.take(message.text, source=source, to=to)

    def take(self, text: str, *, source: bytes = b"", to: Iterable[bytes] = ()) -> Heard:
        """Take in an order, and pass on what is new of it.

        Args:
            source: whom it came from, empty if a person handed it in. to: whom this role talks to.

        Raises:
            Refused: E340 to E349, E353, E356. Nothing has changed then.
        """
        standing = self.standing
        signed = read_order(text, self._manifest)
        learned = standing.learn(signed, self.now)
        if not learned.new:
            return Heard([])
        order, committee = learned.signed.order, self._manifest.committee
        note = learned.signed.note(committee)
        effects: Effects = [self._stored()]
        effects += [Send(who, Ordering(text=note)) for who in to if who != source]
        learnt = Learnt(
            order=order.hash.hex(),
            seq=order.seq,
            action=order.action,
            signatures=len(learned.signed.signatures),
            need=order.need(committee),
        )
        effects.append(Announce(learnt))
        for pair in learned.evidence:
            first, second = pair.first.note(committee), pair.second.note(committee)
            by = " ".join(key.hex() for key in pair.by)
            effects.append(Announce(Equivocated(seq=order.seq, first=first, second=second, by=by)))
        return self._turn(learned.took, effects)

    def recall(self, text: str) -> None:
        """Take in an order that took effect before, when it was valid: what a journal says.

        Raises:
            Refused: E340 to E342.
        """
        signed, standing = read_order(text, self._manifest), self.standing
        if signed.order.cites is not None and signed.complete(self._manifest.committee):
            standing.known[signed.order.hash] = signed
            if signed.order.cites > standing.answered:
                standing.answered, standing.answer = signed.order.cites, signed
        else:
            standing.known.setdefault(signed.order.hash, signed)
        self.in_force = standing.in_force(self.now)

    def look(self) -> Heard:
        """The timer rang: a pause may be over, or the time of a resume come."""
        took = self.standing.settle(self.now)
        return self._turn(took, [self._stored()] if took else [])

    def tell(self, who: bytes) -> Effects:
        """What somebody should know who does what is not done now: the order in force, or what ended the last one."""
        told = [self.in_force]
        if self.in_force is None and (answer := self.standing.answer) is not None:
            # with what it cites, without which nobody would take it
            cited = [s for s in self.standing.known.values() if s.order.seq == answer.order.cites]
            told = [*sorted((s for s in cited if self.standing.complete(s)), key=lambda s: s.order.hash), answer]
        committee = self._manifest.committee
        stands = self.in_force is not None
        return [Send(who, Ordering(text=s.note(committee), stands=stands)) for s in told if s is not None]

    def proposals(self, who: bytes) -> Effects:
        """Everything open, for somebody who may have missed it while there was no connection."""
        committee = self._manifest.committee
        known = self.standing.open_orders(self.now)
        return [Send(who, Ordering(text=signed.note(committee))) for signed in known]

    def allows(self, epoch: int, keyholder: bytes) -> bool:
        """Whether a keyholder has released an epoch by hand."""
        return self.standing.allows(epoch, keyholder, self.now)

    def remind(self, who: bytes) -> Effects:
        """What somebody should know who has just come, or may have missed it: the order in force."""
        return [] if self.in_force is None else self.tell(who)

    def _turn(self, took: tuple[Signed, ...], effects: Effects) -> Heard:
        """Stand still or go on, as what is known says now."""
        before, after = self.in_force, self.standing.in_force(self.now)
        self.in_force = after
        if after is not None and (before is None or before.order.hash != after.order.hash):
            order = after.order
            obeyed = Obeyed(order=order.hash.hex(), seq=order.seq, action=order.action, reason=order.reason)
            effects = [*effects, Announce(obeyed)]
        if before is not None and after is None:
            ended = self.standing.answer if before.order.seq <= self.standing.answered else None
            shown = ("", 0) if ended is None else (ended.order.hash.hex(), ended.order.seq)
            effects = [*effects, Announce(Resumed(order=shown[0], seq=shown[1]))]
        change = self.standing.next_change(self.now)
        if change is not None:
            effects = [*effects, After(min(max(change - self.now, 0.01), LOOK_MAX_S), TIMER)]
        return Heard(effects, before is None and after is not None, before is not None and after is None, took)

    def _stored(self) -> Store:
        committee, standing = self._manifest.committee, self.standing
        known = Known(
            texts=tuple(standing.known[key].note(committee) for key in sorted(standing.known)),
            answered=standing.answered,
            answer="" if standing.answer is None else standing.answer.note(committee),
        )
        return Store(STORED, encode(known))


def refusal(signed: Signed) -> Failed:
    """Why nothing is answered: E351, halted, or E352, paused."""
    order = signed.order
    if order.action == "halt":
        return Failed(351, f"the run is halted by order {order.seq}: {order.reason}")
    return Failed(352, f"the run is paused by order {order.seq}: {order.reason}")
