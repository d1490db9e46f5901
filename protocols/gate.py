"""The gate: a keyholder's process. It checks rows and plan and releases one plan a tick.

A gate opens outbound connections only, sees no activation and no weight, and stores its release before it answers:
asked again for the same plan it gives the same bytes, asked for another plan of that tick it refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import msgspec

from interlock.vault import Identity, VaultError, verify_grants

from .canonical import Count, Message, Name, Plain, PublicKey, decode, encode
from .change import verify_prepared
from .effects import After, Announce, Blob, Draw, Effects, Event, Send, Stop, Store
from .errors import Refused
from .journal import (
    GENESIS,
    Answered,
    Changed,
    Closed,
    Committed,
    Joined,
    Measured,
    Opened,
    Ordered,
    Planned,
    Row,
    Voided,
    verify_chain,
    verify_row,
)
from .kept import Kept
from .manifest import Manifest
from .members import Join, Role, Welcome, make_record, owner, verify_join
from .obeying import TIMER, Heard, Noted, Ordering, Orders, refusal
from .recovery import Past, Recall, Recalled
from .release import (
    Base,
    Declined,
    Opening,
    Plan,
    Ready,
    Release,
    Released,
    draw_members,
    make_release,
    verify_opening,
)
from .round import Close, Members, verify, verify_reports
from .session import answerers, verify_session
from .standing import verify_ordered

HELLO_S = 1.0


class Propose(Message, frozen=True, array_like=True, kw_only=True):
    """The coordinator asks for a release.

    opening: the newest, None before the first. rows: from that opening's plan (from the first row before the first
    opening) to the plan's head. earlier: joins and changes of members before those that this gate has not followed.
    """

    plan: Plan
    opening: Opening | None
    rows: Annotated[tuple[Row, ...], msgspec.Meta(max_length=8192)]
    earlier: Annotated[tuple[Row, ...], msgspec.Meta(max_length=8192)] = ()


class Known(Plain, frozen=True, array_like=True, kw_only=True):
    """What a gate stores: enough never to release twice, and to check the next plan.

    rows: how many rows it has followed. members: who holds each stage since the last change. held: the stage of every
    operator who was ever granted one. joined: everyone who was admitted, with the role, the nonce of the invitation and
    the operator.
    """

    tick: Count
    release: Release | None
    plan: Plan | None
    opening: Opening | None
    rows: Count
    members: tuple[tuple[PublicKey, ...], ...]
    held: tuple[tuple[Name, Count], ...]
    joined: tuple[tuple[PublicKey, Role, Annotated[bytes, msgspec.Meta(max_length=16)], Name], ...]


class GateReleased(Event, frozen=True, kw_only=True):
    """This gate released a plan."""

    tick: int
    plan: str


class GateRefused(Event, frozen=True, kw_only=True):
    """This gate refused a plan."""

    tick: int
    number: int
    reason: str


def _empty() -> Known:
    return Known(tick=0, release=None, plan=None, opening=None, rows=0, members=(), held=(), joined=())


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
        self._known = _empty()
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
        return _History(manifest, known).follow(ask)


def verify_proposal(ask: Propose, manifest: Manifest) -> None:
    """Check a proposal as a gate does that has followed nothing before.

    Raises:
        Refused: E310 to E318.
    """
    _History(manifest, _empty()).follow(ask)


class _History:
    """Replays the rows between two openings and checks that they are within the rules."""

    def __init__(self, manifest: Manifest, known: Known) -> None:
        self._manifest = manifest
        self._held = dict(known.held)
        self._members: Members = known.members
        self._roles: dict[bytes, Role] = {who: role for who, role, _, _ in known.joined}
        self._nonces = {who: nonce for who, _, nonce, _ in known.joined}
        self._owners = {who: name for who, _, _, name in known.joined}
        self._known = known

    def follow(self, ask: Propose) -> Known:
        """Check rows and plan against each other; see `boundary.md` 2 for the rules.

        Raises:
            Refused: E310 to E318.
        """
        manifest, plan, opening, rows = self._manifest, ask.plan, ask.opening, ask.rows
        number, previous = (rows[0].number, rows[0].previous) if rows else (0, GENESIS)
        if opening is None and (number, previous) != (0, GENESIS):
            raise Refused(310, "the rows before the first plan do not start with the first row")
        self._catch_up(ask.earlier, before=number)
        coordinator = manifest.coordinator
        head = verify_chain(rows, run=manifest.run, coordinator=coordinator, previous=previous, number=number)
        if plan.head != head:
            raise Refused(310, "the plan does not follow the last row")
        if opening is None:
            base, members, state = self._before_first(rows)
        else:
            base, members, state = self._after(opening, rows)
        self._check_plan(plan, base, members, state)
        return Known(
            tick=plan.tick,
            release=None,
            plan=plan,
            opening=opening,
            rows=number + len(rows),
            members=self._members,
            held=tuple(sorted(self._held.items())),
            joined=tuple((who, self._roles[who], self._nonces[who], self._owners[who]) for who in sorted(self._roles)),
        )

    def _catch_up(self, earlier: tuple[Row, ...], *, before: int) -> None:
        """Take in what happened while this gate was away: it was not there to check it, but others were."""
        last = -1
        for row in earlier:
            body = row.body
            if not last < row.number < before or not isinstance(body, Joined | Changed | Voided):
                raise Refused(310, f"row {row.number} among those that this gate missed")
            verify_row(row, run=self._manifest.run, coordinator=self._manifest.coordinator)
            if isinstance(body, Joined):
                self._join(body)
            else:
                self._check_grants(body.members)
                self._remember_grants(body.members)
                if isinstance(body, Changed):
                    self._members = body.members
            last = row.number

    def _remember_grants(self, members: Members) -> None:
        self._held.update((self._owners[who], stage) for who, stage in _grants(members).items())

    def _check_grants(self, members: Members) -> None:
        """Check that nobody gets a second stage or replica, and no keyholder any.

        Raises:
            Refused: E316.
        """
        grants, keyholders = _grants(members), self._manifest.committee.identities()
        if not grants.keys() <= self._of("node"):
            raise Refused(316, "a stage for somebody who did not join as a node")
        try:
            verify_grants(grants, owners=self._owners, held=self._held, keyholders=keyholders)
        except VaultError as error:
            raise Refused(316, error.what) from None

    def _join(self, row: Joined) -> None:
        record, invitation = row.join.record, row.join.invitation
        used = frozenset(n for who, n in self._nonces.items() if n and who != record.identity)
        verify_join(
            row.join,
            run=self._manifest.run,
            keyholders=self._manifest.committee.identities(),
            open_admission=self._manifest.admission == "open",
            used=used,
        )
        self._roles[record.identity] = record.role
        self._nonces[record.identity] = invitation.nonce if invitation is not None else b""
        self._owners[record.identity] = owner(row.join)

    def _of(self, role: Role) -> set[bytes]:
        return {who for who, its in self._roles.items() if its == role}

    def _before_first(self, rows: tuple[Row, ...]) -> tuple[Base | None, Members, str]:
        for row in _without_orders(rows, self._manifest):
            if not isinstance(row.body, Joined):
                raise Refused(315, f"a row '{type(row.body).__name__}' before the first plan")
            self._join(row.body)
        return None, (), "new"

    def _after(self, opening: Opening, rows: tuple[Row, ...]) -> tuple[Base | None, Members, str]:
        """Base, members and what the tick became, from the rows after an opening's plan."""
        before = opening.plan
        members = draw_members(opening, self._manifest)
        if not before.change:
            self._members = members
        if not rows or not isinstance(rows[0].body, Planned) or rows[0].body.plan != before:
            raise Refused(315, f"the rows do not start with the plan of tick {before.tick}")
        if rows[0].previous != before.head:
            raise Refused(310, f"the rows before tick {before.tick} are not those that its plan follows")
        rows = _without_orders(rows, self._manifest)
        following = [row for row in rows[1:] if not isinstance(row.body, Joined)]
        opened = following[0].body if following else None
        if not isinstance(opened, Opened) or opened.releases != opening.releases or opened.tick != before.tick:
            raise Refused(315, f"the next row is not the opening of tick {before.tick}")
        for row in rows:
            if isinstance(row.body, Joined):
                self._join(row.body)
        if before.change:
            self._check_grants(members)
        if before.change and before.change != "start":
            self._remember_grants(members)  # even if it is void: shards may have moved
        close: Close | None = None
        end = ""
        base = before.base
        for row in following[1:]:
            body = row.body
            if end:
                raise Refused(317, f"a row '{type(body).__name__}' after the end of tick {before.tick}")
            elif isinstance(body, Closed):
                close = Close(tick=body.tick, opening=body.opening, commitments=body.commitments)
            elif isinstance(body, Committed):
                base = self._commit(before, close, opening, body, row, members)
                end = "committed"
            elif isinstance(body, Changed):
                if not before.change or body.tick != before.tick or body.members != members:
                    raise Refused(317, f"a change row that tick {before.tick} does not have")
                verify_prepared(body.prepared, before, members)
                self._remember_grants(members)  # a void start left nobody anything
                self._members = members
                base = Base(row=row.digest, made=(before.tick,) * len(members))
                end = "changed"
            elif isinstance(body, Measured):
                if before.kind != "evaluate" or body.tick != before.tick:
                    raise Refused(317, f"a measurement that tick {before.tick} does not have")
                if tuple(m.member for m in body.measurements) != members[-1]:
                    raise Refused(306, f"a measurement of tick {before.tick} is not of the last stage's replicas")
                for measurement in body.measurements:
                    if measurement.tick != before.tick:
                        raise Refused(304, "a measurement", expected=before.tick, actual=measurement.tick)
                    verify(measurement, before.run)
                end = "measured"
            elif isinstance(body, Answered):
                if before.session is None or body.tick != before.tick:
                    raise Refused(317, f"an answer that tick {before.tick} does not have")
                if tuple(a.member for a in body.answers) != answerers(before):
                    raise Refused(306, f"an answer of tick {before.tick} is not of the replicas that it names")
                for answer in body.answers:
                    if answer.tick != before.tick:
                        raise Refused(304, "an answer", expected=before.tick, actual=answer.tick)
                    verify(answer, before.run)
                end = "answered"
            elif isinstance(body, Voided):
                if body.members != (members if before.change == "members" else ()):
                    raise Refused(317, f"the void of tick {before.tick} names other members")
                end = "voided"
            else:
                raise Refused(317, f"a row '{type(body).__name__}' inside tick {before.tick}")
        if not end:
            raise Refused(317, f"tick {before.tick} has not ended", expected="a commit, change or void row")
        self._before = before
        return base, self._members, end

    def _commit(
        self,
        plan: Plan,
        close: Close | None,
        opening: Opening,
        body: Committed,
        row: Row,
        members: Members,
    ) -> Base:
        if close is None or plan.kind not in ("train", "measure") or body.tick != plan.tick:
            raise Refused(317, f"a commit that tick {plan.tick} does not have")
        if close.opening != opening.digest:
            raise Refused(317, "the close names another opening")
        verify_reports(body.reports, plan, close.digest, members)
        if body.round != plan.round + (plan.kind == "train"):
            raise Refused(318, "the committed round", expected=plan.round + 1, actual=body.round)
        return Base(row=row.digest, made=(plan.tick,) * len(members))

    def _check_plan(self, plan: Plan, base: Base | None, members: Members, state: str) -> None:
        """The plan within the rules, given what the tick before became."""
        manifest = self._manifest
        self._check_lists(plan)
        if state == "new" or (base is None and state == "voided"):
            if plan.change != "start" or plan.base is not None or plan.round or plan.epoch or plan.epoch_tick:
                raise Refused(318, "the first plan of a run is its start")
            nodes = set(plan.candidates)
            wanted = manifest.stages * manifest.replicas
            if len(plan.candidates) < wanted:
                raise Refused(318, "the start names nodes", expected=f"at least {wanted}", actual=len(nodes))
            self._check_candidates(plan)
            return
        before = self._before
        if plan.change == "start":
            raise Refused(318, "a run starts once")
        if plan.base != base:
            raise Refused(318, "the plan starts from another base than the last committed one")
        if plan.change == "members":
            self._check_change(plan, members)
        elif plan.members != members:
            raise Refused(318, "the plan's members are not those of the last change")
        done = before.round + (before.kind == "train" and state == "committed")
        if plan.round != done:
            raise Refused(318, "the plan's round", expected=done, actual=plan.round)
        turned = state == "changed"
        epoch = before.epoch - (before.change == "turn" and not turned)  # the epoch of the base
        if plan.epoch != epoch + (plan.change == "turn"):
            raise Refused(318, "the plan's epoch", expected=epoch + (plan.change == "turn"), actual=plan.epoch)
        epoch_tick = before.tick if turned and before.change != "members" else before.epoch_tick
        if plan.epoch_tick != epoch_tick:
            raise Refused(318, "the tick that began the epoch", expected=epoch_tick, actual=plan.epoch_tick)
        due = plan.round // manifest.training.epoch_rounds
        if plan.kind not in ("evaluate", "session") and plan.change != "members" and plan.epoch != due:
            raise Refused(318, f"the epoch of round {plan.round}", expected=due, actual=plan.epoch)
        limit = manifest.training.rounds
        if plan.kind in ("train", "measure") and plan.round >= limit:
            raise Refused(318, "the run has taken all its rounds", expected=f"< {limit}", actual=plan.round)
        for assigned in plan.work:
            if len(assigned) != len(members) or any(r >= len(members[s]) for s, r in enumerate(assigned)):
                raise Refused(318, "the plan gives a micro-batch to a replica that does not exist")

    def _check_change(self, plan: Plan, members: Members) -> None:
        """Who stays were members, at least one a stage; who may come is bound to the stage that its operator held."""
        stages, limit = self._manifest.stages, self._manifest.replicas
        if not len(plan.members) == len(members) == stages or not all(
            stay and tuple(sorted(set(stay))) == stay and set(stay) <= set(were)
            for stay, were in zip(plan.members, members, strict=True)
        ):
            raise Refused(318, "who stays in a change of members were not all members of the same stage")
        staying = [who for stage in plan.members for who in stage]
        were = {who for stage in members for who in stage}
        if any(len(stage) > limit for stage in plan.members) or not set(plan.leaving) <= were:
            raise Refused(318, "a change of members has more replicas than the run, or somebody leaves twice")
        self._check_candidates(plan)
        bound = tuple(self._held.get(self._owners[who], -1) + 1 for who in plan.candidates)
        if plan.bound != bound:
            raise Refused(316, "candidates are not bound to the stages that their operators held")
        taken = {self._owners[who] for who in staying}
        if taken & {self._owners[who] for who in plan.candidates}:
            raise Refused(316, "an operator who stays would get a second replica")

    def _check_candidates(self, plan: Plan) -> None:
        """Everyone who may be drawn joined as a node, and for an operator of its own."""
        if not set(plan.candidates) <= self._of("node"):
            raise Refused(318, "a plan names a candidate that did not join as a node")
        if len({self._owners[who] for who in plan.candidates}) != len(plan.candidates):
            raise Refused(316, "a plan names two candidates of one operator")

    def _check_lists(self, plan: Plan) -> None:
        """Check that lists have an entry for each thing they speak of: nodes and relays index into them unasked."""
        manifest, training = self._manifest, self._manifest.training
        if (plan.kind == "change") != bool(plan.change):
            raise Refused(318, f"a {plan.kind} plan with change '{plan.change}'")
        if (plan.members if plan.change == "start" else () if plan.change == "members" else plan.candidates) != ():
            raise Refused(318, "a start names candidates, a change of members both, every other plan members")
        if plan.change != "members" and (plan.bound or plan.leaving):
            raise Refused(318, f"a {plan.kind} plan that binds candidates or lets members leave")
        if len(plan.exponents) != manifest.stages - 1 or len(plan.lifts) != manifest.stages:
            raise Refused(318, "the plan needs one exponent a boundary and one lift a stage")
        if not 1 <= len(plan.relays) <= manifest.relays or len(set(plan.relays)) != len(plan.relays):
            raise Refused(318, "the plan's relays", expected=f"1 to {manifest.relays}", actual=len(set(plan.relays)))
        if not set(plan.relays) <= self._of("relay"):
            raise Refused(318, "the plan names a relay that never joined")
        if (plan.kind == "session") != (plan.session is not None):
            raise Refused(318, f"a {plan.kind} plan and a session that do not go together")
        wanted = training.microbatches
        if plan.session is not None:
            verify_session(plan.session, manifest)
            if plan.session.asker not in self._of("asker"):
                raise Refused(318, "a session of somebody who did not join to ask")
            wanted = len(plan.session.shapes)
        if plan.kind == "evaluate":
            wanted = (manifest.data.validation_bytes - 1) // manifest.model.context // training.rows
        if len(plan.work) != (0 if plan.change else wanted):
            raise Refused(318, "the plan's micro-batches", expected=wanted, actual=len(plan.work))


def _without_orders(rows: tuple[Row, ...], manifest: Manifest) -> tuple[Row, ...]:
    """The rows but those of orders, which may stand between any others and must be what they say.

    Raises:
        Refused: E340 to E343.
    """
    for row in rows:
        if isinstance(row.body, Ordered):
            verify_ordered(row.body.text, manifest)
    return tuple(row for row in rows if not isinstance(row.body, Ordered))


def _grants(members: Members) -> dict[bytes, int]:
    """Who gets which stage."""
    return {who: index for index, stage in enumerate(members) for who in stage}
