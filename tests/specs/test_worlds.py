"""A run is what its schedule says, and the same in the model and in the code."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from interlock.protocols.effects import (
    Admit,
    After,
    Blob,
    Connect,
    Draw,
    Effects,
    Send,
    Stop,
    Store,
    Work,
)
from interlock.protocols.errors import Failed, Misused, Refused
from interlock.specs import Spec
from interlock.specs.halting import HaltingVote
from interlock.specs.judge import count
from interlock.specs.schedule import Crash, Delay, Drop, Partition, Reorder, Slow, Twice
from interlock.specs.scope import Scope
from interlock.specs.search import play
from interlock.vault import Identity

from . import toys
from .toys import Ping, Pong, Scripted, both, history, say, schedule

A, B = "a", "b"
LINK = {"source": "a", "destination": "b"}


LATE = partial(Delay, source="b", destination="a", ordinal=0)


def pings(count: int) -> Effects:
    return [Send("b", Ping(hops=n)) for n in range(count)]  # type: ignore[arg-type]


def heard(count: int = 1, **answers: Any) -> type[Spec]:
    """a sends `count` pings to b when it goes; b says what it hears."""
    answers = {"message": lambda source, message, blobs: [say((source, message.hops))]} | answers
    return toys.toy(lambda: {"a": Scripted(go=lambda: pings(count)), "b": Scripted(**answers)})


# One history.


@pytest.mark.slow
@pytest.mark.parametrize("spec", [HaltingVote, toys.Chaos])
def test_model_and_code_have_one_history(spec: type[Spec]) -> None:
    scope = Scope(spec)
    counts: Counter[str] = Counter()
    for seed in range(500):
        plan = scope.sample(seed)
        count(both(spec, plan).history, counts)
    assert all(counts[fault] for fault in spec.faults if fault != "slow"), counts
    assert counts["forged"] and counts["deliver"] > 1000


DIGEST = """
import hashlib, sys
from interlock.specs.scope import Scope
from interlock.specs.search import play, check
sys.path.insert(0, {folder!r})
import toys
from interlock.specs.halting import HaltingVote
h = hashlib.sha256()
for spec in (HaltingVote, toys.Chaos):
    scope = Scope(spec)
    for seed in range(50):
        for world in ("model", "code"):
            h.update(repr(play(spec, scope.sample(seed), world)).encode())
found = check(toys.Chaos, runs=20, small=False)
h.update(repr(sorted(found.counts.items())).encode())
print(h.hexdigest())
"""


@pytest.mark.slow
def test_histories_do_not_depend_on_the_hash_seed() -> None:
    program = DIGEST.format(folder=str(Path(__file__).parent))
    digests = set()
    for seed in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        )  # fmt: skip
        digests.add(ran.stdout)
    assert len(digests) == 1


# Messages.


def test_without_faults_messages_arrive_in_order_after_the_latency() -> None:
    run = both(heard(2), schedule())
    assert history(run) == [
        "0.000 a act go",
        "0.000 a send b Ping(hops=0, text='')",
        "0.000 a send b Ping(hops=1, text='')",
        "0.010 b deliver a Ping(hops=0, text='')",
        "0.010 b announce ('a', 0)",
        "0.010 b deliver a Ping(hops=1, text='')",
        "0.010 b announce ('a', 1)",
    ]
    assert [step.sent for step in run.history if step.kind == "deliver"] == [1, 2]


@pytest.mark.parametrize(
    ("fault", "hops"),
    [
        (Drop(**LINK, ordinal=1), [0, 2]),
        (Twice(**LINK, ordinal=1), [0, 1, 1, 2]),
        (Delay(**LINK, ordinal=0, by=0.1), [1, 2, 0]),
        (Reorder(**LINK, ordinal=0), [1, 2, 0]),  # the next brings with it what arrives at its instant
        (Reorder(**LINK, ordinal=2), [0, 1, 2]),
        (Partition(at=0.0, seconds=0.001, side=("b",)), []),
        (Partition(at=0.001, seconds=1, side=("b",)), [0, 1, 2]),
        (Drop(**LINK, ordinal=3), [0, 1, 2]),
    ],
)
def test_each_fault_does_what_it_says(fault: Any, hops: list[int]) -> None:
    run = both(heard(3), schedule(fault))
    assert toys.said(run) == [f"b ('a', {n})" for n in hops]


def test_a_reordered_message_waits_a_second_at_most() -> None:
    run = both(heard(1), schedule(Reorder(**LINK, ordinal=0)))
    assert history(run)[-2:] == ["1.010 b deliver a Ping(hops=0, text='') reorder", "1.010 b announce ('a', 0)"]


def test_a_reordered_message_comes_with_the_next_of_its_link() -> None:
    run = both(heard(1), schedule(Reorder(**LINK, ordinal=0), inputs=((0.0, "a"), (0.2, "a"))))
    arrivals = [(round(step.at, 3), step.mark) for step in run.history if step.kind == "deliver"]
    assert arrivals == [(0.21, ""), (0.21, "reorder")]


def test_reordered_messages_come_after_the_next_that_is_not() -> None:
    run = both(heard(3), schedule(Reorder(**LINK, ordinal=0), Reorder(**LINK, ordinal=1)))
    assert toys.said(run) == ["b ('a', 2)", "b ('a', 0)", "b ('a', 1)"]


def test_a_copy_has_no_ordinal_and_is_marked() -> None:
    run = both(heard(2), schedule(Twice(**LINK, ordinal=0), Drop(**LINK, ordinal=1)))
    sends = [(step.mark, step.ordinal) for step in run.history if step.kind == "send"]
    assert sends == [("twice", 0), ("again", -1), ("drop", 1)]


def test_a_message_to_nobody_is_noted_in_its_place() -> None:
    spec = toys.toy(
        lambda: {"a": Scripted(go=lambda: [say(1), Send("ghost", Ping(hops=1)), say(2)])}  # type: ignore[arg-type]
    )
    assert history(both(spec, schedule()))[1:] == [
        "0.000 a announce 1", "0.000 a send ghost Ping(hops=1, text='') nobody", "0.000 a announce 2"
    ]  # fmt: skip


def test_blobs_arrive_and_are_seen() -> None:
    blob = Blob(b"frame")
    spec = toys.toy(
        lambda: {
            "a": Scripted(go=lambda: [Send("a", Ping(hops=1), (blob,))]),  # type: ignore[arg-type]
        }
    )
    run = both(spec, schedule())
    assert [step.blobs for step in run.history if step.kind in ("send", "deliver")] == [(b"frame",)] * 2


def test_roles_may_be_named_by_their_real_keys() -> None:
    class Keys(toys.Toy):
        def identity(self, name: Any) -> Identity:
            return next(one for one in IDENTITIES if one.public == name)

        def label(self, name: Any) -> str:
            return f"gate {[one.public for one in IDENTITIES].index(name)}"

        def cast(self) -> Mapping[bytes, Scripted]:
            first, second = (one.public for one in IDENTITIES)
            connect = Connect(second, bytes(32), "tcp://nowhere:1")  # connections are the world's
            return {
                first: Scripted(go=lambda: [connect, Admit(second, bytes(32)), Send(second, Ping(hops=1))]),
                second: Scripted(message=lambda source, message, blobs: [say(source == first)]),
            }

    run = both(Keys, schedule(inputs=((0.0, "gate 0"),)))
    assert toys.said(run) == ["gate 1 True"]


IDENTITIES = [Spec.identity(toys.Toy(), label) for label in "ab"]


def test_a_role_without_optional_methods_has_no_part_in_them() -> None:
    class Deaf:
        def go(self) -> Effects:
            return [After(0.1, "t"), Work(1), Draw("d", 3), Send("a", Ping(hops=1))]  # type: ignore[arg-type]

    run = both(toys.toy(lambda: {"a": Deaf()}, compute=lambda self, name, job: job), schedule())
    assert [step.kind for step in run.history] == ["act", "send", "drawn", "done", "deliver", "timer"]


def test_what_the_wire_would_not_read_differs_from_the_model() -> None:
    """That the code really packs and reads: a message class that the spec does not name is refused there."""
    spec = toys.toy(lambda: {"a": Scripted(go=lambda: [Send("a", Pong(hops=1))])}, messages=Ping)  # type: ignore[arg-type]
    assert [step.kind for step in play(spec, schedule(), "model").history] == ["act", "send", "deliver"]
    code = play(spec, schedule(), "code").history
    assert [step.kind for step in code] == ["act", "send", "refused"]
    assert code[-1].number == 201


def test_a_refusal_of_the_runner_is_noted_after_one_of_the_role() -> None:
    spec = toys.toy(
        lambda: {
            "a": Scripted(go=lambda: [*pings(7), Send("b", Pong(hops=1))]),  # type: ignore[arg-type]
            "b": Scripted(message=raising(Refused(304, "old"))),
        },
        messages=Ping,
    )
    numbers = [step.number for step in play(spec, schedule(), "code").history if step.kind == "refused"]
    assert numbers == [304] * 7 + [201]  # the runner announces only five of a number


# Draws, timers, work.


def test_draws_are_answered_at_once_in_order_and_from_the_seed() -> None:
    def drawn(name: str, data: bytes) -> Effects:
        return [say((name, len(data), data[0])), *([Draw("third", 1)] if name == "first" else [])]

    spec = toys.toy(
        lambda: {"a": Scripted(go=lambda: [Draw("first", 2), Draw("second", 3), say("before")], drawn=drawn)}
    )
    shown = {}
    for seed in (0, 0, 1):
        run = both(spec, schedule(seed=seed))
        said = toys.said(run)
        assert [one.split(",")[0] for one in said] == ["a before", "a ('first'", "a ('second'", "a ('third'"]
        assert shown.setdefault(seed, said) == said
    assert shown[0] != shown[1]


def test_a_timer_of_the_same_name_replaces() -> None:
    spec = toys.toy(
        lambda: {
            "a": Scripted(
                go=lambda: [After(0.1, "t"), After(0.2, "t"), After(0.05, "u")], timer=lambda name: [say(name)]
            )
        }
    )
    assert history(both(spec, schedule()))[1:] == [
        "0.050 a timer u", "0.050 a announce u", "0.200 a timer t", "0.200 a announce t"
    ]  # fmt: skip


def work_spec() -> type[Spec]:
    """a computes when it goes; b may halt it in the meantime. Whoever is first decides."""

    def compute(self: Any, name: str, job: int) -> Any:
        if job == 2:
            raise Refused(401, "bad frame")
        return job * 10

    return toys.toy(
        lambda: {
            "a": Scripted(
                go=lambda: [Work(1), Work(2)],
                done=lambda job, result: [say((job, str(result)))],
                message=lambda source, message, blobs: [say("halt")],
            ),
            "b": Scripted(go=lambda: [Send("a", Ping(hops=0))]),  # type: ignore[arg-type]
        },
        compute=compute,
        work_seconds=lambda self, job: 0.02,
    )


@pytest.mark.parametrize(
    ("faults", "order"),
    [
        ((), ["a halt", "a (1, '10')", "a (2, 'E401 bad frame')"]),
        ((LATE(by=0.02),), ["a (1, '10')", "a halt", "a (2, 'E401 bad frame')"]),
        ((Slow(who="a", ordinal=0, by=0.5),), ["a halt", "a (1, '10')", "a (2, 'E401 bad frame')"]),
        (
            (LATE(by=0.2), Slow(who="a", ordinal=1, by=1.0)),
            ["a (1, '10')", "a halt", "a (2, 'E401 bad frame')"],
        ),
    ],
)  # fmt: skip
def test_messages_race_running_work(faults: Any, order: list[str]) -> None:
    run = both(work_spec(), schedule(*faults, inputs=((0.0, "a"), (0.0, "b"))))
    assert toys.said(run) == order


def test_a_slow_job_ends_later() -> None:
    run = both(work_spec(), schedule(Slow(who="a", ordinal=0, by=0.25)))
    assert [step.at for step in run.history if step.kind == "done"] == [pytest.approx(0.27), pytest.approx(0.29)]


# Crashes.


def crash_spec() -> type[Spec]:
    """a keeps, says and tells; when it starts it says what it had kept."""

    def cast() -> Mapping[str, Scripted]:
        return {
            "a": Scripted(
                restore=lambda stored: [say(dict(stored))],
                go=lambda: [Store("k", b"1"), say("kept"), After(0.2, "t"), Work(1), Draw("d", 1), *pings(1)],
                timer=lambda name: [say("timer")],
                done=lambda job, result: [say("done")],
            ),
            "b": Scripted(message=lambda source, message, blobs: [Send("a", Pong(hops=1))]),  # type: ignore[arg-type]
        }

    return toys.toy(cast, compute=lambda self, name, job: job)


@pytest.mark.parametrize(
    ("effects", "after"),
    [
        (0, ["0.300 a back", "0.300 a announce {}"]),
        (1, ["0.000 a store k", "0.300 a back", "0.300 a announce {'k': b'1'}"]),
        (2, ["0.000 a store k", "0.000 a announce kept", "0.300 a back", "0.300 a announce {'k': b'1'}"]),
        (5, ["0.000 a store k", "0.000 a announce kept", "0.300 a back", "0.300 a announce {'k': b'1'}"]),
    ],
)
def test_a_crash_cuts_the_effects_and_a_restart_has_only_what_was_stored(effects: int, after: list[str]) -> None:
    run = both(crash_spec(), schedule(Crash(who="a", input=1, effects=effects, back=0.3)))
    assert [one for one in history(run)[2:] if "crash" not in one] == after
    assert history(run)[:2] == ["0.000 a announce {}", "0.000 a act go"]


def test_what_comes_while_it_is_down_is_lost() -> None:
    run = both(crash_spec(), schedule(Crash(who="a", input=1, effects=99, back=0.3), inputs=((0.0, "a"), (0.1, "a"))))
    shown = history(run)
    assert "0.000 a crash" in shown
    assert "0.010 b send a Pong(hops=1) down" in shown
    assert "0.100 a impossible go down" in shown
    assert not any("timer" in one or "done" in one or "drawn" in one for one in shown)


def test_what_was_on_its_way_to_the_dead_is_lost() -> None:
    spec = toys.toy(lambda: {"a": Scripted(go=lambda: pings(2)), "b": Scripted()})
    run = both(spec, schedule(Crash(who="b", input=1, effects=0, back=None)))
    assert history(run)[-3:] == [
        "0.010 b deliver a Ping(hops=0, text='')", "0.010 b crash dead", "0.010 b lost a Ping(hops=1, text='')"
    ]  # fmt: skip


def test_a_crash_may_come_while_it_starts() -> None:
    plan = schedule(
        Crash(who="a", input=0, effects=0, back=0.1), Crash(who="a", input=1, effects=1, back=0.1), inputs=()
    )
    assert [one for one in history(both(crash_spec(), plan)) if " a " in one] == [
        "0.000 a crash",
        "0.100 a back",
        "0.100 a announce {}",
        "0.100 a crash",
        "0.200 a back",
        "0.200 a announce {}",
    ]


def test_a_message_from_before_the_senders_restart_is_lost() -> None:
    spec = toys.toy(lambda: {"a": Scripted(go=lambda: pings(2)), "b": Scripted()})
    late = Delay(source="a", destination="b", ordinal=0, by=1.0)
    run = both(spec, schedule(late, Crash(who="a", input=1, effects=2, back=0.1)))
    assert history(run)[-1] == "1.010 b lost a Ping(hops=0, text='') delay"


def test_faults_end_before_the_quiet_phase() -> None:
    """A fault of a message that is sent only later does not happen."""
    spec = toys.toy(
        lambda: {"a": Scripted(go=lambda: [After(5.0, "t")], timer=lambda name: pings(1)), "b": Scripted()}, settle=9.0
    )
    run = both(spec, schedule(Drop(**LINK, ordinal=0)))
    assert run.quiet == pytest.approx(1.0)
    assert history(run)[-1] == "5.010 b deliver a Ping(hops=0, text='')"


def test_the_quiet_phase_waits_for_returns_and_late_messages() -> None:
    assert both(crash_spec(), schedule(Crash(who="a", input=1, effects=0, back=7.0))).quiet == pytest.approx(7.0)
    assert both(heard(), schedule(Delay(**LINK, ordinal=0, by=4.0))).quiet == pytest.approx(4.01)
    assert both(heard(), schedule(Partition(at=1.0, seconds=2.0, side=("a",)))).quiet == pytest.approx(3.0)
    assert both(heard(), schedule()).quiet == 0.0


# Ends of participants.


def test_a_stopped_participant_hears_nothing_more() -> None:
    spec = toys.toy(
        lambda: {"a": Scripted(go=lambda: pings(2)), "b": Scripted(message=lambda *_: [say("last"), Stop(), say("no")])}
    )
    assert history(both(spec, schedule()))[3:] == [
        "0.010 b deliver a Ping(hops=0, text='')",
        "0.010 b announce last",
        "0.010 b stop",
        "0.010 b lost a Ping(hops=1, text='')",
    ]


def stopping(**members: Any) -> type[Spec]:
    return toys.toy(lambda: {"a": Scripted(go=lambda: [Stop(Failed(330, "no quorum"))])}, **members)


def test_a_stop_with_an_error_breaks_unless_the_spec_allows_it() -> None:
    run = both(stopping(), schedule())
    assert run.broken is not None
    assert (run.broken.property, run.broken.message) == ("no crash", "a stopped: E330 no quorum")
    allowed = both(stopping(may_stop={330}), schedule())
    assert allowed.broken is None
    assert history(allowed)[-1] == "0.000 a stop 330"


def raising(error: Exception) -> Any:
    def answer(*arguments: Any) -> Effects:
        raise error

    return answer


@pytest.mark.parametrize(
    "answers",
    [
        {"go": raising(ZeroDivisionError("planted"))},
        {"restore": raising(ZeroDivisionError("planted"))},
        {"go": lambda: [After(0.1, "t")], "timer": raising(ZeroDivisionError("planted"))},
        {"go": lambda: [Draw("d", 1)], "drawn": raising(ZeroDivisionError("planted"))},
        {"go": lambda: [Work("fine")], "done": raising(ZeroDivisionError("planted"))},
        {"go": lambda: [Send("a", Ping(hops=0))], "message": raising(ZeroDivisionError("planted"))},  # type: ignore[arg-type]
        {"go": lambda: [Work("planted")]},
    ],
)
def test_a_crash_inside_a_role_breaks_the_run_and_says_where(answers: Any) -> None:
    def compute(self: Any, name: str, job: str) -> str:
        return {"fine": job}[job]

    run = both(toys.toy(lambda: {"a": Scripted(**answers)}, compute=compute), schedule())
    assert run.broken is not None
    assert run.broken.property == "no crash"
    assert "planted" in run.broken.message
    assert run.history[-1].kind == "broken"
    if "Zero" in run.broken.message:
        assert "test_worlds.py:" in run.broken.message
        assert "links.py" not in run.broken.message


@pytest.mark.parametrize("wrong", [None, (1, 2), [1], [Send(["b"], Ping(hops=1))], [Send("a", "text")], "effects"])
def test_what_is_not_a_list_of_effects_breaks_the_run(wrong: Any) -> None:
    run = both(toys.toy(lambda: {"a": Scripted(go=lambda: wrong)}), schedule())
    assert run.broken is not None
    assert run.broken.property == "no crash"


def test_refusals_and_impossible_actions_change_nothing() -> None:
    spec = toys.toy(
        lambda: {
            "a": Scripted(go=lambda: pings(7)),
            "b": Scripted(go=raising(Misused(601, "not now")), message=raising(Refused(304, "old"))),
        }
    )
    run = both(spec, schedule(inputs=((0.0, "a"), (0.0, "b"))))
    assert run.broken is None
    counts: Counter[str] = Counter()
    count(run.history, counts)
    # The runner announces only the first refusals of a number; the history has them all, once.
    assert (counts["refused"], counts["impossible go"], counts["act go"]) == (7, 1, 1)
    assert run.history[-1].number == 304


# Traitors.


def test_a_traitor_forges_with_or_without_a_role_and_no_fault_of_links_touches_it() -> None:
    members = {"traitors": {"z": None}}
    quiet = toys.toy(
        lambda: {"a": Scripted(message=lambda source, message, blobs: [say((source, message))])}, **members
    )
    lie = toys.forge("z", "a", Ping(hops=5), at=0.1)
    run = both(quiet, schedule(Drop(source="z", destination="a", ordinal=0), forged=(lie,)))
    assert history(run)[1:] == [
        "0.100 z send a Ping(hops=5, text='') forged",
        "0.110 a deliver z Ping(hops=5, text='') forged",
        "0.110 a announce ('z', Ping(hops=5, text=''))",
    ]
    parted = both(quiet, schedule(Partition(at=0.0, seconds=1.0, side=("z",)), forged=(lie,)))
    assert toys.said(parted) == []


def test_a_traitors_honest_part_runs() -> None:
    spec = toys.toy(
        lambda: {"a": Scripted(go=lambda: pings(1)), "b": Scripted(message=lambda *_: [say("honest")])},
        traitors={"b": None},
    )
    assert toys.said(both(spec, schedule())) == ["b honest"]


def test_the_worlds_draw_the_same_bytes() -> None:
    spec = toys.toy(lambda: {"a": Scripted(go=lambda: [Draw("d", 32)], drawn=lambda name, data: [say(data.hex())])})
    expected = hashlib.shake_256(b"7 0 a").digest(32).hex()
    assert toys.said(both(spec, schedule(seed=7))) == [f"a {expected}"]
