"""A schedule is a plain value that comes back from its file as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from interlock.protocols.errors import Misused
from interlock.specs import Schedule
from interlock.specs.halting import HaltingVote
from interlock.specs.schedule import Crash, Drop, Input
from interlock.specs.scope import Scope
from interlock.specs.search import play

from . import toys

DRAWN = Scope(HaltingVote).drawn()
PLAN = toys.schedule(Drop(source="a", destination="b", ordinal=0), Crash(who="a", input=1, effects=0, back=None))


@given(DRAWN)
def test_a_schedule_comes_back_from_json(schedule: Schedule) -> None:
    assert Schedule.from_json(schedule.to_json()) == schedule


def test_a_schedule_comes_back_from_its_file(tmp_path: Path) -> None:
    PLAN.save(tmp_path / "deep" / "plan.json")
    assert Schedule.load(tmp_path / "deep" / "plan.json") == PLAN
    assert PLAN.summary == "1 input, 2 faults, 0 forged"
    with pytest.raises(Misused, match=r"E803 .*cannot be read: No such file"):
        Schedule.load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seed"', b'"sead"'),
        (b'"drop"', b'"drip"'),
        (b'"ordinal": 0', b'"ordinal": -1'),
        (b'"ordinal": 0', b'"ordinal": "0"'),
        (b'"at": 0.0', b'"at": NaN'),
        (b'"back": null', b'"back": 0.0'),
        (b'"version": 1,', b""),
        (b"}", b""),
        (b'"spec"', b"\xff"),
    ],
)
def test_what_is_not_a_schedule_is_refused(old: bytes, new: bytes) -> None:
    data = PLAN.to_json()
    assert old in data
    with pytest.raises(Misused, match="E803 my file is not a schedule"):
        Schedule.from_json(data.replace(old, new, 1), whose="my file")


@pytest.mark.parametrize("value", [(1, 2), b"bytes", {1: 2}, {"a": [float("nan")]}, float("inf"), {1}])
def test_arguments_that_json_would_change_are_refused(value: Any) -> None:
    with pytest.raises(Misused, match="E807"):
        Input(at=0.0, who="a", action="go", arguments={"value": value})


def test_arguments_of_json_are_kept() -> None:
    arguments = {"a": [1, 2.5, None, True, {"b": "c"}]}
    made = Schedule(spec="x", version=1, inputs=(Input(at=0.0, who="a", action="go", arguments=arguments),))
    assert Schedule.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"spec": "other"}, 804),
        ({"version": 2}, 804),
        ({"inputs": (Input(at=0.0, who="a", action="stop"),)}, 806),
        ({"inputs": (Input(at=0.0, who="z", action="go"),)}, 806),
        ({"faults": (Drop(source="a", destination="z", ordinal=0),)}, 806),
        ({"faults": (Crash(who="z", input=0, effects=0, back=1.0),)}, 806),
        ({"forged": (toys.forge("a", "b", toys.Ping(hops=1)),)}, 806),
    ],
)
@pytest.mark.parametrize("world", toys.ALL_WORLDS)
def test_a_schedule_of_something_else_is_refused(world: Any, changes: dict[str, Any], number: int) -> None:
    spec = toys.toy(lambda: {"a": toys.Scripted(), "b": toys.Scripted()})
    parts = {"spec": "toy", "version": 1} | changes
    with pytest.raises(Misused) as caught:
        play(spec, Schedule(**parts), world)
    assert caught.value.number == number
