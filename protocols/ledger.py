"""What a journal's rows amount to: who joined, the newest state, and the tick under way. Folded row by row.

Nothing here is checked: the coordinator folds what it wrote itself, and a reader what `verify_chain` passed.
"""

from __future__ import annotations

from interlock.kernels.fixed import SHIFTS

from .journal import (
    DIED,
    GENESIS,
    LOST,
    ORDERED,
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
from .manifest import Manifest
from .members import Join, owner
from .release import Base, Opening, Plan, draw_members
from .round import Close, Members

HEADROOM_BITS = 3  # between the largest gradient of the last round and the end of the range
LIFT_MAX = 200  # the bound of `release.Exponent`: what members say must not make a plan that nobody can read
PACE_LAST = 0.3  # what the last round counts in a member's pace
SPARE_BITS = 4  # beyond what was missing, for the boundaries and stages that the void kept from saying what they need


class Ledger:
    """State that follows from rows alone.

    Attributes:
        number, head: of the next row; hash of the last.
        recent: rows from the newest opening's plan on. lasting: rows that a gate needs however late it comes: joins,
            and the changes that gave somebody a stage.
        joins: identity -> join. held: operator -> the stage that it was ever granted. pace: member -> micro-batches a
            second, as it says itself, from the last rounds.
        base, members, round, epoch, epoch_tick: of the newest state. began: opening of the tick that began the epoch.
        measured: whether exponents of gradient sums are known. evaluated: round of the last evaluation, -1 before.
        answered: whether the last tick was a session.
        attempt: voided tries of the work at hand. faults: those of them that neither a death nor a lost journal
            explains. exponents, lifts: what the next plan says (`release.Plan`).
        plan: of the tick under way, None between ticks. is_open: whether it was opened. close: its close, if any.
        opening: the newest. present: its members.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self.number, self.head = 0, GENESIS
        self.recent: list[Row] = []
        self.lasting: list[Row] = []
        self.joins: dict[bytes, Join] = {}
        self.held: dict[str, int] = {}
        self.pace: dict[bytes, float] = {}
        self.began: Opening | None = None
        self.base: Base | None = None
        self.members: Members = ()
        self.round = self.epoch = self.epoch_tick = 0
        self.measured = False
        self.evaluated = -1
        self.answered = False
        self.attempt = self.faults = 0
        self.exponents = [manifest.gradient_exponent] * (manifest.stages - 1)
        self.lifts = [0] * manifest.stages
        self.plan: Plan | None = None
        self.is_open = False
        self.close: Close | None = None
        self.opening: Opening | None = None
        self.present: Members = ()
        self._plan_row = 0

    @property
    def newest(self) -> int:
        """The newest tick that was opened, 0 before the first."""
        return 0 if self.opening is None else self.opening.plan.tick

    def of(self, role: str) -> list[bytes]:
        """Who joined in a role, in that order."""
        return [who for who, join in self.joins.items() if join.record.role == role]

    def rows_for_plan(self) -> tuple[Row, ...]:
        """Rows from the newest opening's plan to the head of the plan under way."""
        return tuple(row for row in self.recent if row.number < self._plan_row)

    def lasting_since(self, number: int) -> tuple[Row, ...]:
        """Lasting rows from `number` on that come before `rows_for_plan`."""
        first = self.recent[0].number if self.opening is not None else 0
        return tuple(row for row in self.lasting if number <= row.number < first)

    def fold(self, row: Row) -> None:
        """Take in the next row."""
        body = row.body
        self.number, self.head = row.number + 1, row.digest
        if isinstance(body, Opened):
            # rows before the plan that this opened are final; gates need only what follows
            self.recent = [r for r in self.recent if r.number >= self._plan_row]
        self.recent.append(row)
        if isinstance(body, Joined):
            self.joins[body.join.record.identity] = body.join
            self.lasting.append(row)
        elif isinstance(body, Planned):
            self.plan, self.is_open, self.close, self._plan_row = body.plan, False, None, row.number
        elif isinstance(body, Opened):
            assert self.plan is not None
            self.opening = Opening(plan=self.plan, releases=body.releases)
            self.is_open, self.present = True, draw_members(self.opening, self._manifest)
            if self.plan.change == "members":
                self._grant(self.present)  # even if it is void: shards may move from now on
        elif isinstance(body, Closed):
            self.close = Close(tick=body.tick, opening=body.opening, commitments=body.commitments)
            self._follow_peaks(self.close)
            self._follow_pace(self.close)
        elif not isinstance(body, Ordered):
            self._end(row, body)

    def _end(self, row: Row, body: Committed | Changed | Measured | Answered | Voided) -> None:
        plan = self.plan
        assert plan is not None
        self.plan, self.is_open = None, False
        self.answered = plan.session is not None
        if self.answered:
            return  # however it ended: nothing else moved
        self.attempt, faults, self.faults = 0, self.faults, 0
        if isinstance(body, Committed):
            self.base = Base(row=row.digest, made=(body.tick,) * self._manifest.stages)
            self.round, self.measured = body.round, True
            self.lifts = [0] * self._manifest.stages
        elif isinstance(body, Changed):
            self.base = Base(row=row.digest, made=(body.tick,) * self._manifest.stages)
            if body.members != self.members:
                self.lasting.append(row)
            self.members = body.members
            self._grant(body.members)
            if plan.change != "members":
                self.epoch, self.epoch_tick, self.began = plan.epoch, body.tick, self.opening
        elif isinstance(body, Measured):
            self.evaluated = self.round
        elif isinstance(body, Voided):
            self.attempt = plan.attempt + 1
            self.faults = faults + (body.number not in (DIED, LOST, ORDERED))
            if body.members:
                self.lasting.append(row)
            self._make_room(body, plan)

    def _grant(self, members: Members) -> None:
        for stage, group in enumerate(members):
            for who in group:
                self.held[owner(self.joins[who])] = stage

    def _follow_pace(self, close: Close) -> None:
        """How fast each replica says it is; those that measured nothing say nothing."""
        assert self.plan is not None
        for commitment in close.commitments:
            who = commitment.member
            stage, replica = next((s, g.index(who)) for s, g in enumerate(self.present) if who in g)
            done = sum(assigned[stage] == replica for assigned in self.plan.work)
            if done and commitment.seconds > 0:
                pace = done / commitment.seconds
                self.pace[who] = pace + (1 - PACE_LAST) * (self.pace.get(who, pace) - pace)

    def _follow_peaks(self, close: Close) -> None:
        """Exponents of the next round's gradient frames, from the largest gradients of this one."""
        limit = self._manifest.frame_width - 1 - self._manifest.frame_fraction
        stage_of = {who: index for index, stage in enumerate(self.present) for who in stage}
        peaks: dict[int, int] = {}
        for commitment in close.commitments:
            for peak in commitment.peaks:
                boundary = stage_of[commitment.member] - 1
                if boundary >= 0:  # the first stage sends no gradients, whatever it says
                    peaks[boundary] = max(peak, peaks.get(boundary, peak))
        for boundary, peak in peaks.items():
            self.exponents[boundary] = self._within(peak + HEADROOM_BITS - limit)

    def _make_room(self, void: Voided, plan: Plan) -> None:
        """Scale the next attempt so that what did not fit does.

        Gradients that grew at one boundary grew at all before it, which the voided attempt never reached; and a
        measuring tick begins with one guess for every stage. So these move together.
        """
        if void.number == 402:
            for boundary in range(min(void.where + 1, len(self.exponents))):
                self.exponents[boundary] = self._within(self.exponents[boundary] + void.bits + SPARE_BITS)
        elif void.number == 403:
            for stage in range(len(self.lifts)):
                if stage == void.where or plan.kind == "measure":
                    self.lifts[stage] = min(LIFT_MAX, self.lifts[stage] + void.bits + SPARE_BITS)

    def _within(self, exponent: int) -> int:
        """An exponent that frames can be made with: members may ask for any."""
        fraction = self._manifest.frame_fraction
        return max(fraction - SHIFTS[-1], min(fraction - SHIFTS[0], exponent))
