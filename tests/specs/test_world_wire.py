"""Real processes: the same specs, roles and schedules, judged alike; and no process is ever left."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from interlock.protocols.coordinator import RunEnded
from interlock.protocols.errors import Failed, Misused
from interlock.specs import stage, world_wire
from interlock.specs.halting import HONEST, HaltingVote, halted
from interlock.specs.history import LOST, Seen
from interlock.specs.judge import BOUNDS, NO_CRASH, Run, judge_history
from interlock.specs.mutants.halting import Once
from interlock.specs.release import Release
from interlock.specs.schedule import (
    Crash,
    Delay,
    Drop,
    Fault,
    Forged,
    Input,
    Partition,
    Reorder,
    Schedule,
    Slow,
    Twice,
    forged,
)
from interlock.specs.scope import Scope
from interlock.specs.search import play

from .toys import Chaos
from .wired import Heard, Homebound, Parrots, Word

LOST_VOTE = Schedule.load(Path(world_wire.__file__).parent / "regressions/halting/termination-1.json")


def on_the_wire(*faults: Fault, inputs: list[tuple[float, str, str]], lies: tuple[Forged, ...] = ()) -> Run:
    """Parrots say ("say x") or do ("do x") things."""
    made = []
    for at, who, text in inputs:
        act, _, what = text.partition(" ")
        made.append(Input(at=at, who=who, action=act, arguments={"text" if act == "say" else "what": what}))
    plan = Schedule(spec="wired", version=1, inputs=tuple(made), faults=faults, forged=lies)
    return world_wire.play(Parrots, plan, seconds_max=5)


def said(run: Run, who: str) -> list[str]:
    return [step.event.text for step in run.history if isinstance(step.event, Heard) and step.who == who]


def kinds(run: Run, who: str) -> list[str]:
    return [step.kind for step in run.history if step.who == who]


def seen_in(run: Run) -> Seen:
    seen = Seen()
    for step in run.history:
        seen.take(step)
    return seen


def children(pid: int) -> set[int]:
    """Processes that a process has started and that run."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.add(int(path.parent.name))
    return found


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    before = children(os.getpid())
    yield
    assert children(os.getpid()) - before == set()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults have time to happen on a busy machine too."""
    monkeypatch.setattr(stage, "FAULTS_S", 15.0)


# --- the halting vote ---


def test_the_schedule_that_breaks_a_wrong_voter_breaks_it_on_the_wire() -> None:
    run = world_wire.play(Once, LOST_VOTE, seconds_max=2)
    model = play(Once, LOST_VOTE, "model")
    assert run.broken is not None and model.broken is not None
    assert run.broken.property == model.broken.property == "termination"
    assert run.broken.message == "not within 2 s of the end of the faults"
    assert run.world == "wire" and run.seconds >= 2


def test_honest_voters_halt_though_a_message_is_lost_and_another_comes_twice() -> None:
    twice = Twice(source="n1", destination="n2", ordinal=0)
    run = play(HaltingVote, Schedule(**{**fields(LOST_VOTE), "faults": (*LOST_VOTE.faults, twice)}), "wire")
    assert run.broken is None
    assert {event.voter for event in halted(seen_in(run))} == set(HONEST)
    marks = [(step.kind, step.who, step.peer, step.mark) for step in run.history if step.mark]
    assert ("send", "n0", "n1", "drop") in marks and ("deliver", "n2", "n1", "again") in marks
    assert not any(step.kind == "deliver" and step.mark in LOST for step in run.history)


def test_a_voter_that_crashes_after_it_kept_its_vote_comes_back_with_it() -> None:
    crash = Crash(who="n1", input=1, effects=1, back=0.1)  # input 0 is its start; 1 effect: the vote is stored
    run = play(HaltingVote, Schedule(**{**fields(LOST_VOTE), "faults": (crash,)}), "wire")
    assert run.broken is None
    own = [step for step in run.history if step.who == "n1" and step.kind in ("store", "crash", "back", "announce")]
    assert [step.kind for step in own[:4]] == ["store", "crash", "back", "announce"]
    assert own[2].at - own[1].at >= 0.1
    assert {event.voter for event in halted(seen_in(run))} == set(HONEST)


def fields(schedule: Schedule) -> dict[str, Any]:
    return {name: getattr(schedule, name) for name in schedule.__struct_fields__}


# --- what happens to messages ---

LINK = {"source": "a", "destination": "b"}


def test_messages_arrive_whole_and_in_order_and_each_receipt_names_its_sending() -> None:
    run = on_the_wire(inputs=[(0.0, "a", "say abcd"), (0.0, "b", "say d")])
    assert run.broken is None
    assert sorted(said(run, "b")) == ["a", "b", "c", "d", "d", "started with ''"]
    assert [text for text in said(run, "b") if text in "abc"] == list("abc")
    for step in run.history:
        if step.kind == "deliver":
            sent = run.history[step.sent]
            assert (sent.kind, sent.who, sent.peer) == ("send", step.peer, step.who)
            assert (sent.message, sent.blobs, sent.mark) == (step.message, step.blobs, step.mark)
    assert [step.at for step in run.history] == sorted(step.at for step in run.history)
    assert seen_in(run)(Heard, text="a")[0].parts == (1,)


def test_faults_of_links_fall_on_the_messages_they_name() -> None:
    late, held = Delay(**LINK, ordinal=2, by=1.0), Reorder(**LINK, ordinal=3)
    run = on_the_wire(
        Drop(**LINK, ordinal=0), Twice(**LINK, ordinal=1), late, held,
        inputs=[(0.0, "a", "say abcdg"), (0.1, "a", "say h")],
    )  # fmt: skip
    assert said(run, "b")[1:] == ["b", "b", "g", "d", "h", "c"]
    marks = [step.mark for step in run.history if step.kind == "deliver"]
    assert marks == ["twice", "again", "", "reorder", "", "delay"]
    assert run.quiet is not None and run.quiet >= 1.0


def test_nothing_crosses_a_partition() -> None:
    parted = Partition(at=0.0, seconds=0.2, side=("a",))
    run = on_the_wire(parted, inputs=[(0.1, "a", "say ab"), (0.3, "a", "say c")], lies=(lie("y", at=0.1),))
    assert said(run, "b")[1:] == ["y", "c"]
    marks = [(step.who, step.mark) for step in run.history if step.kind == "send"]
    assert sorted(marks[:3]) == [("a", "partition"), ("a", "partition"), ("liar", "forged")]
    assert marks[3:] == [("a", "")]


def lie(text: str, at: float = 0.0) -> Forged:
    return forged(at, "liar", "b", Word(text=text))


def test_a_refusal_is_noted_once_and_what_breaks_ends_the_history() -> None:
    run = on_the_wire(inputs=[(0.0, "a", "do misuse")], lies=(lie("?"), lie("f", at=0.2)))
    refusals = [step for step in run.history if step.kind == "refused"]
    assert [(step.who, step.number, step.text) for step in refusals] == [("b", 333, "a question")]
    assert [(step.who, step.number) for step in run.history if step.kind == "impossible"] == [("a", 601)]
    assert run.broken is not None and (run.broken.property, run.broken.step) == ("decent", len(run.history) - 1)
    assert judge_history(Parrots(), run.history, quiet=run.quiet).broken == run.broken


# --- what participants do beside ---


def test_draws_are_the_schedules_and_timers_and_work_are_real() -> None:
    inputs = [(0.0, "a", "do draw"), (0.1, "a", "do bad work"), (0.1, "b", "do wait"), (0.2, "a", "do draw")]
    run = on_the_wire(Slow(who="a", ordinal=1, by=0.3), inputs=inputs)
    assert said(run, "b")[1:] == ["timer bell"]
    plan = run.schedule
    model = play(Parrots, Schedule(**{**fields(plan), "faults": ()}), "model")
    assert sorted(said(run, "a")) == sorted(said(model, "a"))
    done = [(step.at, step.mark) for step in run.history if step.kind == "done"]
    assert [mark for _, mark in done] == ["", "slow"] and done[1][0] - done[0][0] >= 0.29
    assert run.quiet is not None and run.quiet >= 0.4


@pytest.mark.usefixtures("patience")
def test_after_a_crash_ordinals_and_inputs_and_draws_go_on() -> None:
    run = on_the_wire(
        Crash(who="a", input=2, effects=2, back=0.05),
        Drop(**LINK, ordinal=3),  # the first one after that
        Crash(who="a", input=4, effects=0, back=0.05),  # what it drew as it came back
        inputs=[(0.0, "a", "say ab"), (0.05, "a", "say cd")],
    )
    model = play(Parrots, run.schedule, "model")
    assert run.broken is None and kinds(run, "a").count("back") == 2
    assert said(run, "b") == said(model, "b") == ["started with ''", "a", "b", "c", "h", "g", "h"]
    assert said(run, "a") == said(model, "a") and len(said(run, "a")) == 4


@pytest.mark.usefixtures("patience")
def test_the_dead_stay_dead_and_each_message_to_them_is_lost() -> None:
    inputs = [(0.2, "a", "say abcdg"), (0.5, "b", "say a"), (0.6, "a", "say h")]
    run = on_the_wire(Crash(who="b", input=2, effects=0, back=None), inputs=inputs)
    assert run.broken is None
    own = [(step.kind, step.mark) for step in run.history if step.who == "b" and step.kind != "lost"]
    assert own[-3:] == [("deliver", ""), ("crash", "dead"), ("impossible", "down")]
    sent = [nth for nth, step in enumerate(run.history) if step.kind == "send" and step.mark not in LOST]
    assert sorted(step.sent for step in run.history if step.kind in ("deliver", "lost")) == sent
    assert [step.mark for step in run.history if step.kind == "send"][-1] == "down"


def test_a_stop_ends_a_participant_and_errors_must_be_allowed() -> None:
    run = on_the_wire(inputs=[(0.0, "a", "do stop"), (0.0, "b", "do fail"), (0.3, "a", "say a")])
    stops = {step.who: (step.number, step.text) for step in run.history if step.kind == "stop"}
    assert stops == {"a": (None, ""), "b": (444, "E444 enough: expected 1, got 2")}
    assert run.broken is None and kinds(run, "a")[-1] == "impossible"


def test_a_history_of_chaos_is_one_that_can_be() -> None:
    run = world_wire.play(Chaos, Scope(Chaos).sample(41))
    assert run.broken is None
    assert [step.at for step in run.history] == sorted(step.at for step in run.history)
    ends = [step.sent for step in run.history if step.kind in ("deliver", "lost")]
    assert len(set(ends)) == len(ends)
    up = dict.fromkeys(("p", "q", "r", "traitor"), True)
    received: dict[tuple[str, str], int] = {}
    for nth, step in enumerate(run.history):
        up[step.who] = (up[step.who] and step.kind not in ("crash", "stop")) or step.kind == "back"
        assert up[step.who] or step.kind in ("crash", "stop", "lost", "impossible")
        if step.kind == "deliver":
            assert step.sent < nth and run.history[step.sent].mark not in LOST
            if step.mark not in ("delay", "reorder"):
                assert received.get((step.peer, step.who), -1) < step.sent
                received[step.peer, step.who] = step.sent


@pytest.mark.slow
@pytest.mark.usefixtures("patience")
def test_a_whole_run_of_real_roles_ends_though_its_coordinator_and_a_gate_crash() -> None:
    crashes = (
        Crash(who="coordinator", input=40, effects=1, back=0.05),
        Crash(who="g0", input=5, effects=1, back=0.05),
    )
    run = world_wire.play(Release, Schedule(spec="release", version=Release.version, faults=crashes))
    assert run.broken is None and run.reached >= {"took_up"}
    assert sorted(step.who for step in run.history if step.kind == "back") == ["coordinator", "g0"]
    assert [step.who for step in run.history if isinstance(step.event, RunEnded)] == ["coordinator"]


# --- what goes wrong ---


@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("die", "a: its process ended unasked, with signal SIGKILL"),
        ("raise", "ValueError: cannot do this"),
        ("wrong work", "internal error: ZeroDivisionError: a wrong job"),
    ],
)
def test_what_no_participant_may_do_breaks_the_run(deed: str, words: str) -> None:
    run = on_the_wire(inputs=[(0.0, "a", f"do {deed}")])
    assert run.broken is not None and run.broken.property == NO_CRASH
    assert words in run.broken.message


def test_a_role_that_never_returns_breaks_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_wire, "ANSWER_S", 2.0)
    run = on_the_wire(inputs=[(0.0, "a", "do hang")])
    assert run.broken is not None and run.broken.property == BOUNDS
    assert run.broken.message.startswith("no answer from a")


def test_a_spec_that_other_processes_cannot_find_is_refused() -> None:
    class Hidden(Parrots):
        pass

    with pytest.raises(Misused, match=r"E820 .*Hidden in module"):
        world_wire.play(Hidden, Schedule(spec="wired", version=1))


def test_a_role_that_cannot_be_made_elsewhere_is_told_with_what_its_process_said() -> None:
    with pytest.raises(Failed, match=r"(?s)E821 the process of \w+ does not start: .*exit code 1.*no parrots here"):
        world_wire.play(Homebound, Schedule(spec="wired", version=1))


def test_a_schedule_longer_than_anybody_waits_is_refused() -> None:
    plan = Schedule(spec="wired", version=1, inputs=(Input(at=500.0, who="a", action="say", arguments={"text": "a"}),))
    with pytest.raises(Misused, match="E822 this schedule takes too long: expected at most 20 s at a time, got 500 s"):
        world_wire.play(Parrots, plan)


# --- specs elsewhere, and ends ---

SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts what runs behind it without

from tests.specs.wired import Heard, Parrots as Base
from interlock.protocols.effects import Announce, Event
from interlock.specs import always
from interlock.specs.schedule import Input, Schedule
from interlock.specs.world_wire import play

class Own(Event, frozen=True):
    text: str

class Mine(Base):
    name = "mine"

    @always
    def home(self, seen):
        return not seen(Own)

    def restarted(self, name):
        return self.cast()[name]

    def cast(self):
        made = super().cast()
        made["a"].on_timer = lambda name: [Announce(Own(text=name))]
        return made

at = Input(at=AT, who="a", action="do", arguments={"what": "wait"})
if __name__ == "__main__":
    run = play(Mine, Schedule(spec="mine", version=1, inputs=(at,)))
    print(run.broken.property, run.history[-1].event)
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT.replace("AT", "0.0", 1))
    return path


def started(script: Path) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    search = os.pathsep.join([root, *sys.path])
    return subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": search}, start_new_session=True,
    )  # fmt: skip


def test_a_program_plays_its_own_spec(script: Path) -> None:
    out, error = started(script).communicate(timeout=60)
    assert (out, error) == ("home Own(text='bell')\n", "")


def test_a_spec_in_a_file_is_played(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    found = importlib.util.spec_from_file_location("mine_in_a_file", script)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    monkeypatch.setitem(sys.modules, "mine_in_a_file", module)
    found.loader.exec_module(module)
    run = world_wire.play(module.Mine, Schedule(spec="mine", version=1, inputs=(module.at,)))
    assert run.broken is not None and run.broken.property == "home"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_however_a_program_ends_its_participants_end_too(script: Path, number: signal.Signals) -> None:
    script.write_text(SCRIPT.replace("AT", "15.0", 1))
    program = started(script)
    try:
        until = time.monotonic() + 30
        while len(found := children(program.pid)) < 3 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(found) == 3
        os.killpg(program.pid, number)  # as a terminal does
        _, error = program.communicate(timeout=30)
        while any(map(runs, found)) and time.monotonic() < until:
            time.sleep(0.01)
        assert not any(map(runs, found))
        assert number is not signal.SIGINT or error.endswith("KeyboardInterrupt\n")
    finally:
        program.kill()
        program.wait()
