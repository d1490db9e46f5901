"""The unit and the image run processes as the documentation says, with no more rights than they need."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from interlock.protocols.cli import identity, join, keyholder, runs, serve  # noqa: F401  they register their commands
from interlock.protocols.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
UNIT = ROOT / "docs" / "systemd" / "interlock@.service"
CONTAINERFILE = (ROOT / "Containerfile").read_text()
PAGE = (ROOT / "docs" / "machines.md").read_text()


def settings(text: str) -> dict[str, list[str]]:
    """What a unit sets."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and line[0] not in "#[":
            name, equals, value = line.partition("=")
            assert equals, line
            found.setdefault(name, []).append(value)
    return found


SET = settings(UNIT.read_text())


def test_a_process_of_the_unit_writes_to_its_folder_only_and_leaves_no_memory_behind() -> None:
    wanted = {
        "DynamicUser": "yes",
        "StateDirectory": "interlock/%i",
        "StateDirectoryMode": "0700",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "LimitCORE": "0",
        "MemorySwapMax": "0",
        "MemoryDenyWriteExecute": "yes",
        "UMask": "0077",
    }
    assert {name: SET[name] for name in wanted} == {name: [value] for name, value in wanted.items()}


def test_a_node_has_time_to_leave_and_is_then_ended() -> None:
    assert SET["KillSignal"] == ["SIGINT"]  # leaves, see service/process.py
    assert SET["TimeoutStopSec"] == ["10min"]
    assert "STOPSIGNAL SIGINT" in CONTAINERFILE
    assert "podman stop --time 600" in PAGE


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / "interlock@.service"
    unit.write_text(UNIT.read_text().replace("/opt/interlock/bin/interlock", "/bin/true"))
    ran = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def table(heading: str) -> dict[str, str]:
    """Process and command of the page's table of units."""
    rows = re.findall(r"^\| (\w+) \| `([^`=]+)` \| .* \|$", PAGE.partition(heading)[2], re.MULTILINE)
    assert len(rows) == 4
    return dict(rows)


@pytest.mark.parametrize(("process", "line"), table("## At boot, with systemd").items())
def test_every_line_of_the_units_table_is_a_command_with_options_that_exist(process: str, line: str) -> None:
    words = shlex.split(line)
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
    options = {name for parameter in command.params for name in parameter.opts}
    given = {word for word in words if word.startswith("--")}
    assert given and given <= options, process


def test_an_image_has_the_pinned_torch_and_a_user_of_its_own() -> None:
    stages = re.split(r"^FROM ", CONTAINERFILE, flags=re.MULTILINE)[1:]
    assert len(stages) == 2
    built, final = stages
    assert "-c constraints.txt torch" in built
    assert "pip" not in final
    assert re.search(r"^USER 10001$", final, re.MULTILINE)
    assert final.index("useradd --system --uid 10001") < final.index("\nUSER ") < final.index("\nENTRYPOINT ")
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)


def test_an_image_is_built_from_the_program_and_nothing_that_lies_about() -> None:
    lines = [line for line in (ROOT / ".containerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    assert let_in == {
        "constraints.txt", "pyproject.toml", "LICENSE", "README.md", ".src", "kernels", "vault", "protocols", "specs",
    }  # fmt: skip
    assert all((ROOT / name).exists() for name in let_in)
