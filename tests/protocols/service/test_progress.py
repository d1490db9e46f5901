"""What a journal says, folded row by row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.protocols.world import World
from tests.runs import manifest

from interlock.protocols.boundary import Pass, Passed
from interlock.protocols.cli.display import JsonLines, Table
from interlock.protocols.errors import Refused
from interlock.protocols.service.progress import Evaluated, Progress, Trained


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
