"""What a real run wrote down is judged by the same properties, and only by those that it can answer."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from interlock.protocols.errors import Failed, Misused
from interlock.protocols.gate import GateReleased
from interlock.protocols.manifest import readable
from interlock.protocols.service.rundir import save_manifest
from interlock.protocols.service.store import SQLiteStore
from interlock.specs.change import Change
from interlock.specs.halting import HaltingVote
from interlock.specs.history import History, Step
from interlock.specs.journal import JournalOutcome, judge_journal
from interlock.specs.release import Release
from interlock.specs.round import Round
from interlock.specs.schedule import Schedule
from interlock.specs.search import play

FOLDERS = {"coordinator": "coordinator", "g0": "gate-g0", "g1": "gate-g1", "g2": "gate-g2", "r0": "relay-0"}
FOLDERS |= {f"n{nth}": f"node-{nth}" for nth in range(4)}
START_S = 1.8e9


@pytest.fixture(scope="module")
def history() -> History:
    """A run in which nothing goes wrong."""
    run = play(Release, Schedule(spec="release", version=1))
    assert run.broken is None
    return run.history


def write(folder: Path, history: History) -> Path:
    """The directory that a run with this history leaves: events with their times, rows in the coordinator's store."""
    folder.mkdir(exist_ok=True)
    save_manifest(folder, Release().manifest)
    for name in FOLDERS.values():
        (folder / name).mkdir()
    store = SQLiteStore(folder / "coordinator" / "store.sqlite")
    lines: dict[str, list[str]] = {name: [] for name in FOLDERS.values()}
    for nth, step in enumerate(history):
        if step.event is not None:
            fields = {"time": START_S + nth * 1e-3, "event": type(step.event).__name__, **readable(step.event)}
            lines[FOLDERS[step.who]].append(json.dumps(fields))
        elif a_row(step):
            store.put({step.name: step.data})
    store.close()
    for name, said in lines.items():
        (folder / name / "events.jsonl").write_text("".join(line + "\n" for line in said))
    return folder


def a_row(step: Step) -> bool:
    """Whether the coordinator wrote a row; gates keep copies."""
    return step.kind == "store" and step.who == "coordinator" and step.name.startswith("row ")


def results(outcome: JournalOutcome) -> dict[str, str]:
    return {verdict.name: verdict.result for verdict in outcome.verdicts}


def test_a_run_is_judged_by_what_it_wrote_down(history: History, tmp_path: Path) -> None:
    outcome = judge_journal(Release, write(tmp_path / "run", history))
    assert (outcome.exit_code, outcome.broken) == (0, None)
    assert outcome.events == sum(step.kind == "announce" for step in history)
    assert outcome.rows == sum(map(a_row, history)) > 5
    found = results(outcome)
    assert {name for name, result in found.items() if result == "held"} == {"released_first", "onwards"}
    assert found["took_up"] == "reached"
    assert {found["goes_on"], found["one_plan"], found["state_kept"], found["asked_again"]} == {"unknown"}


def test_steps_come_back_in_their_order(history: History, tmp_path: Path) -> None:
    outcome = judge_journal(Release, write(tmp_path / "run", history))
    written = [step for step in history if step.event is not None]
    read = [step for step in outcome.history if step.event is not None]
    assert [(step.who, step.event) for step in read] == [(step.who, step.event) for step in written]
    rows = [(step.who, step.name, step.data) for step in history if a_row(step)]
    assert [(step.who, step.name, step.data) for step in outcome.history if step.kind == "store"] == rows


def test_what_opened_without_its_releases_is_broken(history: History, tmp_path: Path) -> None:
    fewer = [step for step in history if not (isinstance(step.event, GateReleased) and step.who != "g0")]
    outcome = judge_journal(Release, write(tmp_path / "run", fewer))
    assert outcome.exit_code == 1
    assert outcome.broken is not None
    assert outcome.broken.property == "released_first"
    assert type(outcome.history[-1].event).__name__ in ("RelayOpened", "NodeOpened")
    assert results(outcome)["onwards"] == "held"


def test_the_runs_own_threshold_counts(history: History, tmp_path: Path) -> None:
    run = write(tmp_path / "run", [s for s in history if not (isinstance(s.event, GateReleased) and s.who == "g0")])
    assert judge_journal(Release, run).broken is None
    manifest = Release().manifest
    committee = msgspec.structs.replace(manifest.committee, release=3)
    save_manifest(run, msgspec.structs.replace(manifest, committee=committee))
    outcome = judge_journal(Release, run)
    assert outcome.broken is not None
    assert outcome.broken.property == "released_first"


def test_a_state_before_its_row_is_broken(history: History, tmp_path: Path) -> None:
    run = write(tmp_path / "run", history)
    assert results(judge_journal(Round, run))["no_state_without_a_row"] == "held"
    path = run / "coordinator" / "events.jsonl"
    late = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(fields | {"time": fields["time"] + 1e6}) + "\n" for fields in late))
    assert results(judge_journal(Round, run))["no_state_without_a_row"] == "broken"


def test_a_change_is_judged_and_a_property_that_misses_messages_is_not(history: History, tmp_path: Path) -> None:
    found = results(judge_journal(Change, write(tmp_path / "run", history)))
    assert found["old_or_new"] == "held"
    assert found["no_older_epoch"] == "unknown"


def test_lines_cut_short_and_other_versions_events_are_left_out(history: History, tmp_path: Path) -> None:
    run = write(tmp_path / "run", history)
    before = judge_journal(Release, run)
    with (run / "node-0" / "events.jsonl").open("a") as file:
        file.write('{"time": 2e9, "event": "SomethingNew", "tick": 1}\n{"time": 2e9, "event": "NodeOp')
    after = judge_journal(Release, run)
    assert (after.events, results(after)) == (before.events, results(before))


def test_damage_is_said(history: History, tmp_path: Path) -> None:
    run = write(tmp_path / "run", history)
    with (run / "node-0" / "events.jsonl").open("a") as file:
        file.write('{"time": 2e9, "event": "NodeOpened", "tick": "one"}\n')
    with pytest.raises(Failed, match=r"E722 .*NodeOpened"):
        judge_journal(Release, run)
    with pytest.raises(Misused, match="E705"):
        judge_journal(Release, tmp_path)
    with pytest.raises(Misused, match="E814 spec halting is not about a run"):
        judge_journal(HaltingVote, run)
