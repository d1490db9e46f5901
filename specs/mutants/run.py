"""Wrong roles and workers of a run, one fault each; the mutants of each spec cast them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import msgspec

from interlock.protocols.boundary import Arrival, Crossing, Pass, Passed
from interlock.protocols.changing import BEFORE, Changing
from interlock.protocols.collecting import Collecting
from interlock.protocols.coordinator import Coordinator
from interlock.protocols.effects import Announce, Blob, Draw, Effects, Send, Store
from interlock.protocols.errors import InterlockError, Refused
from interlock.protocols.gate import Gate
from interlock.protocols.journal import Changed, Committed
from interlock.protocols.manifest import Manifest
from interlock.protocols.node import Adopted, Node
from interlock.protocols.passing import Passing
from interlock.protocols.proposal import Known, Propose
from interlock.protocols.relay import Relay
from interlock.protocols.release import Opening, Plan
from interlock.protocols.round import Report, Sealed, Step, Stepped, Sum, Summed
from interlock.protocols.seat import Seat
from interlock.vault import Secret, seal_to

from ..symbolic import SymbolicEngine


def with_release(manifest: Manifest, release: int) -> Manifest:
    """The same run with another threshold; nobody verifies it."""
    return msgspec.structs.replace(manifest, committee=msgspec.structs.replace(manifest.committee, release=release))


# -- gates ----------------------------------------------------------------------------------------------------------


class KeepsNothing(Gate):
    """Does not write its release down: after a crash it releases the tick again, with other bytes."""

    def on_drawn(self, name: str, data: bytes) -> Effects:
        """Answer without storing."""
        return [effect for effect in super().on_drawn(name, data) if not isinstance(effect, Store)]


class ChecksNothing(Gate):
    """Releases whatever is proposed, once a tick."""

    def _check(self, ask: Propose) -> Known:
        known = self._known
        if known.release is not None and ask.plan.tick <= known.tick:
            raise Refused(311, "another plan of this tick was released before")
        return msgspec.structs.replace(known, tick=ask.plan.tick, release=None, plan=ask.plan, opening=ask.opening)


class AnswersAnew(Gate):
    """Draws fresh bytes each time that it is asked."""

    def on_message(self, source: bytes, message: Any, blobs: tuple[Any, ...]) -> Effects:
        """Forget the last release before looking."""
        if isinstance(message, Propose) and self._known.plan == message.plan:
            self._asked, self._next = message, self._known
            return [Draw(f"contribution {message.plan.tick}", 32)]
        return super().on_message(source, message, blobs)


# -- coordinators ---------------------------------------------------------------------------------------------------


class _Believes(Collecting):
    def _report(self, source: bytes, report: Report, plan: Plan) -> Committed | None:
        self._reports.setdefault(source, report)
        if self._ledger.close is None or not self._all(self._reports):
            return None
        reports = tuple(self._reports[who] for who in sorted(self._reports))
        return Committed(tick=plan.tick, round=plan.round + (plan.kind == "train"), reports=reports)

    def _prepare(self, source: bytes, prepared: Any, plan: Plan) -> Changed | None:
        self._prepared[source] = prepared
        if not self._all(self._prepared):
            return None
        everyone = tuple(self._prepared[who] for who in sorted(self._prepared))
        return Changed(tick=plan.tick, members=self._ledger.present, prepared=everyone)


class BelievesReports(Coordinator):
    """Writes a commit or change row when everyone has spoken, whatever they said."""

    collecting = _Believes


class PlansFromTheStart(Coordinator):
    """Takes the run's first state for its newest."""

    def _next_plan(self) -> Plan | None:
        plan = super()._next_plan()
        if plan is None or plan.base is None:
            return plan
        self._first = getattr(self, "_first", plan.base)
        return msgspec.structs.replace(plan, base=self._first)


class ProposesTwo(Coordinator):
    """Proposes two plans of every tick to everyone."""

    def _propose(self, plan: Plan) -> Effects:
        other = msgspec.structs.replace(plan, attempt=plan.attempt + 1)
        return [*super()._propose(plan), *super()._propose(other)]


class NeverGivesUp(Coordinator):
    """Takes nobody for dead, and has endless patience."""

    def on_timer(self, name: str) -> Effects:
        """Ignore the timer that ends a stuck tick."""
        return [] if name.startswith("patience") else super().on_timer(name)

    def _bury(self) -> Effects:
        return []


# -- relays ---------------------------------------------------------------------------------------------------------


class GoesBack(Relay):
    """Takes any opening that it hears for the newest."""

    def _open(self, opening: Opening) -> Effects:
        if self._opening is not None and opening.plan.tick < self._opening.plan.tick:
            self._opening = None
        return super()._open(opening)


# -- nodes ----------------------------------------------------------------------------------------------------------


class SaysItOnce(Node):
    """Never says again what may have been lost."""

    def on_timer(self, name: str) -> Effects:
        """Stop looking once it is welcomed."""
        return [] if name == "look" and self._belonging.welcomed else super().on_timer(name)


class ForgetsItsBase(Node):
    """Drops the base as soon as a new state stands beside it."""

    def on_done(self, job: object, result: object) -> Effects:
        """Take the prepared state for the base."""
        effects = super().on_done(job, result)
        if isinstance(result, Stepped) and self._ready is not None:
            self._base = self._ready
        return effects


class CannotWait(Node):
    """Takes a new state up when it has computed it."""

    def on_done(self, job: object, result: object) -> Effects:
        """Announce the state at once."""
        effects = super().on_done(job, result)
        if isinstance(result, Stepped) and self._seat is not None:
            effects.append(Announce(Adopted(tick=self._seat.tick, made=self._seat.tick)))
        return effects


class StaysBehind(Node):
    """Goes on from its old state when the plan starts from a new one."""

    def _adopt(self, seat: Seat) -> Effects:
        effects = super()._adopt(seat)
        return [effect for effect in effects if not (isinstance(effect, Announce) and seat.me == seat.group[0])]


class ShowsItsSum(Node):
    """Shows its gradient sum together with its commitment."""

    def on_done(self, job: object, result: object) -> Effects:
        """Do not wait for the close."""
        effects = super().on_done(job, result)
        if isinstance(result, Summed) and self._seat is not None:
            effects += self._seat.sealed(self._seat.others, "sum", 0, bytes(result.sealed.data))
        return effects


class ReadsLate(Node):
    """Takes the results of jobs of earlier ticks for results of this one."""

    def on_done(self, job: object, result: object) -> Effects:
        """Let the part under way have them."""
        part, read = self._part, isinstance(job, Pass) and job.arrival is not None and isinstance(result, Passed)
        if isinstance(part, Passing) and read and job.tick != part._seat.tick:  # type: ignore[attr-defined]
            self._busy = False
            return [*part.passed(job, result), *self._pump()]  # type: ignore[arg-type]
        return super().on_done(job, result)


class DealsTwoSecrets(Node):
    """Deals the stage after it another pair secret than it deals its own group."""

    def _in_tick(self, source: bytes, message: Any, blobs: tuple[Any, ...]) -> Effects:
        effects, part = super()._in_tick(source, message, blobs), self._part
        for index, effect in enumerate(effects):
            if isinstance(effect, Send) and isinstance(part, Changing) and _deals_to_the_next(effect.message):
                (to,) = effect.message.to  # type: ignore[attr-defined]
                other = seal_to(part._offers[to].box, Secret(bytes(32)), drawn=to)
                (effects[index],) = part.seat.sealed((to,), "secret", BEFORE, other)
        return effects


def _deals_to_the_next(message: Any) -> bool:
    return isinstance(message, Sealed) and (message.purpose, message.part) == ("secret", BEFORE)


class BlamesTheSigner(Node):
    """Blames whoever signed a frame for bytes that the relay changed."""

    def _suspect(self, seat: Seat, job: Any, error: InterlockError) -> bytes:
        suspect = super()._suspect(seat, job, error)
        sender: bytes = job.arrival.header.sender if suspect else b""
        return sender


# -- workers --------------------------------------------------------------------------------------------------------


class KeepsGradients(SymbolicEngine):
    """Does not drop the gradients of an attempt that came to nothing."""

    def _adopt(self, job: Any) -> None:
        gradients, same = self._gradients.copy(), job.made == self._base
        super()._adopt(job)
        if same:
            self._gradients = gradients


class TrustsItself(SymbolicEngine):
    """Steps on its own sum alone."""

    def _step(self, job: Step) -> Stepped:
        own = tuple(entry for entry in job.sums if entry[0] == self._sender)
        return super()._step(replace(job, sums=own))

    def _sum(self, job: Sum) -> Summed:
        self._sender = job.sender
        return super()._sum(job)


class OneMaskAMicrobatch(SymbolicEngine):
    """Derives masks from the micro-batch, not from tick, state and inputs."""

    def _mask(self, crossing: Crossing, tau: bytes) -> bytes:
        return f"mask of {crossing.unit.microbatch}".encode().ljust(16)[:16]


class SendsInTheClear(SymbolicEngine):
    """Forgets to mask."""

    def _mask(self, crossing: Crossing, tau: bytes) -> bytes:
        return bytes(16)


class ReadsAnyBytes(SymbolicEngine):
    """Does not compare a frame with its header's hash."""

    def _arrive(self, arrival: Arrival) -> bytes:
        data = bytes(arrival.frame.data)
        patched = self._mask(arrival.crossing, arrival.header.tau) + data[16:]
        header = msgspec.structs.replace(arrival.header, frame=hashlib.sha256(patched).digest())
        return super()._arrive(replace(arrival, header=header, frame=Blob(patched)))
