"""Whether a run stood still under its orders, from what its processes announced."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from interlock.protocols.service.rundir import RunDir
from interlock.protocols.service.standstill import Standstill, standstill

Said = tuple[float, str, dict[str, Any]]


def order(time: float, name: str, action: str, signatures: int = 2, need: int = 2) -> Said:
    return time, name, {"order": action, "action": action, "signatures": signatures, "need": need}


def write(folder: Path, *events: Said) -> None:
    folder.mkdir()
    lines = [json.dumps({"time": time, "event": name, **fields}) for time, name, fields in events]
    (folder / "events.jsonl").write_text("".join(f"{line}\n" for line in lines))


def obeys(time: float) -> Said:
    return time, "Obeyed", {"order": "halt", "seq": 1, "action": "halt", "reason": "x"}


def goes_on(time: float) -> Said:
    return time, "Resumed", {"order": "resume", "seq": 2}


HANDED = (order(9.0, "HandedOver", "halt", 1), order(10.0, "HandedOver", "halt"), order(20.0, "HandedOver", "resume"))


def test_a_run_without_a_halt_says_nothing(tmp_path: Path) -> None:
    write(tmp_path / "node-0", (1.0, "Adopted", {"tick": 1, "made": 0}))
    assert standstill(RunDir(tmp_path)) == Standstill(None, None)


def test_seconds_go_from_the_last_signature_to_what_moved_last_anywhere(tmp_path: Path) -> None:
    write(tmp_path / "local", *HANDED)
    write(tmp_path / "node-0", (9.9, "Adopted", {}), obeys(10.2), goes_on(20.5), (21.0, "Adopted", {}))
    write(tmp_path / "relay-0", (10.25, "Carried", {}), obeys(10.3), goes_on(20.5), (20.6, "Carried", {}))
    write(
        tmp_path / "coordinator", (10.1, "Wrote", {"row": "Opened"}), obeys(10.2), (10.4, "Wrote", {"row": "Ordered"})
    )
    found = standstill(RunDir(tmp_path))
    assert found.updates_after == 0
    assert found.seconds_to_stop == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("process", "event"),
    [
        ("node-0", (12.0, "NodeReported", {})),
        ("node-0", (12.0, "Adopted", {})),
        ("coordinator", (12.0, "Wrote", {"row": "Committed"})),
        ("coordinator", (12.0, "Wrote", {"row": "Changed"})),
    ],
)
def test_an_update_by_a_process_that_had_the_order_is_counted(tmp_path: Path, process: str, event: Said) -> None:
    write(tmp_path / "local", *HANDED)
    write(tmp_path / process, obeys(10.5), event, goes_on(20.5), (21.0, event[1], event[2]))
    found = standstill(RunDir(tmp_path))
    assert (found.updates_after, found.seconds_to_stop) == (1, pytest.approx(2.0))


def test_an_update_by_a_process_that_had_it_not_yet_only_takes_time(tmp_path: Path) -> None:
    write(tmp_path / "local", *HANDED)
    write(tmp_path / "node-0", (10.4, "NodeReported", {}), obeys(10.5))
    assert standstill(RunDir(tmp_path)) == Standstill(0, pytest.approx(0.4))


def test_a_gate_that_starts_again_says_what_it_released_before_and_moves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "local", *HANDED)
    released = {"tick": 4, "plan": "aa"}
    write(tmp_path / "gate-a", (9.5, "GateReleased", released), obeys(10.1), (15.0, "Began", {}),
          (15.0, "GateReleased", released), goes_on(20.2))  # fmt: skip
    assert standstill(RunDir(tmp_path)) == Standstill(0, 0.0)
    write(tmp_path / "gate-b", obeys(10.1), (15.0, "GateReleased", {"tick": 5, "plan": "bb"}))
    assert standstill(RunDir(tmp_path)).seconds_to_stop == pytest.approx(5.0)


def test_where_nobody_noted_the_handing_over_the_first_who_knew_it_whole_tells_when(tmp_path: Path) -> None:
    write(tmp_path / "gate-a", order(7.0, "Learnt", "halt", 1), order(10.0, "Learnt", "halt"), obeys(10.0))
    write(tmp_path / "node-0", (10.5, "FrameSent", {}), order(10.6, "Learnt", "halt"), obeys(10.6))
    assert standstill(RunDir(tmp_path)) == Standstill(0, pytest.approx(0.5))


def test_of_several_halts_the_one_that_took_longest_counts(tmp_path: Path) -> None:
    again = [(time + 20, name, {**fields, "order": fields["order"] + " again"}) for time, name, fields in HANDED]
    write(tmp_path / "local", *HANDED, *again)
    write(tmp_path / "node-0", (10.2, "FrameSent", {}), obeys(10.3), goes_on(20.1), (25.0, "FrameSent", {}),
          (30.7, "FrameSent", {}), obeys(30.8))  # fmt: skip
    assert standstill(RunDir(tmp_path)).seconds_to_stop == pytest.approx(0.7)
