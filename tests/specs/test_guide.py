"""Everything that the guide for protocol designers shows is typed, in its order, and says what the guide says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "protocol-designer.md"
INTERLOCK = f'interlock() {{ "{sys.executable}" -m interlock.protocols.cli "$@"; }}'
BLOCK = re.compile(r"(?:^`(\S+)`:\n\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What may differ each time: how long it took, and how much happened in runs that chance decides.
MASKS = [
    (r"\d+ runs?\b", "N runs"),
    (r"\b\d+\.\d s\b", "T s"),
    (r"\d+ %   ", "P %   "),
    (r"^(  steps  ).*", r"\1"),
]


def masked(text: str) -> str:
    """Text without what may differ."""
    for pattern, instead in MASKS:
        text = re.sub(pattern, instead, text, flags=re.MULTILINE)
    return text


def blocks() -> Iterator[tuple[str, str, str]]:
    """Each block of the guide: (file that it is, or nothing; language; text)."""
    yield from BLOCK.findall(GUIDE.read_text())


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a block, and what follows it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, said = part.partition("\n")
        yield command, said


@pytest.mark.slow
def test_the_guide_shows_what_happens(tmp_path: Path) -> None:
    status, typed = 0, 0
    environment = os.environ | {"COLUMNS": "100"}
    for file, language, text in blocks():
        if file:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text(text)
        elif language == "python":
            assert text in (tmp_path / "ballot.py").read_text()
        elif language == "console":
            for command, expected in commands(text):
                script = f"{INTERLOCK}\n(exit {status})\n{command}"
                ran = subprocess.run(
                    ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
                )
                assert masked(ran.stdout) == masked(expected), f"$ {command}\n{ran.stdout}{ran.stderr}"
                status, typed = ran.returncode, typed + 1
    assert typed > 10


def test_masks_hide_only_numbers() -> None:
    line = "ballot   model   1821 runs   3.0 s   seed 1"
    assert masked(line) == "ballot   model   N runs   T s   seed 1"
    assert masked("  found:    regression") == "  found:    regression"
    assert masked("  eventually  granted    held     Who") != masked("  eventually  granted    BROKEN   Who")
