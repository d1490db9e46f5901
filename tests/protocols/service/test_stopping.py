"""How a run stopped is read out of what its processes announced, each in its own order."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.protocols.service.journals import announce

from interlock.protocols.service.rundir import RunDir
from interlock.protocols.service.stopping import Stops, stops


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def say(run: RunDir, name: str, time: float, event: str, order: str = "") -> None:
    """An event of a process; `Committed` and the like are rows that it wrote."""
    fields: dict[str, object] = {"tick": 1}
    if event in ("halt", "pause"):
        event, fields = "Obeyed", {"order": order, "seq": 1, "action": event, "reason": ""}
    elif event == "Resumed":
        fields = {"order": "r", "seq": 2}
    elif event in ("Committed", "Planned", "Voided", "Ordered"):
        event, fields = "Wrote", {"number": 1, "row": event}
    announce(run.folder(name), event, time, **fields)


def test_a_run_that_nobody_halted(run: RunDir) -> None:
    say(run, "coordinator", 1.0, "Committed")
    say(run, "node-0", 2.0, "pause", "p")
    say(run, "node-0", 3.0, "Resumed")
    assert stops(run) == Stops(halts=0, updates=0, seconds=None, resumed=False)


def test_from_the_first_who_obeyed_to_the_last_change_of_state(run: RunDir) -> None:
    say(run, "coordinator", 9.9, "Committed")
    say(run, "gate-ada", 10.0, "halt", "h")
    say(run, "coordinator", 10.1, "halt", "h")
    say(run, "coordinator", 10.2, "Voided")
    say(run, "coordinator", 10.3, "Ordered")
    say(run, "node-0", 10.4, "FrameSent")  # it does not know yet
    say(run, "node-0", 10.5, "Adopted")
    say(run, "node-0", 10.6, "halt", "h")
    say(run, "node-0", 10.7, "FrameRead")
    say(run, "gate-ada", 20.0, "Resumed")
    say(run, "gate-ada", 20.1, "GateReleased")
    say(run, "coordinator", 20.2, "Resumed")
    say(run, "node-0", 20.3, "Resumed")
    say(run, "node-0", 20.4, "Adopted")
    found = stops(run)
    assert (found.halts, found.updates, found.resumed) == (1, 0, True)
    assert found.seconds == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("name", "event"), [("node-0", "Adopted"), ("node-0", "NodeReported"), ("coordinator", "Committed")]
)
def test_whoever_takes_a_state_while_it_obeys_is_counted(run: RunDir, name: str, event: str) -> None:
    say(run, name, 10.0, "halt", "h")
    say(run, name, 11.0, event)
    say(run, name, 12.0, "Resumed")
    say(run, name, 13.0, event)
    found = stops(run)
    assert (found.updates, found.seconds) == (1, 1.0)


def test_a_second_order_on_top_of_a_first_is_one_halt(run: RunDir) -> None:
    for name, order in (("gate-ada", "a"), ("gate-ada", "b"), ("coordinator", "b"), ("relay-0", "a")):
        say(run, name, 10.0, "halt", order)
    for name in ("gate-ada", "coordinator", "relay-0"):
        say(run, name, 20.0, "Resumed")
        say(run, name, 21.0, "Carried")
    assert stops(run) == Stops(halts=1, updates=0, seconds=0.0, resumed=True)
    say(run, "coordinator", 30.0, "halt", "c")
    assert stops(run) == Stops(halts=2, updates=0, seconds=0.0, resumed=False)


def test_who_begins_again_says_again_what_it_obeys(run: RunDir) -> None:
    say(run, "coordinator", 10.0, "halt", "h")
    say(run, "node-0", 10.0, "halt", "h")
    say(run, "node-0", 11.0, "Began")
    say(run, "node-0", 11.1, "halt", "h")
    say(run, "node-0", 12.0, "Began")  # it was away when all went on
    say(run, "node-0", 13.0, "Adopted")
    say(run, "coordinator", 12.0, "Resumed")
    assert stops(run) == Stops(halts=1, updates=0, seconds=0.0, resumed=True)


def test_where_the_handing_over_was_noted_the_time_counts_from_it(run: RunDir) -> None:
    for time, signatures in ((8.0, 1), (9.0, 2)):
        announce(run.folder("local"), "HandedOver", time, order="h", action="halt", signatures=signatures, need=2)
    announce(run.folder("local"), "HandedOver", 19.0, order="r", action="resume", signatures=2, need=2)
    say(run, "gate-ada", 10.0, "halt", "h")
    say(run, "node-0", 9.5, "FrameSent")
    assert stops(run).seconds == pytest.approx(0.5)


def test_a_gate_that_begins_again_in_a_halt_moves_nothing_by_saying_what_it_released(run: RunDir) -> None:
    for tick, time in ((3, 9.0), (4, 9.5)):
        announce(run.folder("gate-ada"), "GateReleased", time, tick=tick, plan="aa")
    say(run, "gate-ada", 10.0, "halt", "h")
    say(run, "gate-ada", 15.0, "Began")
    announce(run.folder("gate-ada"), "GateReleased", 15.1, tick=4, plan="aa")
    say(run, "coordinator", 10.0, "halt", "h")
    assert stops(run).seconds == 0.0
    announce(run.folder("gate-ada"), "GateReleased", 16.0, tick=5, plan="bb")
    assert stops(run).seconds == 6.0
