"""The coordinator: plans, openings, closes, and the journal. It sees no secret and no activation.

Everything that must survive a restart is a row; what lies between two rows (releases, commitments, reports coming in)
is collected again. A plan is sent only when k_e gates say they are ready, since a plan that a gate may have released
is opened before anything else is planned.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import ClassVar

import msgspec

from interlock.vault import Identity

from .addresses import verify_address
from .attendance import Attendance
from .canonical import encode
from .change import Offers
from .collecting import Collecting
from .corpus import Index
from .doubt import Doubt
from .effects import Admit, After, Announce, Blob, Effects, Event, Send, Stop
from .errors import Failed, Refused
from .fetching import ChunkIs, GetChunk, GetIndex, IndexIs
from .journal import (
    DIED,
    GENESIS,
    Body,
    Changed,
    Closed,
    Joined,
    Ordered,
    Planned,
    Row,
    Voided,
    make_row,
    verify_chain,
    verify_row,
)
from .kept import Kept
from .ledger import Ledger
from .manifest import Manifest
from .members import Join, Leaving, Left, Record, Roster, Still, Welcome, owner, verify_fresh, verify_join
from .membership import orphaned
from .moved import make_moved
from .obeying import TIMER, Heard, Noted, Ordering, Orders
from .orders import Signed, read_order
from .planning import next_plan
from .proposal import Propose
from .pulse import BEAT_S, Beat, Pulse
from .reach import Reach
from .recalling import Recalling, damaged, forgotten
from .recovery import Found, Past, Recall, Recalled, Recovered, lost, newer, opened_row
from .release import Began, Declined, Opening, Plan, Ready, Release, Released, Session, verify_opening
from .returning import Returning
from .round import Close, Trouble
from .session import (
    AFTER_TRAINING_S,
    GRACE_S,
    WHILE_TRAINING_S,
    Ask,
    Over,
    Queued,
    verify_session,
)

JOINS_MAX = {"node": 1024, "relay": 256, "asker": 2048}  # that may ever join, gates aside: a roster holds them all
VOIDS_MAX = 5  # attempts at one piece of work
ASKS_MAX = 64  # sessions that may wait
MOVES_MAX = 64  # of one relay, until we start again
GATE_LOOKS = 15  # after so many looks without a word of a gate it is taken to be away
PLAN_LOOKS = 3  # after so many a plan that gates do not release says whom it waits for


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
        patience_s: a tick that has not ended after this long is void, and whoever is missing counts as dead; a stage
            whose state nobody alive has held for as long ends the run.
        local: whether all processes are on one machine; if not, a relay must be reachable from others.
        recover: the journal may be lost: all gates are asked for their rows before anything else, but those of the
            keyholders in `without`, whose gates will not come back.
    """

    collecting: ClassVar[type[Collecting]] = Collecting  # its part in a tick

    def __init__(
        self,
        identity: Identity,
        manifest: Manifest,
        *,
        index: Index,
        chunk: Callable[[int], bytes],
        patience_s: float = 120.0,
        local: bool = True,
        recover: bool = False,
        without: frozenset[bytes] = frozenset(),
    ) -> None:
        self._identity = identity
        self._manifest = manifest
        self._index = index
        self._chunk = chunk
        self._patience_s = patience_s
        self._local = local
        self._ledger = Ledger(manifest)
        self._attendance = Attendance(manifest.committee)
        self._gates: dict[bytes, int] = {}  # ready ones: how many rows each has followed
        self._nodes: dict[bytes, None] = {}  # that have reached the relays, in that order
        self._pulse = Pulse()  # of nodes and relays
        self._reach = Reach()
        self._doubt = Doubt()
        self._lost: set[bytes] = set()  # members that started again, without the state that they held
        self._renewing: set[bytes] = set()  # those to whom the open tick gives a state
        self._hung: set[bytes] = set()  # that live and did not do their part of a tick
        self._leaving: set[bytes] = set()
        self._orphaned = False
        # of the tick under way
        self._releases: dict[bytes, Release] = {}
        self._collecting = self.collecting(self._ledger)
        self._asks: dict[bytes, Ask] = {}  # in the order of their turn; one of each asker
        self._ended = False
        self.orders = Orders(manifest)
        self._ordered: set[bytes] = set()  # hashes of the orders in the journal
        self._kept = Kept()
        self._recover, self._without = recover, without
        self._recalling: Recalling | None = None  # while others are asked what we forgot
        self._returning = Returning()
        self._fresh = False  # whether this life began without a row
        self._moves: Counter[bytes] = Counter()  # of relays
        self._quiet: dict[bytes, int] = {}  # looks since a gate was heard
        self._unopened = 0  # looks since the plan under way was made
        self._wanting = ""  # what was last said to be missing

    # -- inputs -------------------------------------------------------------------------------------------------

    def restore(self, stored: Mapping[str, bytes]) -> Effects:
        """Begin, from the rows of an earlier life."""
        self._kept = Kept.stored(stored)
        try:
            rows = self._kept.rows()
            verify_chain(rows, run=self._manifest.run, coordinator=self._identity.public, previous=GENESIS, number=0)
            if self._kept.end != self._kept.whole:
                raise Refused(310, f"row {self._kept.whole} is not there, and later ones are")
        except Refused as refused:
            return [Stop(damaged(refused))]
        for row in rows:
            self._ledger.fold(row)
        self._fresh = not rows and not self._recover
        effects: Effects = [After(BEAT_S, "look")]
        self._expect_all()
        if not self._fresh:
            self._ask_around(rows_lost=self._recover)
        if self._ledger.plan is not None and self._ledger.is_open:
            effects.append(self._patience(self._ledger.plan))
        effects += self.orders.restore(stored)
        self._recall_orders(rows)
        if self._recalling is None:
            effects += self._settle_orders()
        return effects + self._admit_all()

    def on_timer(self, name: str) -> Effects:
        """Look who is alive and whether something can move; give up on a tick that does not end."""
        if name in ("leave", "hand over"):
            return [Stop()]
        if name == "look":
            return [*self._look(), After(BEAT_S, "look")]
        if name == TIMER:
            return self._heard(self.orders.look())
        if self._recalling is not None:
            return self._go_on(self._recalling) if name == "recovered" else []
        if name == "orphaned":
            return self._give_up()
        plan = self._ledger.plan
        if plan is None or name != f"patience {plan.tick}":
            return []
        if plan.session is not None:
            return self._end(Voided(tick=plan.tick, number=331, reason="a session did not end in its time"))
        missing = self._collecting.missing
        self._hung.update(missing)
        self._doubt.turn(sorted(plan.relays))
        said = ", ".join(map(self._name, missing)) or "nobody; a message was lost"
        return self._end(Voided(tick=plan.tick, number=330, reason=f"not in its time; missing: {said}"[:300]))

    def _give_up(self) -> Effects:
        """End the run if a stage is still orphaned: nobody can make its state again."""
        if not self._orphaned or self._ended:
            return []
        stages = ", ".join(map(str, orphaned(self._ledger, self._gone())))
        return [
            Stop(
                Failed(
                    360,
                    f"nobody holds the state of stage {stages} any more",
                    todo="Nodes keep weights in memory only, so that the run cannot go on: found another.",
                )
            )
        ]

    def on_message(self, source: bytes, message: object, blobs: tuple[Blob, ...]) -> Effects:
        """Joins and orders of anyone; everything else from members."""
        if self._recalling is not None:
            return self._while_recalling(self._recalling, source, message)
        if isinstance(message, Join):
            return self._join(source, message)
        if isinstance(message, Still):
            return [] if source in self._ledger.joins else self._join(source, message.join)
        join = self._ledger.joins.get(source)
        if isinstance(message, Ordering):
            return self._note(source, message.text) if join is None else self._hear(source, message)
        if join is None:
            raise Refused(208, f"{source.hex()[:12]} has not joined")
        role = join.record.role
        if role in ("node", "relay"):
            self._pulse.heard(source)
            if isinstance(message, Beat):
                return []
        if role == "gate":
            self._quiet[source] = 0
            if isinstance(message, Ready):
                return [*self.orders.remind(source), *self._gate_ready(source, message)]
            if self.orders.in_force is not None and isinstance(message, Released):
                return self.orders.tell(source)
            if isinstance(message, Released):
                return self._release(source, message.release)
            if isinstance(message, Declined):
                return self._declined(source, message)
        if isinstance(message, Recalled):
            return self._recalled(source, message)
        if role == "asker" and isinstance(message, Ask):
            return self._ask(source, message)
        if role in ("relay", "asker") and isinstance(message, Ready):
            return self._remind(source, message)
        if role == "node":
            if isinstance(message, Ready):
                self._nodes[source] = None
                self._reach.hear(source, message.missing)
                return [*self._remind(source, message), *self._advance()]
            if isinstance(message, Leaving):
                return self._leave(source)
            if isinstance(message, GetIndex):
                return [Send(source, IndexIs(index=self._index))]
            if isinstance(message, GetChunk):
                if message.number >= len(self._index.chunks):
                    raise Refused(604, "a chunk that the corpus does not have", actual=message.number)
                data = self._chunk(message.number)
                return [Send(source, ChunkIs(number=message.number), (Blob(data),))]
            if self.orders.in_force is not None:
                return self.orders.tell(source)
            return self._from_node(source, message)
        raise Refused(210, f"the coordinator reads no {type(message).__name__} of a {role}")

    def on_done(self, job: object, result: object) -> Effects:
        """The coordinator has no work."""
        return []

    def on_drawn(self, name: str, data: bytes) -> Effects:
        """The coordinator draws nothing: all randomness is the gates' and the nodes'."""
        return []

    # -- orders -------------------------------------------------------------------------------------------------

    def at(self, seconds: float) -> None:
        """The time of the next input."""
        self.orders.at(seconds)

    def listens(self, address: str, now: float) -> None:
        """Told before `restore`: a coordinator that recovers tells relays where it is ("tcp://host:port")."""
        if self._recover:
            self._returning.moved = make_moved(self._identity, run=self._manifest.run, address=address, when=int(now))

    def on_order(self, text: str) -> Effects:
        """A person hands in an order: obey it and tell everybody.

        Raises:
            Refused: `Orders.take`.
        """
        return self._heard(self.orders.take(text, to=self._ledger.joins))

    def _hear(self, source: bytes, message: Ordering) -> Effects:
        return self._heard(self.orders.hear(source, message, self._ledger.joins))

    def _note(self, source: bytes, text: str) -> Effects:
        """An order that somebody unknown brings: it is as good as from anyone, and they want to know."""
        try:
            effects, number, what = self.on_order(text), 0, ""
        except Refused as refused:
            effects, number, what = [], refused.number, refused.text[:500]
        return [*effects, Send(source, Noted(order=text_hash(text), number=number, what=what))]

    def _heard(self, heard: Heard) -> Effects:
        """Do what an order asks. While others are asked what we forgot, nothing is written: `_settle_orders` does."""
        effects = list(heard.effects)
        if self._recalling is not None:
            return effects
        for signed in heard.took:
            effects += self._write_order(signed)
        if heard.stops:
            effects += self._stand_still()
        if heard.resumes:
            effects += self._advance()
        return effects

    def _write_order(self, signed: Signed) -> Effects:
        """What took effect is in the journal; but a release is between a keyholder and its gate."""
        if signed.order.action == "release" or signed.order.hash in self._ordered:
            return []
        self._ordered.add(signed.order.hash)
        return self._write(Ordered(text=signed.note(self._manifest.committee)))

    def _stand_still(self) -> Effects:
        """Void the open tick; a plan that a gate may have released stays, and is opened after the resume."""
        self._asks.clear()
        plan, stop = self._ledger.plan, self.orders.in_force
        assert stop is not None
        if plan is None or not self._ledger.is_open:
            return []
        reason = f"order {stop.order.seq}, {stop.order.action}: {stop.order.reason}"[:300]
        return self._end(Voided(tick=plan.tick, number=350, reason=reason))

    def _recall_orders(self, rows: Iterable[Row]) -> None:
        """What the journal says of orders: it may have come from elsewhere."""
        for row in rows:
            if isinstance(row.body, Ordered):
                self.orders.recall(row.body.text)
                self._ordered.add(read_order(row.body.text, self._manifest).order.hash)

    def _settle_orders(self) -> Effects:
        """Write what took effect and is in no row, and obey what is in force."""
        effects: Effects = []
        for signed in self.orders.standing.effective():
            effects += self._write_order(signed)
        return effects if self.orders.in_force is None else [*effects, *self._stand_still()]

    # -- joining ------------------------------------------------------------------------------------------------

    def _join(self, source: bytes, join: Join) -> Effects:
        record = join.record
        welcome = Send(source, Welcome(manifest=encode(self._manifest)))
        if record.identity != source:
            raise Refused(205, "a join for another identity", expected=source.hex()[:12])
        known = self._ledger.joins.get(source)
        if known is not None and known.record == record:  # it may have kept its key and not its invitation
            if record.role == "gate":
                return [welcome, *self.orders.remind(source)]
            return [welcome, Send(source, self._roster()), *self.orders.remind(source), *self._back(source)]
        if known is not None:
            self._check_move(known.record, record)
        joins = [j for who, j in self._ledger.joins.items() if who != source]
        verify_join(
            join,
            run=self._manifest.run,
            keyholders=self._manifest.committee.identities(),
            open_admission=self._manifest.admission == "open",
            used=frozenset(j.invitation.nonce for j in joins if j.invitation is not None),
        )
        if record.role == "relay" and not self._local:
            verify_address(record)
        if join.invitation is not None and known is None:
            verify_fresh(join.invitation, self.orders.now)
        if known is not None:
            self._moves[source] += 1
        elif record.role != "gate":
            self._check_room(join)
        effects: Effects = [*self._write(Joined(join=join)), Admit(record.identity, record.curve), welcome]
        others = [who for who, j in self._ledger.joins.items() if who != source and j.record.role != "gate"]
        if record.role != "gate":
            effects.append(Send(source, self._roster()))
        effects += [Send(who, Roster(joins=(join,), whole=False)) for who in others]
        return [*effects, *self.orders.remind(source), *self._back(source), *self._advance()]

    def _check_move(self, known: Record, record: Record) -> None:
        """Only a relay may join again with another record: it listens elsewhere now. Every move is a row.

        Raises:
            Refused: E209, E212.
        """
        if not _moved(known, record):
            raise Refused(209, f"{record.operator} joined before with another record")
        if self._moves[record.identity] >= MOVES_MAX:
            what = f"relay {record.operator} has moved {MOVES_MAX} times: it may not again"
            raise Refused(212, what, todo="Give it a name that stays: --advertise HOST:PORT")

    def _check_room(self, join: Join) -> None:
        """A run has so many members of a role, and an operator one node at a time.

        Raises:
            Refused: E212, E220.
        """
        role, its = join.record.role, owner(join)
        there, most = self._ledger.of(role), JOINS_MAX[role]
        if len(there) >= most:
            raise Refused(212, f"{most} {role}s have joined this run: no more can", todo="Take part in another run.")
        alive = (who for who in there if role == "node" and self._pulse.alive(who))
        if any(owner(self._ledger.joins[who]) == its for who in alive):
            raise Refused(220, f"{its} takes part with another node", todo="Stop that one first, with Ctrl-C.")

    def _back(self, source: bytes) -> Effects:
        """Somebody starts, again perhaps: a node has no state then."""
        role = self._ledger.joins[source].record.role
        if role not in ("node", "relay"):
            return []
        self._pulse.heard(source)
        self._doubt.trust(source)
        self._hung.discard(source)
        self._leaving.discard(source)
        self._reach.hear(source, ())
        if role == "relay" or source not in self._holders():
            return []
        self._nodes.pop(source, None)
        self._lost.add(source)
        self._renewing.discard(source)
        return self._bury()

    def _holders(self) -> set[bytes]:
        return {who for stage in (*self._ledger.members, *self._ledger.present) for who in stage}

    def _roster(self) -> Roster:
        return Roster(joins=tuple(self._ledger.joins.values()))

    def _remind(self, source: bytes, ready: Ready) -> Effects:
        """What a node or relay may have missed. A node that hears an opening again says again what it said."""
        ledger, effects = self._ledger, self.orders.remind(source)
        if ready.known > self._newest():
            return [Send(source, Recall(first=0))]  # it knows an opening that our disk lost
        self._returning.heard(source)
        if ready.joins != len(ledger.joins):
            effects.append(Send(source, self._roster()))
        if ledger.opening is None:
            return effects
        now = ledger.opening.plan
        asks = ledger.joins[source].record.role == "asker"
        ours = now.session is not None and (not asks or now.session.asker == source)
        if asks and not (ours and ledger.is_open):
            return [Send(source, Over(tick=ready.known))]
        if not ledger.is_open:
            return [*effects, Send(source, Over(tick=now.tick))] if ours and ready.known == now.tick else effects
        if source in self._collecting.everyone:
            effects.append(Send(source, ledger.opening))
            if source in self._collecting.newcomers:
                effects.append(Send(source, self._began()))
            if source in self._collecting.told_offers and (offers := self._collecting.offers) is not None:
                effects.append(Send(source, offers))
            if ledger.close is not None:
                effects.append(Send(source, ledger.close))
        elif ready.known < now.tick:
            effects.append(Send(source, ledger.opening))
        return effects

    # -- sessions -----------------------------------------------------------------------------------------------

    def _ask(self, source: bytes, ask: Ask) -> Effects:
        """Somebody wants a session: it waits for its turn, between two ticks of training."""
        if self.orders.in_force is not None:
            return self.orders.tell(source)
        ledger = self._ledger
        verify_session(_session(source, ask, 1), self._manifest)
        plan = ledger.plan
        if plan is not None and plan.session is not None:
            now = plan.session
            if (now.asker, now.number) == (source, ask.number):  # it has its turn, and may have missed the opening
                return [Send(source, ledger.opening)] if ledger.is_open and ledger.opening is not None else []
            if now.asker == source and ledger.is_open:
                self._asks[source] = ask
                return self._end(Voided(tick=plan.tick, number=331, reason="its asker asks for something else"))
        if source not in self._asks and len(self._asks) >= ASKS_MAX:
            return [Send(source, Queued(number=ask.number, ahead=ASKS_MAX, training=not self._ended))]
        self._asks[source] = ask
        ahead = list(self._asks).index(source)
        effects: Effects = [Send(source, Queued(number=ask.number, ahead=ahead, training=not self._ended))]
        return effects + self._advance()

    # -- planning -----------------------------------------------------------------------------------------------

    def _advance(self) -> Effects:
        """Plan the next tick if none is under way and everyone needed is here."""
        if self.orders.in_force is not None:
            return []
        ledger = self._ledger
        if ledger.plan is not None:
            if ledger.is_open or self._returning.held(self._heartbeats()):
                return []
            return [*self._propose(ledger.plan), *self._wait_for_gates(ledger.plan)]
        missing, effects = self._needed()
        if missing:
            return [*self._wait(missing), *effects]
        if ledger.faults >= VOIDS_MAX:
            error = Failed(
                320, f"round {ledger.round} was voided {VOIDS_MAX} times", todo="See the void rows' reasons."
            )
            return [Stop(error)]
        plan = self._next_plan()
        if plan is None:
            ended, self._ended = self._ended, True
            return [] if ended else [Announce(RunEnded(rounds=ledger.round)), *self._advance()]
        self._forget()
        return [*self._write(Planned(plan=plan)), *self._propose(plan)]

    def _needed(self) -> tuple[str, Effects]:
        """Who must be here before anything can be planned, in words, or nothing."""
        ledger, manifest = self._ledger, self._manifest
        gates, relays = len(self._gates), self._relays()
        need = manifest.committee.release
        here = f"{gates} gates of at least {need}{', without ' if gates < need else ''}"
        here += ", ".join(self._away()) if gates < need else ""
        if ledger.base is None:
            wanted, nodes = manifest.stages * manifest.replicas, len(self._waiting())
            if nodes < wanted or len(relays) < manifest.relays or gates < need:
                apart = self._apart()
                found = f"{len(relays)} of {manifest.relays} relays{apart and f' ({apart})'}"
                return f"{nodes} of {wanted} nodes, {found}, {here}", []
            return "", []
        stages = orphaned(ledger, self._gone())
        was, self._orphaned = self._orphaned, bool(stages)
        if stages:
            names = ", ".join(self._name(who) for index in stages for who in ledger.members[index])
            waits: Effects = [] if was else [After(self._patience_s, "orphaned")]
            return f"{names}, who alone hold stage {', '.join(map(str, stages))}", waits
        if not relays:
            apart = self._apart()
            return f"a relay{apart and f' that all members reach: {apart}'}", []
        return ("" if gates >= need else here), []

    def _gone(self) -> set[bytes]:
        """Members that do not hold their stage any more, as far as we can know."""
        members = [set(stage) for stage in self._ledger.members]
        gone = {who for stage in members for who in stage if who in self._lost or not self._pulse.alive(who)}
        out = self._hung | self._reach.cut_off(self._live_relays(), {who for stage in members for who in stage})
        for stage in members:
            if not stage <= gone | out:  # the last ones are asked again
                gone |= stage & out
        return gone

    def _waiting(self) -> list[bytes]:
        """Nodes that could be given a stage, those that came first first."""
        no, relays = self._leaving | self._hung, [] if self._ledger.base is None else self._relays()
        here = (who for who in self._nodes if who not in no and self._pulse.alive(who))
        return [who for who in here if not self._reach.misses(who, relays)]

    def _live_relays(self) -> list[bytes]:
        return [who for who in sorted(self._ledger.of("relay")) if self._pulse.alive(who)]

    def _relays(self) -> list[bytes]:
        """Relays that everybody reaches."""
        return self._reach.usable(self._live_relays(), self._working())

    def _working(self) -> list[bytes]:
        """Who is to be in the next tick; before the first state, whoever is here."""
        if self._ledger.base is None:
            return self._waiting()
        gone = self._gone()
        return [who for stage in self._ledger.members for who in stage if who not in gone]

    def _apart(self) -> str:
        """Who does not reach which relay, in words."""
        relays = self._live_relays()
        missed = {who: ", ".join(map(self._name, self._reach.misses(who, relays))) for who in self._working()}
        return "; ".join(f"{self._name(who)} does not reach {names}" for who, names in missed.items() if names)

    def _leave(self, source: bytes) -> Effects:
        """A node wants to go: it may once nobody needs it."""
        self._nodes.pop(source, None)
        if source not in self._holders():
            return [Send(source, Left())]
        self._leaving.add(source)
        return self._advance()

    def _attend(self) -> Effects:
        """Say who is here, if that has changed."""
        silent = [self._name(who) for who in self._heartbeats() if not self._pulse.alive(who)]
        return self._attendance.look(self._gates, silent)

    def _bury(self) -> Effects:
        """A tick in which somebody died cannot end."""
        ledger, plan = self._ledger, self._ledger.plan
        if plan is None or not ledger.is_open:
            return []
        lost = self._lost - self._renewing
        dead = [who for stage in ledger.present for who in stage if who in lost or not self._pulse.alive(who)]
        dead += [who for who in plan.relays if not self._pulse.alive(who)]
        apart = self._reach.lasting(plan.relays, (who for stage in ledger.present for who in stage))
        said = [*map(self._name, dead), *(f"{self._name(who)} from {self._name(relay)}" for who, relay in apart)]
        if not said:
            return []
        reason = f"gone: {', '.join(said)}"[:300]
        return self._end(Voided(tick=plan.tick, number=DIED, reason=reason))

    def _name(self, who: bytes) -> str:
        return self._ledger.joins[who].record.operator

    def _next_plan(self) -> Plan | None:
        ledger, session = self._ledger, None
        if self._asks and (self._ended or not ledger.answered):  # training gets every other tick
            asker, seconds = next(iter(self._asks)), AFTER_TRAINING_S if self._ended else WHILE_TRAINING_S
            session = _session(asker, self._asks[asker], seconds)
        plan = next_plan(
            ledger,
            self._manifest,
            relays=self._doubt.without(self._relays()),
            waiting=self._waiting(),
            gone=self._gone(),
            leaving=self._leaving,
            session=session,
        )
        if plan is not None and plan.session is not None:
            del self._asks[plan.session.asker]
        return plan

    def _forget(self) -> None:
        """Drop what the last tick collected."""
        self._releases.clear()
        self._collecting = self.collecting(self._ledger)
        self._unopened = 0

    def _propose(self, plan: Plan) -> Effects:
        """Ask every ready gate that has not answered; a gate answers the same plan with the same bytes."""
        ledger, rows = self._ledger, self._ledger.rows_for_plan()
        return [
            Send(gate, Propose(plan=plan, opening=ledger.opening, rows=rows, earlier=ledger.lasting_since(followed)))
            for gate, followed in sorted(self._gates.items())
            if gate not in self._releases
        ]

    # -- opening ------------------------------------------------------------------------------------------------

    def _release(self, source: bytes, release: Release) -> Effects:
        ledger, plan = self._ledger, self._ledger.plan
        if plan is None or release.tick != plan.tick or release.plan != plan.digest or ledger.is_open:
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
        return self._opened(opening)

    def _opened(self, opening: Opening) -> Effects:
        """The plan under way is open."""
        ledger, plan = self._ledger, opening.plan
        effects = self._write(opened_row(opening))
        # Nobody had a state before the start.
        self._renewing = self._holders() if plan.change == "start" else set(self._collecting.newcomers)
        effects += [Send(who, opening) for who in (*ledger.of("relay"), *ledger.of("node"))]
        effects += [Send(who, self._began()) for who in self._collecting.newcomers]
        effects += [Send(who, Left()) for who in sorted(self._leaving - self._holders())]
        if plan.session is not None:
            effects.append(Send(plan.session.asker, opening))
        return [*effects, self._patience(plan)]

    def _began(self) -> Began:
        assert self._ledger.began is not None
        return Began(opening=self._ledger.began)

    def _patience(self, plan: Plan) -> After:
        """When an open tick has taken too long."""
        seconds = self._patience_s if plan.session is None else plan.session.seconds + GRACE_S
        return After(seconds, f"patience {plan.tick}")

    def _declined(self, source: bytes, message: Declined) -> Effects:
        gate, number = source.hex()[:12], message.number
        said = Announce(GateDeclined(tick=message.tick, gate=gate, number=number, reason=message.reason))
        return [said] if message.opening is None else [said, *self._learn(message.opening)]

    # -- inside a tick ------------------------------------------------------------------------------------------

    def _from_node(self, source: bytes, message: object) -> Effects:
        """A part of the open tick; what it completes is written or told."""
        if isinstance(message, Trouble):
            return self._trouble(source, message)
        done = self._collecting.take(source, message)
        if done is None:
            return []
        if isinstance(done, Offers):
            return [Send(who, done) for who in self._collecting.told_offers]
        if isinstance(done, Closed):
            close = Close(tick=done.tick, opening=done.opening, commitments=done.commitments)
            return [*self._write(done), *(Send(who, close) for who in self._collecting.everyone)]
        return self._end(done)

    def _trouble(self, source: bytes, message: Trouble) -> Effects:
        self._collecting.verify_of(message.tick, source, source)
        if message.number == 308:
            self._lost.add(source)
            return self._bury()
        plan = self._ledger.plan
        if plan is not None and message.suspect in plan.relays:
            self._doubt.suspect(message.suspect)
        reason = f"{source.hex()[:12]}: {message.what}"[:300]
        number, where, bits = message.number, message.where, message.bits
        return self._end(Voided(tick=message.tick, number=number, reason=reason, where=where, bits=bits))

    def _end(self, body: Body) -> Effects:
        plan, effects = self._ledger.plan, Effects()
        assert plan is not None
        if isinstance(body, Voided) and plan.change == "members":
            body = msgspec.structs.replace(body, members=self._ledger.present)
        elif isinstance(body, Changed):
            self._lost -= self._renewing
        if plan.session is not None:  # an open one is forgotten by all who may have taken part
            over = Over(tick=plan.tick)
            effects = [Send(who, over) for who in (*self._collecting.everyone, *plan.relays)]
        return [*self._write(body), *effects, *self._advance()]

    # -- what others know and we forgot (`recovery`) -------------------------------------------------------------

    def _ask_around(self, *, rows_lost: bool) -> Recalling:
        """Nothing is written or said until gates have told what they know."""
        asked = Recalling(self._manifest, self._kept, newest=self._newest(), lost=rows_lost, without=self._without)
        self._recalling = asked
        self._returning.forget()
        self._forget()
        return asked

    def _ask_gates(self, asked: Recalling) -> Effects:
        """Ask all gates that are there; others are asked when they come."""
        gates, self._gates = self._gates, {}
        return asked.ask(gates)

    def _look(self) -> Effects:
        """A second has passed."""
        if self._recalling is not None:
            return self._look_for_gates(self._recalling)
        self._quiet = {gate: looks + 1 for gate, looks in self._quiet.items()}
        self._gates = {g: known for g, known in self._gates.items() if self._quiet.get(g, 0) < GATE_LOOKS}
        self._unopened += 1
        returning, everyone = self._returning, self._heartbeats()
        returning.look(everyone)
        if not returning.awaited:
            self._pulse.look()
        self._reach.look()
        complaining = self._reach.complaining(self._live_relays())
        asked: Effects = [Send(who, Recall(first=0)) for who in complaining if self._pulse.alive(who)]
        effects = returning.tell(self._ledger.joins[who].record for who in self._ledger.of("relay"))
        if returning.awaited or returning.held(everyone):
            effects += returning.ask(everyone)
        return [*effects, *asked, *self._attend(), *self._bury(), *self._advance()]

    def _look_for_gates(self, recalling: Recalling) -> Effects:
        if recalling.found is not None:
            return []
        missing = ", ".join(recalling.missing)
        effects = self._wait(f"gates that may know more of this run: {missing}") if missing else Effects()
        return [*effects, *recalling.again(), *self._go_on(recalling)]

    def _while_recalling(self, recalling: Recalling, source: bytes, message: object) -> Effects:
        if recalling.found is not None:
            return []
        join = self._ledger.joins.get(source) or recalling.guests.get(source)
        if join is not None and join.record.role in ("node", "relay"):
            self._pulse.heard(source)
        if isinstance(message, Ordering):
            return self._note(source, message.text) if join is None else self._hear(source, message)
        return [*recalling.hear(source, message, join), *self._go_on(recalling)]

    def _go_on(self, recalling: Recalling) -> Effects:
        """Store what is found to be the run's history, if it is found; then go on from there."""
        found = recalling.found
        if found is None:
            return []
        self._ledger = recalling.ledger  # whoever it names is told of orders from now on
        effects = recalling.store()
        if not recalling.stored:
            return [*effects, After(0.0, "recovered")]
        return [*effects, *self._begin_again(recalling, found)]

    def _begin_again(self, recalling: Recalling, found: Found) -> Effects:
        self._recalling = None
        self._forget()
        ledger, effects = self._ledger, Effects()
        if found.opening is not None:
            if ledger.plan is None:
                effects += self._write(Planned(plan=found.opening.plan))
            effects += self._write(opened_row(found.opening))
        if found.plan is not None:
            effects += self._write(Planned(plan=found.plan))
        if ledger.plan is not None and not ledger.is_open and recalling.released(ledger.plan):
            self._returning.hold()
        self._recall_orders(self._kept.rows())
        self._expect_all()
        self._orphaned = False
        if recalling.proven:
            self._returning.give_grace()
            effects.append(Announce(Recovered(rows=ledger.number, fetched=recalling.fetched, tick=self._newest())))
            effects += self._void_lost()
        self._wanting = ""
        effects += self._settle_orders()
        effects += self._admit_all()
        if ledger.plan is not None and ledger.is_open:
            effects.append(self._patience(ledger.plan))
        for source, join in recalling.guests.items():
            effects += self._join(source, join)
        for source, ready in recalling.said.items():
            if source in ledger.joins:
                effects += self.on_message(source, ready, ())
        return [*effects, *self._returning.ask(self._heartbeats())]

    def _admit_all(self) -> Effects:
        return [Admit(j.record.identity, j.record.curve) for j in self._ledger.joins.values()]

    def _gate_ready(self, source: bytes, ready: Ready) -> Effects:
        """A gate is there. It may know more than we do, or lack rows of the past, which it gets beside the rest."""
        ledger = self._ledger
        if ready.known > ledger.number:
            return [Send(source, Recall(first=ledger.number))]
        self._gates[source] = ready.known
        past = ledger.recent[0].number if ledger.opening is not None else 0
        page = self._kept.page(ready.rows, before=past) if ready.rows < min(past, ready.known) else ()
        return [*([Send(source, Past(rows=page))] if page else []), *self._advance()]

    def _recalled(self, source: bytes, message: Recalled) -> Effects:
        """Somebody seems to know more than we do: rows that we signed and do not have, or a newer opening, prove it."""
        number = self._ledger.number
        if newer(message, number):
            verify_row(message.rows[0], run=self._manifest.run, coordinator=self._identity.public)
            if self._fresh:
                return [Stop(forgotten(f"{message.total} rows", f"{number} rows"))]
            return self._ask_gates(self._ask_around(rows_lost=True))
        return [] if message.opening is None else self._learn(message.opening)

    def _learn(self, opening: Opening) -> Effects:
        """Somebody knows this opening; if we do not, our disk lost rows.

        Raises:
            Refused: E204, E206, E301, E302: it is none.
        """
        if opening.plan.tick <= self._newest():
            return []
        verify_opening(opening, self._manifest)
        if self._ledger.plan == opening.plan:
            return [*self._opened(opening), *self._void_lost()]
        if self._fresh:
            return [Stop(forgotten(f"tick {opening.plan.tick}", f"tick {self._newest()}"))]
        asked = self._ask_around(rows_lost=True)
        asked.tell(opening)
        return self._ask_gates(asked)

    def _void_lost(self) -> Effects:
        """End a tick that others say was opened: whatever we wrote in it is lost, and nothing came of it."""
        if not self._ledger.is_open:
            return []
        return self._end(lost(self._newest()))

    def _expect_all(self) -> None:
        for who in self._heartbeats():
            self._pulse.expect(who)

    def _heartbeats(self) -> list[bytes]:
        """Who should show signs of life: every node and relay that ever joined."""
        return [*self._ledger.of("node"), *self._ledger.of("relay")]

    def _newest(self) -> int:
        """The newest tick that was opened, as far as we know."""
        return self._ledger.newest

    def _wait(self, what: str) -> Effects:
        """Say what is missing, once."""
        if what == self._wanting:
            return []
        self._wanting = what
        return [Announce(Waiting(what=what))]

    def _away(self, have: Mapping[bytes, object] | None = None) -> list[str]:
        """Keyholders whose gates are not there, or not in `have`."""
        there = self._gates if have is None else have
        return [k.name for k in self._manifest.committee.keyholders if k.key not in there]

    def _wait_for_gates(self, plan: Plan) -> Effects:
        if self._unopened < PLAN_LOOKS:
            return []
        need, names = self._manifest.committee.release, ", ".join(self._away(self._releases))
        return self._wait(f"tick {plan.tick} has {len(self._releases)} of {need} releases, none yet of {names}")

    # -- the journal --------------------------------------------------------------------------------------------

    def _write(self, body: Body) -> Effects:
        ledger = self._ledger
        row = make_row(self._identity, self._manifest.run, ledger.number, ledger.head, body)
        ledger.fold(row)
        self._wanting = ""
        return [*self._kept.add([row]), Announce(Wrote(number=row.number, row=type(body).__name__))]


def text_hash(text: str) -> bytes:
    """SHA-256 of an order as it was brought, signatures and all: by it whoever brought it knows the answer."""
    return sha256(text.encode()).digest()


def _session(asker: bytes, ask: Ask, seconds: int) -> Session:
    return Session(asker=asker, number=ask.number, shapes=ask.shapes, length=ask.length, seconds=seconds)


def _moved(known: Record, record: Record) -> bool:
    """Whether a record is that of a relay which listens elsewhere now, and otherwise the known one."""
    return record.role == "relay" and known == msgspec.structs.replace(
        record, address=known.address, signature=known.signature
    )
