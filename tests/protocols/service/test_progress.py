"""What a journal says, folded row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.protocols.service.journals import Journal, Names, keys
from tests.protocols.world import World
from tests.runs import identity, manifest

from interlock.protocols.boundary import Pass, Passed
from interlock.protocols.cli.display import JsonLines, Table
from interlock.protocols.errors import Refused
from interlock.protocols.journal import DIED, Committed, Voided
from interlock.protocols.service.progress import Evaluated, Mark, Progress, Trained


def test_a_run_is_told_as_it_was(world: World) -> None:
    progress = Progress(world.manifest)
    assert not progress.ended
    news = progress.follow(world.rows())
    assert progress.ended
    assert [item.round for item in news if isinstance(item, Trained)] == [1, 2, 3, 4]
    assert [item.round for item in news if isinstance(item, Evaluated)] == [0, 4]
    assert progress.tokens == 4 * world.manifest.tokens_per_round
    assert progress.turns == [2]


def test_it_does_not_matter_how_many_rows_come_at_once(world: World) -> None:
    whole, one_by_one = Progress(world.manifest), Progress(world.manifest)
    news = [item for row in world.rows() for item in one_by_one.follow([row])]
    assert whole.follow(world.rows()) == news
    assert whole == one_by_one


def test_rows_that_are_no_runs_are_refused(world: World) -> None:
    rows = world.rows()
    last = [row for row in rows if type(row.body).__name__ == "Measured"][-1:]
    with pytest.raises(Refused, match="E317 a row 'Measured' before the first plan"):
        Progress(world.manifest).follow(last)


class Followed:
    """As much of a local run as a display reads."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.times: dict[int, float] = {}


def test_values_that_were_clamped_are_a_warning_with_their_number_a_round(capsys: pytest.CaptureFixture[str]) -> None:
    loud: set[tuple[str, int]] = set()

    def before(name: str, engine: Any, job: Any) -> None:
        """The first stage's activations no longer fit into 16 bits."""
        if isinstance(job, Pass) and job.kind == "train" and engine._stage.shape.first and (name, job.tick) not in loud:
            loud.add((name, job.tick))
            with torch.no_grad():
                engine._stage._leaves["layer0.down"].mul_(100)

    world = World(manifest(frame_width=16, training=dict(rounds=2)), before_job=before).run()
    progress = Progress(world.manifest)
    news = progress.follow(world.rows())
    trained = [item for item in news if isinstance(item, Trained)]
    clamped: dict[int, int] = {}
    for _, job, result in world.jobs:
        if isinstance(result, Passed) and result.departure is not None:
            clamped[job.tick] = clamped.get(job.tick, 0) + result.departure.clamped
    assert [item.clamped for item in trained] == [clamped[item.tick] for item in trained]
    assert all(item.clamped > 0 for item in trained)
    assert [str(item.warning) for item in trained] == [
        f"E406 values clamped in round {item.round}: expected none, got {item.clamped}" for item in trained
    ]
    assert all(item.warning is not None and "--frame-width" in item.warning.todo for item in trained)
    followed: Any = Followed(progress)
    Table(followed)(news)
    assert (
        f"warning: E406 values clamped in round 2: expected none, got {trained[1].clamped}\n" in capsys.readouterr().err
    )
    JsonLines(followed)(news)
    assert f'"number": 406, "round": 1, "clamped": {trained[0].clamped}' in capsys.readouterr().out


def test_a_round_without_clamped_values_warns_of_nothing(world: World) -> None:
    news = Progress(world.manifest).follow(world.rows())
    assert {item.warning for item in news if isinstance(item, Trained)} == {None}


def swapped(members: Names, old: str, new: str) -> Names:
    return [[new if name == old else name for name in stage] for stage in members]


def followed(journal: Journal) -> tuple[Progress, list[object]]:
    progress = Progress(journal.manifest)
    return progress, progress.follow(journal.rows)


def test_members_that_vanish_died_unless_the_plan_says_that_they_leave() -> None:
    journal = Journal(manifest())
    journal.start()
    journal.train()
    journal.join("node", "fresh", "other")
    journal.train(void=DIED, reason="node3 is gone")
    journal.change("members", swapped(journal.members, "node3", "fresh"))
    journal.train()
    journal.change("members", swapped(journal.members, "node0", "other"), leaving=keys(["node0"]))
    journal.train()
    progress, news = followed(journal)
    assert [(mark.kind, mark.who, mark.tokens) for mark in progress.marks] == [
        ("death", "node3", 100),
        ("join", "fresh", 100),
        ("leave", "node0", 200),
        ("join", "other", 200),
    ]
    assert [item for item in news if isinstance(item, Mark)] == progress.marks
    assert [progress.counted(kind) for kind in ("death", "join", "leave", "failover")] == [1, 2, 1, 0]
    assert progress.rounds_lost_to_death == 1
    assert str(progress.marks[0]) == "died: node3"


def test_only_rounds_that_were_lost_to_a_death_count_as_such() -> None:
    journal = Journal(manifest())
    journal.start()
    journal.train(void=403)
    journal.train(void=DIED)
    plan = journal.plan("evaluate")
    journal.open(plan)
    journal.write(Voided(tick=plan.tick, number=DIED, reason="an evaluation"))
    journal.train(void=DIED)
    assert followed(journal)[0].rounds_lost_to_death == 2


def test_a_relay_that_later_plans_leave_out_was_lost_each_time() -> None:
    journal = Journal(manifest())
    journal.start()
    journal.train()
    for relays in (("relay1", "relay2"), ("relay0", "relay1"), ("relay1", "relay0")):
        journal.relays = relays
        journal.join("relay", "relay2")
        journal.train()
    progress, _ = followed(journal)
    assert [(mark.kind, mark.who, mark.tick) for mark in progress.marks] == [
        ("failover", "relay0", 3),
        ("failover", "relay2", 4),
    ]


def test_whoever_was_ever_granted_a_stage_is_remembered() -> None:
    journal = Journal(manifest())
    journal.start()
    journal.join("node", "fresh", "waits")
    before = journal.members
    journal.change("members", swapped(before, "node3", "fresh"))
    progress, _ = followed(journal)
    first = {identity(name).public: stage for stage, group in enumerate(before) for name in group}
    assert progress.granted == first | {identity("fresh").public: 1}


def test_a_change_of_members_that_was_void_may_have_moved_shards() -> None:
    journal = Journal(manifest())
    journal.start()
    journal.join("node", "fresh")
    plan = journal.plan("change", "members", candidates=keys(["fresh"]))
    journal.open(plan)
    members = tuple(keys(stage) for stage in swapped(journal.members, "node3", "fresh"))
    journal.write(Voided(tick=plan.tick, number=DIED, reason="gone: node3", members=members))
    progress, _ = followed(journal)
    assert progress.granted[identity("fresh").public] == 1
    assert progress.marks == []


def test_a_member_that_started_again_died_and_came_back() -> None:
    journal = Journal(manifest())
    journal.start()
    stays = tuple(keys([name for name in stage if name != "node3"]) for stage in journal.members)
    journal.change("members", journal.members, members=stays, candidates=keys(["node3"]))
    journal.change("turn", journal.members)
    progress, _ = followed(journal)
    assert [(mark.kind, mark.who) for mark in progress.marks] == [("death", "node3"), ("join", "node3")]


def test_a_run_whose_members_die_leave_and_come_is_told_as_it_was() -> None:
    """As the processes do it: who leaves does so at once, since another replica holds what it holds."""
    world = World(manifest(training=dict(rounds=4)), spares=1)

    def round_is(number: int) -> Callable[[World], bool]:
        return lambda world: any(isinstance(row.body, Committed) and row.body.round == number for row in world.rows())

    def members() -> list[list[str]]:
        progress = Progress(world.manifest)
        progress.follow(world.rows())
        return [[progress.name(who) for who in stage] for stage in progress.members]

    world.run(until=round_is(1))
    leaves, dies = members()[0][0], members()[2][1]
    world.tell(leaves, lambda role: role.on_timer("hand over"))
    world.run(until=round_is(2))
    world.kill(dies)
    world.run()
    progress = Progress(world.manifest)
    progress.follow(world.rows())
    assert progress.ended
    marks = [(mark.kind, mark.who) for mark in progress.marks]
    assert ("leave", leaves) in marks
    assert ("death", dies) in marks
    assert [progress.counted(kind) for kind in ("death", "leave", "join", "failover")] == [1, 1, 1, 0]
    assert len(progress.granted) == 7


def test_marks_are_told_as_lines_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(manifest())
    journal.start()
    journal.join("node", "fresh")
    journal.change("members", swapped(journal.members, "node3", "fresh"))
    progress, news = followed(journal)
    display: Any = Followed(progress)
    Table(display)(news)
    assert "tick 2: died: node3\ntick 2: joined: fresh\n" in capsys.readouterr().out
    JsonLines(display)(news)
    assert '{"event": "death", "tick": 2, "who": "node3"}\n' in capsys.readouterr().out


def test_marks_do_not_depend_on_how_many_rows_come_at_once() -> None:
    journal = Journal(manifest())
    journal.start()
    journal.join("node", "fresh")
    journal.change("members", swapped(journal.members, "node3", "fresh"))
    whole, news = followed(journal)
    one_by_one = Progress(journal.manifest)
    assert [item for row in journal.rows for item in one_by_one.follow([row])] == news
    assert whole == one_by_one
