"""The coordinator: plans, openings, closes, and the journal. It sees no secret and no activation.

Everything that must survive a restart is a row; what lies between two rows (releases, commitments, reports coming in)
is collected again. A plan is sent only when k_e gates say they are ready, since a plan that a gate may have released
is opened before anything else is planned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from interlock.vault import Identity

from .canonical import Count, Message, decode, encode
from .change import BoxOffer, Offering, Offers, Prepared, Preparing, verify_offer, verify_prepared, verify_prepared_one
from .corpus import Index
from .effects import Admit, After, Announce, Blob, Effects, Event, Send, Stop, Store
from .errors import Failed, Refused
from .gate import Propose
from .journal import (
    GENESIS,
    Body,
    Changed,
    Closed,
    Committed,
    Joined,
    Measured,
    Opened,
    Planned,
    Row,
    Voided,
    make_row,
    verify_chain,
)
from .manifest import Manifest
from .members import Join, Roster, Welcome, verify_join
from .release import Base, Declined, Opening, Plan, Ready, Release, Released, draw_members, verify_opening
from .round import (
    Close,
    Commitment,
    Committing,
    Measurement,
    Measuring,
    Members,
    Report,
    Reporting,
    Trouble,
    verify,
    verify_close,
    verify_reports,
)

VOIDS_MAX = 5  # attempts at one piece of work
EXPONENT_STEP = 4  # bits by which a clamped gradient frame or an overflowing sum is lifted
HEADROOM_BITS = 3  # between the largest gradient of the last round and the end of the range


class GetIndex(Message, frozen=True, array_like=True, kw_only=True):
    """A first- or last-stage node asks for the corpus's index."""


class IndexIs(Message, frozen=True, array_like=True, kw_only=True):
    """The corpus's index; its digest stands in the manifest."""

    index: Index


class GetChunk(Message, frozen=True, array_like=True, kw_only=True):
    """Asks for one chunk of the corpus."""

    number: Count


class ChunkIs(Message, frozen=True, array_like=True, kw_only=True):
    """One chunk, as a blob."""

    number: Count


class Wrote(Event, frozen=True, kw_only=True):
    """A row was written."""

    number: int
    row: str


class Waiting(Event, frozen=True, kw_only=True):
    """Nothing moves, and what is missing."""

    what: str


class GateDeclined(Event, frozen=True, kw_only=True):
    """A gate refused a plan."""

    tick: int
    gate: str
    number: int
    reason: str


class RunEnded(Event, frozen=True, kw_only=True):
    """All rounds are taken and the last evaluation is in the journal."""

    rounds: int


class Coordinator:
    """Pure role of the coordinator.

    Args:
        chunk: gives the bytes of a corpus chunk by number.
        patience_s: a tick that has not ended after this long ends the run with an error that names who is missing.
    """

    def __init__(
        self,
        identity: Identity,
        manifest: Manifest,
        *,
        index: Index,
        chunk: Callable[[int], bytes],
        patience_s: float = 120.0,
    ) -> None:
        self._identity = identity
        self._manifest = manifest
        self._index = index
        self._chunk = chunk
        self._patience_s = patience_s
        self._rows: list[Row] = []  # from the newest opening's plan on
        self._number, self._head = 0, GENESIS
        self._joins: dict[bytes, Join] = {}
        self._gates: set[bytes] = set()
        self._nodes: set[bytes] = set()  # that have reached the relays
        # folded from rows
        self._base: Base | None = None
        self._members: Members = ()
        self._round = 0
        self._epoch = 0
        self._epoch_tick = 0
        self._measured = False  # exponents of gradient sums are known
        self._evaluated = -1  # round of the last evaluation
        self._attempt = 0
        self._exponents = [manifest.gradient_exponent] * (manifest.stages - 1)
        self._lifts = [0] * manifest.stages
        self._opening: Opening | None = None
        self._opened_tick = 0
        self._plan_row = 0
        self._now_members: Members = ()
        # of the tick under way
        self._plan: Plan | None = None
        self._open = False
        self._releases: dict[bytes, Release] = {}
        self._offers: dict[bytes, BoxOffer] = {}
        self._prepared: dict[bytes, Prepared] = {}
        self._commitments: dict[bytes, Commitment] = {}
        self._close: Close | None = None
        self._reports: dict[bytes, Report] = {}
        self._measurements: dict[bytes, Measurement] = {}
        self._ended = False

    # -- inputs -------------------------------------------------------------------------------------------------

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Begin, from the rows of an earlier life."""
        names = sorted(name for name in stored if name.startswith("row "))
        rows: list[Row] = [decode(stored[name], Row, whose=name) for name in names]
        verify_chain(rows, run=self._manifest.run, coordinator=self._identity.public, previous=GENESIS, number=0)
        for row in rows:
            self._fold(row)
        effects: Effects = [After(1.0, "look")]
        if self._plan is not None and self._open:
            effects.append(After(self._patience_s, f"patience {self._plan.tick}"))
        effects += [Admit(j.record.identity, j.record.curve) for j in self._joins.values()]
        return effects

    def on_timer(self, name: str) -> Effects:
        """Look whether something can move; give up on a tick that does not end."""
        if name == "leave":
            return [Stop()]
        if name == "look":
            return [*self._advance(), After(1.0, "look")]
        if name.startswith("patience ") and self._plan is not None and name == f"patience {self._plan.tick}":
            missing = ", ".join(self._missing()) or "nobody; a message was lost"
            error = Failed(
                330,
                f"tick {self._plan.tick} ({self._plan.kind}) did not end within {self._patience_s:.0f} s",
                expected="every replica's answer",
                actual=f"missing: {missing}",
                todo="Look at the log of the processes named; start the run again.",
            )
            return [Stop(error)]
        return []

    def on_message(self, source: bytes, message: object, blobs: tuple[Blob, ...]) -> Effects:
        """Joins of anyone; everything else from members."""
        if isinstance(message, Join):
            return self._join(source, message)
        join = self._joins.get(source)
        if join is None:
            raise Refused(208, f"{source.hex()[:12]} has not joined")
        role = join.record.role
        if role == "gate":
            if isinstance(message, Ready):
                self._gates.add(source)
                return self._advance()
            if isinstance(message, Released):
                return self._release(source, message.release)
            if isinstance(message, Declined):
                return self._declined(source, message)
        if role == "node":
            if isinstance(message, Ready):
                self._nodes.add(source)
                return self._advance()
            if isinstance(message, GetIndex):
                return [Send(source, IndexIs(index=self._index))]
            if isinstance(message, GetChunk):
                if message.number >= len(self._index.chunks):
                    raise Refused(604, "a chunk that the corpus does not have", actual=message.number)
                data = self._chunk(message.number)
                return [Send(source, ChunkIs(number=message.number), (Blob(data),))]
            return self._from_node(source, message)
        raise Refused(210, f"the coordinator reads no {type(message).__name__} of a {role}")

    def on_done(self, job: object, result: object) -> Effects:
        """The coordinator has no work."""
        return []

    def on_drawn(self, name: str, data: bytes) -> Effects:
        """The coordinator draws nothing: all randomness is the gates' and the nodes'."""
        return []

    # -- joining ------------------------------------------------------------------------------------------------

    def _join(self, source: bytes, join: Join) -> Effects:
        record = join.record
        welcome = Send(source, Welcome(manifest=encode(self._manifest)))
        if record.identity != source:
            raise Refused(205, "a join for another identity", expected=source.hex()[:12])
        known = self._joins.get(source)
        if known == join:
            return [welcome, Send(source, self._roster())]
        if known is not None:
            raise Refused(209, f"{record.operator} joined before with another record")
        used = {j.invitation.nonce for j in self._joins.values() if j.invitation is not None}
        verify_join(
            join,
            run=self._manifest.run,
            keyholders=self._manifest.committee.identities(),
            open_admission=self._manifest.admission == "open",
            used=frozenset(used),
        )
        limit = self._manifest.stages * self._manifest.replicas
        if record.role == "node" and len(self._of("node")) >= limit:
            raise Refused(212, f"all {limit} places are taken", todo="Wait for a vacancy.")
        effects: Effects = [*self._write(Joined(join=join)), Admit(record.identity, record.curve), welcome]
        roster = self._roster()
        effects += [Send(who, roster) for who, j in self._joins.items() if j.record.role != "gate"]
        return [*effects, *self._advance()]

    def _roster(self) -> Roster:
        return Roster(joins=tuple(self._joins.values()))

    def _of(self, role: str) -> list[bytes]:
        return [who for who, join in self._joins.items() if join.record.role == role]

    # -- planning -----------------------------------------------------------------------------------------------

    def _advance(self) -> Effects:
        """Plan the next tick if none is under way and everyone needed is here."""
        if self._ended:
            return []
        if self._plan is not None:
            return self._propose() if not self._open else []
        manifest, need = self._manifest, self._manifest.committee.release
        nodes, relays = self._nodes, self._of("relay")
        wanted = manifest.stages * manifest.replicas
        if len(nodes) < wanted or len(relays) < manifest.relays or len(self._gates) < need:
            here = f"{len(nodes)} of {wanted} nodes, {len(relays)} of {manifest.relays} relays"
            return [Announce(Waiting(what=f"{here}, {len(self._gates)} of {need} gates"))]
        if self._attempt >= VOIDS_MAX:
            error = Failed(320, f"round {self._round} was voided {VOIDS_MAX} times", todo="See the void rows' reasons.")
            return [Stop(error)]
        plan = self._next_plan()
        if plan is None:
            self._ended = True
            return [Announce(RunEnded(rounds=self._round))]
        self._begin(plan)
        return [*self._write(Planned(plan=plan)), *self._propose()]

    def _next_plan(self) -> Plan | None:
        training = self._manifest.training
        change: str = ""
        kind = "train"
        due = self._evaluated < 0 or (training.evaluate_every and self._round % training.evaluate_every == 0)
        if self._base is None:
            kind, change = "change", "start"
        elif self._round != self._evaluated and (due or self._round == training.rounds):
            kind = "evaluate"
        elif self._round >= training.rounds:
            return None
        elif self._round // training.epoch_rounds > self._epoch:
            kind, change = "change", "turn"
        elif not self._measured:
            kind = "measure"
        relays = tuple(sorted(self._of("relay"))[: self._manifest.relays])
        return Plan(
            run=self._manifest.run,
            tick=self._opened_tick + 1,
            head=self._head,
            base=self._base,
            kind=kind,  # type: ignore[arg-type]  # one of the literals above
            change=change,  # type: ignore[arg-type]
            round=self._round,
            epoch=self._epoch + (change == "turn"),
            epoch_tick=self._epoch_tick,
            attempt=self._attempt,
            relays=relays,
            candidates=tuple(sorted(self._nodes)) if change == "start" else (),
            members=() if change == "start" else self._members,
            exponents=tuple(self._exponents),
            lifts=tuple(self._lifts),
            work=() if change else self._share_out(kind),
        )

    def _share_out(self, kind: str) -> tuple[tuple[int, ...], ...]:
        """Micro-batches to replicas, evenly; a micro-batch's gradient returns along the same replicas."""
        training, model = self._manifest.training, self._manifest.model
        count = training.microbatches
        if kind == "evaluate":
            windows = (self._manifest.data.validation_bytes - 1) // model.context
            count = windows // training.rows  # the last, smaller one is left out: every frame has one shape
        return tuple(tuple(m % len(stage) for stage in self._members) for m in range(count))

    def _begin(self, plan: Plan) -> None:
        self._plan, self._open, self._close = plan, False, None
        for collected in (
            self._releases,
            self._offers,
            self._prepared,
            self._commitments,
            self._reports,
            self._measurements,
        ):
            collected.clear()

    def _propose(self) -> Effects:
        """Ask every ready gate that has not answered; a gate answers the same plan with the same bytes."""
        assert self._plan is not None
        rows = tuple(row for row in self._rows if row.number < self._plan_row)
        ask = Propose(plan=self._plan, opening=self._opening, rows=rows)
        return [Send(gate, ask) for gate in sorted(self._gates) if gate not in self._releases]

    # -- opening ------------------------------------------------------------------------------------------------

    def _release(self, source: bytes, release: Release) -> Effects:
        plan = self._plan
        if plan is None or release.tick != plan.tick or release.plan != plan.digest or self._open:
            return []  # late: the tick opened without it
        if release.gate != source:
            raise Refused(205, "a release of another gate", expected=source.hex()[:12])
        self._releases[source] = release
        seats = [k.key for k in self._manifest.committee.keyholders if k.key in self._releases]
        need = self._manifest.committee.release
        if len(seats) < need:
            return []
        opening = Opening(plan=plan, releases=tuple(self._releases[key] for key in seats[:need]))
        try:
            verify_opening(opening, self._manifest)
        except Refused:
            del self._releases[source]
            raise
        row = Opened(tick=plan.tick, plan=plan.digest, releases=opening.releases)
        effects = self._write(row)
        self._opening, self._open = opening, True
        self._now_members = draw_members(opening, self._manifest)
        effects += [Send(who, opening) for who in (*self._of("relay"), *self._of("node"))]
        return [*effects, After(self._patience_s, f"patience {plan.tick}")]

    def _declined(self, source: bytes, message: Declined) -> Effects:
        effects: Effects = [
            Announce(
                GateDeclined(tick=message.tick, gate=source.hex()[:12], number=message.number, reason=message.reason)
            )
        ]
        return effects

    # -- inside a tick ------------------------------------------------------------------------------------------

    def _from_node(self, source: bytes, message: object) -> Effects:
        plan = self._plan
        if plan is None or not self._open:
            raise Refused(304, f"{type(message).__name__} of {source.hex()[:12]} while no tick is open")
        if isinstance(message, Trouble):
            return self._trouble(source, message, plan)
        if isinstance(message, Offering):
            verify_offer(message.offer, run=plan.run, tick=plan.tick)
            self._mine(source, message.offer.member)
            self._offers[source] = message.offer
            if not self._all(self._offers):
                return []
            offers = Offers(tick=plan.tick, offers=tuple(self._offers[who] for who in sorted(self._offers)))
            return [Send(who, offers) for who in self._everyone()]
        if isinstance(message, Preparing):
            return self._preparing(source, message.prepared, plan)
        if isinstance(message, Committing):
            return self._committing(source, message.commitment, plan)
        if isinstance(message, Reporting):
            return self._reporting(source, message.report, plan)
        if isinstance(message, Measuring):
            return self._measuring(source, message.measurement, plan)
        raise Refused(210, f"the coordinator reads no {type(message).__name__} of a node")

    def _everyone(self) -> list[bytes]:
        return [who for stage in self._now_members for who in stage]

    def _all(self, collected: Mapping[bytes, object]) -> bool:
        return all(who in collected for who in self._everyone())

    def _mine(self, source: bytes, member: bytes) -> None:
        if member != source or member not in self._everyone():
            raise Refused(205, f"a record of {member.hex()[:12]} sent by {source.hex()[:12]}")

    def _tick_is(self, tick: int, plan: Plan, source: bytes) -> None:
        if tick != plan.tick:
            raise Refused(304, f"a record of {source.hex()[:12]}", expected=f"tick {plan.tick}", actual=tick)

    def _trouble(self, source: bytes, message: Trouble, plan: Plan) -> Effects:
        self._tick_is(message.tick, plan, source)
        if message.number == 402 and 0 <= message.boundary < len(self._exponents):
            self._exponents[message.boundary] += EXPONENT_STEP
        if message.number == 403 and 0 <= message.stage < len(self._lifts):
            self._lifts[message.stage] += EXPONENT_STEP
        reason = f"{source.hex()[:12]}: {message.what}"[:300]
        return self._end(Voided(tick=plan.tick, number=message.number, reason=reason))

    def _preparing(self, source: bytes, prepared: Prepared, plan: Plan) -> Effects:
        self._tick_is(prepared.tick, plan, source)
        self._mine(source, prepared.member)
        verify_prepared_one(prepared, plan.run)
        self._prepared[source] = prepared
        if not self._all(self._prepared):
            return []
        everyone = tuple(self._prepared[who] for who in sorted(self._prepared))
        try:
            verify_prepared(everyone, plan, self._now_members)
        except Refused as refused:
            return self._end(Voided(tick=plan.tick, number=refused.number, reason=str(refused)[:300]))
        return self._end(Changed(tick=plan.tick, members=self._now_members, prepared=everyone))

    def _committing(self, source: bytes, commitment: Commitment, plan: Plan) -> Effects:
        self._tick_is(commitment.tick, plan, source)
        self._mine(source, commitment.member)
        verify(commitment, plan.run)
        self._commitments.setdefault(source, commitment)
        if self._close is not None or not self._all(self._commitments):
            return []
        assert self._opening is not None
        commitments = tuple(self._commitments[who] for who in sorted(self._commitments))
        close = Close(tick=plan.tick, opening=self._opening.digest, commitments=commitments)
        verify_close(close, plan, self._opening.digest, self._now_members)
        self._close = close
        row = Closed(tick=plan.tick, opening=close.opening, commitments=commitments)
        return [*self._write(row), *(Send(who, close) for who in self._everyone())]

    def _reporting(self, source: bytes, report: Report, plan: Plan) -> Effects:
        self._tick_is(report.tick, plan, source)
        self._mine(source, report.member)
        verify(report, plan.run)
        self._reports.setdefault(source, report)
        if self._close is None or not self._all(self._reports):
            return []
        reports = tuple(self._reports[who] for who in sorted(self._reports))
        try:
            verify_reports(reports, plan, self._close.digest, self._now_members)
        except Refused as refused:
            return self._end(Voided(tick=plan.tick, number=refused.number, reason=str(refused)[:300]))
        return self._end(Committed(tick=plan.tick, round=plan.round + (plan.kind == "train"), reports=reports))

    def _measuring(self, source: bytes, measurement: Measurement, plan: Plan) -> Effects:
        self._tick_is(measurement.tick, plan, source)
        self._mine(source, measurement.member)
        verify(measurement, plan.run)
        self._measurements.setdefault(source, measurement)
        last = self._now_members[-1]
        if not all(who in self._measurements for who in last):
            return []
        everyone = tuple(self._measurements[who] for who in last)
        if sorted(x.microbatch for m in everyone for x in m.losses) != list(range(len(plan.work))):
            return self._end(Voided(tick=plan.tick, number=306, reason="micro-batches measured twice or not at all"))
        return self._end(Measured(tick=plan.tick, measurements=everyone))

    def _end(self, body: Body) -> Effects:
        return [*self._write(body), *self._advance()]

    def _missing(self) -> list[str]:
        plan = self._plan
        assert plan is not None
        if plan.kind == "change":
            have: Mapping[bytes, object] = self._prepared
        elif plan.kind == "evaluate":
            have = self._measurements
        else:
            have = self._reports if self._close is not None else self._commitments
        wanted = self._now_members[-1] if plan.kind == "evaluate" else self._everyone()
        return [self._joins[who].record.operator for who in wanted if who not in have]

    # -- the journal --------------------------------------------------------------------------------------------

    def _write(self, body: Body) -> Effects:
        row = make_row(self._identity, self._manifest.run, self._number, self._head, body)
        self._fold(row)
        stored = Store(f"row {row.number:08d}", encode(row))
        return [stored, Announce(Wrote(number=row.number, row=type(body).__name__))]

    def _fold(self, row: Row) -> None:
        """State that follows from rows alone."""
        body = row.body
        self._number, self._head = row.number + 1, row.digest
        if isinstance(body, Opened):
            # rows before the plan that this opened are final; gates need only what follows
            self._rows = [r for r in self._rows if r.number >= self._plan_row]
        self._rows.append(row)
        if isinstance(body, Joined):
            self._joins[body.join.record.identity] = body.join
        elif isinstance(body, Planned):
            self._plan, self._open, self._plan_row = body.plan, False, row.number
        elif isinstance(body, Opened):
            assert self._plan is not None
            self._opened_tick = body.tick
            self._opening = Opening(plan=self._plan, releases=body.releases)
            self._open = True
            self._now_members = draw_members(self._opening, self._manifest)
        elif isinstance(body, Closed):
            self._rescale(body)
        elif isinstance(body, Committed):
            self._base = Base(row=row.digest, made=(body.tick,) * self._manifest.stages)
            self._round, self._attempt, self._measured = body.round, 0, True
            self._lifts = [0] * self._manifest.stages
        elif isinstance(body, Changed):
            assert self._plan is not None
            self._base = Base(row=row.digest, made=(body.tick,) * self._manifest.stages)
            self._members, self._attempt = body.members, 0
            self._epoch, self._epoch_tick = self._plan.epoch, body.tick
        elif isinstance(body, Measured):
            self._evaluated, self._attempt = self._round, 0
        elif isinstance(body, Voided):
            self._attempt += 1
        if isinstance(body, Committed | Changed | Measured | Voided):
            self._plan = None  # the tick has ended

    def _rescale(self, body: Closed) -> None:
        """Exponents of the next round's gradient frames, from the largest gradients of this one."""
        limit = self._manifest.frame_width - 1 - self._manifest.frame_fraction
        stage_of = {who: index for index, stage in enumerate(self._now_members) for who in stage}
        peaks: dict[int, int] = {}
        for commitment in body.commitments:
            for peak in commitment.peaks:
                boundary = stage_of[commitment.member] - 1
                peaks[boundary] = max(peak, peaks.get(boundary, peak))
        for boundary, peak in peaks.items():
            self._exponents[boundary] = peak + HEADROOM_BITS - limit
