"""Whatever members say, the coordinator's next plan is one that everybody can read."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.protocols.world import Sent, World
from tests.runs import identity, manifest

from interlock.kernels.fixed import shift
from interlock.protocols.canonical import decode, encode
from interlock.protocols.coordinator import RunEnded
from interlock.protocols.journal import Closed, Opened, Planned, Row, Voided, make_row
from interlock.protocols.ledger import Ledger
from interlock.protocols.release import Plan
from interlock.protocols.round import Committing, Trouble

replace = msgspec.structs.replace
STATEMENTS = st.one_of(
    st.builds(
        Voided, tick=st.just(1), number=st.sampled_from([402, 403]), reason=st.just(""), where=st.integers(0, 64),
        bits=st.integers(0, 300),
    ),
    st.integers(-200, 200),
)  # fmt: skip


@given(statements=st.lists(STATEMENTS, max_size=6), wide=st.booleans())
def test_exponents_stay_within_what_a_plan_may_say(world: World, statements: list[Any], wide: bool) -> None:
    """Voids ask for more and more bits, and closes name any peak: the first stage's among them, which has none."""
    width, fraction = (32, 0) if wide else (24, 20)
    ledger = Ledger(replace(world.manifest, frame_width=width, frame_fraction=fraction))
    rows = [row.body for row in world.rows()]
    plan = next(body.plan for body in rows if isinstance(body, Planned) and body.plan.kind == "measure")
    opened = next(body for body in rows if isinstance(body, Opened) and body.tick == plan.tick)
    closed = next(body for body in rows if isinstance(body, Closed) and body.tick == plan.tick)

    def fold(body: Any) -> None:
        row: Row = make_row(identity("coordinator"), plan.run, ledger.number, ledger.head, body)
        ledger.fold(row)

    for statement in statements:
        fold(Planned(plan=plan))
        if isinstance(statement, Voided):
            fold(statement)
            continue
        fold(opened)
        said = tuple(replace(each, peaks=(statement,)) for each in closed.commitments)
        fold(replace(closed, commitments=said))
    following = replace(plan, exponents=tuple(ledger.exponents), lifts=tuple(ledger.lifts))
    assert decode(encode(following), Plan) == following
    for exponent in following.exponents:
        shift(fraction, exponent)  # frames can be made with it


def test_the_first_stage_sends_no_gradients_and_sets_no_exponent(world: World) -> None:
    honest, told = Ledger(world.manifest), Ledger(world.manifest)
    for row in world.rows():
        body = row.body
        if isinstance(body, Closed):
            said = (replace(c, peaks=(200,)) if c.member in told.present[0] else c for c in body.commitments)
            row = replace(row, body=replace(body, commitments=tuple(said)))
        honest.fold(replace(row, body=body))
        told.fold(row)
        assert told.exponents == honest.exponents


def test_a_member_that_asks_for_absurd_room_delays_the_run_and_does_not_end_it() -> None:
    lied: list[int] = []

    def change(sent: Sent) -> list[Sent]:
        message = sent.message
        if isinstance(message, Committing) and sent.source == "node0" and len(lied) < 2:
            tick = message.commitment.tick
            lied.append(tick)
            return [Sent(sent.source, sent.to, Trouble(tick=tick, number=402, what="no room", where=0, bits=300))]
        return [sent]

    world = World(manifest(stages=2, replicas=1, relays=1, training=dict(rounds=2)), change=change).run()
    assert len(lied) == 2
    assert world.seen(RunEnded)
    assert not world.stopped
