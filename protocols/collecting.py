"""What members send the coordinator in an open tick, until it makes the tick's next row."""

from __future__ import annotations

from collections.abc import Mapping

from .change import BoxOffer, Offering, Offers, Prepared, Preparing, verify_offer, verify_prepared, verify_prepared_one
from .errors import Refused
from .journal import Answered, Changed, Closed, Committed, Measured, Voided
from .ledger import Ledger
from .release import Plan
from .round import (
    Answer,
    Answering,
    Close,
    Commitment,
    Committing,
    Measurement,
    Measuring,
    Report,
    Reporting,
    verify,
    verify_close,
    verify_reports,
)
from .session import answerers, readers


class Collecting:
    """Of one tick; a new one begins with each plan.

    Args:
        ledger: what the journal amounts to, with the tick under way.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._offers: dict[bytes, BoxOffer] = {}
        self._prepared: dict[bytes, Prepared] = {}
        self._commitments: dict[bytes, Commitment] = {}
        self._reports: dict[bytes, Report] = {}
        self._measurements: dict[bytes, Measurement] = {}
        self._answers: dict[bytes, Answer] = {}

    # -- who takes part -----------------------------------------------------------------------------------------

    @property
    def everyone(self) -> list[bytes]:
        """Whom the tick concerns."""
        plan = self._ledger.plan
        asker = [plan.session.asker] if plan is not None and plan.session is not None else []
        return [who for stage in self._ledger.present for who in stage] + asker

    @property
    def told_offers(self) -> list[bytes]:
        """Who seals something to box keys: in a session the asker, in a change everyone."""
        plan = self._ledger.plan
        return [plan.session.asker] if plan is not None and plan.session is not None else self.everyone

    @property
    def newcomers(self) -> list[bytes]:
        """Who gets a stage's state."""
        plan = self._ledger.plan
        if plan is None or plan.change != "members":
            return []
        stages = zip(self._ledger.present, plan.members, strict=True)
        return [who for present, stay in stages for who in present if who not in stay]

    @property
    def missing(self) -> list[bytes]:
        """Whose part is not here."""
        plan = self._ledger.plan
        assert plan is not None
        if plan.kind == "change":
            have: Mapping[bytes, object] = self._prepared
        elif plan.kind == "evaluate":
            have = self._measurements
        else:
            have = self._reports if self._ledger.close is not None else self._commitments
        wanted = self._ledger.present[-1] if plan.kind == "evaluate" else self.everyone
        return [who for who in wanted if who not in have]

    @property
    def offers(self) -> Offers | None:
        """All box keys, once they are here."""
        if not self._all(self._offers):
            return None
        offers = tuple(self._offers[who] for who in sorted(self._offers))
        return Offers(tick=offers[0].tick, offers=offers)

    # -- what they send -----------------------------------------------------------------------------------------

    def take(
        self, source: bytes, message: object
    ) -> Offers | Closed | Changed | Committed | Measured | Answered | Voided | None:
        """What a message of a node completes: all box keys, the close, or the row that ends the tick.

        Raises:
            Refused: E304 another tick, E205 of somebody else, E206; E210, no message of a tick.
        """
        plan = self._ledger.plan
        if plan is None or not self._ledger.is_open:
            raise Refused(304, f"{type(message).__name__} of {source.hex()[:12]} while no tick is open")
        if isinstance(message, Offering):
            return self._offer(source, message.offer, plan)
        if isinstance(message, Preparing):
            return self._prepare(source, message.prepared, plan)
        if isinstance(message, Committing):
            return self._commit(source, message.commitment, plan)
        if isinstance(message, Reporting):
            return self._report(source, message.report, plan)
        if isinstance(message, Measuring):
            return self._measure(source, message.measurement, plan)
        if isinstance(message, Answering):
            return self._answer(source, message.answer, plan)
        raise Refused(210, f"the coordinator reads no {type(message).__name__} of a node")

    def verify_of(self, tick: int, member: bytes, source: bytes) -> None:
        """Check that a record is of the open tick, and of the member that sent it.

        Raises:
            Refused: E304, E205.
        """
        plan = self._ledger.plan
        if plan is None or not self._ledger.is_open or tick != plan.tick:
            expected = "none open" if plan is None or not self._ledger.is_open else f"tick {plan.tick}"
            raise Refused(304, f"a record of {source.hex()[:12]}", expected=expected, actual=tick)
        if member != source or member not in self.everyone:
            raise Refused(205, f"a record of {member.hex()[:12]} sent by {source.hex()[:12]}")

    def _all(self, collected: Mapping[bytes, object]) -> bool:
        plan = self._ledger.plan
        wanted = readers(plan) if plan is not None and plan.session is not None else self.everyone
        return bool(wanted) and all(who in collected for who in wanted)

    def _offer(self, source: bytes, offer: BoxOffer, plan: Plan) -> Offers | None:
        verify_offer(offer, run=plan.run, tick=plan.tick)
        self.verify_of(offer.tick, offer.member, source)
        self._offers[source] = offer
        return self.offers

    def _prepare(self, source: bytes, prepared: Prepared, plan: Plan) -> Changed | Voided | None:
        self.verify_of(prepared.tick, prepared.member, source)
        verify_prepared_one(prepared, plan.run)
        self._prepared[source] = prepared
        if not self._all(self._prepared):
            return None
        everyone = tuple(self._prepared[who] for who in sorted(self._prepared))
        try:
            verify_prepared(everyone, plan, self._ledger.present)
        except Refused as refused:
            return Voided(tick=plan.tick, number=refused.number, reason=refused.text[:300])
        return Changed(tick=plan.tick, members=self._ledger.present, prepared=everyone)

    def _commit(self, source: bytes, commitment: Commitment, plan: Plan) -> Closed | None:
        self.verify_of(commitment.tick, commitment.member, source)
        verify(commitment, plan.run)
        self._commitments.setdefault(source, commitment)
        ledger = self._ledger
        if ledger.close is not None or not self._all(self._commitments):
            return None
        assert ledger.opening is not None
        commitments = tuple(self._commitments[who] for who in sorted(self._commitments))
        close = Close(tick=plan.tick, opening=ledger.opening.digest, commitments=commitments)
        verify_close(close, plan, ledger.opening.digest, ledger.present)
        return Closed(tick=plan.tick, opening=close.opening, commitments=commitments)

    def _report(self, source: bytes, report: Report, plan: Plan) -> Committed | Voided | None:
        self.verify_of(report.tick, report.member, source)
        verify(report, plan.run)
        self._reports.setdefault(source, report)
        close = self._ledger.close
        if close is None or not self._all(self._reports):
            return None
        reports = tuple(self._reports[who] for who in sorted(self._reports))
        try:
            verify_reports(reports, plan, close.digest, self._ledger.present)
        except Refused as refused:
            return Voided(tick=plan.tick, number=refused.number, reason=refused.text[:300])
        return Committed(tick=plan.tick, round=plan.round + (plan.kind == "train"), reports=reports)

    def _measure(self, source: bytes, measurement: Measurement, plan: Plan) -> Measured | Voided | None:
        self.verify_of(measurement.tick, measurement.member, source)
        verify(measurement, plan.run)
        self._measurements.setdefault(source, measurement)
        last = self._ledger.present[-1]
        if not all(who in self._measurements for who in last):
            return None
        everyone = tuple(self._measurements[who] for who in last)
        if sorted(x.microbatch for m in everyone for x in m.losses) != list(range(len(plan.work))):
            return Voided(tick=plan.tick, number=306, reason="micro-batches measured twice or not at all")
        return Measured(tick=plan.tick, measurements=everyone)

    def _answer(self, source: bytes, answer: Answer, plan: Plan) -> Answered | None:
        self.verify_of(answer.tick, answer.member, source)
        verify(answer, plan.run)
        if plan.session is None or source not in answerers(plan):
            raise Refused(305, f"an answer of {source.hex()[:12]}, whom nobody asked")
        self._answers.setdefault(source, answer)
        if len(self._answers) < len(answerers(plan)):
            return None
        return Answered(tick=plan.tick, answers=tuple(self._answers[who] for who in answerers(plan)))
