"""The command line: help for everything, numbered errors without tracebacks, JSON where it prints."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.protocols.canonical import decode
from interlock.protocols.cli import main
from interlock.protocols.cli.app import visible
from interlock.protocols.cli.display import Table
from interlock.protocols.members import Invitation
from interlock.protocols.service import machine
from interlock.protocols.service.choices import Choices
from interlock.protocols.service.local import Local
from interlock.protocols.service.rundir import RunDir
from interlock.protocols.service.url import JoinURL, parse_url
from interlock.vault import Identity

COMMANDS = [
    "", "new", "up", "status", "plain", "demo", "chaos", "keyholder", "keyholder init", "keyholder invite",
    "keyholder pause", "keyholder halt", "keyholder resume", "keyholder release", "keyholder sign",
    "keyholder inbox", "keyholder status", "serve", "serve coordinator", "serve gate", "serve relay", "serve node",
    "explain", "doctor", "join", "identity", "identity show", "identity backup", "identity restore",
]  # fmt: skip
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Call]:
    """Run one command in this process: exit status, output, error output."""
    for name in machine.THREADS:
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
    assert [line.partition(" ")[0] for line in last] == ["error:", "hint:"]
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
        (614, ["--keyholder", "ada"]),
        (614, ["--keyholder", "../ada=" + "0" * 64]),
        (614, ["--local", "--keyholder", "ada=" + "0" * 64]),
        (610, ["--keyholder", "ada=" + "0" * 64]),
        (607, ["--local", "--data", "/nowhere/at/all"]),
    ],
)
def test_an_impossible_run_is_a_numbered_error_and_leaves_nothing(
    call: Call, texts: Path, tmp_path: Path, number: int, options: list[str]
) -> None:
    small = [] if "--data" in options else ["--data", texts]
    refused(call("new", tmp_path / "run", *small, "--validation-bytes", 5000, *options), number)
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_place_of_a_folder_is_a_numbered_error(call: Call, texts: Path) -> None:
    error = refused(call("new", texts / "0.txt" / "run", "--local", "--data", texts, "--validation-bytes", 5000), 707)
    assert "run cannot be written: Not a directory" in error


OPTIONS = [
    (611, "--name", "x" * 81, "expected str of length <= 80"),
    (611, "--stages", "1", "expected int >= 2, got 1"),
    (611, "--stages", "65", "expected int <= 64, got 65"),
    (611, "--replicas", "0", "expected int >= 1, got 0"),
    (611, "--replicas", "16", "expected int <= 15, got 16"),
    (611, "--relays", "0", "expected int >= 1, got 0"),
    (611, "--release", "0", "expected int >= 1, got 0"),
    (610, "--release", "1", "expected release >= 2, got 1"),
    (610, "--release", "4", "expected at most 3, as many as there are keyholders, got 4"),
    (610, "--halt", "4", "expected at most 3, as many as there are keyholders, got 4"),
    (610, "--resume", "4", "expected at most 3, as many as there are keyholders, got 4"),
    (610, "--resume", "1", "expected resume >= 2, got 1"),
    (610, "--lying", "1", "expected release >= 3, got 2"),
    (611, "--lying", "-1", "expected int >= 0, got -1"),
    (611, "--width", "0", "expected int >= 1, got 0"),
    (611, "--width", "30", "width 30 does not split into 2 heads"),
    (611, "--width", "4100", "expected <= 4096, got 4100"),
    (611, "--heads", "3", "width 128 does not split into 3 heads"),
    (611, "--layers-per-stage", "65", "expected int <= 64, got 65"),
    (611, "--hidden", "99999999", "expected at most 268435456 bytes, got 204800654336"),
    (611, "--mlp", "gelu", "expected relu2 or swiglu, got gelu"),
    (602, "--context", "9000", "expected >= 9001 bytes, got "),
    (611, "--rounds", "0", "expected int >= 1, got 0"),
    (611, "--epoch-rounds", "0", "expected int >= 1, got 0"),
    (612, "--microbatches", "1", "expected microbatches >= 2 replicas, got 1"),
    (611, "--rows", "4097", "expected int <= 4096, got 4097"),
    (611, "--rate", "0", "expected float > 0.0, got 0.0"),
    (611, "--rate", "nan", "expected float > 0.0, got nan"),
    (611, "--warmup", "-1", "expected int >= 0, got -1"),
    (611, "--decay", "-1", "expected int >= 0, got -1"),
    (611, "--evaluate-every", "-1", "expected int >= 0, got -1"),
    (602, "--validation-bytes", "0", "and as many held out, got "),
    (611, "--frame-width", "8", "expected 16 or 24 or 32, got 8"),
    (611, "--frame-fraction", "24", "expected a fraction of at most 20 bits, got 24"),
    (611, "--gradient-exponent", "99", "expected int <= 60, got 99"),
    (611, "--gradient-exponent", str(2**70), "expected at most 64 bits"),
    (611, "--releasing", "by mood", "expected automatic or manual, got by mood"),
    (611, "--pause-hours", "0", "expected int >= 1, got 0"),
    (611, "--pause-cooldown-days", "400", "expected int <= 366, got 400"),
    (611, "--resume-notice-s", "-1", "expected int >= 0, got -1"),
    (611, "--admission", "closed", "expected invited or open, got closed"),
]


@pytest.mark.parametrize(("number", "option", "value", "said"), OPTIONS)
def test_an_impossible_choice_is_named_with_its_bound_and_leaves_nothing(
    call: Call, texts: Path, tmp_path: Path, number: int, option: str, value: str, said: str
) -> None:
    small = ["--local", "--data", texts, "--validation-bytes", 5000, "--rows", 1]
    error = refused(call("new", tmp_path / "run", *small, option, value), number)
    assert said in error
    assert not (tmp_path / "run").exists()


def test_every_choice_is_tried_above() -> None:
    plain = {field.name for field in fields(Choices)} - {"keyholders", "local", "data"}
    assert {option[2:].replace("-", "_") for _, option, _, _ in OPTIONS} == plain


def test_the_options_of_new_are_the_choices_with_their_defaults_and_help(call: Call) -> None:
    shown = call("new", "--help")[1]
    for field in fields(Choices):
        hint = get_type_hints(Choices, include_extras=True)[field.name]
        if get_origin(hint) is Annotated:
            assert f"--{field.name.replace('_', '-')} " in shown
            assert get_args(hint)[1] in shown
            assert field.default is None or f"[default: {field.default}]" in shown


CORPORA: dict[str, tuple[int, dict[str, bytes], str]] = {
    "empty": (601, {}, "got 0 files"),
    "binary": (601, {"a.bin": b"\x89PNG\0" * 5000}, "got 1 files, empty or of something else"),
    "latin-1": (601, {"a.txt": b"caf\xe9 " * 5000}, "got 1 files, empty or of something else"),
    "nothing-in-it": (601, {"a.txt": b"", "b.jsonl": b'{"text": ""}\n\n'}, "got 2 files"),
    "no-text": (603, {"a.jsonl": b'{"title": "a"}\n'}, "no-text/a.jsonl:1 is no document: expected a JSON object with"),
    "no-json": (603, {"a.jsonl": b'{"text": "a"}\n{"text": '}, "no-json/a.jsonl:2 is no document"),
    "small": (602, {"a.txt": b"hello", "b.txt": b"there"}, "expected at least 4096 bytes to train on"),
    "one-file": (602, {"a.txt": b"hello " * 5000}, "30001 and 0 bytes in 1 files"),
}


@pytest.mark.parametrize("name", CORPORA)
def test_a_corpus_that_is_none_is_a_numbered_error(call: Call, tmp_path: Path, name: str) -> None:
    number, files, said = CORPORA[name]
    (tmp_path / name).mkdir()
    for file, content in files.items():
        (tmp_path / name / file).write_bytes(content)
    error = refused(call("new", tmp_path / "run", "--local", "--data", tmp_path / name), number)
    assert said in error
    assert "hint: " in error
    assert not (tmp_path / "run").exists()


def test_a_pipe_is_not_waited_for(call: Call, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    error = refused(call("new", tmp_path / "run", "--local", "--data", tmp_path / "pipe"), 607)
    assert "it is neither a file nor a folder" in error


def test_a_full_disk_is_a_numbered_error_and_leaves_nothing(call: Call, texts: Path, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "there").mkdir()
    for directory in (tmp_path / "run", tmp_path / "there"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # keys fit, the corpus does not
        try:
            result = call("new", directory, "--local", "--data", texts, "--validation-bytes", 5000, "--rows", 1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "corpus cannot be written: File too large" in refused(result, 707)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert list((tmp_path / "there").iterdir()) == []


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
    node = ["serve", "node", tmp_path / "node", "--operator", "zoe", "--local"]
    key = ["--key", run.key("node-0")]
    assert "interlock keyholder init" in refused(call(*node, "--key", tmp_path / "none", "--url", url), 101)
    refused(call(*node, *key), 613)
    refused(call(*node, *key, "--url", str(url)[:-1]), 613)
    refused(call(*node, *key, "--url-file", tmp_path / "none"), 613)
    refused(call(*node, *key, "--url", url, "--threads", 0), 720)
    refused(call(*node, *key, "--url", url, "--memory", -1), 720)
    for limit in ("0", "-1", "nan", "inf"):
        refused(call(*node, *key, "--url", url, "--upload-limit", limit), 718)
    refused(call(*node, *key, "--url", url, "--invitation", tmp_path / "none"), 615)
    (tmp_path / "bad").write_text("00ff")
    refused(call(*node, *key, "--url", url, "--invitation", tmp_path / "bad"), 615)
    invite = ["keyholder", "invite", run.path, "--key", run.key("keyholder-ada"), "--label", "x", "-o", tmp_path / "i"]
    assert call(*invite, "--role", "relay")[0] == 0
    refused(call(*node, *key, "--url", url, "--invitation", tmp_path / "i"), 204)
    here = JoinURL(host="127.0.0.1", port=9, run=run.manifest().run, key=bytes(32), curve=bytes(32))
    refused(call(*node, *key, "--url", here, "--invitation", tmp_path / "i"), 209)
    for backend in ("torch", "jax"):
        error = refused(call(*node, *key, "--url", here, "--backend", backend, "--device", "abacus"), 723)
        assert f"'abacus' cannot be used by {backend}" in error
    error = refused(call(*node, *key, "--url", here, "--backend", "abacus"), 740)
    assert "expected torch or jax, got abacus" in error


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_a_library_that_is_not_installed_is_a_numbered_error(
    call: Call, run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    monkeypatch.setitem(sys.modules, backend, None)  # Python then finds no such module
    url = JoinURL(host="127.0.0.1", port=9, run=run.manifest().run, key=bytes(32), curve=bytes(32))
    node = ["serve", "node", tmp_path / "node", "--operator", "zoe", "--key", run.key("node-0"), "--url", url]
    node += ["--local"]
    assert f"pip install {backend}" in refused(call(*node, "--backend", backend), 741)


def test_bad_input_to_a_keyholder_is_a_numbered_error(call: Call, run: RunDir, tmp_path: Path) -> None:
    mine = ["keyholder", "invite", "--label", "x", "-o", tmp_path / "i", "--key", run.key("keyholder-ada")]
    refused(call(*mine, run.path, "--role", "gate"), 615)
    refused(call(*mine, "--role", "node"), 615)
    here = JoinURL(host="example.org", port=9, run=run.manifest().run, key=bytes(32), curve=bytes(32))
    elsewhere = JoinURL(host="example.org", port=9, run=bytes(32), key=bytes(32), curve=bytes(32))
    refused(call(*mine, run.path, "--role", "node", "--url", elsewhere), 615)
    refused(call(*mine, "--role", "node", "--url", elsewhere, "--run", run.manifest().run.hex()), 615)
    refused(call(*mine, "--role", "node", "--url", str(here)[:-1]), 613)
    refused(call(*mine, "--role", "node", "--url", here, "--url-file", tmp_path / "url"), 613)
    without = ["keyholder", "invite", "--label", "x", "--key", run.key("keyholder-ada"), "--role", "node"]
    assert "expected a file to write" in refused(call(*without, run.path), 615)
    refused(call(*mine, "--role", "node", "--run", "xyz"), 615)
    refused(call(*mine[:-1], run.key("node-0"), run.path, "--role", "node"), 615)


def test_a_coordinator_with_another_key_does_not_start(call: Call, run: RunDir) -> None:
    run.key("coordinator").unlink()
    Identity.generate().save(run.key("coordinator"))
    refused(call("serve", "coordinator", run.path, "--local"), 616)


def test_an_invitation_with_a_url_is_all_that_a_newcomer_needs(call: Call, run: RunDir, tmp_path: Path) -> None:
    plain = JoinURL(host="example.org", port=9, run=run.manifest().run, key=bytes(32), curve=bytes(32))
    (tmp_path / "url").write_text(f"{plain}\n")
    invite = ["keyholder", "invite", "--key", run.key("keyholder-ada"), "--role", "node", "--label", "Zoë"]
    status, out, error = call(*invite, "--url", plain)
    assert (status, error) == (0, "")
    url = parse_url(out.strip())
    assert url.invitation is not None
    assert (url.invitation.label, url.invitation.role, url.invitation.run) == ("Zoë", "node", plain.run)
    assert replace(url, invitation=None) == plain
    said = json.loads(call(*invite, run.path, "--url-file", tmp_path / "url", "--json")[1])
    assert parse_url(said["url"]).invitation != url.invitation  # each is for one
    assert call(*invite, run.path, "--url-file", tmp_path / "url", "-o", tmp_path / "whole")[0] == 0
    assert (tmp_path / "whole").stat().st_mode & 0o777 == 0o600
    assert parse_url((tmp_path / "whole").read_text().strip()).invitation is not None
    wrong = ["serve", "relay", tmp_path / "relay", "--operator", "zoe", "--key", run.key("relay-0")]
    refused(call(*wrong, "--url-file", tmp_path / "whole"), 209)


def test_a_key_is_backed_up_and_restored(call: Call, run: RunDir, tmp_path: Path) -> None:
    key, copy, again = run.key("node-0"), tmp_path / "copy", tmp_path / "again.key"
    public = Identity.load(key).public.hex()
    assert call("identity", "show", key) == (0, f"{public}\n", "")
    (tmp_path / "words").write_text("correct horse battery staple\nnot this line")
    (tmp_path / "words").chmod(0o600)
    words = ["--passphrase-file", tmp_path / "words"]
    assert call("identity", "backup", key, copy, *words) == (0, f"{public}\n", "")
    assert copy.stat().st_mode & 0o777 == 0o600
    seed = key.read_text().splitlines()[2]
    assert seed not in copy.read_text()
    refused(call("identity", "backup", key, copy, *words), 706)
    assert json.loads(call("identity", "restore", copy, "--test", *words, "--json")[1])["public"] == public
    assert not again.exists()
    assert call("identity", "restore", copy, again, *words) == (0, f"{public}\n", "")
    assert again.read_bytes() == key.read_bytes()
    assert again.stat().st_mode & 0o777 == 0o600
    refused(call("identity", "restore", copy, again, *words), 101)
    refused(call("identity", "restore", copy, *words), 736)
    refused(call("identity", "restore", copy, again, "--test", *words), 736)
    refused(call("identity", "restore", tmp_path / "none", again, *words), 736)
    (tmp_path / "words").write_text("correct horse battery stapler")
    assert "horse" not in refused(call("identity", "restore", copy, tmp_path / "b", *words), 106)
    (tmp_path / "words").chmod(0o644)
    assert "others on this machine may read" in call("identity", "restore", copy, tmp_path / "b", *words)[2]
    (tmp_path / "words").write_text("short")
    refused(call("identity", "backup", key, tmp_path / "b", *words), 735)
    refused(call("identity", "backup", key, tmp_path / "b", "--passphrase-file", tmp_path / "none"), 735)
    refused(call("identity", "show", copy), 101)
    assert not (tmp_path / "b").exists()


# --- what needs a process of its own ---


def interlock(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "interlock.protocols.cli", *(str(argument) for argument in arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def outcome(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=60)
    return process.returncode, out, error


def test_a_url_of_this_machine_is_taken_only_by_those_who_are_on_it(call: Call, run: RunDir, tmp_path: Path) -> None:
    made = run.manifest()
    url = JoinURL(host="127.0.0.1", port=9, run=made.run, key=made.coordinator, curve=bytes(32))
    for file in (tmp_path / "copied", run.url):
        file.write_text(f"{url}\n")
    gate = ["serve", "gate", tmp_path / "gate", "--operator", "ada", "--key", run.key("keyholder-ada"), "--wait", 0.1]
    join = ["join", "--folder", tmp_path / "node", "--wait", 0.1, "--json"]
    for refusing in ([*gate, "--url", url], [*gate, "--url-file", tmp_path / "copied"], [*join, url]):
        assert "127.0.0.1" in refused(call(*refusing), 715)
    refused(call("generate", url, "--prompt", "x", "--key", run.key("asker")), 715)
    for taking in ([*gate, "--url", url, "--local"], [*gate, "--url-file", run.url]):
        refused(outcome(interlock(*taking)), 704)  # it asked
    other = replace(url, run=bytes(32))
    run.url.write_text(f"{other}\n")
    refused(call(*gate, "--url-file", run.url), 715)  # it lies there, but is of another run


def test_a_relay_that_others_cannot_reach_does_not_ask(run: RunDir, tmp_path: Path) -> None:
    url = JoinURL(host="192.0.2.1", port=9, run=run.manifest().run, key=bytes(32), curve=bytes(32))
    relay = ["serve", "relay", tmp_path / "relay", "--operator", "rhea", "--key", run.key("relay-0"), "--url", url]
    relay += ["--wait", 0.1]
    for bind in ([], ["--bind", "0.0.0.0:0", "--advertise", "localhost:7701"]):
        assert "--advertise HOST" in refused(outcome(interlock(*relay, *bind)), 717)
    refused(outcome(interlock(*relay, "--bind", "0.0.0.0:0")), 714)
    refused(outcome(interlock(*relay, "--bind", "0.0.0.0:0", "--advertise", "192.0.2.7")), 704)  # it asked


def test_a_port_in_use_is_a_numbered_error(run: RunDir) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error = refused(
            outcome(interlock("serve", "coordinator", run.path, "--local", "--bind", f"127.0.0.1:{port}")), 701
        )
    assert f"port {port}" in error
    assert not run.url.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_under_a_process_is_a_numbered_error(run: RunDir) -> None:
    run.folder("coordinator").mkdir()
    (run.folder("coordinator") / "events.jsonl").symlink_to("/dev/full")
    _, error = interlock("serve", "coordinator", run.path).communicate(timeout=60)
    assert "Traceback" not in error
    assert "E707" in error
    assert "events.jsonl cannot be written: No space left on device" in error
    assert not run.url.exists()


# Ctrl-C at the n-th call of a Python function since the command began; with 0 it only counts them.
INTERRUPTED = """
import atexit, signal, sys
from interlock.protocols.cli import main
at, calls = sys.argv[1], 0
def count(frame, event, argument):
    global calls
    calls += event == "call"
    if at in (str(calls), frame.f_code.co_name):
        sys.setprofile(None)
        signal.raise_signal(signal.SIGINT)
atexit.register(lambda: print("calls", calls, file=sys.stderr))
sys.setprofile(count)
main(sys.argv[2:])
"""
PARTS = (0.02, 0.3, 0.7, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


@pytest.mark.slow
def test_ctrl_c_at_any_time_leaves_a_whole_run_or_none(texts: Path, tmp_path: Path) -> None:
    def interrupted(at: int | str, name: str) -> tuple[int, str, RunDir]:
        new = [
            "new",
            str(tmp_path / name),
            "--local",
            "--data",
            str(texts),
            "--validation-bytes",
            "5000",
            "--rows",
            "1",
        ]
        command = [sys.executable, "-c", INTERRUPTED, str(at), *new]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
        return ran.returncode, ran.stderr, RunDir(tmp_path / name)

    status, said, _ = interrupted(0, "whole")
    total = int(said.split()[-1])
    assert (status, total > 10_000) == (0, True)
    # Where a class is being made, Python 3.11 wraps whatever is raised.
    for number, at in enumerate(["__set_name__", *(int(part * total) for part in PARTS)]):
        status, said, made = interrupted(at, f"run{number}")
        assert status in (0, 130)
        assert "Traceback" not in said
        assert ("stopped" in said) == (status == 130)
        if made.path.exists():
            assert made.corpus(made.manifest())
            assert all(Identity.load(path) for path in (made.path / "keys").iterdir())
        else:
            assert status == 130


@pytest.fixture
def coordinator(run: RunDir) -> Iterator[Any]:
    """A coordinator that listens."""
    process = interlock("serve", "coordinator", run.path, "--local")
    assert process.stdout is not None
    assert process.stdout.readline() == run.url.read_text()
    yield process
    process.terminate()
    assert outcome(process) == (0, "", "")
    assert not run.url.exists()


def test_too_little_memory_for_the_libraries_is_a_numbered_error(run: RunDir, tmp_path: Path) -> None:
    url = JoinURL(host="127.0.0.1", port=9, run=bytes(32), key=bytes(32), curve=bytes(32))
    node = ["serve", "node", tmp_path / "node", "--operator", "zoe", "--key", run.key("node-0"), "--url", url]
    refused(outcome(interlock(*node, "--local", "--memory", 0.3)), 725)


def test_two_coordinators_of_one_run_do_not_run_at_once(run: RunDir, coordinator: subprocess.Popen[str]) -> None:
    error = refused(outcome(interlock("serve", "coordinator", run.path, "--local")), 709)
    assert f"another process works in {run.folder('coordinator')}" in error
    assert run.url.exists()


def test_a_url_with_a_wrong_run_key_or_curve_gets_no_answer_and_a_signal_ends_cleanly(
    run: RunDir, coordinator: subprocess.Popen[str], tmp_path: Path
) -> None:
    url = run.url.read_text()
    asking = []
    for field in ("run", "key", "curve"):
        at = url.index(field + "=") + len(field) + 1
        wrong = url[:at] + ("1" if url[at] == "0" else "0") + url[at + 1 :]
        key = ["--key", run.key("keyholder-ada"), "--operator", "ada", "--url", wrong.strip(), "--local"]
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
    name = "[/red] :smile: \xad"  # a soft hyphen: allowed, and not to be seen
    small = ["--local", "--data", texts, "--validation-bytes", 5000, "--rows", 1, "--name", name]
    assert "'[/red] :smile: \\xad'" in call("new", tmp_path / "run", *small)[1]
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes this for a terminal
    with Table(Local(RunDir(tmp_path / "run"))) as table:
        table([])
    shown = capsys.readouterr().out
    assert "'[/red] :smile: \\xad'" in shown
    assert "waiting: the coordinator" in shown


# --- explain ---


def test_explain_prints_a_page_and_lists_all(call: Call) -> None:
    status, out, error = call("explain", "E306")
    assert (status, error) == (0, "")
    assert out.startswith("# E306: ")
    assert call("explain", "306")[1] == out
    assert json.loads(call("explain", "306", "--json")[1])["page"] == out
    listed = call("explain")[1].splitlines()
    rows = [json.loads(row) for row in call("explain", "--json")[1].splitlines()]
    assert listed == [f"E{row['number']}  {row['title']}" for row in rows]
    assert "E306  It contradicts what was signed or committed before" in listed


def test_explain_of_an_unknown_number_names_those_near_it(call: Call) -> None:
    assert "expected a number such as 307, 308, 310, got 309" in refused(call("explain", "309"), 742)
    assert call("explain", "none")[0] == 2


# --- doctor ---


def test_doctor_finds_a_key_that_others_may_read_in_a_run(call: Call, run: RunDir) -> None:
    status, out, error = call("doctor", run.path, "--json")
    lines = [json.loads(line) for line in out.splitlines()]
    wrong = [line for line in lines if line["status"] == "error"]
    assert (status, error, wrong) == (0, "", [])
    assert {"versions", "answers", "arithmetic", "speed", "machine", "clock", "text", "files", "ports", "reach"} == {
        line["part"] for line in lines
    }
    run.key("node-0").chmod(0o640)
    status, out, error = call("doctor", run.path)
    assert status == 1
    assert f"error   key: {run.key('node-0')} is open to others" in out
    assert f"Type: chmod 600 {run.key('node-0')}" in out
    assert error.startswith("error: E743 this machine is not fit for a run: 1 error\nhint: ")


def test_doctor_reaches_a_coordinator_by_directory_and_by_url(
    call: Call, run: RunDir, coordinator: subprocess.Popen[str]
) -> None:
    address = run.url.read_text().split("/")[2]
    for target in (run.path, run.url.read_text()):
        status, out, error = call("doctor", target, "--json")
        assert (status, error) == (0, "")
        reach = [line for line in map(json.loads, out.splitlines()) if line["part"] == "reach"]
        assert reach[0]["name"] == "coordinator"
        assert reach[0]["said"].startswith(f"{address}: connected, and it proved its key")
        assert (len(reach) == 2) == (target != run.path)


def test_doctor_of_something_else_than_a_run_is_a_numbered_error(call: Call, tmp_path: Path) -> None:
    refused(call("doctor", tmp_path / "nothing"), 705)
    refused(call("doctor", "interlock://nowhere"), 613)
