"""A whole run in real processes: it trains as one plain process does, leaves nobody behind, and can be checked."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import pty
import re
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from interlock.protocols.canonical import decode, encode
from interlock.protocols.cli.display import Table
from interlock.protocols.errors import Failed, Misused
from interlock.protocols.journal import Row
from interlock.protocols.service import picture, plain
from interlock.protocols.service.children import Child
from interlock.protocols.service.choices import Choices
from interlock.protocols.service.found import found
from interlock.protocols.service.local import STARTS_MAX, Ended, Local, follow
from interlock.protocols.service.report import demo_bars, measure
from interlock.protocols.service.rundir import RunDir
from interlock.protocols.service.script import Script
from interlock.protocols.service.status import View, lines, snapshot
from interlock.protocols.service.verify import contradictions

SMALL = Choices(
    name="small", local=3, stages=2, replicas=1, relays=1, width=16, heads=2, layers_per_stage=1, hidden=32,
    context=32, rounds=4, epoch_rounds=2, microbatches=2, rows=8, decay=1, validation_bytes=5000,
)  # fmt: skip
PROCESSES = 7
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="asks the system about processes as Linux does"),
]


def texts(folder: Path) -> tuple[Path, ...]:
    for number in range(8):
        text = "".join(f"file {number}, line {n}: {n * n % 97} foxes\n" for n in range(100))
        (folder / f"{number}.txt").write_text(text)
    return (folder,)


def small(folder: Path, *, rounds: int = SMALL.rounds, replicas: int = 1, relays: int = 1) -> RunDir:
    data = folder / "texts"
    data.mkdir()
    changed = replace(SMALL, data=texts(data), rounds=rounds, replicas=replicas, relays=relays)
    return found(folder / "run", changed)[0]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run that has taken all its rounds, with its plain copy and its report."""
    run = small(tmp_path_factory.mktemp("local"))
    news: list[object] = []
    assert follow(Local(run, disclose=True), news.extend)
    assert len(news) > PROCESSES
    plain.train(run)
    run.report.write_text(json.dumps(measure(run) | {"wall_seconds": 1.0}))
    return run


@pytest.fixture
def copy(ended: RunDir, tmp_path: Path) -> RunDir:
    """The same, to be spoilt."""
    shutil.copytree(ended.path, tmp_path / "copy")
    return RunDir(tmp_path / "copy")


def test_a_run_trains_as_one_plain_process_does(ended: RunDir) -> None:
    report = measure(ended)
    assert (report["rounds"], report["epochs"], report["voids"]) == (4, 2, 0)
    assert (report["nodes"], report["gates"], report["relays"]) == (2, 3, 1)
    assert report["backends"] == {"node-0": "torch", "node-1": "torch"}  # neither has a partner
    assert report["tokens"] == 4 * 2 * 8 * 32
    assert report["val_loss_last"] < report["val_loss_first"]
    assert report["gap_60"] < 1e-3
    assert abs(report["val_loss_last"] - report["plain_val_loss_last"]) < 1e-3
    assert report["boundary_bytes_per_token"] == 2 * 16 * 3  # there and back, 16 numbers of 24 bits


def test_one_replica_of_a_stage_computes_with_jax_and_the_report_says_which(tmp_path: Path) -> None:
    data = tmp_path / "texts"
    data.mkdir()
    changed = replace(SMALL, data=texts(data), replicas=2, microbatches=4, rows=4)
    run, _, _ = found(tmp_path / "run", changed)
    local = Local(run)
    expected = {"node-0": "torch", "node-1": "torch", "node-2": "torch", "node-3": "jax"}
    assert local.backends == expected
    assert follow(local, lambda news: None)
    assert any("node-3 (jax)" in shown for _, shown in Table(local)._rows())
    report = measure(run)
    assert (report["backends"], report["voids"], report["rounds"]) == (expected, 0, 4)
    run.report.write_text(json.dumps(report | {"wall_seconds": 1.0}))
    assert contradictions(run) == []


def test_status_and_picture_come_from_the_journal(ended: RunDir) -> None:
    view = View(ended.path)
    found = snapshot(view)
    assert (found["state"], found["round"], found["rounds"]) == ("ended", 4, 4)
    assert sorted(found["nodes"]) == ["node-0", "node-1"]
    assert ("round", "4 of 4, epoch 1") in lines(view)
    picture.draw(ended)
    assert ended.picture.read_bytes().startswith(b"\x89PNG")


def test_an_honest_run_has_no_contradiction(ended: RunDir) -> None:
    assert contradictions(ended) == []


def change_report(run: RunDir) -> None:
    report = json.loads(run.report.read_text())
    run.report.write_text(json.dumps(report | {"val_loss_last": report["val_loss_last"] - 0.01}))


def change_events(file: str, pattern: str, replacement: str) -> Callable[[RunDir], None]:
    def change(run: RunDir) -> None:
        path = run.path / file / "events.jsonl"
        text = path.read_text()
        path.write_text(re.sub(pattern, replacement, text, count=1))
        assert path.read_text() != text

    return change


def change_file(name: str, content: bytes) -> Callable[[RunDir], None]:
    def change(run: RunDir) -> None:
        (run.path / name).write_bytes(content)

    return change


def change_row(run: RunDir) -> None:
    """Raise a loss in the journal; the coordinator's signature then does not fit."""
    with sqlite3.connect(run.journal) as database:
        keys = database.execute("SELECT key, value FROM stored WHERE key LIKE 'row %' ORDER BY key").fetchall()
        for key, value in keys:
            row = decode(value, Row)
            if type(row.body).__name__ == "Committed":
                changed = encode(row)[:-64] + bytes(64)
                database.execute("UPDATE stored SET value = ? WHERE key = ?", (changed, key))
                break
    database.close()


def drop_row(run: RunDir) -> None:
    with sqlite3.connect(run.journal) as database:
        database.execute("DELETE FROM stored WHERE key = 'row 00000009'")
    database.close()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_report, "'val_loss_last'"),
        (change_row, "journal: E206"),
        (drop_row, "journal: E310"),
        (change_events("node-0", r'("event":"FrameSent","tick":)\d+', r"\g<1>99"), "node-0: FrameSent of tick 99"),
        (change_events("relay-0", r'("event":"Carried","tick":)\d+', r"\g<1>3"), "relay-0: Carried of tick 3"),
        (change_events("node-1", r'("event":"NodeReported".*"state":")\w{8}', r"\g<1>00000000"), "node-1: its state"),
        (change_events("gate-ada", r'("event":"GateReleased".*"plan":")\w{8}', r"\g<1>00000000"), "gate-ada: "),
        (change_events("node-0", r'("event":"FrameSent",)"tick"', r'\g<1>"tock"'), "a file of the run cannot be read"),
        (change_events("gate-ada", r'"event":"GateReleased"', "event"), "E722"),
        (change_file("plain.json", b"{}"), "a file of the run cannot be read"),
        (change_file("report.json", b"\xff"), "report.json: not JSON"),
        (
            change_events("relay-0", r'("event":"Carried","tick":4.*"size":)\d+', r"\g<1>7"),
            "'boundary_bytes_per_token'",
        ),
    ],
)
def test_each_contradiction_is_named(copy: RunDir, change: Callable[[RunDir], None], named: str) -> None:
    change(copy)
    assert any(named in line for line in contradictions(copy))


def test_a_run_begins_once(ended: RunDir) -> None:
    with pytest.raises(Misused, match="E710"):
        Local(ended)


def test_only_disclosed_seeds_can_be_compared(copy: RunDir) -> None:
    (copy.path / "node-0" / "seed.json").unlink()
    with pytest.raises(Misused, match="E730"):
        plain.train(copy)


def test_a_process_that_ends_early_ends_the_run_by_name(tmp_path: Path) -> None:
    run = small(tmp_path)
    run.key("relay-0").chmod(0o644)  # its process refuses a key that others can read
    with pytest.raises(Failed, match=r"E708 relay-0 ended with status 1") as caught:
        follow(Local(run), lambda news: None)
    assert "E101" in caught.value.what


def processes(run: RunDir) -> list[int]:
    """Descriptors that become readable when a process of the run has ended."""
    logs = [path.read_text() for path in run.path.glob("*/log.txt")]
    last = [found[-1] for log in logs if (found := re.findall(r"started, process (\d+)", log))]
    found = []
    for pid in map(int, last):
        with contextlib.suppress(ProcessLookupError):  # it was killed, and what comes after it has not begun
            found.append(os.pidfd_open(pid))
    return found


def gone(left: list[int]) -> None:
    """Wait until all of them have ended."""
    while left:
        ended, _, _ = select.select(left, [], [], 30)
        assert ended, "a process was left behind"
        left = [fd for fd in left if fd not in ended]
        for fd in ended:
            os.close(fd)


def started(run: RunDir, event: str = "joined", *options: str) -> subprocess.Popen[str]:
    """`interlock up`, once it has told of an event."""
    command = [sys.executable, "-m", "interlock.protocols.cli", "up", str(run.path), "--json", *options]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert up.stdout is not None
    while json.loads(up.stdout.readline())["event"] != event:
        pass
    return up


def kill(run: RunDir, name: str) -> None:
    found = re.findall(r"started, process (\d+)", (run.folder(name) / "log.txt").read_text())
    os.kill(int(found[-1]), signal.SIGKILL)


def test_whoever_is_killed_is_started_again_and_the_run_goes_on(tmp_path: Path) -> None:
    run = small(tmp_path, rounds=60, replicas=2, relays=2)
    up = started(run, "round")
    assert up.stdout is not None
    names, news = ["node-0", "coordinator", "relay-0", "gate-ada"], [dict[str, Any]()]
    for name in names:
        while news[-1].get("event") != "round":
            news.append(json.loads(up.stdout.readline()))
        kill(run, name)
        news.append({})
    left = processes(run)
    out, said = up.communicate(timeout=120)
    assert (up.returncode, said) == (0, "")
    news += [json.loads(line) for line in out.splitlines()]
    how = {"event": "ended", "how": "was killed by signal 9 (Killed)", "again": True}
    fates = {item["process"]: item for item in news if item.get("event") == "ended"}
    assert fates == {name: {**how, "process": name} for name in names}
    assert news[-1]["rounds"] == 60
    gone(left)
    assert contradictions(run) == []


def test_a_run_that_lost_a_stage_ends_with_its_coordinator_and_leaves_a_report_and_nobody(tmp_path: Path) -> None:
    run = small(tmp_path, rounds=2000)
    up = started(run, "round", "--patience", "10")
    left = processes(run)
    assert len(left) == PROCESSES
    kill(run, "node-0")  # a stage has one replica: with it, its state is lost
    _, said = up.communicate(timeout=120)
    assert up.returncode == 1
    lines = said.splitlines()
    assert lines.pop(0) == f"report: {run.report}"
    assert lines[0] == "error: E708 coordinator ended with status 1; the end of its log:"
    assert "E360" in said
    report = json.loads(run.report.read_text())
    assert report["failed"].startswith("E708 coordinator ended with status 1")
    assert measure(run).items() <= report.items()
    assert (report["rounds"] > 0, report["nodes"]) == (True, 2)
    assert lines[-1] == f"hint: Its whole log is {run.folder('coordinator') / 'log.txt'}; everything else was stopped."
    gone(left)
    assert not run.url.exists()
    assert View(run.path).state == "stopped"
    assert all("Traceback" not in path.read_text() for path in run.path.glob("*/log.txt"))


def dead(local: Local, name: str, starts: int) -> None:
    """Let a process have been killed that was started so many times."""
    process = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
    process.wait()
    child = Child(name, local.run.folder(name), [], process, starts=[time.monotonic()] * starts, pids=[process.pid])
    local.children._children[name] = child


def test_nobody_is_started_again_for_ever(tmp_path: Path) -> None:
    local = Local(small(tmp_path))
    dead(local, "relay-0", STARTS_MAX + 1)
    local.check()
    how = "was killed by signal 9 (Killed)"
    assert local.news() == [Ended("relay-0", how, again=False)]
    assert str(local.fates[-1]) == f"relay-0 {how}; the run goes on without it"
    dead(local, "coordinator", STARTS_MAX + 1)
    with pytest.raises(
        Failed, match=r"E751 the coordinator was killed by signal 9 \(Killed\), and was started 6 times"
    ):
        local.check()
    local.stop()


def test_only_who_runs_is_ended_and_only_who_has_ended_is_started(tmp_path: Path) -> None:
    local = Local(small(tmp_path))
    with pytest.raises(Misused, match="E750 there is no process 'node-9'"):
        local.restart("node-9")
    dead(local, "relay-0", 1)
    with pytest.raises(Misused, match="E750 the process 'relay-0' has ended"):
        local.children.send("relay-0", signal.SIGSTOP)
    running = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    local.children["relay-0"].process = running
    with pytest.raises(Misused, match="E750 the process 'relay-0' runs"):
        local.restart("relay-0")
    local.children.send("relay-0", signal.SIGKILL)  # on purpose: then nobody starts it again
    running.communicate()
    local.check()
    assert local.news() == [Ended("relay-0", "was killed by signal 9 (Killed)", again=False)]
    local.stop()


def test_a_run_bears_what_the_demo_does_to_it(tmp_path: Path) -> None:
    run = small(tmp_path, rounds=120, replicas=2, relays=2)
    local, said = Local(run), list[str]()
    script = Script(local, said.append)
    with pytest.raises(Failed, match="E754"):
        script.verify_over()
    assert follow(local, lambda news: None, meddle=script)
    script.verify_over()
    report = measure(run)
    counted = ("rounds", "nodes", "leaves", "halts", "updates_after_halt")
    assert [report[name] for name in counted] == [120, 5, 0, 1, 0]
    assert report["resumed"] is True
    # On a machine that does too much else somebody more may be taken for dead, and come back.
    assert report["joins"] >= 1 and report["relay_failovers"] >= 1
    assert report["deaths"] >= max(2, report["rounds_lost_to_death"])
    assert report["seconds_to_stop"] < 5  # the bar of the demo is on a machine that does nothing else
    assert sum(line.startswith("killing ") for line in said) == 3
    assert sum(line.startswith("keyholder ") for line in said) == 2 + 3
    fates = {fate.process for fate in local.fates if "signal 9" in fate.how}
    assert fates == {line.split()[1] for line in said if line.startswith("killing ")}
    run.report.write_text(json.dumps(report | {"wall_seconds": 1.0}))
    assert contradictions(run) == []
    names = [bar["name"] for bar in demo_bars(report | {"wall_seconds": 1.0})]
    assert {"rounds_lost_to_death", "updates_after_halt", "seconds_to_stop"} <= set(names)


@pytest.mark.parametrize("signals", [1, 2])
def test_ctrl_c_on_a_terminal_gives_the_cursor_back_and_leaves_nobody(tmp_path: Path, signals: int) -> None:
    run = small(tmp_path, rounds=2000)
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "interlock.protocols.cli", "up", str(run.path)]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    up = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, env=environment)
    os.close(slave)
    shown = b""
    while b"nats a byte" not in shown:
        shown += os.read(master, 4096)
    left = processes(run)
    for _ in range(signals):
        os.killpg(up.pid, signal.SIGINT)  # as a terminal does
    with contextlib.suppress(OSError):  # how the end of a terminal reads
        while data := os.read(master, 4096):
            shown += data
    assert up.wait(timeout=60) == 130
    os.close(master)
    gone(left)
    assert len(left) == PROCESSES
    assert b"Traceback" not in shown
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
    if signals == 1:
        assert b"stopped after round" in shown
        assert all("stopped by SIGTERM" in path.read_text() for path in run.path.glob("*/log.txt"))


def interlock(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "interlock.protocols.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_served_run_answers_who_is_let_in_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    run = small(tmp_path)
    up = started(run, "evaluation", "--serve")
    try:
        prompt = "seven wonderful foxes"
        said = interlock("generate", run.path, "--prompt", prompt, "--length", 60, "--seed", 1, "--json")
        assert said.returncode == 0, said.stderr
        answer = json.loads(said.stdout)
        assert (answer["prompt"], answer["bytes"]) == (prompt, 60)

        text = tmp_path / "text.txt"
        text.write_text("file 3, line 5: 25 foxes\n" * 30)
        scored = interlock("evaluate", run.path, "--data", text, "--json")
        assert json.loads(scored.stdout)["bytes"] == len(text.read_text()) - 1, scored.stderr
        whole = interlock("evaluate", run.path)
        assert "bits a byte  over 5" in whole.stdout, whole.stderr

        # From elsewhere: the URL, a key and an invitation of its own.
        key, invitation = tmp_path / "eve.key", tmp_path / "eve.invitation"
        url = run.url.read_text().strip()
        who = ["--key", key, "--operator", "eve"]
        assert interlock("keyholder", "init", key).returncode == 0
        keyholder = ["--key", run.key("keyholder-ada"), "--role", "asker", "--label", "eve", "--output", invitation]
        assert interlock("keyholder", "invite", run.path, *keyholder).returncode == 0
        asked = interlock(
            "generate", url, "--local", "--prompt", prompt, "--length", 5, *who, "--invitation", invitation
        )
        assert asked.returncode == 0, asked.stderr
        assert asked.stdout.startswith(prompt)
        again = interlock("generate", url, "--local", "--prompt", prompt, "--length", 5, *who)  # it is known by now
        assert again.returncode == 0, again.stderr
        # With the key open elsewhere, and with none.
        with key.open() as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert "E709" in interlock("generate", url, "--local", "--prompt", prompt, *who).stderr
        assert "E728" in interlock("generate", url, "--local", "--prompt", prompt).stderr
        assert "E729" in interlock("generate", run.path, "--prompt", "").stderr
        assert "E730" in interlock("evaluate", url, "--local", *who).stderr
    finally:
        left = processes(run)
        up.send_signal(signal.SIGINT)
        _, error = up.communicate(timeout=60)
    assert up.returncode == 0, error
    gone(left)
    assert contradictions(run) == []
    assert measure(run)["sessions"] >= 5
    assert "E727" in interlock("generate", run.path, "--prompt", prompt).stderr
    for path in run.path.rglob("*"):
        assert path.is_dir() or prompt.encode() not in path.read_bytes(), path


def figures(run: RunDir, name: str) -> dict[str, float]:
    """A process's metrics, read as Prometheus reads them."""
    found = re.search(r"metrics at http://127.0.0.1:(\d+)/metrics", (run.folder(name) / "log.txt").read_text())
    assert found is not None
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=30)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {s.name: s.value for family in text_string_to_metric_families(text) for s in family.samples}


def test_every_process_shows_its_figures_while_it_runs(tmp_path: Path) -> None:
    run = small(tmp_path)
    up = started(run, "evaluation", "--serve", "--metrics", "0")
    watching = subprocess.Popen(
        [sys.executable, "-m", "interlock.protocols.cli", "status", str(run.path), "--watch", "--json"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert watching.stdout is not None
    while (seen := json.loads(watching.stdout.readline()))["state"] != "ended":
        pass
    watching.send_signal(signal.SIGINT)
    watching.communicate(timeout=60)
    assert watching.returncode == 130
    assert (seen["gates_ready"], seen["gates_missing"], seen["alarm"]) == (["ada", "bela", "cleo"], [], None)
    assert seen["boundary_bytes_per_token"] == 2 * 16 * 3

    coordinator, node, relay = (figures(run, name) for name in ("coordinator", "node-0", "relay-0"))
    gate = figures(run, "gate-ada")
    assert (coordinator["interlock_rounds_total"], coordinator["interlock_tokens_total"]) == (4, 4 * 2 * 8 * 32)
    assert coordinator["interlock_loss_nats"] == seen["loss"]
    assert coordinator["interlock_gates_ready"] == 3
    assert coordinator["interlock_ticks_total"] == relay["interlock_ticks_total"] == node["interlock_ticks_total"]
    assert relay["interlock_boundary_bytes_total"] == (
        node["interlock_boundary_bytes_total"] + figures(run, "node-1")["interlock_boundary_bytes_total"]
    )
    assert gate["interlock_released_total"] >= 1
    assert all(shown["process_cpu_seconds_total"] > 0 for shown in (coordinator, node, relay, gate))
    up.send_signal(signal.SIGINT)
    _, error = up.communicate(timeout=60)
    assert up.returncode == 0, error

    own = interlock("status", run.folder("node-0"))
    assert "states reported" in own.stdout, own.stderr


def test_what_the_commands_print_as_json_is_json(copy: RunDir) -> None:
    for arguments in (["status"], ["demo", "--verify"], ["plain"]):
        command = [sys.executable, "-m", "interlock.protocols.cli", *arguments, str(copy.path), "--json"]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ran.stderr == ""
        assert isinstance(json.loads(ran.stdout), dict)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_one_that_started_it(tmp_path: Path, number: signal.Signals) -> None:
    run = small(tmp_path)
    up = started(run)
    left = processes(run)
    assert left
    up.send_signal(number)
    _, said = up.communicate(timeout=60)
    gone(left)
    if number == signal.SIGINT:
        assert (up.returncode, said) == (130, f"stopped after round 0 of {SMALL.rounds}\n")
        assert not run.url.exists()
