"""Every number that the program can show has a page, and every page a number that the program can show."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

import interlock
from interlock.protocols.errors import Misused
from interlock.protocols.service import explain as explained
from interlock.vault import errors as vault_errors

ROOT = Path(interlock.__file__).parent
REPOSITORY = Path(__file__).parents[3]
PACKAGES = ("kernels", "vault", "protocols", "specs")
MADE_BY = {"Refused", "Overflowed", "Misused", "Failed", "Warned", "NotSent", "_wrong"}


def numbers_in(text: str) -> set[int]:
    """Numbers of errors that a module makes, or shows as they stand in a text."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0].value
            if name in MADE_BY and isinstance(first, int):
                found.add(first)
        elif isinstance(node, ast.keyword) and node.arg == "number" and isinstance(node.value, ast.Constant):
            found |= {int(str(node.value.value))} - {0}  # rows are numbered too, from 0
    shown = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
    found |= {int(hit[1]) for value in shown if isinstance(value, str) and (hit := re.match(r"E([0-9]{3}) ", value))}
    return found


def in_the_program() -> dict[int, str]:
    """Every number, and a place that shows it."""
    found: dict[int, str] = {kind.number: "vault" for kind in vault_errors.VaultError.__subclasses__()}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            found |= dict.fromkeys(numbers_in(path.read_text()), path.name)
    return found


def test_every_number_has_a_page_and_every_page_a_number() -> None:
    shown, pages = in_the_program(), explained.numbers()
    assert {number: place for number, place in shown.items() if number not in pages} == {}
    assert [number for number in pages if number not in shown] == []
    assert len(pages) > 90


@pytest.mark.parametrize("number", explained.numbers())
def test_a_page_has_its_parts_and_a_message(number: int) -> None:
    page = explained.page(number)
    assert page.startswith(f"# E{number}: {explained.title(number)}\n\n")
    title, what, why, todo, example = page.rstrip("\n").split("\n\n")
    assert why.startswith("**Why.** ")
    assert todo.startswith("**What to do.** ")
    assert re.fullmatch(rf"```\n(error|warning): E{number} .+\n```", example)
    assert len(title) < 100
    assert len(what) > 20
    assert all(len(line) <= 120 or line.startswith(("error:", "warning:")) for line in page.splitlines())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("raise Refused(306, 'x')", {306}),
        ("raise errors.Misused(611, 'x', expected=1)", {611}),
        ("fail('E725 a library', 'hint')", {725}),
        ("self._wrong(802, part)", {802}),
        ("Voided(tick=1, number=306, reason='')", {306}),
        ("print(306)", set()),
    ],
)
def test_numbers_are_found(text: str, found: set[int]) -> None:
    assert numbers_in(text) == found


def test_an_unknown_number_names_those_near_it() -> None:
    with pytest.raises(Misused) as caught:
        explained.page(309)
    assert (caught.value.number, caught.value.actual) == (742, 309)
    assert caught.value.expected == "a number such as 307, 308, 310"


def test_pages_travel_in_the_package_and_docs_link_to_them() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    assert "explained/*.md" in project["tool"]["setuptools"]["package-data"]["*"]
    linked = {path.name for path in (REPOSITORY / "docs" / "errors").glob("*.md")}
    assert linked == {f"E{number}.md" for number in explained.numbers()}
