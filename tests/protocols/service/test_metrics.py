"""Metrics count what a process announces, and are read on its own machine only."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.protocols.service.journals import Journal
from tests.runs import manifest

from interlock.protocols.attendance import Present
from interlock.protocols.canonical import encode
from interlock.protocols.coordinator import GateDeclined, Wrote
from interlock.protocols.errors import Failed, Misused
from interlock.protocols.gate import GateReleased
from interlock.protocols.journal import DIED
from interlock.protocols.net.runner import Refusal
from interlock.protocols.node import GaveUp, NodeOpened
from interlock.protocols.passing import NodeReported, Spent
from interlock.protocols.relay import Carried, RelayOpened
from interlock.protocols.seat import FrameSent
from interlock.protocols.service.events import read_events
from interlock.protocols.service.metrics import Metrics
from interlock.protocols.service.store import SQLiteStore

MADE = manifest()


def get(port: int, host: str = "") -> tuple[int, str]:
    """Read the metrics as Prometheus does, by this name of the machine."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics", headers={"Host": host} if host else {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def samples(port: int) -> dict[str, float]:
    """Every figure: `name`, or `name{label="value"}`."""
    status, text = get(port)
    assert status == 200
    return {
        sample.name + "".join(f'{{{name}="{value}"}}' for name, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def shown(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Metrics]:
    made = Metrics(0, role=request.param, manifest=MADE, folder=tmp_path, waiting_bytes=lambda: 77)
    yield made
    made.close()


@pytest.mark.parametrize("shown", ["node"], indirect=True)
def test_a_node_shows_what_it_sent_and_spent_and_refused(shown: Metrics, tmp_path: Path) -> None:
    before = samples(shown.port)
    assert before["interlock_stage"] == -1
    shown(NodeOpened(tick=3, kind="train", plan="ab", stage=2))
    for size in (100, 23):
        shown(FrameSent(tick=3, microbatch=0, boundary=1, direction="forward", header="cd", size=size))
    shown(NodeReported(tick=3, state="ef"))
    shown(Spent(tick=3, cpu_s=2.5, masking_s=0.25))
    shown(Spent(tick=4, cpu_s=3.5, masking_s=0.5))
    shown(Refusal(number=304, what="late", todo="", peer=None))
    shown(Refusal(number=304, what="late", todo="", peer=b"\x01", times=4))
    shown(GaveUp(tick=3, number=402, what="too large"))
    now = samples(shown.port)
    assert now['interlock_process_info{name="test"}{role="node"}' + f'{{run="{MADE.run.hex()[:16]}"}}'] == 1
    assert now["interlock_ticks_total"] == 1
    assert now["interlock_stage"] == 2
    assert now["interlock_boundary_bytes_total"] == 123
    assert now["interlock_frames_total"] == 2
    assert now["interlock_states_reported_total"] == 1
    assert now["interlock_compute_cpu_seconds_total"] == 3.5
    assert now["interlock_masking_cpu_seconds_total"] == 0.5
    assert now['interlock_refused_total{number="E304"}'] == 5
    assert now['interlock_given_up_total{number="E402"}'] == 1
    assert now["interlock_queue_bytes"] == 77
    assert now["interlock_last_event_timestamp_seconds"] > 1e9
    assert now["process_cpu_seconds_total"] > 0
    assert "interlock_rounds_total" not in now
    assert [event["event"] for event in read_events(tmp_path)][:2] == ["NodeOpened", "FrameSent"]  # written as well


@pytest.mark.parametrize("shown", ["relay"], indirect=True)
def test_a_relay_shows_what_it_carried(shown: Metrics) -> None:
    shown(RelayOpened(tick=3, plan="ab"))
    shown(Carried(tick=3, microbatch=0, boundary=1, direction="forward", frame="cd", size=100))
    now = samples(shown.port)
    assert (now["interlock_boundary_bytes_total"], now["interlock_ticks_total"]) == (100, 1)


@pytest.mark.parametrize("shown", ["gate"], indirect=True)
def test_a_gate_counts_a_release_once_however_often_it_says_so(shown: Metrics) -> None:
    for tick in (1, 1, 2):
        shown(GateReleased(tick=tick, plan="ab"))
    now = samples(shown.port)
    assert (now["interlock_released_total"], now["interlock_ticks_total"]) == (2, 2)


def test_a_coordinator_shows_what_its_journal_says_at_each_row(tmp_path: Path) -> None:
    journal = Journal(MADE)
    journal.start()
    journal.evaluate(5.0)
    journal.train()
    journal.join("node", "fresh")
    journal.train(void=DIED)
    journal.change("members", [["node0", "node1"], ["node2", "fresh"], ["node4", "node5"]])
    journal.train()
    store = SQLiteStore(tmp_path / "store.sqlite")
    half = len(journal.rows) // 2
    for row in journal.rows[:half]:
        store.put({f"row {row.number:08d}": encode(row)})
    shown = Metrics(0, role="coordinator", manifest=MADE, folder=tmp_path, waiting_bytes=lambda: 0)
    assert samples(shown.port)["interlock_journal_rows"] == half  # those of an earlier life count
    for row in journal.rows[half:]:
        store.put({f"row {row.number:08d}": encode(row)})
        shown(Wrote(number=row.number, row=type(row.body).__name__))
        assert samples(shown.port)["interlock_journal_rows"] == row.number + 1
    shown(Present(ready=("ada", "cleo"), missing=("bela",), needed=2, silent=("node3", "relay0")))
    shown(GateDeclined(tick=3, gate="ab", number=312, reason="no"))
    now = samples(shown.port)
    assert (now["interlock_rounds_total"], now["interlock_rounds_planned"], now["interlock_tokens_total"]) == (
        2,
        4,
        200,
    )
    assert now["interlock_loss_nats"] == pytest.approx(2 + 3 * 2.718281828 ** (-1 / 8))
    assert now["interlock_validation_loss_nats"] == 5.0
    assert (now["interlock_gates_ready"], now["interlock_gates_needed"]) == (2, 2)
    assert now["interlock_silent"] == 2
    assert now['interlock_declined_total{number="E312"}'] == 1
    assert now[f'interlock_voids_total{{number="E{DIED}"}}'] == 1
    counted = ("deaths", "joins", "leaves", "relay_failovers")
    assert [now[f"interlock_{name}_total"] for name in counted] == [1, 1, 0, 0]
    assert [now[f'interlock_members{{stage="{stage}"}}'] for stage in range(3)] == [2, 2, 2]
    assert now["interlock_operators_to_cover"] == 3
    shown.close()
    store.close()


@pytest.mark.parametrize("shown", ["gate"], indirect=True)
def test_only_this_machine_is_answered_by_its_own_name(shown: Metrics) -> None:
    assert get(shown.port, "localhost:1")[0] == 200
    status, text = get(shown.port, "evil.example")
    assert status == 403
    assert "interlock_" not in text
    assert shown._server._server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize("shown", ["gate"], indirect=True)
def test_a_port_is_served_once_and_free_again_afterwards(shown: Metrics, tmp_path: Path) -> None:
    with pytest.raises(
        Misused, match=f"E745 metrics cannot be served at 127.0.0.1:{shown.port}: Address already in use"
    ):
        Metrics(shown.port, role="gate", manifest=MADE, folder=tmp_path, waiting_bytes=lambda: 0)
    with pytest.raises(Misused, match="E745"):
        Metrics(70_000, role="gate", manifest=MADE, folder=tmp_path, waiting_bytes=lambda: 0)
    other = Metrics(0, role="gate", manifest=MADE, folder=tmp_path, waiting_bytes=lambda: 0)
    other.close()
    again = Metrics(other.port, role="gate", manifest=MADE, folder=tmp_path, waiting_bytes=lambda: 0)
    again.close()


def test_what_cannot_be_counted_ends_the_count_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SQLiteStore(tmp_path / "store.sqlite")
    shown = Metrics(0, role="coordinator", manifest=MADE, folder=tmp_path, waiting_bytes=lambda: 0)

    def broken() -> None:
        raise Failed(722, "the store cannot be used")

    shown(Wrote(number=0, row="Opened"))
    assert shown._figures is not None
    monkeypatch.setattr(shown._figures, "_read", broken)
    shown(Wrote(number=1, row="Opened"))
    shown(Wrote(number=2, row="Opened"))
    assert samples(shown.port)["interlock_ticks_total"] == 2
    assert len(list(read_events(tmp_path))) == 3
    shown.close()
    store.close()
