"""What a sceptic finds in a journal and in events, of runs whose processes started more than once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
from tests.protocols.service.journals import Journal, announce
from tests.protocols.world import World
from tests.runs import identity

from interlock.protocols.journal import Body, Committed, Planned, Row, make_row
from interlock.protocols.service.rundir import RunDir
from interlock.protocols.service.store import read_rows
from interlock.protocols.service.verify import contradictions


@dataclass
class Copied:
    """The rows of a whole run, up to some row."""

    world: World
    until: int
    rows: list[Row] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = self.world.rows()[: self.until]

    def write(self, body: Body) -> None:
        last = self.rows[-1]
        self.rows.append(make_row(identity("coordinator"), self.world.manifest.run, last.number + 1, last.digest, body))

    def save(self, path: Path) -> RunDir:
        journal = Journal(self.world.manifest)
        journal.rows, journal.times = self.rows, [float(row.number) for row in self.rows]
        return journal.save(path / "run")


def index(world: World, kind: type, number: int) -> int:
    """Where the journal has its so many-th row of a kind."""
    return [at for at, row in enumerate(world.rows()) if isinstance(row.body, kind)][number]


@pytest.mark.parametrize("back", [0, 1])
def test_a_round_that_is_planned_again_after_it_counted_is_found(world: World, tmp_path: Path, back: int) -> None:
    copied = Copied(world, index(world, Committed, 2) + 1)
    plans = [row.body.plan for row in copied.rows if isinstance(row.body, Planned)]
    last = copied.rows[-1].body
    assert isinstance(last, Committed)
    plan = msgspec.structs.replace(
        plans[-1], tick=plans[-1].tick + 1, head=copied.rows[-1].digest, round=last.round - back
    )
    copied.write(Planned(plan=plan))
    found = contradictions(copied.save(tmp_path))
    named = f"journal, row {copied.rows[-1].number} (Planned): E312 the plan's round"
    assert any(line.startswith(named) for line in found) == bool(back)


def relay(run: RunDir, *events: tuple[str, int]) -> None:
    opened = {
        row.body.plan.tick: row.body.plan.digest.hex()
        for row in read_rows(run.journal)
        if isinstance(row.body, Planned)
    }
    for name, tick in events:
        if name == "Began":
            announce(run.folder("relay-0"), name, role="relay", process=1)
        elif name == "RelayOpened":
            announce(run.folder("relay-0"), name, tick=tick, plan=opened[tick])
        else:
            unit = {"microbatch": 0, "boundary": 0, "direction": "forward", "size": 1}
            announce(run.folder("relay-0"), name, tick=tick, **unit)


TRAINED = [("RelayOpened", 4), ("Carried", 4)]


def test_whoever_starts_again_may_be_told_of_the_open_tick_again(world: World, tmp_path: Path) -> None:
    run = Copied(world, len(world.rows())).save(tmp_path)
    relay(run, ("Began", 0), *TRAINED, ("Began", 0), *TRAINED)
    assert not [line for line in contradictions(run) if line.startswith("relay-0")]


@pytest.mark.parametrize(
    ("events", "named"),
    [
        ([*TRAINED, ("RelayOpened", 4)], "relay-0: went from tick 4 to tick 4"),
        ([*TRAINED, ("Began", 0), ("Carried", 4)], "relay-0: Carried of tick 4 while it knew tick None to be open"),
    ],
)
def test_without_a_start_between_it_goes_forward_only_and_after_one_it_knows_nothing(
    world: World, tmp_path: Path, events: list[tuple[str, int]], named: str
) -> None:
    run = Copied(world, len(world.rows())).save(tmp_path)
    relay(run, ("Began", 0), *events)
    assert named in contradictions(run)


def test_a_node_that_was_never_let_in_and_did_nothing_is_no_contradiction(world: World, tmp_path: Path) -> None:
    run = Copied(world, len(world.rows())).save(tmp_path)
    announce(run.folder("node-9"), "Computes", backend="torch", version="1", device="cpu")
    assert not [line for line in contradictions(run) if line.startswith("node-9")]
    announce(run.folder("node-9"), "NodeReported", tick=4, state="aa")
    assert "node-9: is not in the journal" in contradictions(run)
