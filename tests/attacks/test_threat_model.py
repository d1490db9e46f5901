"""The table of docs/threat-model.md is that of the attacks: their names, who, on what, and how each ends."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .table import ATTACKS
from .trained import FULL, STAGES

DOCUMENT = Path(__file__).parents[2] / "docs" / "threat-model.md"
MAKEFILE = DOCUMENT.parents[1] / "Makefile"
HEADER = ["attack", "who", "on", "outcome", "recovered", "cost"]


@pytest.fixture(scope="module")
def document() -> str:
    return DOCUMENT.read_text()


def table(document: str) -> list[list[str]]:
    lines = [line for line in document.partition("## The attacks")[2].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_its_rows_are_the_attacks_that_exist(document: str) -> None:
    header, rule, *rows = table(document)
    assert header == HEADER
    assert set("".join(rule)) <= set("-| ")
    expected = [[a.name, a.who, a.target, a.outcome] for a in ATTACKS]
    assert [row[:4] for row in rows] == expected
    assert all(len(row) == len(HEADER) and all(row) for row in rows)


def test_what_fails_recovered_nothing_and_what_wins_did(document: str) -> None:
    _, _, *rows = table(document)
    assert {row[0]: row[3] for row in rows if (row[3] == "fails") != row[4].startswith(("nothing", "worse"))} == {}


def test_the_size_that_it_names_is_the_one_that_is_trained(document: str) -> None:
    tokens = FULL.rounds * FULL.epochs * FULL.rows * FULL.context
    assert f"{STAGES} stages of width {FULL.width}" in document
    assert f"{tokens:,} bytes in {FULL.epochs} epochs" in document


def test_the_attacks_that_the_text_points_to_are_in_the_table(document: str) -> None:
    named = [" ".join(words.split()) for words in re.findall(r"\*([^*]+)\*\s+in\s+the\s+table", document)]
    assert named
    assert [words for words in named if not any(attack.name.startswith(words) for attack in ATTACKS)] == []


def test_the_command_that_it_names_exists(document: str) -> None:
    assert "make attacks" in document
    assert re.search(r"^attacks:", MAKEFILE.read_text(), re.MULTILINE)
