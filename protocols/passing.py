"""A node's part in a training or evaluation tick: micro-batches through the stage, then the round's end.

Backward passes go before forward ones, so that what is kept for backward stays little. A stage sends at most WINDOW
frames a link that their receiver has not yet read (credit), and begins no pass whose result it could not send.
"""

from __future__ import annotations

from interlock.vault import PairKey

from .boundary import (
    Arrival,
    Crossing,
    Departure,
    Direction,
    Frame,
    Header,
    Pass,
    Passed,
    Taken,
    make_unit,
    verify_header,
)
from .canonical import digest
from .effects import Announce, Blob, Effects, Event, Send
from .errors import Refused
from .merkle import root
from .round import (
    Close,
    Commitment,
    Committing,
    Loss,
    Measurement,
    Measuring,
    Report,
    Reporting,
    Sealed,
    Step,
    Stepped,
    Sum,
    Summed,
    sign,
    verify_close,
)
from .seat import Keys, Seat, frame_read

WINDOW = 4  # frames under way on one link


class Spent(Event, frozen=True, kw_only=True):
    """What this process has spent so far: CPU seconds, and those of them for masking."""

    tick: int
    cpu_s: float
    masking_s: float


class NodeReported(Event, frozen=True, kw_only=True):
    """This node reported the salted digest of its new state."""

    tick: int
    state: str


class Passing:
    """State of one tick of kind train, measure or evaluate at one node."""

    def __init__(self, seat: Seat, keys: Keys, order_key: bytes) -> None:
        self._seat, self._keys, self._order_key = seat, keys, order_key
        plan = seat.plan
        self._trains = plan.kind != "evaluate"
        me = seat.group.index(seat.me)
        mine = [m for m, replicas in enumerate(plan.work) if replicas[seat.stage] == me]
        self._starts = list(mine) if seat.first else []
        self._arrived: dict[Direction, dict[int, tuple[Header, Blob]]] = {"backward": {}, "forward": {}}
        self._seen: dict[tuple[int, Direction], bytes] = {}
        self._headers: list[bytes] = []
        self._forward_parent: dict[int, bytes] = {}  # micro-batch -> header of the forward frame we sent or read
        self._credit: dict[Direction, int] = {"forward": WINDOW, "backward": WINDOW}
        self._flying: dict[bytes, Direction] = {}
        self._kept = 0  # forward passes kept for backward
        self._left = set(mine)  # micro-batches that this replica has not finished
        self._losses: dict[int, Loss] = {}
        self._clamped = 0
        self._peak: int | None = None
        self._summed: Summed | None = None
        self._sum_asked = False
        self._close: Close | None = None
        self._sums: dict[bytes, Blob] = {}
        self._step_asked = False

    def begin(self) -> Effects:
        """A replica of the last stage that gets nothing to measure says so at once."""
        return self._measured() if self._seat.last and not self._trains and not self._left else []

    # -- frames -------------------------------------------------------------------------------------------------

    def frame(self, message: Frame, blobs: tuple[Blob, ...]) -> Effects:
        """A frame for us: checked against the plan before anything is computed.

        Raises:
            Refused: E30x.
        """
        seat, header = self._seat, message.header
        if len(blobs) != 1:
            raise Refused(305, "a frame needs exactly one blob", actual=len(blobs))
        verify_header(header, blobs[0].size, seat.opening, seat.manifest, seat.members)
        unit = header.unit
        if unit.receiver_stage != seat.stage or unit.microbatch not in self._left:
            raise Refused(305, f"a frame of micro-batch {unit.microbatch} that is not ours to read")
        if not self._trains and unit.direction == "backward":
            raise Refused(305, "a gradient in a tick without gradients")
        key = (unit.microbatch, unit.direction)
        if key in self._seen:
            if self._seen[key] == header.digest:
                return []  # sent again
            raise Refused(306, f"two headers of {header.sender.hex()[:12]} for one unit")
        self._seen[key] = header.digest
        self._arrived[unit.direction][unit.microbatch] = (header, blobs[0])
        return []

    def taken(self, message: Taken) -> Effects:
        """The receiver read a frame of ours: one more may leave."""
        direction = self._flying.pop(message.header, None)
        if direction is not None:
            self._credit[direction] += 1
        return []

    def next_pass(self) -> Pass | None:
        """The pass to compute now, or None while nothing can move."""
        seat = self._seat
        for microbatch, (header, blob) in self._arrived["backward"].items():
            if not seat.first and not self._credit["backward"]:
                break
            del self._arrived["backward"][microbatch]
            return self._job(microbatch, "backward", header, blob)
        out: Direction = "backward" if seat.last else "forward"
        if (not seat.last or self._trains) and not self._credit[out]:
            return None
        for microbatch, (header, blob) in self._arrived["forward"].items():
            del self._arrived["forward"][microbatch]
            return self._job(microbatch, "forward", header, blob)
        if self._starts and (not self._trains or self._kept < WINDOW):
            return self._job(self._starts.pop(0), "forward", None, None)
        return None

    def _job(self, microbatch: int, direction: Direction, header: Header | None, blob: Blob | None) -> Pass:
        seat, plan, stage = self._seat, self._seat.plan, self._seat.stage
        arrival = None
        if header is not None and blob is not None:
            arrival = Arrival(Crossing(header.unit, seat.tick_key, self._pair(header.unit.boundary)), header, blob)
        out = None
        if direction == "forward" and not seat.last:
            out = self._crossing(stage, "forward", microbatch)
        elif not seat.first and (direction == "backward" or (seat.last and self._trains)):
            out = self._crossing(stage - 1, "backward", microbatch)
        training = seat.manifest.training
        first = microbatch * training.rows
        if self._trains:
            first += (plan.round - plan.epoch * training.epoch_rounds) * training.microbatches * training.rows
        if direction == "forward" and self._trains and not seat.last:
            self._kept += 1
        return Pass(
            tick=seat.tick,
            microbatch=microbatch,
            direction=direction,
            kind=plan.kind,
            windows=range(first, first + training.rows),
            order_key=self._order_key if self._trains else b"",
            arrival=arrival,
            out=out,
            group=self._keys.group,
            scale=1.0 / seat.manifest.tokens_per_round,
        )

    def _pair(self, boundary: int) -> PairKey:
        pair = self._keys.before if boundary == self._seat.stage - 1 else self._keys.after
        assert pair is not None
        return pair

    def _crossing(self, boundary: int, direction: Direction, microbatch: int) -> Crossing:
        unit = make_unit(
            self._seat.plan, self._seat.manifest, boundary=boundary, direction=direction, microbatch=microbatch
        )
        return Crossing(unit, self._seat.tick_key, self._pair(boundary))

    def passed(self, job: Pass, result: Passed) -> Effects:
        """A pass is done: acknowledge what was read, send what came out."""
        seat, effects = self._seat, Effects()
        parents: tuple[bytes, ...] = ()
        if job.arrival is not None:
            header = job.arrival.header
            unit = header.unit
            parents = (header.digest,)
            receipt = Taken(tick=seat.tick, header=header.digest, sender=header.sender)
            effects.append(Send(seat.relay(unit.microbatch), receipt))
            effects.append(Announce(frame_read(header)))
        if job.direction == "forward":
            self._forward_parent[job.microbatch] = parents[0] if parents else bytes(32)
        elif not seat.first:
            parents = (*parents, self._forward_parent[job.microbatch])
        if result.departure is not None:
            effects += self._depart(result.departure, parents)
        if seat.last:
            self._losses[job.microbatch] = Loss(microbatch=job.microbatch, nats=result.nats, tokens=result.tokens)
        if result.peak is not None:
            self._peak = result.peak if self._peak is None else max(self._peak, result.peak)
        if job.direction == "backward":
            self._kept -= 1
        if job.direction == "backward" or seat.last or not self._trains:
            self._left.discard(job.microbatch)
        if not self._left and not self._trains and seat.last:
            effects += self._measured()
        return effects

    def _depart(self, departure: Departure, parents: tuple[bytes, ...]) -> Effects:
        leaf, effects = self._seat.send_frame(departure, parents)
        self._headers.append(leaf)
        self._flying[leaf] = departure.unit.direction
        self._credit[departure.unit.direction] -= 1
        self._clamped += departure.clamped
        return effects

    # -- the end of the tick ------------------------------------------------------------------------------------

    def _measured(self) -> Effects:
        seat = self._seat
        losses = tuple(self._losses[m] for m in sorted(self._losses))
        draft = Measurement(tick=seat.tick, member=seat.me, losses=losses, signature=bytes(64))
        measurement = sign(draft, seat.identity, seat.plan.run)
        assert isinstance(measurement, Measurement)
        return [Send(seat.manifest.coordinator, Measuring(measurement=measurement))]

    def next_end(self) -> Sum | Step | None:
        """The job that ends the round, once what it needs is here."""
        seat, plan = self._seat, self._seat.plan
        if not self._trains or self._left:
            return None
        if not self._sum_asked:
            self._sum_asked = True
            return Sum(
                tick=seat.tick,
                lift=plan.lifts[seat.stage],
                group=self._keys.group,
                sender=seat.me,
                run=plan.run,
            )
        if self._close is None or self._step_asked or set(self._sums) != set(seat.group):
            return None
        self._step_asked = True
        named = {c.member: c.sum for c in self._close.commitments}
        return Step(
            tick=seat.tick,
            measure=plan.kind == "measure",
            lift=plan.lifts[seat.stage],
            rate=seat.manifest.training.rate_at(plan.round),
            group=self._keys.group,
            run=plan.run,
            sums=tuple((who, self._sums[who], named[who]) for who in seat.group),
        )

    def summed(self, result: Summed) -> Effects:
        """Our sum is sealed: commit to it."""
        seat = self._seat
        self._summed = result
        draft = Commitment(
            tick=seat.tick,
            member=seat.me,
            sum=result.digest,
            headers=root(self._headers),
            clamped=self._clamped,
            peaks=() if self._peak is None else (self._peak,),
            losses=tuple(self._losses[m] for m in sorted(self._losses)),
            seconds=result.seconds,
            signature=bytes(64),
        )
        commitment = sign(draft, seat.identity, seat.plan.run)
        assert isinstance(commitment, Commitment)
        return [Send(seat.manifest.coordinator, Committing(commitment=commitment))]

    def close(self, close: Close) -> Effects:
        """All commitments are in: show our sum to the group.

        Raises:
            Refused: E30x, or E306 for a second close of the tick.
        """
        seat = self._seat
        if self._close is not None:
            if close == self._close:
                return []
            raise Refused(306, f"a second close of tick {seat.tick}")
        verify_close(close, seat.plan, seat.opening.digest, seat.members)
        if self._summed is None or {c.member: c.sum for c in close.commitments}[seat.me] != self._summed.digest:
            raise Refused(306, "the close does not carry our commitment")
        self._close = close
        self._sums[seat.me] = self._summed.sealed
        return list(seat.sealed(seat.others, "sum", 0, bytes(self._summed.sealed.data)))

    def sealed(self, message: Sealed, blob: Blob) -> Effects:
        """Another replica's sum. Whether it is the one it committed to is checked when it is opened."""
        if message.purpose != "sum" or message.sender not in self._seat.others:
            raise Refused(305, f"sealed traffic '{message.purpose}' that this tick does not have")
        if digest("interlock/content", bytes(blob.data)) != message.content:
            raise Refused(305, f"a sealed sum of {message.sender.hex()[:12]} was changed on its way")
        self._sums.setdefault(message.sender, blob)
        return []

    def stepped(self, result: Stepped) -> Effects:
        """The new state stands beside the base: report its digest."""
        seat = self._seat
        assert self._close is not None
        draft = Report(
            tick=seat.tick, close=self._close.digest, member=seat.me, state=result.state, signature=bytes(64)
        )
        report = sign(draft, seat.identity, seat.plan.run)
        assert isinstance(report, Report)
        return [
            # First, so that a node that dies between the two has not reported what it never announced.
            Announce(NodeReported(tick=seat.tick, state=result.state.hex())),
            Send(seat.manifest.coordinator, Reporting(report=report)),
            Announce(Spent(tick=seat.tick, cpu_s=result.cpu_s, masking_s=result.masking_s)),
        ]
