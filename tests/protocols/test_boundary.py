"""A frame is read only if its header is what the plan names and its bytes are what the header names."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace as with_fields
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.protocols.world import World, number_of, openings_of
from tests.runs import identity, manifest, text

from interlock.kernels import mask
from interlock.protocols import corpus
from interlock.protocols.boundary import (
    Arrival,
    Crossing,
    Departure,
    Direction,
    Frame,
    Header,
    Pass,
    Passed,
    Unit,
    frame_shape,
    frame_size,
    make_header,
    make_unit,
    planned,
    verify_header,
)
from interlock.protocols.change import Prepare
from interlock.protocols.effects import Blob
from interlock.protocols.fetching import Read
from interlock.protocols.node import Adopt
from interlock.protocols.release import Opening, draw_members, tick_key
from interlock.protocols.round import Sum
from interlock.protocols.service.engine import Engine
from interlock.vault import GroupKey, PairKey, Secret

TICK = 4
replace = msgspec.structs.replace


# -- headers -------------------------------------------------------------------------------------------------------


class Case:
    """One frame of a run, and what it is checked against."""

    def __init__(self, world: World, direction: str = "forward", boundary: int = 0) -> None:
        self.manifest, self.opening = world.manifest, openings_of(world.rows())[TICK]
        self.members = draw_members(self.opening, self.manifest)
        for sent in world.all_sent(Frame):
            unit = sent.message.header.unit
            if (unit.tick, unit.direction, unit.boundary) == (TICK, direction, boundary):
                self.header: Header = sent.message.header
                self.signer, self.size = identity(sent.source), sent.blobs[0].size
                break

    def number(self, header: Header, size: int | None = None, opening: Opening | None = None) -> int:
        """By which number a header is refused."""
        at = self.size if size is None else size
        return number_of(lambda: verify_header(header, at, opening or self.opening, self.manifest, self.members))

    def signed(self, **changes: Any) -> Header:
        """The header with other fields, signed again by its sender: what a lying member could send."""
        draft = replace(self.header, **changes)
        return replace(draft, signature=self.signer.sign(draft.body()))


@pytest.fixture(scope="module", params=[("forward", 0), ("forward", 1), ("backward", 0), ("backward", 1)])
def case(world: World, request: pytest.FixtureRequest) -> Case:
    """A frame each way over each boundary."""
    return Case(world, *request.param)


def test_every_header_of_a_run_verifies(world: World) -> None:
    opened, count = openings_of(world.rows()), 0
    for sent in world.all_sent(Frame):
        header, opening = sent.message.header, opened[sent.message.header.unit.tick]
        members = draw_members(opening, world.manifest)
        verify_header(header, sent.blobs[0].size, opening, world.manifest, members)
        assert hashlib.sha256(sent.blobs[0].data).digest() == header.frame
        count += 1
    assert count > 200


def test_each_field_of_a_header_is_refused_if_it_is_changed_on_the_way(case: Case) -> None:
    header = case.header
    expected: dict[str, tuple[Any, int]] = dict(
        version=(2, 206),
        opening=(bytes(32), 206),
        sender=(identity("eve").public, 305),
        receiver=(3, 305),
        shape=(header.shape[::-1], 305),
        tau=(bytes(16), 206),
        check=(bytes(16), 206),
        frame=(bytes(32), 206),
        parents=((*header.parents, bytes(32)), 206),
        signature=(bytes(64), 206),
    )
    assert set(expected) == set(Header.__struct_fields__) - {"unit"}
    for field, (value, number) in expected.items():
        assert case.number(replace(header, **{field: value})) == number


def test_each_field_of_a_unit_is_refused_if_its_sender_signs_another(case: Case) -> None:
    unit = case.header.unit
    other: Direction = "backward" if unit.direction == "forward" else "forward"
    expected: dict[str, tuple[Any, int]] = dict(
        run=(bytes(32), 204),
        tick=(TICK + 1, 304),
        kind=("evaluate", 305),
        boundary=(1 - unit.boundary, 305),
        direction=(other, 305),
        microbatch=(99, 303),
        position=(1, 305),
        width=(32, 305),
        fraction=(13, 305),
        exponent=(unit.exponent + 1, 305),
    )
    assert set(expected) == set(Unit.__struct_fields__)
    for field, (value, number) in expected.items():
        assert case.number(case.signed(unit=replace(unit, **{field: value}))) == number
    assert case.number(case.signed(unit=replace(unit, boundary=2))) == 303


def test_a_frame_under_another_opening_of_the_tick_is_no_fault_of_its_sender(case: Case) -> None:
    assert case.number(case.signed(opening=bytes(32))) == 319


def test_a_micro_batch_of_another_replica_is_refused(case: Case) -> None:
    unit, plan = case.header.unit, case.opening.plan
    for m in range(len(plan.work)):
        mine = planned(plan, case.members, replace(unit, microbatch=m), unit.sender_stage) == case.signer.public
        assert case.number(case.signed(unit=replace(unit, microbatch=m))) == (0 if mine else 305)


def test_what_is_as_planned_is_accepted_and_any_signature_of_others_is_not(case: Case) -> None:
    assert case.number(case.signed()) == 0
    forged = replace(case.header, signature=identity("eve").sign(case.header.body()))
    assert case.number(forged) == 206


@given(st.integers(0, 511))
def test_a_changed_bit_of_a_signature_is_refused(world: World, bit: int) -> None:
    case = Case(world)
    data = bytearray(case.header.signature)
    data[bit // 8] ^= 1 << bit % 8
    assert case.number(replace(case.header, signature=bytes(data))) == 206


def test_shape_and_size_are_the_manifest_s(case: Case) -> None:
    assert case.header.shape == frame_shape(case.manifest)
    assert case.size == frame_size(case.manifest) == math.prod(case.header.shape) * 3
    for size in (0, case.size - 1, case.size + 1, 2 * case.size):
        assert case.number(case.header, size=size) == 305


def test_a_header_serves_its_own_tick_only(world: World, case: Case) -> None:
    opened = openings_of(world.rows())
    assert {case.number(case.header, opening=opened[t]) for t in opened if t != TICK} == {304}


def test_gradients_carry_the_plan_s_exponent_and_activations_none(case: Case) -> None:
    unit = case.header.unit
    expected = case.opening.plan.exponents[unit.boundary] if unit.direction == "backward" else 0
    assert unit.exponent == expected


def test_a_header_names_what_it_was_computed_from(world: World) -> None:
    headers = [s.message.header for s in world.all_sent(Frame) if s.source.startswith("node")]
    known = {header.digest: header.unit for header in headers if header.unit.tick == TICK}
    for header in (header for header in headers if header.unit.tick == TICK):
        unit = header.unit
        parents = [known[digest] for digest in header.parents]
        assert all(parent.microbatch == unit.microbatch for parent in parents)
        before = [("forward", unit.boundary - 1)] if unit.boundary else []
        if unit.direction == "backward":
            before = [("forward", 0), ("backward", 1)] if unit.boundary == 0 else [("forward", 1)]
        assert sorted((p.direction, p.boundary) for p in parents) == sorted(before)


def test_no_two_frames_of_a_run_share_a_mask(world: World) -> None:
    opened = openings_of(world.rows())
    headers = {s.message.header.digest: s.message.header for s in world.all_sent(Frame)}
    masks = {(h.unit.keyed(tick_key(opened[h.unit.tick])), h.tau) for h in headers.values()}
    assert len(masks) == len(headers)


# -- the engine: two stages without roles --------------------------------------------------------------------------


MADE = manifest(stages=2, replicas=1, relays=1)
TICK_KEY, ORDER = b"t" * 32, b"o" * 32


def group(seed: bytes = b"g" * 32) -> GroupKey:
    """A group's key."""
    return GroupKey(Secret(seed))


def pair(seed: bytes = b"p" * 32) -> PairKey:
    """A boundary's key."""
    return PairKey(Secret(seed))


def engine(stage: int, seed: bytes = b"w" * 32, *, backend: str = "torch") -> Engine:
    """One stage's engine, ready to train."""
    made, whole = Engine(MADE, backend=backend), text()
    bridge = None
    if stage:
        width = MADE.model.width
        bridge = (np.eye(width) * 2**29).astype("<i4").tobytes()
    made(
        Prepare(
            tick=1,
            stage=stage,
            change="start",
            run=MADE.run,
            seed=Secret(seed),
            group=group(),
            before=pair() if stage else None,
            after=None if stage else pair(),
            bridge=bridge,
            turn=None,
            turn_before=None,
        )
    )
    index = corpus.index(whole)
    chunks = tuple(Blob(corpus.chunk(whole, n)) for n in range(len(index.chunks)))
    made(Read(tick=1, index=index, chunks=chunks))
    made(Adopt(tick=2, made=1))
    return made


def a_unit(direction: Direction = "forward", **changes: Any) -> Unit:
    """A unit of tick 2."""
    fields: dict[str, Any] = dict(
        run=MADE.run,
        tick=2,
        kind="train",
        boundary=0,
        direction=direction,
        microbatch=0,
        position=0,
        width=24,
        fraction=12,
        exponent=0 if direction == "forward" else -10,
    )
    return Unit(**(fields | changes))


def a_pass(out: Unit | None, arrival: Arrival | None = None, **changes: Any) -> Pass:
    """One micro-batch forward."""
    fields: dict[str, Any] = dict(
        tick=2,
        microbatch=0,
        direction="forward",
        kind="train",
        windows=range(2),
        order_key=ORDER,
        arrival=arrival,
        out=None if out is None else Crossing(out, TICK_KEY, pair()),
        group=group(),
        scale=1 / MADE.tokens_per_round,
    )
    return Pass(**(fields | changes))


def departure(made: Engine, job: Pass) -> Departure:
    """What leaves."""
    passed = made(job)
    assert isinstance(passed, Passed)
    assert passed.departure is not None
    return passed.departure


@pytest.fixture(scope="module")
def first() -> Engine:
    """Stage 0."""
    return engine(0)


@pytest.fixture(scope="module")
def last() -> Engine:
    """Stage 1 of 2."""
    return engine(1)


def arrival(left: Departure, **changes: Any) -> Arrival:
    """A departure as it arrives."""
    header = make_header(
        identity("node0"),
        left.unit,
        opening=bytes(32),
        shape=left.shape,
        tau=changes.pop("tau", left.tau),
        check=changes.pop("check", left.check),
        frame=left.digest,
        parents=(),
    )
    crossing = Crossing(left.unit, changes.pop("tick_key", TICK_KEY), changes.pop("pair", pair()))
    return Arrival(crossing, header, Blob(changes.pop("frame", left.frame.data)))


@pytest.fixture(scope="module")
def left(first: Engine) -> Departure:
    """A frame from stage 0."""
    return departure(first, a_pass(a_unit()))


def read(last: Engine, arrived: Arrival) -> int:
    """By which number the engine refuses to read it."""
    return number_of(lambda: last(a_pass(a_unit("backward"), arrived)))


def test_a_frame_is_read_by_who_has_the_pair_s_key(last: Engine, left: Departure) -> None:
    passed = last(a_pass(a_unit("backward"), arrival(left)))
    assert passed.nats / passed.tokens == pytest.approx(math.log(256), abs=0.3)
    assert passed.departure.unit.direction == "backward"
    assert passed.peak < 0


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_a_changed_bit_of_a_frame_is_refused(last: Engine, left: Departure, data: st.DataObject) -> None:
    frame = bytearray(left.frame.data)
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    assert read(last, arrival(left, frame=bytes(frame))) == 306


def test_frames_of_two_libraries_share_their_mask_and_differ_by_rounding(
    first: Engine, last: Engine, left: Departure
) -> None:
    job = a_pass(a_unit("backward"), arrival(left))
    pairs = [
        (left, departure(engine(0, backend="jax"), a_pass(a_unit()))),
        (departure(last, job), departure(engine(1, backend="jax"), job)),
    ]
    for torch, jax in pairs:
        assert torch.tau == jax.tau
        found = mask.difference(torch.frame.data, jax.frame.data, count=math.prod(torch.shape), width=24)
        assert np.abs(found).max() <= 1
        assert np.count_nonzero(found) < 0.05 * found.size


def test_another_key_opens_no_frame(last: Engine, left: Departure) -> None:
    assert read(last, arrival(left, pair=pair(b"q" * 32))) == 405
    assert read(last, arrival(left, tick_key=b"u" * 32)) == 405
    assert read(last, arrival(left, tau=bytes(16))) == 405
    assert read(last, arrival(left, check=bytes(16))) == 405


def test_gradients_that_are_not_numbers_or_do_not_fit_are_numbered(last: Engine, left: Departure) -> None:
    def number(out: Unit, **changes: Any) -> int:
        return number_of(lambda: last(a_pass(out, arrival(left), **changes)))

    assert number(a_unit("backward"), scale=math.nan) == 401
    assert number(a_unit("backward"), scale=math.inf) == 401
    assert number(a_unit("backward", exponent=-60)) == 402
    last(Adopt(tick=2, made=1))  # forget the gradients


def test_a_gradient_sum_that_does_not_fit_is_numbered(last: Engine, left: Departure) -> None:
    last(a_pass(a_unit("backward"), arrival(left)))
    job = Sum(tick=2, lift=0, group=group(), sender=bytes(32), run=MADE.run)
    assert len(last(job).digest) == 32
    assert number_of(lambda: last(with_fields(job, lift=-60))) == 403
    last(Adopt(tick=2, made=1))


# -- tau -----------------------------------------------------------------------------------------------------------

parts = st.binary(min_size=32, max_size=32)
units = st.builds(
    a_unit,
    st.sampled_from(["forward", "backward"]),
    run=parts,
    tick=st.integers(1, 3),
    boundary=st.integers(0, 1),
    microbatch=st.integers(0, 2),
    position=st.integers(0, 2),
    exponent=st.integers(-2, 2),
)
sources = st.tuples(units, st.sampled_from([b"k" * 32, b"l" * 32]), parts, parts)


@given(sources, sources, st.data())
def test_tau_separates_unit_state_and_inputs(one: Any, other: Any, data: st.DataObject) -> None:
    mixed = tuple(data.draw(st.sampled_from([a, b])) for a, b in zip(one, other, strict=True))

    def masked(source: Any) -> bytes:
        unit, key, state, inputs = source
        keyed = unit.keyed(key)
        return pair().mask_key(keyed, group().tau(keyed, state, inputs))

    assert (masked(one) == masked(mixed)) == (one == mixed)


def the_mask(left: Departure) -> bytes:
    """The keystream key of a frame."""
    return pair().mask_key(left.unit.keyed(TICK_KEY), left.tau)


windows = st.lists(st.integers(0, 40), min_size=2, max_size=2)


@settings(max_examples=25, deadline=None)
@given(one=windows, other=windows, evaluates=st.booleans())
def test_frames_of_different_inputs_never_share_a_mask(
    first: Engine, one: list[int], other: list[int], evaluates: bool
) -> None:
    def made(numbers: list[int]) -> Departure:
        kind = "evaluate" if evaluates else "train"
        job = a_pass(a_unit(kind=kind), windows=numbers, kind=kind, order_key=b"" if evaluates else ORDER)
        return departure(first, job)

    a, b, key = made(one), made(other), ORDER
    data = text().validation if evaluates else text().train
    order = range(999) if evaluates else corpus.order(key, corpus.window_count(len(data), MADE.model.context))

    def tokens(numbers: list[int]) -> bytes:
        return b"".join(data[int(order[n]) * 16 : int(order[n]) * 16 + 16] for n in numbers)

    same = tokens(one) == tokens(other)
    assert (the_mask(a) == the_mask(b)) == same
    assert (bytes(a.frame.data) == bytes(b.frame.data)) == same


def test_frames_of_different_states_or_units_never_share_a_mask(first: Engine, left: Departure) -> None:
    seen = {the_mask(left)}
    seen.add(the_mask(departure(engine(0, b"v" * 32), a_pass(a_unit()))))
    for changes in (dict(tick=3), dict(microbatch=1), dict(position=1), dict(kind="measure")):
        seen.add(the_mask(departure(first, a_pass(a_unit(**changes)))))
    assert len(seen) == 6
    again = departure(engine(0), a_pass(a_unit()))
    assert (the_mask(again), again.tau, again.digest) == (the_mask(left), left.tau, left.digest)


def test_the_receiver_cannot_derive_tau(left: Departure) -> None:
    """It has the pair's key and may guess tokens; tau is the group's."""
    keyed = left.unit.keyed(TICK_KEY)
    assert group(b"p" * 32).tau(keyed, bytes(32), bytes(32)) != left.tau
    values = mask.unmask(left.frame.data, the_mask(left), count=math.prod(left.shape), width=24)
    assert np.abs(values).max() < 2**20


def test_the_plan_makes_the_unit(world: World) -> None:
    case = Case(world, "backward", 1)
    unit = case.header.unit
    remade = make_unit(case.opening.plan, case.manifest, boundary=1, direction="backward", microbatch=unit.microbatch)
    assert remade == unit
    assert (unit.sender_stage, unit.receiver_stage) == (2, 1)
