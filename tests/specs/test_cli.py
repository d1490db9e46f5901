"""`interlock spec`: what it prints and with which status it ends, whatever it is given."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from interlock.protocols.cli import app as commands
from interlock.specs.cli import app, worst
from interlock.specs.schedule import Crash, Drop, Input, Schedule

HELD, BROKEN, NOTHING_LEARNED, USAGE = range(4)

Call = Callable[..., tuple[int, str, str]]

# The smallest spec that learns something; the tests replace its parts.
PINGS = '''"""Pings: what is sent arrives."""

from hypothesis import strategies as st
from interlock.protocols.canonical import Message
from interlock.protocols.effects import After, Announce, Event, Send
from interlock.specs import Spec, action, always, eventually, rate, sometimes


class Ping(Message, frozen=True):
    """A number."""

    number: int


class Heard(Event, frozen=True):
    """Somebody heard a ping."""

    number: int


class Peer:
    def __init__(self, name):
        self.name = name

    def ping(self, number):
        return [Send("b" if self.name == "a" else "a", Ping(number=number))]

    def on_message(self, source, message):
        return [Announce(Heard(number=message.number))]


class Pings(Spec):
    """What is sent arrives."""

    def cast(self):
        return {name: Peer(name) for name in "ab"}

    @action(number=st.integers(1, 3))
    def ping(self, peer, number):
        """Somebody pings."""
        return peer.ping(number)

    @always
    def small(self, seen):
        """Only small numbers are heard."""
        return all(event.number <= 3 for event in seen(Heard))
'''
PING_3 = (Input(at=0.0, who="a", action="ping", arguments={"number": 3}),)
PROPERTY = PINGS[PINGS.index("    @always") :]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Call]:
    """Run one command in a folder of its own: status, output, error output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setattr(sys, "path", list(sys.path))
    modules = set(sys.modules)
    before = signal.getsignal(signal.SIGINT)

    def called(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            commands.run([str(argument) for argument in arguments], app, name="interlock spec")
        said = capsys.readouterr()
        forget(modules)
        assert isinstance(ended.value.code, int)
        assert "Traceback" not in said.err
        return ended.value.code, said.out, said.err

    yield called
    signal.signal(signal.SIGINT, before)


def forget(modules: set[str]) -> None:
    """A command begins without the files that an earlier one imported."""
    for name in set(sys.modules) - modules:
        if not name.startswith(("interlock", "hypothesis")) and name in ("pings", "mutants_pings", "ballot"):
            del sys.modules[name]


def write(text: str = PINGS, *, was: str = "", now: str = "") -> Path:
    """A spec file here, with one thing changed."""
    assert was in text
    path = Path("pings.py")
    path.write_text(text.replace(was, now) if was else text)
    return path


def schedule(**changes: Any) -> Path:
    """A schedule file of the spec."""
    inputs = (Input(at=0.0, who="a", action="ping", arguments={"number": 1}),)
    path = Path("saved.json")
    Schedule(**({"spec": "pings", "version": 1, "inputs": inputs} | changes)).save(path)
    return path


# What holds.


def test_a_spec_that_holds_has_a_line_for_each_property(call: Call) -> None:
    status, out, err = call("check", write(), "--runs", 20)
    assert (status, err) == (HELD, "")
    lines = out.splitlines()
    assert lines[0].startswith("pings   model   ")
    assert lines[0].endswith("seed 1")
    assert lines[1] == "  always      small  held     Only small numbers are heard."
    assert lines[2] == "  small       142 schedules: all of up to 3 inputs and 1 fault"
    assert lines[3].startswith("  steps       deliver ")
    assert not Path("regressions").exists()


def test_it_holds_in_code_too_with_the_same_small_scope(call: Call) -> None:
    write()
    _, model, _ = call("check", "pings.py", "--runs", 0)
    status, code, _ = call("check", "pings.py", "--runs", 0, "--in", "code", "--strict")
    assert status == HELD
    assert model.splitlines()[1:] == code.splitlines()[1:]


def test_json_says_the_same(call: Call) -> None:
    status, out, _ = call("check", write(), "--runs", 20, "--json")
    said = json.loads(out)
    assert (status, said["status"]) == (HELD, HELD)
    assert (said["spec"], said["world"], said["seed"], said["complete"]) == ("pings", "model", 1, True)
    assert said["verdicts"][0]["result"] == "held"
    assert said["counterexample"] is None


def test_a_rate_says_how_many(call: Call) -> None:
    rated = (
        PINGS
        + '''
    @rate(at_least=0.5, runs=40)
    def loud(self, seen):
        """Most runs are heard."""
        return bool(seen(Heard))
'''
    )
    status, out, _ = call("check", write(rated), "--runs", 5)
    assert status == HELD
    assert "40 of 40 runs" in out


# What breaks.


def broken(text: str = PINGS) -> Path:
    return write(text, was="event.number <= 3", now="event.number <= 2")


def test_a_counterexample_is_drawn_saved_and_run_again(call: Call) -> None:
    status, out, err = call("check", broken(), "--runs", 20)
    assert (status, err) == (BROKEN, "")
    assert out.splitlines() == [
        "pings   model   small BROKEN: Only small numbers are heard.",
        "",
        "  a                 b",
        "   | * ping(number=3)|",
        "   |---------------->|   Ping(3)",
        "   |                 | # Heard(3)",
        "",
        "  schedule: 1 input, 0 faults, 0 forged",
        "  found:    small scope after 6 runs",
        "  saved:    regressions/pings/small-1.json",
        "  again:    interlock spec check pings.py --replay regressions/pings/small-1.json",
        "  as page:  interlock spec show regressions/pings/small-1.json --html FILE",
        "  in code: same history   on the wire: not tried (add --in wire)",
    ]
    file = Path("regressions/pings/small-1.json")
    assert Schedule.load(file).spec == "pings"
    for world in ("model", "code"):
        status, out, _ = call("check", "pings.py", "--replay", file, "--in", world)
        assert status == BROKEN
        assert f"pings   {world}   small BROKEN" in out
        assert "saved:" not in out
        assert "found:    replay" in out
    status, out, _ = call("check", "--replay", file)  # the spec that it lies with
    assert status == BROKEN


def test_a_saved_schedule_is_run_first_and_not_saved_twice(call: Call) -> None:
    call("check", broken())
    before = Path("regressions/pings/small-1.json").read_bytes()
    status, out, _ = call("check", "pings.py")
    assert status == BROKEN
    assert "found:    regression" in out
    assert [path.name for path in Path("regressions/pings").iterdir()] == ["small-1.json"]
    write()
    status, out, _ = call("check", "--replay", "regressions/pings/small-1.json")
    assert status == HELD
    assert Path("regressions/pings/small-1.json").read_bytes() == before


def test_a_file_that_is_there_is_never_overwritten(call: Call) -> None:
    Path("regressions/pings").mkdir(parents=True)
    other = Path("regressions/pings/small-1.json")
    Schedule(spec="pings", version=1).save(other)
    before = other.read_bytes()
    _, out, _ = call("check", broken())
    assert "saved:    regressions/pings/small-2.json" in out
    assert other.read_bytes() == before


def test_a_counterexample_that_cannot_be_saved_is_shown(call: Call) -> None:
    Path("regressions").write_text("a file, not a folder")
    status, out, err = call("check", broken())
    assert status == BROKEN
    assert "small BROKEN" in out
    assert "saved:" not in out
    assert "cannot be saved" in err


def test_json_of_a_counterexample_has_its_schedule_and_history(call: Call) -> None:
    status, out, _ = call("check", broken(), "--json")
    said = json.loads(out)
    assert (status, said["status"]) == (BROKEN, BROKEN)
    found = said["counterexample"]
    assert found["broken"]["property"] == "small"
    assert found["file"] == "regressions/pings/small-1.json"
    assert found["other_worlds"] == {"code": "same history"}
    assert Schedule.from_json(json.dumps(found["schedule"]).encode()) == Schedule.load(Path(found["file"]))
    assert [step["shown"] for step in found["history"]] == ["ping(number=3)", "Ping(3)", "Ping(3)", "Heard(3)"]


def test_worlds_and_specs_side_by_side_print_in_order(call: Call) -> None:
    write()
    told = ("check", "pings.py", "lock", "--in", "model", "--in", "code", "--runs", 5)
    status, out, _ = call(*told, "--jobs", 3)
    assert status == HELD
    heads = [line.split()[:2] for line in out.splitlines() if not line.startswith(" ")]
    assert heads == [["pings", "model"], ["pings", "code"], ["lock", "model"], ["lock", "code"]]
    _, alone, _ = call(*told)
    assert [line.split()[:4] for line in alone.splitlines()] == [line.split()[:4] for line in out.splitlines()]


@pytest.mark.parametrize(("statuses", "one"), [([], 0), ([0, 0], 0), ([0, 2], 2), ([2, 1, 0], 1), ([1, 3], 3)])
def test_the_worst_status_is_what_counts(statuses: list[int], one: int) -> None:
    assert worst(statuses) == one


# Bad input: each has a message and a status.


def test_a_spec_without_a_property_learns_nothing(call: Call) -> None:
    status, out, err = call("check", write(was=PROPERTY, now=""))
    assert status == NOTHING_LEARNED
    assert out == "pings   model   nothing learned\n"
    assert "error: E801 spec pings has no property" in err
    assert "hint: Mark what must hold with @always" in err


def test_an_action_that_never_ran_is_a_warning_and_none_at_all_learns_nothing(call: Call) -> None:
    never = '''
    @action(by=())
    def shout(self, peer):
        """Nobody may."""
        return []
'''
    write(PINGS + never)
    status, out, _ = call("check", "pings.py", "--runs", 5)
    assert status == HELD
    assert "WARN  pings: action shout never ran" in out
    assert call("check", "pings.py", "--runs", 5, "--strict")[0] == BROKEN
    write(was="    @action(number=st.integers(1, 3))\n", now="    @action(by=(), number=st.integers(1, 3))\n")
    status, out, _ = call("check", "pings.py", "--runs", 5)
    assert status == NOTHING_LEARNED
    assert "pings: nothing learned, no action ran" in out


def test_an_action_that_is_impossible_is_a_warning(call: Call) -> None:
    text = PINGS.replace("import Spec", "import Spec").replace(
        "        return peer.ping(number)",
        "        from interlock.protocols.errors import Misused\n\n        raise Misused(999, 'no')",
    )
    status, out, _ = call("check", write(text), "--runs", 5)
    assert status == NOTHING_LEARNED
    assert "WARN  pings: action ping never ran: impossible all " in out


def test_a_fault_that_never_happened_is_a_warning(call: Call) -> None:
    write(was="    def cast(self)", now='    faults = {"slow"}\n\n    def cast(self)')
    status, out, _ = call("check", "pings.py", "--runs", 5)
    assert status == HELD
    assert "WARN  pings: fault slow never happened" in out
    assert call("check", "pings.py", "--runs", 5, "--strict")[0] == BROKEN


def test_a_situation_that_was_never_reached_is_a_warning(call: Call) -> None:
    never = '''
    @sometimes
    def huge(self, seen):
        """Somebody hears a huge number."""
        return bool(seen(Heard, number=1000))
'''
    status, out, _ = call("check", write(PINGS + never), "--runs", 5)
    assert status == HELD
    assert "  sometimes   huge   never    Somebody hears a huge number." in out
    assert "WARN  pings: sometimes huge was never reached" in out


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("None", "E802 property small of spec pings returned None"),
        ("seen(Heard)[99]", "E805 property small of spec pings raised IndexError"),
    ],
)
def test_a_property_that_gives_no_answer_learns_nothing(call: Call, answer: str, said: str) -> None:
    status, out, err = call("check", write(was="all(event.number <= 3 for event in seen(Heard))", now=answer))
    assert status == NOTHING_LEARNED
    assert out == "pings   model   nothing learned\n"
    assert f"error: {said}" in err


def test_an_assertion_says_its_message(call: Call) -> None:
    write(
        was="return all(event.number <= 3 for event in seen(Heard))", now="assert not seen(Heard), 'heard'; return True"
    )
    status, out, _ = call("check", "pings.py")
    assert status == BROKEN
    assert out.splitlines()[1] == "  heard"


def test_a_rate_with_too_few_runs_learns_nothing(call: Call) -> None:
    text = (
        PINGS
        + '''
    @rate(at_least=0.5, runs=1)
    def loud(self, seen):
        """Most runs are heard."""
        return bool(seen(Heard))
'''
    )
    status, out, _ = call("check", write(text), "--runs", 5)
    assert status == NOTHING_LEARNED
    assert "pings: nothing learned, a rate needs more runs" in out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"spec": "halting"},
            "E804 this schedule is not of this spec: expected pings version 1, got halting version 1",
        ),
        ({"version": 7}, "E804 this schedule is not of this spec: expected pings version 1, got pings version 7"),
        ({"inputs": (Input(at=0.0, who="z", action="ping", arguments={"number": 1}),)}, "E806 spec pings has no such"),
        ({"inputs": (Input(at=0.0, who="a", action="sing"),)}, "E806 spec pings has no action sing"),
        ({"faults": (Drop(source="a", destination="z", ordinal=0),)}, "E806 spec pings has no such participant"),
    ],
)
def test_a_schedule_of_something_else_learns_nothing(call: Call, changes: dict[str, Any], said: str) -> None:
    status, out, err = call("check", write(), "--replay", schedule(**changes))
    assert status == NOTHING_LEARNED
    assert out == "pings.py   model   nothing learned\n"
    assert f"error: {said}" in err


def test_arguments_that_an_action_does_not_take_are_said(call: Call) -> None:
    path = schedule(inputs=(Input(at=0.0, who="a", action="ping", arguments={"nomber": 1}),))
    status, out, err = call("check", write(), "--replay", path)
    assert status in (NOTHING_LEARNED, BROKEN)
    assert "nomber" in out + err


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"spec": "pings", "version": 1, "more": 1}']
)
def test_a_file_that_is_no_schedule_learns_nothing(call: Call, data: bytes) -> None:
    Path("saved.json").write_bytes(data)
    status, _, err = call("check", write(), "--replay", "saved.json")
    assert status == NOTHING_LEARNED
    assert "error: E803 saved.json is not a schedule" in err


def test_a_pinned_schedule_of_something_else_learns_nothing(call: Call) -> None:
    Schedule(spec="pings", version=7).save(Path("regressions/pings/old-1.json"))
    status, _, err = call("check", write())
    assert status == NOTHING_LEARNED
    assert "error: E804" in err


def test_a_crash_inside_a_role_is_a_counterexample(call: Call) -> None:
    write(was="        return [Announce(Heard", now="        1 / (message.number - 2)\n        return [Announce(Heard")
    status, out, _ = call("check", "pings.py")
    assert status == BROKEN
    assert "pings   model   no crash BROKEN: No role raises an error that is not a peer's fault" in out
    assert "ZeroDivisionError: division by zero" in out
    assert "pings.py:29" in out, out
    assert "saved:    regressions/pings/no-crash-1.json" in out


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ("[Send(source, message)] * 2", "messages"),
        ('[After(0.0, "again")]', "timers"),
        ("[Send(source, message)] * 200_000", "effects"),
    ],
)
def test_an_endless_resend_ends(call: Call, answer: str, what: str) -> None:
    write(
        was="return [Announce(Heard(number=message.number))]",
        now=f"return {answer}\n\n    def on_timer(self, name):\n        return {answer}",
    )
    status, out, _ = call("check", "pings.py", "--runs", 0)
    assert status == BROKEN
    assert "BROKEN: " in out.splitlines()[0]
    assert what in out
    assert len(out.splitlines()) < 90
    assert "lines left out" in out or what == "effects"


# Wrong usage is status 3.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sing"], "No such command"),
        (["check", "--sing"], "No such option"),
        (["check", "--in", "space"], "'space' is not one of model, code, wire"),
        (["check", "--runs", "-1"], "Invalid value for '--runs'"),
        (["check", "--runs", "many"], "Invalid value for '--runs'"),
        (["check", "--jobs", "0"], "Invalid value for '--jobs'"),
        (["check", "--replay", "missing.json"], "does not exist"),
        (["check", "--replay", "."], "is a directory"),
        (["check", "halting", "lock", "--replay", "saved.json"], "--replay takes one spec"),
        (["check", "sing"], "E811 no such spec"),
        (["check", "halting", "sing"], "E811 no such spec"),
        (["check", "sing.py"], "E811 there is no file sing.py"),
        (["check", "../sing/"], "E811 there is no file"),
        (["check", "run"], "E811 no such spec"),
        (["check", "schedule"], "E811 no such spec"),
        (["show"], "Missing argument"),
        (["show", "missing.json"], "does not exist"),
        (["show", "saved.json", "--watch", "count("], "E815"),
        (["new"], "Missing argument"),
        (["new", "Ballot"], "E813 a spec's name"),
        (["new", "../ballot"], "E813 a spec's name"),
        (["new", "json"], "E813 a spec's name"),
    ],
)
def test_wrong_usage_is_said(call: Call, arguments: list[str], said: str) -> None:
    write()
    Path("regressions/pings").mkdir(parents=True)
    Schedule(spec="halting", version=1).save(Path("saved.json"))
    status, out, err = call(*arguments)
    assert (status, out) == (USAGE, "")
    assert said in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def (", "E812 pings.py cannot be imported: SyntaxError"),
        ("import nothing_of_that_name", "E812 pings.py cannot be imported: ModuleNotFoundError"),
        ("1 / 0", "E812 pings.py cannot be imported: ZeroDivisionError: division by zero (pings.py:1)"),
        ("x = 1", "E811 pings.py has no spec"),
        (PINGS.replace("    def cast", '    faults = {"flood"}\n\n    def cast'), "E801 spec pings: faults"),
        (PINGS.replace("@always", "@eventually(within=0)"), "E801 eventually(within=...)"),
    ],
)
def test_a_file_that_is_no_spec_is_said(call: Call, text: str, said: str) -> None:
    status, out, err = call("check", write(text))
    assert (status, out) == (USAGE, "")
    assert f"error: {said}" in err


def test_a_file_named_like_a_module_in_use_is_said(call: Call) -> None:
    Path("json.py").write_text(PINGS)
    status, _, err = call("check", "json.py")
    assert status == USAGE
    assert "E812 json.py cannot be imported under its name" in err


def test_help_names_everything(call: Call) -> None:
    for command, words in {
        (): ["check", "show", "list", "new"],
        ("check",): ["--in", "--runs", "--seed", "--jobs", "--replay", "--mutants", "--strict", "--json"],
        ("show",): ["--watch", "--spec"],
    }.items():
        status, out, _ = call(*command, "--help")
        assert status == HELD
        assert [word for word in words if word not in out] == []


# Mutants.

MUTANTS = '''
from interlock.specs.search import Mutant
from pings import Heard, Peer, Pings


class Doubles(Peer):
    def ping(self, number):
        return super().ping(2 * number)


class Doubled(Pings):
    """Numbers are doubled."""

    def cast(self):
        return {name: Doubles(name) for name in "ab"}


class Same(Pings):
    """Nothing is wrong."""


MUTANTS = {"doubled": Mutant(breaks="small", spec=Doubled), "same": Mutant(breaks="small", spec=Same)}
'''


def test_mutants_are_killed_or_named(call: Call) -> None:
    write()
    status, out, _ = call("check", "pings.py", "--runs", 5, "--mutants")
    assert status == HELD
    assert "WARN  there are no mutants" in out
    Path("mutants").mkdir()
    Path("mutants/pings.py").write_text(MUTANTS)
    status, out, _ = call("check", "pings.py", "--runs", 5, "--mutants")
    assert status == HELD
    assert "  mutants     1 of 2 killed" in out
    assert "WARN  mutant 'same' survived: it should break small" in out
    status, out, _ = call("check", "pings.py", "--runs", 5, "--mutants", "--strict", "--json")
    said = json.loads(out)
    assert (status, said["status"]) == (BROKEN, BROKEN)
    assert [(each["name"], each["killed"]) for each in said["mutants"]] == [("doubled", True), ("same", False)]
    assert said["toothless"] == []


def test_a_property_that_kills_no_mutant_is_named(call: Call) -> None:
    more = (
        PINGS
        + '''
    @always
    def positive(self, seen):
        """Only positive numbers are heard."""
        return all(event.number > 0 for event in seen(Heard))
'''
    )
    write(more)
    Path("mutants").mkdir()
    Path("mutants/pings.py").write_text(MUTANTS.replace(', "same": Mutant(breaks="small", spec=Same)', ""))
    status, out, _ = call("check", "pings.py", "--runs", 5, "--mutants", "--strict")
    assert status == BROKEN
    assert "WARN  property positive killed no mutant" in out


# List, new, show.


def test_list_names_the_specs(call: Call) -> None:
    status, out, _ = call("list")
    assert status == HELD
    names = [line.split()[0] for line in out.splitlines()]
    assert names == sorted(names)
    assert {"boundary", "change", "halting", "lock", "release", "round", "wire"} <= set(names)
    status, out, _ = call("list", "--json")
    said = {each["name"]: each for each in map(json.loads, out.splitlines())}
    assert said["halting"]["actions"] == ["ask"]
    assert [each["name"] for each in said["lock"]["properties"]] == ["exclusive", "granted", "contended"]


def test_new_writes_a_spec_that_holds_and_is_broken_with_a_smaller_quorum(call: Call) -> None:
    status, out, _ = call("new", "ballot")
    assert (status, out.splitlines()[-1]) == (HELD, "  next: interlock spec check ballot.py")
    path = Path("ballot.py")
    assert "class Ballot(Spec):" in path.read_text()
    assert "from .." not in path.read_text()
    status, out, _ = call("check", path, "--strict", "--runs", 100)
    assert status == HELD, out
    path.write_text(path.read_text().replace("quorum = 2", "quorum = 1"))
    status, out, _ = call("check", path)
    assert status == BROKEN
    assert "ballot   model   exclusive BROKEN: No two peers hold the lock." in out
    status, _, err = call("new", "ballot")
    assert status == USAGE
    assert "error: E813 ballot.py is there already" in err


def test_show_draws_a_run_with_a_column_for_each_watched_value(call: Call) -> None:
    write()
    file = schedule()
    status, out, _ = call("show", file, "--spec", "pings.py", "--watch", "count(Ping)", "--watch", "last(Heard.number)")
    assert status == HELD
    assert out.splitlines() == [
        "pings   model   nothing broken   1 input, 0 faults, 0 forged   0.50 virtual seconds",
        "",
        "count(Ping)  last(Heard.number)    a                 b",
        "          0                   -     | * ping(number=1)|",
        "          1                   -     |---------------->|   Ping(1)",
        "          1                   1     |                 | # Heard(1)",
    ]
    status, out, _ = call("show", file, "--spec", "pings.py", "--mermaid")
    assert out.splitlines()[0] == "sequenceDiagram"
    assert "    p0->>p1: Ping(1)" in out.splitlines()
    status, out, _ = call("show", file, "--spec", "pings.py", "--json", "--watch", "count(Ping)")
    said = json.loads(out)
    assert [step["watch"]["count(Ping)"] for step in said["steps"]] == ["0", "0", "1", "1"]
    status, _, err = call("show", file)
    assert status == USAGE
    assert "error: E811 no such spec" in err
    assert "hint: Name its spec too" in err


# The command of the package above.


def test_the_command_is_installed_and_runs_as_a_module_too() -> None:
    for command in (["interlock.protocols.cli", "spec"], ["interlock.specs"]):
        ran = subprocess.run(
            [sys.executable, "-m", *command, "check", "sing"], capture_output=True, text=True, timeout=60
        )
        assert (ran.returncode, ran.stdout) == (USAGE, ""), ran
        assert "E811 no such spec" in ran.stderr


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("nothing_of_that_name:app", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("json:app", "AttributeError"),
        ("json:dumps", "TypeError: json:dumps is function, not typer.Typer"),
    ],
)
def test_a_command_that_cannot_be_loaded_says_so_and_spoils_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str, said: str
) -> None:
    added = EntryPoint(name="extra", value=value, group="interlock.commands")
    monkeypatch.setattr(commands, "entry_points", lambda group: [added])
    for arguments, status in ((["extra"], 1), (["extra", "--some", "thing"], 1), (["--help"], 0), (["--version"], 0)):
        with pytest.raises(SystemExit) as ended:
            commands.run(arguments)
        assert ended.value.code == status
        told = capsys.readouterr()
        if status:
            assert "error: E726 command extra of another package cannot be loaded" in told.err
            assert said in told.err


# What a run wrote down.


def test_a_directory_that_is_no_run_learns_nothing(call: Call) -> None:
    status, out, err = call("check", "release", "--journal", ".")
    assert (status, out) == (NOTHING_LEARNED, "release   journal   nothing learned\n")
    assert "error: E705 . is not the directory of a run" in err
    status, _, err = call("check", "halting", "--journal", ".")
    assert status == NOTHING_LEARNED
    assert "error: E814 spec halting is not about a run" in err
    for wrong in (["--mutants"], ["--in", "code"], ["--replay", "saved.json"]):
        Path("saved.json").write_text("{}")
        assert call("check", "release", "--journal", ".", *wrong)[0] == USAGE
    assert call("check", "release", "--journal", "missing")[0] == USAGE


@pytest.mark.slow
def test_a_spec_breaks_on_the_wire_and_is_tried_in_the_other_worlds(call: Call) -> None:
    status, out, _ = call("check", broken(), "--in", "wire", "--replay", schedule(inputs=PING_3))
    assert status == BROKEN
    assert "pings   wire   small BROKEN: Only small numbers are heard." in out
    assert "in the model: broken too   in code: broken too" in out
    status, out, _ = call("check", write(), "--in", "wire", "--runs", 1)
    assert status in (HELD, NOTHING_LEARNED)
    assert "pings   wire   1 run   " in out


def test_a_replay_of_faults_alone_may_hold(call: Call) -> None:
    write(was="    def cast(self)", now='    faults = {"crash"}\n\n    def cast(self)')
    path = schedule(inputs=(), faults=(Crash(who="a", input=0, effects=0, back=0.5),))
    status, out, _ = call("check", "pings.py", "--replay", path)
    assert status == HELD
    assert "crash 1" in out
