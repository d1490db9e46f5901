"""What a journal says: rounds, losses, epochs, evaluations, members. Folded from its rows, one by one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from interlock.vault import Cover, smallest_cover

from ..errors import Refused, Warned
from ..journal import (
    DIED,
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
)
from ..manifest import Manifest
from ..members import Join, owner
from ..orders import STOPS, Order, read_text
from ..release import Opening, Plan, draw_members
from ..round import Loss, Members


@dataclass(frozen=True, slots=True)
class Trained:
    """One round: its tick, its number (from 1), tokens so far, and the mean loss in nats a byte before its step.

    clamped: activations of all replicas that did not fit their frames.
    """

    tick: int
    round: int
    epoch: int
    tokens: int
    loss: float
    clamped: int

    @property
    def warning(self) -> Warned | None:
        """E406 if something was clamped."""
        if not self.clamped:
            return None
        return Warned(406, f"values clamped in round {self.round}", expected="none", actual=self.clamped)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One evaluation: its tick, rounds and tokens trained before it, bytes predicted, mean loss in nats a byte."""

    tick: int
    round: int
    tokens: int
    bytes: int
    loss: float


@dataclass(frozen=True, slots=True)
class Void:
    """A tick that moved nothing, and why."""

    tick: int
    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Share:
    """A member's part of the last round: micro-batches, and how many a second it computes, 0 if it did not say."""

    microbatches: int
    per_second: float


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that befell the run beside its training, in which tick and after how many tokens.

    death: a member vanished, or started again without its stage's state; join: somebody got a stage, or one that had
    started again got it back; leave: a member went because it wanted to; failover: plans do without the relay `who`;
    halt, pause, resume: an order took effect. who: operator, or the order's number.
    """

    kind: Literal["death", "join", "leave", "failover", "halt", "pause", "resume"]
    who: str
    tick: int
    tokens: int

    def __str__(self) -> str:
        return f"{_MARKS[self.kind]} {self.who}"


_MARKS = {
    "death": "died:",
    "join": "joined:",
    "leave": "left:",
    "failover": "relay lost:",
    "halt": "halted by order",
    "pause": "paused by order",
    "resume": "resumed by order",
}


@dataclass(slots=True)
class Progress:
    """State of a run as its journal tells it.

    moved: ticks that made a new state, in order. row_of: for every tick its planned, opened and last row's number.
    granted: everyone who was ever granted a stage, with the stage; whoever a void change was to give one counts too,
    since shards may have moved.
    """

    manifest: Manifest
    joins: dict[bytes, Join] = field(default_factory=dict)
    plan: Plan | None = None
    opening: Opening | None = None
    is_open: bool = False
    members: Members = ()
    round: int = 0
    epoch: int = 0
    tokens: int = 0
    rows: int = 0
    openings: dict[int, Opening] = field(default_factory=dict)
    row_of: dict[int, list[int]] = field(default_factory=dict)
    moved: list[int] = field(default_factory=list)
    rounds: list[Trained] = field(default_factory=list)
    evaluations: list[Evaluated] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)  # rounds after which the bases turned
    sessions: int = 0  # answered ones
    voids: list[Void] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    shares: dict[bytes, Share] = field(default_factory=dict)
    granted: dict[bytes, int] = field(default_factory=dict)
    rounds_lost_to_death: int = 0
    _relays: tuple[bytes, ...] = ()
    orders: list[Order] = field(default_factory=list)  # those that took effect
    stopped: Order | None = None  # the one that the run stands still by
    _losses: list[Loss] = field(default_factory=list)
    _clamped: int = 0

    @property
    def ended(self) -> bool:
        """Whether all rounds are taken and the model was evaluated after the last."""
        last = self.manifest.training.rounds
        return self.round >= last and bool(self.evaluations) and self.evaluations[-1].round == last

    def of(self, role: str) -> list[Join]:
        """Who joined in a role, in that order."""
        return [join for join in self.joins.values() if join.record.role == role]

    def counted(self, kind: str) -> int:
        """How many marks there are of a kind."""
        return sum(mark.kind == kind for mark in self.marks)

    def name(self, identity: bytes) -> str:
        """What the operator of a process calls itself."""
        join = self.joins.get(identity)
        return join.record.operator if join is not None else identity.hex()[:12]

    def waiting(self) -> list[Join]:
        """Nodes that joined and hold no stage."""
        held = {who for stage in self.members for who in stage}
        return [join for join in self.of("node") if join.record.identity not in held]

    def admitted(self) -> dict[str, list[str]]:
        """Everyone who ever was let in, by the keyholder who signed the invitation; whoever needed none by ""."""
        names = {keyholder.key: keyholder.name for keyholder in self.manifest.committee.keyholders}
        found: dict[str, list[str]] = {}
        for join in self.joins.values():
            if join.record.role != "gate":
                invitation = join.invitation
                inviter = "" if invitation is None else names.get(invitation.keyholder, invitation.keyholder.hex()[:12])
                found.setdefault(inviter, []).append(join.record.operator)
        return found

    def holdings(self, *, ever: bool = False) -> dict[str, set[int]]:
        """Which stages each operator holds, or ever was granted. Whose a process is, a keyholder's invitation says."""
        now = {who: stage for stage, group in enumerate(self.members) for who in group}
        found: dict[str, set[int]] = {}
        for who, stage in (self.granted if ever else now).items():
            join = self.joins.get(who)
            found.setdefault(owner(join) if join is not None else self.name(who), set()).add(stage)
        return found

    def cover(self, *, ever: bool = False) -> Cover | None:
        """The fewest operators that hold every stage, of the members now or of everyone ever granted one."""
        return smallest_cover(self.holdings(ever=ever), self.manifest.stages)

    def follow(self, rows: Iterable[Row]) -> list[object]:
        """Take in rows; give what is worth telling.

        That is `Trained`, `Evaluated`, `Void`, `Changed`, `Joined`, `Mark` and `Order`.

        Raises:
            Refused: E317, the rows are no run's.
        """
        news: list[object] = []
        for row in rows:
            self.rows, marks = row.number + 1, len(self.marks)
            found = self._fold(row)
            if found is not None:
                news.append(found)
            news += self.marks[marks:]
        return news

    def _fold(self, row: Row) -> object | None:
        body = row.body
        if isinstance(body, Joined):
            self.joins[body.join.record.identity] = body.join
            return body
        if isinstance(body, Ordered):
            return self._order(read_text(body.text.partition("\n\n")[0]))
        if isinstance(body, Planned):
            self._follow_relays(body.plan)
            self.plan, self.is_open, self._losses = body.plan, False, []
            self.row_of[body.plan.tick] = [row.number]
            return None
        plan = self.plan
        if plan is None:
            raise Refused(317, f"a row '{type(body).__name__}' before the first plan")
        self.row_of[plan.tick].append(row.number)
        if isinstance(body, Opened):
            self.stopped = None  # a pause may have expired, which no row says
            self.opening, self.is_open = Opening(plan=plan, releases=body.releases), True
            self.openings[plan.tick] = self.opening
        elif isinstance(body, Closed):
            self._losses = [loss for commitment in body.commitments for loss in commitment.losses]
            self._clamped = sum(commitment.clamped for commitment in body.commitments)
            self._share(plan, body)
        elif isinstance(body, Committed):
            self.moved.append(plan.tick)
            if plan.kind == "train":
                self.round = body.round
                tokens = sum(loss.tokens for loss in self._losses)
                self.tokens += tokens
                loss = mean_loss(self._losses)
                self.rounds.append(Trained(plan.tick, body.round, plan.epoch, self.tokens, loss, self._clamped))
                return self._end(self.rounds[-1])
            return self._end(None)
        elif isinstance(body, Changed):
            self.moved.append(plan.tick)
            self._follow_members(plan, body.members)
            self.members, self.epoch = body.members, plan.epoch
            if plan.change == "turn":
                self.turns.append(self.round)
            return self._end(body)
        elif isinstance(body, Measured):
            losses = [loss for measurement in body.measurements for loss in measurement.losses]
            size = sum(loss.tokens for loss in losses)
            self.evaluations.append(Evaluated(plan.tick, self.round, self.tokens, size, mean_loss(losses)))
            return self._end(self.evaluations[-1])
        elif isinstance(body, Answered):
            self.sessions += 1
            return self._end(body)
        elif isinstance(body, Voided):
            self.voids.append(Void(body.tick, body.number, body.reason))
            self.rounds_lost_to_death += plan.kind == "train" and body.number == DIED
            self._grant(body.members)
            return self._end(self.voids[-1])
        return None

    def _follow_relays(self, plan: Plan) -> None:
        for relay in self._relays:
            if relay not in plan.relays:
                self._mark("failover", relay, plan)
        self._relays = plan.relays

    def _follow_members(self, plan: Plan, members: Members) -> None:
        self._grant(members)
        if plan.change != "members":  # the first members are the run itself, and a turn changes none
            return
        stayed = {who for stage in plan.members for who in stage}
        for who in (who for stage in self.members for who in stage):
            if who not in stayed:
                self._mark("leave" if who in plan.leaving else "death", who, plan)
        for who in (who for stage in members for who in stage):
            if who not in stayed:
                self._mark("join", who, plan)

    def _grant(self, members: Members) -> None:
        self.granted |= {who: stage for stage, group in enumerate(members) for who in group}

    def _mark(self, kind: Literal["death", "join", "leave", "failover"], who: bytes, plan: Plan) -> None:
        self.marks.append(Mark(kind, self.name(who), plan.tick, self.tokens))

    def _order(self, order: Order) -> Order:
        self.orders.append(order)
        if order.action != "release":  # which stays between a keyholder and its gate
            self.marks.append(Mark(order.action, str(order.seq), self.plan.tick if self.plan else 0, self.tokens))
        if order.action in STOPS and (self.stopped is None or self.stopped.action != "halt" or order.action == "halt"):
            self.stopped = order
        elif order.cites is not None and self.stopped is not None and self.stopped.seq <= order.cites:
            self.stopped = None
        return order

    def _share(self, plan: Plan, body: Closed) -> None:
        """Who computed how much of a round, and how fast."""
        stages = self.members_of(plan.tick)
        for commitment in body.commitments:
            stage, group = next((s, g) for s, g in enumerate(stages) if commitment.member in g)
            done = sum(assigned[stage] == group.index(commitment.member) for assigned in plan.work)
            rate = done / commitment.seconds if commitment.seconds > 0 else 0.0
            self.shares[commitment.member] = Share(done, rate)

    def _end(self, news: object | None) -> object | None:
        self.is_open = False
        return news

    def members_of(self, tick: int) -> Members:
        """Who held each stage in a tick that opened."""
        return draw_members(self.openings[tick], self.manifest)


def mean_loss(losses: Iterable[Loss]) -> float:
    """Mean nats a byte; micro-batches are added in their order, so that every reader gets the same number."""
    ordered = sorted(losses, key=lambda loss: loss.microbatch)
    tokens = sum(loss.tokens for loss in ordered)
    return sum(loss.nats for loss in ordered) / tokens if tokens else float("nan")
