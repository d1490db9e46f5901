"""The asker: a member that holds nothing of the model and asks it, one session after another.

What it wants comes from its `Inquiry`, which also hears the answers. Nothing of either is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from interlock.vault import GroupKey, Identity, Secret, VaultError, open_sealed, prf, seal, seal_to

from .answering import SEALED_KEY_BYTES
from .belonging import Belonging
from .boundary import Here
from .canonical import decode, digest, encode
from .change import BoxOffer, Offers, verify_offer
from .effects import Announce, Blob, Draw, Effects, Event, Send, Stop
from .errors import Failed, Refused
from .manifest import Manifest
from .members import Invitation, Join, Roster, Welcome, make_record
from .obeying import Noted, Ordering, Orders, refusal
from .release import Opening, Plan, verify_opening
from .round import Sealed, make_sealed, seal_context, verify_sealed
from .session import Ask, Byte, Over, Question, Queued, Scored, readers, replica, share
from .watch import Watch

FRUITLESS_MAX = 5  # sessions in a row that bring nothing


class Waits(Event, frozen=True, kw_only=True):
    """The coordinator has the question in its queue. training: and a round goes on meanwhile."""

    ahead: int
    training: bool


class Asked(Event, frozen=True, kw_only=True):
    """A session of ours is open."""

    tick: int


class Inquiry(Protocol):
    """What somebody wants to know, cut into sessions. `inquiry.py` has the two there are."""

    def shapes(self) -> tuple[tuple[tuple[int, int], ...], int] | None:
        """The next session's texts and length (`release.Session`), or None when nothing is left to ask."""

    def question(self, microbatches: tuple[int, ...], *, first: bool, last: bool) -> Question:
        """What a reader of these micro-batches is told."""

    def heard(self, part: int, answer: Byte | Scored) -> bool:
        """Take in an answer, in the order of parts; say whether the session has brought all it will."""


class Asker:
    """Pure role of an asker.

    Args:
        operator: who asks. invitation: None where admission is open.
    """

    def __init__(
        self,
        identity: Identity,
        manifest: Manifest,
        *,
        operator: str,
        invitation: Invitation | None,
        inquiry: Inquiry,
        number: int = 0,
    ) -> None:
        self._identity, self._manifest, self._inquiry = identity, manifest, inquiry
        record = make_record(identity, "asker", operator)
        self._belonging = Belonging(manifest, Join(record=record, invitation=invitation))
        self._watch = Watch()
        self._number = number  # of the session that we ask for: never one that was asked before
        self._ask: Ask | None = None
        self._known = 0  # newest tick of ours
        self._plan: Plan | None = None
        self._offers: dict[bytes, BoxOffer] = {}
        self._drawn = b""
        self._key: GroupKey | None = None
        self._sent: Effects = []
        self._answers: dict[int, Byte | Scored] = {}
        self._heard: set[bytes] = set()
        self._next = 0  # part to be taken in
        self._fruitless = 0
        self.orders = Orders(manifest)

    def at(self, seconds: float) -> None:
        """The time of the next input."""
        self.orders.at(seconds)

    @property
    def identity(self) -> bytes:
        """Its identity key."""
        return self._identity.public

    # -- inputs -------------------------------------------------------------------------------------------------

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Begin: an asker stores nothing."""
        return self.on_timer("look")

    def on_timer(self, name: str) -> Effects:
        """Join, ask; then, whenever nothing has come for a while, ask for what may have been lost."""
        if name in ("leave", "hand over"):
            return [Stop()]
        if name != "look":
            return []
        quiet, again = self._watch.look()
        if not self._belonging.known:
            return [self._belonging.ask(), again]
        effects: Effects = [again]
        if quiet:
            effects += self._belonging.look(self._here(), quiet=True)
            if self._plan is not None:
                effects += [
                    Send(self._manifest.coordinator, self._belonging.ready(self._known)),
                    *self._sent,
                ]
            effects += self._ask_again()
        return effects

    def on_message(self, source: bytes, message: object, blobs: tuple[Blob, ...]) -> Effects:
        """Everything an asker reads; each checked where it is read."""
        if isinstance(message, Noted) and source == self._manifest.coordinator:
            return []  # the coordinator did not know us yet, and took us for a bearer of an order
        if isinstance(message, Ordering) and (source == self._manifest.coordinator or source in self._belonging.relays):
            return self._ordered(message.text)
        if source == self._manifest.coordinator:
            if isinstance(message, Welcome):
                self._belonging.welcomed = True
                return []
            if isinstance(message, Roster):
                return self._belonging.roster(message, self._here())
            if isinstance(message, Queued):
                self._watch.moved()
                ours = self._ask is not None and message.number == self._ask.number
                return [Announce(Waits(ahead=message.ahead, training=message.training))] if ours else []
            if isinstance(message, Opening):
                return self._open(message)
            if isinstance(message, Offers):
                return self._offered(message)
            if isinstance(message, Over):
                return self._over(message)
        elif source in self._belonging.relays and isinstance(message, Here):
            return self._ask_next() if self._belonging.reach(source) and self._ask is None else []
        elif source in self._belonging.relays and isinstance(message, Sealed):
            return self._answer(message, blobs)
        raise Refused(210, f"an asker reads no {type(message).__name__} of {source.hex()[:12]}")

    def on_drawn(self, name: str, data: bytes) -> Effects:
        """This session's key, and what its sealed boxes are made with."""
        if self._plan is None or name != f"session {self._plan.tick}":
            return []
        self._drawn = data
        self._key = GroupKey(Secret(data[:32]))
        return self._tell()

    def on_done(self, job: object, result: object) -> Effects:
        """An asker has no work."""
        return []

    def _ordered(self, text: str) -> Effects:
        """The run stands still, by keyholders' word and not only the coordinator's: nothing will be answered."""
        self.orders.take(text)
        stop = self.orders.in_force
        return [] if stop is None else [Stop(refusal(stop))]

    # -- asking -------------------------------------------------------------------------------------------------

    def _here(self) -> Here:
        return Here(tick=self._known, have=tuple(sorted(self._heard)))

    def _ask_next(self) -> Effects:
        """Ask for the next session, or stop."""
        if not self._belonging.whole:
            return []
        wanted = self._inquiry.shapes()
        if wanted is None:
            return [Stop()]
        self._number += 1
        self._ask = Ask(number=self._number, shapes=wanted[0], length=wanted[1])
        return self._ask_again()

    def _ask_again(self) -> Effects:
        if self._ask is None or self._plan is not None:
            return []
        return [Send(self._manifest.coordinator, self._ask)]

    # -- a session ----------------------------------------------------------------------------------------------

    def _open(self, opening: Opening) -> Effects:
        plan, ask = opening.plan, self._ask
        session = plan.session
        if plan.tick <= self._known or self._plan is not None:
            return []
        verify_opening(opening, self._manifest)
        if ask is None or session is None or session.asker != self.identity:
            raise Refused(318, "a session that we did not ask for")
        if (session.number, session.shapes, session.length) != (ask.number, ask.shapes, ask.length):
            raise Refused(318, "a session of another question than ours", expected=ask.number, actual=session.number)
        self._watch.moved()
        self._plan, self._known, self._next = plan, plan.tick, 0
        return [Announce(Asked(tick=plan.tick)), Draw(f"session {plan.tick}", 64)]

    def _offered(self, message: Offers) -> Effects:
        plan = self._plan
        if plan is None or message.tick != plan.tick or self._offers:
            return []
        offers = {offer.member: offer for offer in message.offers}
        if tuple(sorted(offers)) != readers(plan) or len(message.offers) != len(offers):
            raise Refused(306, f"box keys of tick {plan.tick}", expected=len(readers(plan)), actual=len(offers))
        for offer in message.offers:
            verify_offer(offer, run=plan.run, tick=plan.tick)
        self._watch.moved()
        self._offers = offers
        return self._tell()

    def _tell(self) -> Effects:
        """Seal to every reader what it is to know, once we have its box key."""
        plan, key = self._plan, self._key
        if plan is None or key is None or not self._offers:
            return []
        secret, once = Secret(self._drawn[:32]), Secret(self._drawn[32:])
        effects: Effects = []
        for part, who in enumerate(readers(plan)):
            stage = next(i for i, group in enumerate(plan.members) if who in group)
            last = stage == len(plan.members) - 1
            question = self._inquiry.question(share(plan, who, stage), first=stage == 0, last=last)
            boxed = seal_to(self._offers[who].box, secret, drawn=prf(once, "one-time key", who))
            assert len(boxed) == SEALED_KEY_BYTES
            context = seal_context(plan.run, plan.tick, self.identity, "question", part)
            seal_key = key.seal_key("question", self.identity, plan.tick)
            content = boxed + seal(seal_key, encode(question), context=context)
            message = make_sealed(
                self._identity,
                run=plan.run,
                tick=plan.tick,
                to=(who,),
                purpose="question",
                part=part,
                content=digest("interlock/content", content),
            )
            effects.append(Send(plan.relays[0], message, (Blob(content),)))
        self._sent = effects
        return list(effects)

    def _answer(self, message: Sealed, blobs: tuple[Blob, ...]) -> Effects:
        """A byte or a score, from the replica that the plan names for it."""
        plan, key = self._plan, self._key
        if plan is None or key is None or message.tick != plan.tick:
            raise Refused(304, "an answer", expected=f"tick {self._known}", actual=f"tick {message.tick}")
        assert plan.session is not None
        if len(blobs) != 1 or digest("interlock/content", bytes(blobs[0].data)) != message.content:
            raise Refused(305, f"sealed traffic of {message.sender.hex()[:12]} was changed on its way")
        verify_sealed(message, self._manifest.run)
        microbatch = 0 if plan.session.length else message.part
        parts = plan.session.length or len(plan.session.shapes)
        if message.part >= parts or message.purpose != "answer":
            raise Refused(305, f"an answer that tick {plan.tick} does not have")
        if message.sender != replica(plan, len(plan.members) - 1, microbatch):
            raise Refused(305, f"an answer of {message.sender.hex()[:12]}, whom the plan does not name for it")
        try:
            plain = open_sealed(
                key.seal_key("answer", message.sender, plan.tick),
                blobs[0].data,
                context=seal_context(plan.run, plan.tick, message.sender, "answer", message.part),
            )
        except VaultError as error:
            raise Refused(405, error.what) from None
        self._watch.moved()
        self._heard.add(message.content)
        kind = Byte if plan.session.length else Scored
        self._answers.setdefault(message.part, decode(plain, kind, whose="answer"))
        self._sent = []
        while self._next in self._answers:
            part, self._next = self._next, self._next + 1
            self._fruitless = 0
            if self._inquiry.heard(part, self._answers[part]):
                return self._close()
        return []

    def _over(self, message: Over) -> Effects:
        """The session has ended with less than we asked for: ask for the rest."""
        if self._plan is None or message.tick != self._plan.tick:
            return []
        self._fruitless += 1
        if self._fruitless >= FRUITLESS_MAX:
            error = Failed(
                332,
                f"{FRUITLESS_MAX} sessions in a row brought no answer",
                todo="Its nodes may be busy, or do not answer: see the void rows' reasons with 'interlock status'.",
            )
            return [Stop(error)]
        return self._close()

    def _close(self) -> Effects:
        """Forget this session, and ask for the next."""
        if self._key is not None:
            self._key.erase()
        self._plan, self._key, self._drawn, self._ask = None, None, b"", None
        self._offers, self._answers, self._sent = {}, {}, []
        self._heard.clear()
        return self._ask_next()
