"""A node's own account counts what the run went on from, and nothing of a void tick."""

from __future__ import annotations

from tests.runs import manifest

from interlock.protocols.effects import Event
from interlock.protocols.node import Adopted, GaveUp, NodeOpened, OutOfReach
from interlock.protocols.seat import FrameSent
from interlock.protocols.service.standing import Standing

MADE = manifest()
BATCH = MADE.training.rows * MADE.model.context


def opened(tick: int, kind: str = "train") -> Event:
    return NodeOpened(tick=tick, kind=kind, plan="", stage=1)


def sent(tick: int, microbatch: int, direction: str = "forward") -> Event:
    return FrameSent(tick=tick, microbatch=microbatch, boundary=1, direction=direction, header="", size=9)


def told(*events: tuple[float, Event]) -> Standing:
    standing = Standing(manifest=MADE)
    for now_s, event in events:
        standing.seen(event, now_s)
    return standing


def test_a_round_counts_when_the_run_goes_on_from_it() -> None:
    begun = [
        (0.0, opened(1, "change")),
        (1.0, Adopted(tick=2, made=1)),
        (1.0, opened(2)),
        (2.0, sent(2, 0)),
        (2.5, sent(2, 0, "backward")),  # one micro-batch, two frames
        (3.0, sent(2, 3)),
    ]
    standing = told(*begun)
    assert (standing.rounds, standing.tokens, standing.tokens_per_second) == (0, 0, 0.0)
    standing = told(*begun, (5.0, Adopted(tick=3, made=2)), (5.0, opened(3)))
    assert (standing.rounds, standing.tokens) == (1, 2 * BATCH)
    assert standing.tokens_per_second == 2 * BATCH / 4.0


def test_work_of_a_void_tick_does_not_count() -> None:
    standing = told(
        (1.0, opened(2)),
        (2.0, sent(2, 0)),
        (3.0, opened(3)),  # the same round again, from the same base
        (4.0, sent(3, 0)),
        (5.0, sent(2, 1)),  # too late
        (6.0, Adopted(tick=4, made=3)),
        (6.0, opened(4, "evaluate")),
        (7.0, sent(4, 0)),
        (8.0, opened(5)),
        (9.0, Adopted(tick=5, made=4)),
    )
    assert (standing.rounds, standing.tokens) == (1, BATCH)


def test_the_speed_is_that_of_the_last_rounds() -> None:
    events: list[tuple[float, Event]] = []
    for tick in range(1, 40):
        step_s = 1.0 if tick < 20 else 4.0
        now_s = events[-1][0] + step_s if events else 0.0
        events += [(now_s, Adopted(tick=tick, made=tick - 1)), (now_s, opened(tick)), (now_s, sent(tick, 0))]
    standing = told(*events)
    assert standing.rounds == 38
    assert standing.tokens_per_second == BATCH / 4.0


def test_the_state_is_said_in_words() -> None:
    standing = Standing()
    assert standing.state == "asking to be let in"
    standing.manifest = MADE
    assert standing.state == "let in, waits for a stage"
    standing.seen(opened(1, "change"), 0.0)
    assert standing.state == "at stage 1"
    standing.seen(GaveUp(tick=1, number=306, what="it contradicts"), 0.0)
    assert standing.trouble == "tick 1: E306 it contradicts"
    standing.seen(OutOfReach(relays=("ab at tcp://h:1", "cd at tcp://h:2")), 0.0)
    assert standing.unreached == "ab at tcp://h:1, cd at tcp://h:2"
    standing.seen(OutOfReach(relays=()), 0.0)
    assert standing.unreached == ""
    standing.is_leaving = True
    assert standing.state == "leaving"
