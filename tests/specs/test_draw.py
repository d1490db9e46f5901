"""Diagrams are of what happened, fit the paper, and a page holds everything and loads nothing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interlock.protocols.errors import Misused
from interlock.specs import draw
from interlock.specs.examples.voting import Halted, Vote
from interlock.specs.halting import ROSTER, HaltingVote
from interlock.specs.history import History, Step
from interlock.specs.page import page
from interlock.specs.schedule import Crash, Drop, Input, Schedule, Twice
from interlock.specs.scope import Scope
from interlock.specs.search import play
from interlock.specs.watch import Watch, watched

SCOPE = Scope(HaltingVote)


def history(*inputs: str, faults: tuple[Any, ...] = ()) -> History:
    """The halting vote with these voters asking for step 1."""
    made = tuple(Input(at=n * 0.001, who=who, action="ask", arguments={"step": 1}) for n, who in enumerate(inputs))
    return play(HaltingVote, Schedule(spec="halting", version=1, inputs=made, faults=faults)).history


def random_history(seed: int) -> History:
    return play(HaltingVote, SCOPE.sample(seed)).history


# Text.


def test_a_lost_message_a_copy_and_a_crash_are_drawn() -> None:
    faults = (
        Drop(source="n0", destination="n1", ordinal=0),
        Twice(source="n0", destination="n2", ordinal=0),
        Crash(who="n1", input=1, effects=0, back=None),
    )
    lines = draw.text(history("n0", "n1", faults=faults), ROSTER, width=100).splitlines()
    assert lines[:5] == [
        "  n0              n1              n2              n3",
        "   | * ask(step=1) |               |               |",
        "   |+              |               |               |   + vote (1 bytes)",
        "   | # Asked(n0, 1)|               |               |",
        "   |-------x-------|               |               |   Vote(n0, 1)",
    ]
    assert "Vote(n0, 1) (again)" in "\n".join(lines)
    after = lines[next(n for n, line in enumerate(lines) if "dies for good" in line) + 1 :]
    assert after
    assert {line[19:20] for line in after} <= set(" -x>")


@given(seed=st.integers(0, 500), width=st.integers(60, 160))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_step_has_a_line_and_none_is_wider_than_the_paper(seed: int, width: int) -> None:
    steps = random_history(seed)
    rows = draw.rows(steps)
    lines = draw.text(steps, ROSTER, width=width).splitlines()
    heads = 1 + max(0, len(rows) - 1) // draw.HEADER_EVERY
    assert len(lines) == len(rows) + heads
    assert max(map(len, lines)) <= width
    kinds = [steps[row.nth].kind for row in rows]
    assert kinds.count("deliver") == sum(step.kind == "deliver" for step in steps)
    assert [row.nth for row in rows] == sorted({row.nth for row in rows})


@given(seed=st.integers(0, 500), most=st.integers(2, 20))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_long_diagram_keeps_its_ends(seed: int, most: int) -> None:
    steps = random_history(seed)
    whole = draw.rows(steps)
    lines = draw.text(steps, ROSTER, most=most).splitlines()
    if len(whole) <= most:
        assert lines == draw.text(steps, ROSTER).splitlines()
    else:
        assert len(lines) == most + 2
        assert lines[1 + most // 2].strip() == f"({len(whole) - most} lines left out)"


def test_values_are_shown_for_readers() -> None:
    names = {b"k" * 32: "gate a"}
    assert draw.shown(Vote(voter="n0", step=1)) == "Vote(n0, 1)"
    assert draw.shown(b"k" * 32, names) == "gate a"
    assert draw.shown(b"x" * 32, names) == "78787878…"
    assert draw.shown({"a": (1, 2.50, None)}) == "{a: (1, 2.5, None)}"
    assert draw.shown({"b", "a"}) == "{a, b}"


def test_nothing_at_all_is_drawn_too() -> None:
    assert draw.text([], ROSTER) == ""
    assert draw.mermaid([]) == "sequenceDiagram"
    assert "nothing happened" in page([], title="empty")


def test_mermaid_has_no_text_that_it_would_read_as_syntax() -> None:
    steps = [Step(at=0.0, kind="announce", who="n;0", event=Halted(voter="<a>;#{b}", step=1))]
    lines = draw.mermaid(steps).splitlines()
    assert lines[1] == "    participant p0 as n#59;0"
    assert lines[2] == "    Note over p0: #35; Halted(#60;a#62;#59;#35;#123;b#125;, 1)"


# Values beside a diagram.

VOTES = history("n0")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("count(Vote)", "9"),
        ("count(sent(Vote))", "9"),
        ("count(sent(Vote(step=2)))", "0"),
        ("count(Vote(by=n0))", "3"),
        ("count(Vote(receiver=n3))", "3"),
        ("distinct(Vote.voter)", "(n0, n1, n2)"),
        ("first(Halted.voter)", "n2"),
        ("last(Halted.step)", "1"),
        ("max(Halted.step)", "1"),
        ("min(Asked.at)", "0"),
        ("count(Halted(by=n0))", "1"),
        ("act.name", "(ask, ask, ask)"),
        ("count(act(step=1))", "3"),
        ("count(crash)", "0"),
        ("last(Nothing.of)", "-"),
    ],
)
def test_a_watched_value_is_what_it_says(text: str, answer: str) -> None:
    steps = history("n0", "n1", "n2")
    (column,) = watched(steps, [Watch(text)]).values()
    assert len(column) == len(steps)
    assert column[-1] == answer


WORDS = ["count(", "sent(", "Vote", ".", "step", "=", "1", ")", ",", "by", "act"]


@given(st.text(max_size=30) | st.lists(st.sampled_from(WORDS)).map("".join))
def test_any_text_is_an_expression_or_is_refused(text: str) -> None:
    try:
        watch = Watch(text)
    except Misused as error:
        assert error.number == 815  # noqa: PT017  which texts are expressions is what is asked
        return
    for step in VOTES:
        watch.take(step)
        assert isinstance(watch.shown, str)


# The page.


class Reader(HTMLParser):
    """What a page holds."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows, self.addresses = 0, [""]
        self.data: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in ("meta", "input"):
            self.open.append(tag)
        self.rows += tag == "g" and str(given.get("class")).startswith("row")
        self.addresses += [str(value) for name, value in attrs if name in ("src", "href")]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ("line", "rect", "path", "circle")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["script"]:
            self.data.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@given(seed=st.integers(0, 500))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_page_has_every_line_with_its_details_and_loads_nothing(seed: int) -> None:
    steps = random_history(seed)
    columns = watched(steps, [Watch("count(Vote)")])
    text = page(steps, ROSTER, title="halting", columns=columns)
    reader = read(text)
    rows = draw.rows(steps)
    data = json.loads(reader.data[0])
    assert reader.rows == len(rows) == len(data)
    assert [each["title"] for each in data] == [row.text for row in rows]
    assert [each["watch"] for each in data] == [[["count(Vote)", columns["count(Vote)"][row.nth]]] for row in rows]
    assert reader.addresses == [""]
    assert not re.search(r"https?:|url\(|@import", text)


def test_text_of_a_run_cannot_become_part_of_the_page() -> None:
    bad = "</script><script>alert(1)</script><img src=x onerror=alert(1)>&\"'"
    steps = [Step(at=0.0, kind="announce", who=bad, event=Halted(voter=bad, step=1))]
    text = page(steps, title=bad, broken=bad, statement=bad, columns={bad: [bad]})
    reader = read(text)
    assert text.count("<script") == 2
    assert "<img" not in text
    assert dict(json.loads(reader.data[0])[0]["details"])["voter"] == bad
