"""What a journal says, folded row by row."""

from __future__ import annotations

import pytest
from tests.protocols.world import World

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
