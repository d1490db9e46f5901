"""The command line: help for everything, numbered errors without tracebacks, JSON where it prints."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.protocols.canonical import decode
from interlock.protocols.cli import main
from interlock.protocols.cli.app import visible
from interlock.protocols.cli.display import Table
from interlock.protocols.members import Invitation
from interlock.protocols.service.local import Local
from interlock.protocols.service.rundir import RunDir
from interlock.protocols.service.url import JoinURL
from interlock.vault import Identity

COMMANDS = [
    "", "new", "up", "status", "plain", "demo", "keyholder", "keyholder init", "keyholder invite", "serve",
    "serve coordinator", "serve gate", "serve relay", "serve node",
]  # fmt: skip
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Run one command in this process: exit status, output, error output."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # the command sets them; this puts back what was there
    monkeypatch.setenv("COLUMNS", "200")
    before = signal.getsignal(signal.SIGINT)

    def called(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out, said.err

    yield called
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    for number in range(8):
        (folder / f"{number}.txt").write_text("".join(f"text {number}, line {n}\n" for n in range(200)))
    return folder


@pytest.fixture
def run(call: Call, texts: Path, tmp_path: Path) -> RunDir:
    """A run whose keys are all here."""
    status, _, _ = call("new", tmp_path / "run", "--local", "--data", texts, "--validation-bytes", 5000, "--rows", 1)
    assert status == 0
    return RunDir(tmp_path / "run")


def refused(result: tuple[int, str, str], number: int) -> str:
    """Check for one numbered error and no traceback; give the error output."""
    status, out, error = result
    assert status == 1
    assert out == ""
    last = [line for line in error.splitlines() if not line.startswith("warning:")]
    assert last[0].startswith(f"error: E{number} "), error
    assert all(line.startswith(("error: ", "hint: ")) for line in last)
    return error


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(call: Call, command: str) -> None:
    status, out, _ = call(*command.split(), "--help")
    assert status == 0
    assert f"Usage: interlock {command}".strip() in out.replace("  ", " ")


def test_wrong_usage_is_status_2(call: Call) -> None:
    assert call("new")[0] == 2
    assert call("nothing")[0] == 2


def test_new_founds_a_run_and_says_what_its_thresholds_mean(call: Call, run: RunDir, texts: Path) -> None:
    manifest = run.manifest()
    assert len(manifest.committee.keyholders) == 3
    assert json.loads((run.path / "manifest.json").read_text())["run"] == manifest.run.hex()
    assert run.corpus(manifest)[1].train_bytes == manifest.data.train_bytes
    for path in (run.path / "keys").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    status, out, error = call("new", run.path.with_name("b"), "--local", "--data", texts, "--validation-bytes", 5000)
    assert status == 0
    assert "any 2 keyholders stop the run by doing nothing" in out
    assert "this machine holds all keys" in error


def test_new_takes_keyholders_from_elsewhere_and_makes_only_the_coordinators_key(
    call: Call, texts: Path, tmp_path: Path
) -> None:
    names = {}
    for name in ("ada", "bela", "cleo"):
        status, out, _ = call("keyholder", "init", tmp_path / f"{name}.key")
        assert status == 0
        names[name] = out.strip()
    options = [x for name, key in names.items() for x in ("--keyholder", f"{name}={key}")]
    small = ["--data", texts, "--validation-bytes", 5000, "--rows", 1, "--json"]
    status, out, error = call("new", tmp_path / "run", *options, *small)
    assert (status, error) == (0, "")
    keyholders = json.loads(out)["manifest"]["committee"]["keyholders"]
    assert {k["name"]: k["key"] for k in keyholders} == names
    assert [path.name for path in (tmp_path / "run" / "keys").iterdir()] == ["coordinator.key"]
    refused(call("up", tmp_path / "run"), 711)


def test_an_invitation_is_for_one_run_role_and_label(call: Call, run: RunDir, tmp_path: Path) -> None:
    arguments = ["--key", run.key("keyholder-ada"), "--role", "node", "--label", "Zoë", "-o", tmp_path / "zoe"]
    status, out, _ = call("keyholder", "invite", run.path, *arguments, "--json")
    assert status == 0
    assert json.loads(out)["label"] == "Zoë"
    invitation: Invitation = decode(bytes.fromhex((tmp_path / "zoe").read_text().strip()), Invitation)
    assert (invitation.run, invitation.role, invitation.label) == (run.manifest().run, "node", "Zoë")
    assert call("keyholder", "invite", "--run", run.manifest().run.hex(), *arguments)[0] == 0


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (610, []),
        (610, ["--local", "--release", "1"]),
        (610, ["--local", "--resume", "1"]),
        (611, ["--local", "--width", "30"]),
        (611, ["--local", "--stages", "1"]),
        (611, ["--local", "--rate", "0"]),
        (611, ["--local", "--mlp", "gelu"]),
        (611, ["--local", "--frame-width", "8"]),
        (612, ["--local", "--microbatches", "1", "--rows", "1"]),
        (602, ["--local", "--context", "4000"]),
        (614, ["--keyholder", "ada"]),
        (614, ["--keyholder", "../ada=" + "0" * 64]),
        (614, ["--local", "--keyholder", "ada=" + "0" * 64]),
        (607, ["--local", "--data", "/nowhere/at/all"]),
    ],
)
def test_an_impossible_run_is_a_numbered_error_and_leaves_nothing(
    call: Call, texts: Path, tmp_path: Path, number: int, options: list[str]
) -> None:
    small = [] if "--data" in options else ["--data", texts]
    refused(call("new", tmp_path / "run", *small, "--validation-bytes", 5000, *options), number)
    assert not (tmp_path / "run").exists()


def test_nothing_is_overwritten(call: Call, run: RunDir) -> None:
    refused(call("new", run.path, "--local"), 706)
    refused(call("keyholder", "init", run.key("coordinator")), 101)
    refused(call("demo", "--dir", run.path), 706)


def test_a_directory_without_a_run_is_a_numbered_error(call: Call, run: RunDir, tmp_path: Path) -> None:
    for command in ("up", "status", "plain"):
        refused(call(command, tmp_path / "nothing"), 705)
    refused(call("demo", "--verify", tmp_path / "nothing"), 705)
    refused(call("status", run.path), 705)  # it has not begun


def test_bad_input_to_a_process_is_a_numbered_error(call: Call, run: RunDir, tmp_path: Path) -> None:
    url = JoinURL(host="127.0.0.1", port=9, run=bytes(32), key=bytes(32), curve=bytes(32))
    node = ["serve", "node", tmp_path / "node", "--operator", "zoe"]
    key = ["--key", run.key("node-0")]
    assert "interlock keyholder init" in refused(call(*node, "--key", tmp_path / "none", "--url", url), 101)
    refused(call(*node, *key), 613)
    refused(call(*node, *key, "--url", str(url)[:-1]), 613)
    refused(call(*node, *key, "--url-file", tmp_path / "none"), 613)
    refused(call(*node, *key, "--url", url, "--threads", 0), 720)
    refused(call(*node, *key, "--url", url, "--memory", -1), 720)
    refused(call(*node, *key, "--url", url, "--invitation", tmp_path / "none"), 615)
    (tmp_path / "bad").write_text("00ff")
    refused(call(*node, *key, "--url", url, "--invitation", tmp_path / "bad"), 615)
    invite = ["keyholder", "invite", run.path, "--key", run.key("keyholder-ada"), "--label", "x", "-o", tmp_path / "i"]
    assert call(*invite, "--role", "relay")[0] == 0
    refused(call(*node, *key, "--url", url, "--invitation", tmp_path / "i"), 204)
    here = JoinURL(host="127.0.0.1", port=9, run=run.manifest().run, key=bytes(32), curve=bytes(32))
    refused(call(*node, *key, "--url", here, "--invitation", tmp_path / "i"), 209)
    refused(call(*node, *key, "--url", here, "--device", "abacus"), 723)


def test_bad_input_to_a_keyholder_is_a_numbered_error(call: Call, run: RunDir, tmp_path: Path) -> None:
    mine = ["keyholder", "invite", "--label", "x", "-o", tmp_path / "i", "--key", run.key("keyholder-ada")]
    refused(call(*mine, run.path, "--role", "gate"), 615)
    refused(call(*mine, "--role", "node"), 615)
    refused(call(*mine, "--role", "node", "--run", "xyz"), 615)
    refused(call(*mine[:-1], run.key("node-0"), run.path, "--role", "node"), 615)


def test_a_coordinator_with_another_key_does_not_start(call: Call, run: RunDir) -> None:
    run.key("coordinator").unlink()
    Identity.generate().save(run.key("coordinator"))
    refused(call("serve", "coordinator", run.path), 616)


# --- what needs a process of its own ---


def interlock(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "interlock.protocols.cli", *(str(argument) for argument in arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error


def test_a_port_in_use_is_a_numbered_error(run: RunDir) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = refused(outcome(interlock("serve", "coordinator", run.path, "--bind", f"127.0.0.1:{port}")), 701)
    assert f"port {port}" in error
    assert not run.url.exists()


@pytest.fixture
def coordinator(run: RunDir) -> Iterator[Any]:
    """A coordinator that listens."""
    process = interlock("serve", "coordinator", run.path)
    assert process.stdout is not None
    assert process.stdout.readline() == run.url.read_text()
    yield process
    process.terminate()
    assert outcome(process) == (0, "", "")
    assert not run.url.exists()


def test_a_url_with_a_wrong_run_key_or_curve_gets_no_answer_and_a_signal_ends_cleanly(
    run: RunDir, coordinator: subprocess.Popen[str], tmp_path: Path
) -> None:
    url = run.url.read_text()
    asking = []
    for field in ("run", "key", "curve"):
        at = url.index(field + "=") + len(field) + 1
        wrong = url[:at] + ("1" if url[at] == "0" else "0") + url[at + 1 :]
        key = ["--key", run.key("keyholder-ada"), "--operator", "ada", "--url", wrong.strip()]
        asking.append(interlock("serve", "gate", tmp_path / field, *key, "--wait", 1.5))
    for process in asking:
        refused(outcome(process), 704)


def test_importing_the_command_line_imports_no_numpy() -> None:
    code = "import interlock.protocols.cli, sys; print([m for m in ('numpy', 'torch') if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


# --- what is shown ---


@given(st.text())
def test_nothing_that_a_terminal_obeys_or_hides_is_printed(text: str) -> None:
    shown = visible(text)
    assert shown.replace("\n", "").isprintable()
    assert not text.replace("\n", "").isprintable() or shown == text


def test_names_are_shown_as_they_are_and_never_obeyed(
    call: Call, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "[/red] :smile: \x1b[2J"
    small = ["--local", "--data", texts, "--validation-bytes", 5000, "--rows", 1, "--name", name]
    assert "'[/red] :smile: \\x1b[2J'" in call("new", tmp_path / "run", *small)[1]
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes this for a terminal
    with Table(Local(RunDir(tmp_path / "run"))) as table:
        table([])
    shown = capsys.readouterr().out
    assert "'[/red] :smile: \\x1b[2J'" in shown
    assert "waiting: the coordinator" in shown
