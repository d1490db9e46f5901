"""Status says where a run stands, who could go on without the others, and what a process of one's own did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.protocols.service.journals import Journal, announce, keys
from tests.runs import manifest

from interlock.protocols.canonical import encode
from interlock.protocols.cli.display import Lines
from interlock.protocols.errors import Failed, Misused
from interlock.protocols.service.progress import DIED
from interlock.protocols.service.rundir import save_manifest
from interlock.protocols.service.status import View, lines, snapshot
from interlock.protocols.service.store import SQLiteStore


def told(view: View) -> dict[str, list[str]]:
    """All lines, by what they are about."""
    found: dict[str, list[str]] = {}
    for about, line in lines(view):
        found.setdefault(about, []).append(line)
    return found


@pytest.fixture
def journal() -> Journal:
    """A run in which somebody died, left and waits."""
    journal = Journal(manifest())
    journal.start()
    journal.evaluate(5.0)
    journal.train()
    journal.join("node", "fresh", "other", "late", inviter="bela")
    journal.join("relay", "relay2")
    journal.train(void=DIED, reason="node3 is gone")
    journal.change("members", [["node0", "node1"], ["node2", "fresh"], ["node4", "node5"]])
    journal.change("members", [["other", "node1"], ["node2", "fresh"], ["node4", "node5"]], leaving=keys(["node0"]))
    journal.train()
    return journal


def test_stages_their_replicas_and_who_waits_or_has_gone(journal: Journal, tmp_path: Path) -> None:
    run = journal.save(tmp_path / "run")
    silent = ["node0", "node2", "node3", "relay0"]
    announce(run.folder("coordinator"), "Present", ready=["ada"], missing=["bela", "cleo"], needed=2, silent=silent)
    view = View(run.path)
    found, said = snapshot(view), told(view)
    assert said["stage 1"] == ["node2 (silent), fresh"]
    assert (found["waiting"], found["silent"]) == (["late"], silent)
    assert (said["waiting"], said["away"]) == (["late"], ["node0, node3"])
    assert said["relays"] == ["relay0 (silent), relay1; others: relay2"]
    counted = ("deaths", "joins", "leaves", "rounds_lost_to_death", "relay_failovers")
    assert [found[name] for name in counted] == [1, 2, 1, 1, 0]
    assert said["event"] == [
        "died: node3 in tick 5",
        "joined: fresh in tick 5",
        "left: node0 in tick 6",
        "joined: other in tick 6",
    ]
    assert said["void"] == [f"tick 4, E{DIED} node3 is gone"]
    assert found["admitted_by"] == {
        "ada": ["relay0", "relay1", *(f"node{n}" for n in range(6)), "relay2"],
        "bela": ["fresh", "other", "late"],
    }
    assert said["let in"][1] == "by bela: fresh, other, late"


def test_speed_and_bytes_are_measured_where_they_can_be(journal: Journal, tmp_path: Path) -> None:
    run = journal.save(tmp_path / "run")
    view = View(run.path)
    assert snapshot(view)["tokens_per_second"] == pytest.approx(200 / 6)  # three seconds from plan to commit
    assert snapshot(view)["boundary_bytes_per_token"] == 2 * 2 * 16 * 3  # the manifest's, there and back
    rounds = [trained.tick for trained in view.progress.rounds]
    for name, tick in (("relay-0", rounds[0]), ("relay-1", rounds[1]), ("relay-1", rounds[1] - 1)):
        announce(run.folder(name), "Carried", tick=tick, size=1000)
    assert snapshot(View(run.path))["boundary_bytes_per_token"] == 2000 / 200


GATES: list[tuple[tuple[str, ...], str]] = [
    (("ada", "bela", "cleo"), ""),
    (("ada", "cleo"), "one more keyholder unreachable and training stops"),
    (("cleo",), "training stands still until 1 more of ada, bela can be reached"),
    ((), "training stands still until 2 more of ada, bela, cleo can be reached"),
]


@pytest.mark.parametrize(("ready", "alarm"), GATES)
def test_the_alarm_is_raised_when_no_keyholder_can_be_spared(
    journal: Journal, tmp_path: Path, ready: tuple[str, ...], alarm: str
) -> None:
    run = journal.save(tmp_path / "run")
    missing = [name for name in ("ada", "bela", "cleo") if name not in ready]
    announce(run.folder("coordinator"), "Present", ready=["ada"], missing=["bela", "cleo"], needed=2, silent=[])
    announce(run.folder("coordinator"), "Present", ready=list(ready), missing=missing, needed=2, silent=[])
    run.url.write_text("interlock://...")
    view = View(run.path)
    assert view.alarm == alarm
    assert told(view).get("ALARM", [""]) == [alarm]
    shown = ", ".join(ready) or "none"
    assert told(view)["gates"] == [f"{shown} ready; missing: {', '.join(missing) or 'none'}; 2 needed"]
    run.url.unlink()
    assert View(run.path).alarm == ""  # nobody runs it
    run.url.write_text("interlock://...")
    announce(run.folder("coordinator"), "Began", role="coordinator", process=2)
    assert View(run.path).alarm == ""  # it does not know yet
    assert told(View(run.path))["gates"] == ["ada, bela, cleo"]


def test_the_state_is_what_the_coordinator_last_said_it_waits_for(journal: Journal, tmp_path: Path) -> None:
    run = journal.save(tmp_path / "run")
    assert View(run.path).state == "stopped"
    run.url.write_text("interlock://...")
    assert View(run.path).state == "between ticks"
    announce(run.folder("coordinator"), "Waiting", what="2 of 6 nodes")
    assert View(run.path).state == "waiting: 2 of 6 nodes"
    announce(run.folder("coordinator"), "Wrote", number=99, row="Planned")
    assert View(run.path).state == "between ticks"
    journal.open(journal.plan("train"))
    run = journal.save(tmp_path / "open")
    run.url.write_text("interlock://...")
    assert View(run.path).state == "in a tick"


def test_who_obeys_an_order_stands_still_by_it(journal: Journal, tmp_path: Path) -> None:
    run = journal.save(tmp_path / "run")
    run.url.write_text("interlock://...")
    announce(run.folder("coordinator"), "Obeyed", order="ab", seq=3, action="halt", reason="we must talk")
    view = View(run.path)
    assert view.state == "stands still by halt (order 3): we must talk"
    announce(run.folder("coordinator"), "Resumed", order="cd", seq=4)
    view.look()
    assert view.state == "between ticks"
    announce(run.folder("coordinator"), "Obeyed", order="ab", seq=5, action="pause", reason="lunch")
    announce(run.folder("coordinator"), "Began", role="coordinator", process=7)  # and has heard that it is over
    view.look()
    assert view.state == "between ticks"


def test_coverage_counts_members_and_everyone_who_ever_was_one(journal: Journal, tmp_path: Path) -> None:
    view = View(journal.save(tmp_path / "run").path)
    found: Any = snapshot(view)["coverage"]
    assert found["now"]["holders"] == [2, 2, 2]
    assert found["ever"]["holders"] == [3, 3, 2]
    assert len(found["now"]["cover"]["operators"]) == len(found["ever"]["cover"]["operators"]) == 3
    half = found["now"]["chances"][-1]
    assert (half["fraction"], half["bad"]) == (0.5, 3)
    assert half["formula"] == pytest.approx(0.75**3)
    assert half["exact"] == pytest.approx(8 / 20)  # one of two in each of three stages, of C(6, 3) draws
    assert half["all_but_one"] == 1.0
    said = "that 3 of the 6 operators, drawn at random, have every stage 40%, all but one 100%"
    assert told(view)["chance"][2] == f"{said}; the formula for 50% of them: 42.2%"
    assert any("of the 8 operators that ever held a stage" in line for line in told(view)["chance"])


def test_one_operator_with_replicas_of_several_stages_covers_them(tmp_path: Path) -> None:
    journal = Journal(manifest())
    journal.join("gate", "ada", "bela", "cleo")
    journal.join("relay", *journal.relays)
    journal.join("node", "node0", "node3", label="mira")
    journal.join("node", "node1", "node2", "node4", "node5")
    journal.change("start", journal.places())
    view = View(journal.save(tmp_path / "run").path)
    assert told(view)["cover"] == ["2 operators together hold every stage: mira, node4"]
    assert "ever" not in told(view)


def test_before_anybody_holds_a_stage_there_is_nothing_to_cover(tmp_path: Path) -> None:
    journal = Journal(manifest())
    journal.everyone()
    view = View(journal.save(tmp_path / "run").path)
    assert snapshot(view)["coverage"] is None
    assert snapshot(view)["members"] == []
    assert told(view)["nodes"] == ["node0, node1, node2, node3, node4, node5"]


def test_a_view_follows_what_is_written_after_it_began(journal: Journal, tmp_path: Path) -> None:
    run = journal.save(tmp_path / "run")
    view = View(run.path)
    before = len(journal.rows)
    journal.train()
    store = SQLiteStore(run.journal)
    for row in journal.rows[before:]:
        store.put({f"row {row.number:08d}": encode(row)})
    store.close()
    announce(run.folder("coordinator"), "Present", ready=["ada"], missing=["bela", "cleo"], needed=2, silent=[])
    view.look()
    assert view.progress.round == 3
    assert view.tally.missing == ("bela", "cleo")
    assert snapshot(view) == snapshot(View(run.path))


def process(path: Path, role: str) -> Path:
    path.mkdir()
    save_manifest(path, manifest())
    announce(path, "Began", role=role, process=1)
    return path


def test_a_node_sees_its_own_work(tmp_path: Path) -> None:
    path = process(tmp_path / "mira", "node")
    announce(path, "NodeOpened", tick=7, kind="train", plan="ab", stage=2)
    announce(path, "FrameSent", tick=7, size=1200)
    announce(path, "FrameRead", tick=7)
    announce(path, "NodeReported", tick=7, state="cd")
    announce(path, "Spent", tick=7, cpu_s=3.25, masking_s=0.5)
    announce(path, "Began", role="node", process=2)
    announce(path, "Spent", tick=8, cpu_s=1.0, masking_s=0.25)
    announce(path, "Refusal", number=304, what="late", todo="", peer=None, times=3)
    announce(path, "GaveUp", tick=8, number=402, what="too large", suspect="")
    view = View(path)
    own, said = snapshot(view)["process"], told(view)
    assert (own["role"], own["starts"], own["stage"], own["states_reported"]) == ("node", 2, 2, 1)
    assert (own["cpu_s"], own["masking_s"]) == (4.25, 0.75)
    assert said["work"] == ["1 states reported in 1 ticks"]
    assert said["frames"] == ["1 sent (1,200 bytes), 1 read"]
    assert said["refused"] == ["E304 3 times"]
    assert said["given up"] == ["E402 1 times"]
    assert said["reason"] == ["tick 8: too large"]
    assert view.state == "tick 7: train"
    assert "journal" not in said


def test_a_gates_folder_shows_the_run_as_far_as_its_rows_go_without_a_gap(journal: Journal, tmp_path: Path) -> None:
    path = process(tmp_path / "gate-ada", "gate")
    announce(path, "GateReleased", tick=1, plan="ab")
    store = SQLiteStore(path / "store.sqlite")
    hole, rows = 12, journal.rows
    for row in rows[:hole] + rows[hole + 1 :]:
        store.put({f"row {row.number:08d}": encode(row)})
    view = View(path)
    assert view.progress.rows == hole
    assert told(view)["released"] == ["1 plans"]
    store.put({f"row {hole:08d}": encode(rows[hole])})
    store.close()
    view.look()
    assert view.progress.rows == len(rows)
    assert told(view)["stage 1"] == ["node2, fresh"]
    assert snapshot(view)["coverage"] is not None


def test_the_coordinators_own_folder_is_its_runs(journal: Journal, tmp_path: Path) -> None:
    run = journal.save(tmp_path / "run")
    assert snapshot(View(run.folder("coordinator"))) == snapshot(View(run.path))


def test_a_folder_of_nothing_is_a_numbered_error(tmp_path: Path) -> None:
    with pytest.raises(Misused, match="E705"):
        View(tmp_path)
    save_manifest(tmp_path, manifest())
    with pytest.raises(Misused, match="E705 there is no journal"):
        View(tmp_path)


def test_an_event_that_lacks_what_its_kind_has_is_a_numbered_error(tmp_path: Path) -> None:
    path = process(tmp_path / "mira", "node")
    announce(path, "FrameSent", tick=7)
    with pytest.raises(Failed, match="E722 an event is not what its kind should be: KeyError: 'size'"):
        View(path)


def test_lines_say_once_what_repeats_and_hide_what_a_terminal_obeys(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines(live=True) as shown:  # no terminal here: the next ones follow after an empty line
        shown([("one", "a"), ("one", "b\x1b[2J"), ("two", "c")])
        shown([("one", "d")])
    assert capsys.readouterr().out == "one        a\n           b\\x1b[2J\ntwo        c\n\none        d\n"
