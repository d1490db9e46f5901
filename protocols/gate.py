"""The gate: a keyholder's process. It checks rows and plan and releases one plan a tick.

A gate opens outbound connections only, sees no activation and no weight, and stores its release before it answers:
asked again for the same plan it gives the same bytes, asked for another plan of that tick it refuses.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from interlock.vault import Identity

from .canonical import Message, decode, encode
from .effects import After, Announce, Blob, Draw, Effects, Event, Send, Stop, Store
from .errors import Refused
from .journal import verify_chain
from .kept import Kept
from .manifest import Manifest
from .members import Join, Welcome, make_record
from .obeying import TIMER, Heard, Noted, Ordering, Orders, refusal
from .proposal import NOTHING, Known, Propose, verify_proposal
from .recovery import Past, Recall, Recalled
from .release import Declined, Plan, Ready, Release, Released, make_release, verify_opening

HELLO_S = 1.0


class GateReleased(Event, frozen=True, kw_only=True):
    """This gate released a plan."""

    tick: int
    plan: str


class GateRefused(Event, frozen=True, kw_only=True):
    """This gate refused a plan."""

    tick: int
    number: int
    reason: str


class Gate:
    """Pure role of one keyholder's gate.

    Args:
        identity: the keyholder's identity.
        manifest: of the run; the gate verified its hash against the join URL.
        coordinator: identity of the coordinator.
    """

    def __init__(self, identity: Identity, manifest: Manifest, *, operator: str) -> None:
        self._identity = identity
        self._manifest = manifest
        self._record = make_record(identity, "gate", operator)
        self._known = NOTHING
        self._asked: Propose | None = None
        self._next: Known | None = None
        self._greeted = self._hears = False
        self._kept = Kept()
        self.orders = Orders(manifest)

    def at(self, seconds: float) -> None:
        """The time of the next input."""
        self.orders.at(seconds)

    def on_order(self, text: str) -> Effects:
        """A person hands in an order: obey it and pass it on.

        Raises:
            Refused: `Orders.take`.
        """
        return self._heard(self.orders.take(text, to=(self._manifest.coordinator,)))

    def _heard(self, heard: Heard) -> Effects:
        if heard.stops:
            self._asked = self._next = None
        return heard.effects

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Begin, from the last stored release; that it was made may have gone unsaid."""
        effects: Effects = self.orders.restore(stored)
        self._kept = Kept.stored(stored)
        if "known" in stored:
            self._known = decode(stored["known"], Known, whose="gate store")
            release: Release | None = self._known.release
            if release is not None:
                effects.append(Announce(GateReleased(tick=release.tick, plan=release.plan.hex())))
        return effects + self.on_timer("hello")

    def on_timer(self, name: str) -> Effects:
        """Say hello until welcomed; then `Ready` now and then, since the coordinator may have restarted.

        One from whom nothing has come since may have lost its journal, and does not know us: then hello again.
        """
        if name in ("leave", "hand over"):
            return [Stop()]
        if name == TIMER:
            return self._heard(self.orders.look())
        if name != "hello":
            return []
        heard, self._hears = self._hears, False
        if self._greeted and heard:
            return [self._ready(), *self.orders.remind(self._manifest.coordinator), After(5 * HELLO_S, "hello")]
        hello = Join(record=self._record, invitation=None)
        return [Send(self._manifest.coordinator, hello), After(HELLO_S, "hello")]

    def on_message(self, source: bytes, message: Message, blobs: tuple[Blob, ...]) -> Effects:
        """Answer a proposal, or a coordinator that asks what it forgot; keep the rows that we missed."""
        if source != self._manifest.coordinator:
            raise Refused(208, f"a message of {source.hex()[:12]}, who is not the coordinator")
        self._hears = True
        if isinstance(message, Welcome):
            self._greeted = True
            return [self._ready(), *self.orders.proposals(source)]
        if isinstance(message, Noted):
            return []  # the coordinator did not know us yet, and took us for a bearer of an order
        if isinstance(message, Ordering):
            return self._heard(self.orders.hear(source, message, ()))
        if isinstance(message, Recall):
            return [Send(source, self._recalled(message))]
        if isinstance(message, Past):
            return self._past(message)
        if not isinstance(message, Propose):
            raise Refused(210, f"a gate reads no {type(message).__name__}")
        plan = message.plan
        known = self._known
        if known.release is not None and known.plan == plan and self.orders.in_force is None:
            return [Send(source, Released(release=known.release))]
        try:
            self._verify_allowed(plan)
            self._next = self._check(message)
        except Refused as refused:
            declined = Declined(
                tick=plan.tick,
                number=refused.number,
                reason=refused.text[:500],
                opening=known.opening,
                release=known.release,
            )
            return [
                Send(source, declined),
                *self.orders.remind(source),
                Announce(GateRefused(tick=plan.tick, number=refused.number, reason=refused.what)),
            ]
        self._asked = message
        return [Draw(f"contribution {plan.tick}", 32)]

    def on_drawn(self, name: str, data: bytes) -> Effects:
        """Sign, store, and only then send; unless an order came in between (`_heard`)."""
        if self._asked is None or self._next is None or name != f"contribution {self._asked.plan.tick}":
            return []
        plan, rows = self._asked.plan, self._asked.rows
        release = make_release(self._identity, plan, data)
        self._known = msgspec.structs.replace(self._next, release=release)
        self._asked = self._next = None
        return [
            *self._kept.follow(rows),
            Store("known", encode(self._known)),
            Announce(GateReleased(tick=plan.tick, plan=plan.digest.hex())),
            Send(self._manifest.coordinator, Released(release=release)),
        ]

    def on_done(self, job: object, result: object) -> Effects:
        """A gate has no work."""
        return []

    def _verify_allowed(self, plan: Plan) -> None:
        """Check that neither an order nor the keyholder is against any plan of this epoch.

        Raises:
            Refused: E351, E352 an order is in force, E354 the keyholder has not allowed this epoch.
        """
        stop = self.orders.in_force
        if stop is not None:
            why = refusal(stop)
            raise Refused(why.number, why.what)
        if self._manifest.release == "manual" and not self.orders.allows(plan.epoch, self._identity.public):
            raise Refused(354, f"epoch {plan.epoch} waits for the keyholder's word")

    def _ready(self) -> Send:
        return Send(self._manifest.coordinator, Ready(known=self._known.rows, rows=self._kept.whole))

    def _recalled(self, recall: Recall) -> Recalled:
        """All that we know of the run's newest ticks, and a page of rows. What was asked of us before is void now."""
        self._asked = self._next = None
        known = self._known
        return Recalled(
            first=recall.first,
            rows=self._kept.page(recall.first),
            total=known.rows,
            plan=known.plan,
            release=known.release,
            opening=known.opening,
        )

    def _past(self, past: Past) -> Effects:
        """Keep rows from before we came, or while we were away: whoever opened what followed them has checked them.

        Raises:
            Refused: E337; E310, E206, E204.
        """
        rows = past.rows
        if not rows or rows[0].number != self._kept.whole or rows[-1].number >= self._known.rows:
            return []  # said twice, or of what is still under way
        run, coordinator = self._manifest.run, self._manifest.coordinator
        verify_chain(rows, run=run, coordinator=coordinator, previous=rows[0].previous, number=rows[0].number)
        return [*self._kept.fill(rows), self._ready()]

    def _check(self, ask: Propose) -> Known:
        """What the gate will know if it releases this plan.

        Raises:
            Refused: 3xx, with what differs.
        """
        plan, manifest, known = ask.plan, self._manifest, self._known
        if plan.run != manifest.run:
            raise Refused(204, "a plan of another run")
        if known.release is not None and plan.tick == known.tick:
            raise Refused(311, f"another plan of tick {plan.tick} was released before", todo="Open that one.")
        if plan.tick <= known.tick:
            raise Refused(312, "ticks never go back", expected=f"> {known.tick}", actual=plan.tick)
        opened = 0
        if ask.opening is not None:
            verify_opening(ask.opening, manifest)
            opened = ask.opening.plan.tick
        if known.opening is not None and opened < known.opening.plan.tick:
            raise Refused(
                313, "an older opening than the newest known", expected=known.opening.plan.tick, actual=opened
            )
        if known.opening is not None and opened == known.opening.plan.tick and ask.opening != known.opening:
            raise Refused(314, f"a second opening of tick {opened}")
        if plan.tick != opened + 1:
            raise Refused(312, "the plan's tick", expected=opened + 1, actual=plan.tick)
        self._kept.verify_fits(ask.rows)
        return verify_proposal(ask, manifest, known)
