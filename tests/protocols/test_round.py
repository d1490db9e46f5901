"""A round ends by one list of commitments and equal reports of every replica that the plan named."""

from __future__ import annotations

import hashlib
from dataclasses import replace as with_fields
from functools import partial
from typing import Any

import msgspec
import pytest
from tests.protocols.world import Sent, World, number_of, openings_of
from tests.runs import identity

from interlock.protocols.coordinator import Wrote
from interlock.protocols.effects import Blob
from interlock.protocols.journal import Closed, Committed, Measured
from interlock.protocols.release import Opening, draw_members
from interlock.protocols.round import (
    Close,
    Commitment,
    Committing,
    Measurement,
    Measuring,
    Report,
    Sealed,
    Step,
    make_sealed,
    seal_context,
    sign,
    verify,
    verify_close,
    verify_reports,
    verify_sealed,
)
from interlock.vault import GroupKey, NotOpened, Secret, open_sealed, seal

TICK = 4  # the first round that steps
replace = msgspec.structs.replace


@pytest.fixture(scope="module")
def opening(world: World) -> Opening:
    """The opening of a round."""
    return openings_of(world.rows())[TICK]


@pytest.fixture(scope="module")
def members(world: World, opening: Opening) -> tuple[tuple[bytes, ...], ...]:
    """Its members."""
    return draw_members(opening, world.manifest)


@pytest.fixture(scope="module")
def close(world: World) -> Close:
    """Its close."""
    return next(sent.message for sent in world.all_sent(Close) if sent.message.tick == TICK)


@pytest.fixture(scope="module")
def reports(world: World) -> tuple[Report, ...]:
    """Its reports."""
    return next(b.reports for r in world.rows() if isinstance(b := r.body, Committed) and b.tick == TICK)


def by_key(world: World) -> dict[bytes, Any]:
    """Identities by public key."""
    return {identity(name).public: identity(name) for name in world.roles}


# -- close ---------------------------------------------------------------------------------------------------------


def close_refusal(close: Close, opening: Opening, members: Any) -> int:
    """By which number a close is refused."""
    return number_of(lambda: verify_close(close, opening.plan, opening.digest, members))


def test_the_close_of_a_round_verifies_and_is_its_row(
    world: World, close: Close, opening: Opening, members: Any
) -> None:
    verify_close(close, opening.plan, opening.digest, members)
    row = next(b for r in world.rows() if isinstance(b := r.body, Closed) and b.tick == TICK)
    assert Close(tick=row.tick, opening=row.opening, commitments=row.commitments).digest == close.digest


def test_a_close_names_its_tick_and_its_opening(close: Close, opening: Opening, members: Any) -> None:
    assert close_refusal(replace(close, tick=TICK + 1), opening, members) == 304
    assert close_refusal(replace(close, opening=bytes(32)), opening, members) == 304


def test_a_close_lists_every_replica_once(close: Close, opening: Opening, members: Any) -> None:
    first, *others = close.commitments
    assert close_refusal(replace(close, commitments=tuple(others)), opening, members) == 306
    assert close_refusal(replace(close, commitments=(first, first, *others[1:])), opening, members) == 306
    assert close_refusal(replace(close, commitments=(*close.commitments, first)), opening, members) == 306
    assert close_refusal(replace(close, commitments=()), opening, members) == 306
    stranger = replace(first, member=identity("eve").public)
    assert close_refusal(replace(close, commitments=(stranger, *others)), opening, members) == 306


def test_a_commitment_of_another_tick_is_refused(world: World, close: Close, opening: Opening, members: Any) -> None:
    first, *others = close.commitments
    signed = sign(replace(first, tick=TICK - 1), by_key(world)[first.member], world.manifest.run)
    assert close_refusal(replace(close, commitments=(signed, *others)), opening, members) == 304


def changes_of(record: Any) -> dict[str, Any]:
    """Another value for every field but member and signature."""
    numbers = {name: getattr(record, name) + 1 for name in ("tick", "clamped", "seconds") if hasattr(record, name)}
    hashes = {name: bytes(32) for name in ("sum", "headers", "close", "state") if hasattr(record, name)}
    lists: dict[str, Any] = {
        name: () if getattr(record, name) else (7,) for name in ("peaks",) if hasattr(record, name)
    }
    if getattr(record, "losses", ()):
        lists["losses"] = (replace(record.losses[0], nats=0.5), *record.losses[1:])
    return numbers | hashes | lists


def records(world: World, kind: type[Any], name: str) -> list[Any]:
    """Every record of a kind that was sent."""
    return [getattr(sent.message, name) for sent in world.all_sent(kind)]


def test_a_record_changed_in_any_field_does_not_verify(world: World, reports: tuple[Report, ...]) -> None:
    run, seen = world.manifest.run, set()
    committed = records(world, Committing, "commitment")
    measured = records(world, Measuring, "measurement")
    for record in [*committed, *measured, *reports]:
        verify(record, run)
        for name, value in changes_of(record).items():
            assert number_of(partial(verify, replace(record, **{name: value}), run)) == 206
            seen.add((type(record), name))
        assert number_of(partial(verify, record, bytes(32))) == 206
        other = replace(record, member=next(r.member for r in reports if r.member != record.member))
        assert number_of(partial(verify, other, run)) == 206
    for kind in (Commitment, Measurement, Report):
        fields = {name for record, name in seen if record is kind}
        assert fields == set(kind.__struct_fields__) - {"member", "signature"}


def test_only_the_last_stage_reports_losses_and_only_later_stages_peaks(close: Close, members: Any) -> None:
    for commitment in close.commitments:
        stage = next(i for i, group in enumerate(members) if commitment.member in group)
        assert bool(commitment.losses) == (stage == 2)
        assert bool(commitment.peaks) == (stage > 0)


# -- reports -------------------------------------------------------------------------------------------------------


def reports_refusal(reports: tuple[Report, ...], close: Close, opening: Opening, members: Any) -> int:
    """By which number reports are refused."""
    return number_of(lambda: verify_reports(reports, opening.plan, close.digest, members))


def test_equal_reports_of_all_verify_in_any_order(reports: Any, close: Close, opening: Opening, members: Any) -> None:
    assert reports_refusal(reports, close, opening, members) == 0
    assert reports_refusal(reports[::-1], close, opening, members) == 0


def test_reports_are_of_every_replica_once(reports: Any, close: Close, opening: Opening, members: Any) -> None:
    assert reports_refusal(reports[1:], close, opening, members) == 306
    assert reports_refusal((*reports, reports[0]), close, opening, members) == 306
    assert reports_refusal((reports[0], *reports[:-1]), close, opening, members) == 306
    assert reports_refusal((), close, opening, members) == 306


def test_a_report_names_tick_and_close_and_is_signed(
    world: World, reports: Any, close: Close, opening: Opening, members: Any
) -> None:
    signer, run = by_key(world)[reports[0].member], world.manifest.run
    for changes, number in ((dict(tick=TICK + 1), 304), (dict(close=bytes(32)), 304), (dict(state=bytes(32)), 307)):
        changed = sign(replace(reports[0], **changes), signer, run)
        assert reports_refusal((changed, *reports[1:]), close, opening, members) == number
    unsigned = replace(reports[0], state=bytes(32))
    assert reports_refusal((unsigned, *reports[1:]), close, opening, members) == 206


# -- sealed traffic ------------------------------------------------------------------------------------------------


def test_nothing_sealed_for_one_use_opens_for_another() -> None:
    key = GroupKey(Secret(b"k" * 32))
    uses: list[tuple[bytes, int, bytes, str, int]] = [
        (b"r" * 32, 4, b"a" * 32, "sum", 0),
        (b"s" * 32, 4, b"a" * 32, "sum", 0),
        (b"r" * 32, 5, b"a" * 32, "sum", 0),
        (b"r" * 32, 4, b"b" * 32, "sum", 0),
        (b"r" * 32, 4, b"a" * 32, "turn", 0),
        (b"r" * 32, 4, b"a" * 32, "sum", 1),
    ]
    contexts = [seal_context(*use) for use in uses]
    assert len(set(contexts)) == len(uses)
    sealing = key.seal_key("sum", b"a" * 32, 4)
    sealed = seal(sealing, b"gradients", context=contexts[0])
    assert open_sealed(sealing, sealed, context=contexts[0]) == b"gradients"
    for context in contexts[1:]:
        with pytest.raises(NotOpened):
            open_sealed(sealing, sealed, context=context)


def envelope(**changes: Any) -> Sealed:
    """Sealed traffic of node0."""
    fields: dict[str, Any] = dict(
        run=b"r" * 32,
        tick=4,
        to=(identity("node1").public,),
        purpose="sum",
        part=0,
        content=hashlib.sha256(b"").digest(),
    )
    return make_sealed(identity("node0"), **(fields | changes))


def test_an_envelope_changed_in_any_field_does_not_verify() -> None:
    message = envelope()
    verify_sealed(message, b"r" * 32)
    assert number_of(lambda: verify_sealed(message, b"s" * 32)) == 204
    others: dict[str, Any] = dict(
        tick=5,
        sender=identity("node2").public,
        to=(identity("node2").public,),
        purpose="turn",
        part=1,
        content=bytes(32),
        signature=bytes(64),
    )
    assert set(others) == set(Sealed.__struct_fields__) - {"run"}
    for name, value in others.items():
        changed = replace(message, **{name: value})
        assert number_of(partial(verify_sealed, changed, b"r" * 32)) == 206


def test_a_node_reads_no_sealed_traffic_that_its_sender_did_not_sign(world: World) -> None:
    """Relays carry it, so a relay that makes some up must not be believed."""

    def forge(sent: Sent) -> list[Sent]:
        if isinstance(sent.message, Sealed) and sent.source.startswith("relay"):
            return [with_fields(sent, message=replace(sent.message, signature=bytes(64)))]
        return [sent]

    other = World(world.manifest, change=forge).run(until=lambda w: len(w.refused) >= 4)
    assert {(name[:4], refused.number) for name, refused in other.refused} == {("node", 206)}


def test_a_wrong_message_that_comes_before_an_opening_costs_only_itself(world: World) -> None:
    """What comes early is looked at when its tick opens; a node that let it spoil that would never answer."""
    forged = replace(envelope(run=world.manifest.run, tick=2), signature=bytes(64))
    blob = (Blob(b"x"),)

    def early(sent: Sent) -> list[Sent]:
        if isinstance(sent.message, Opening) and sent.message.plan.tick == 2 and sent.to.startswith("node"):
            return [Sent("relay0", sent.to, forged, blob), sent]
        return [sent]

    other = World(world.manifest, change=early)
    other.run(until=lambda w: bool(w.events) and w.events[-1] == ("coordinator", Wrote(number=16, row="Measured")))
    assert [row.body for row in other.rows() if isinstance(row.body, Measured)]


def test_a_sum_that_is_not_the_one_committed_to_is_refused(world: World) -> None:
    """A replica shows another sum, well sealed, than its commitment names: the round is void."""
    numbers: list[int] = []

    def tamper(name: str, engine: Any, job: Any) -> None:
        if isinstance(job, Step) and not numbers:
            (who, blob, named), *others = job.sums
            changed = bytearray(blob.data)
            changed[-1] ^= 1
            for sums in (
                ((who, type(blob)(changed), named), *others),
                ((who, type(blob)(changed), hashlib.sha256(changed).digest()), *others),
                ((others[0][0], blob, named), *others),
            ):
                wrong = with_fields(job, sums=sums)
                numbers.append(number_of(partial(engine, wrong)))

    World(world.manifest, before_job=tamper).run(until=lambda w: bool(numbers))
    assert numbers == [306, 405, 405]
