"""How fast the spec kit searches, and how small it makes what it finds, by the halting vote of four participants.

Model and code are timed over schedules of fixed seeds, without Hypothesis; the search of the code with it. Times are
CPU seconds of this process, so other work on the machine changes them little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TypeVar

from bars import Bar, report

from interlock.specs.halting import HaltingVote
from interlock.specs.mutants.halting import Once
from interlock.specs.scope import Scope
from interlock.specs.search import check, play

RUNS = 1000

T = TypeVar("T")


def timed(call: Callable[[], T]) -> tuple[T, float]:
    """A result and the CPU seconds it took."""
    began = time.process_time()
    result = call()
    return result, time.process_time() - began


def main() -> None:
    """Measure, print, and fail beyond a bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    scope = Scope(HaltingVote)
    plans = [scope.sample(seed) for seed in range(RUNS)]
    _, model_s = timed(lambda: [play(HaltingVote, plan) for plan in plans])
    _, bare_s = timed(lambda: [play(HaltingVote, plan, "code") for plan in plans[:300]])
    code, code_s = timed(lambda: check(HaltingVote, "code", runs=500, small=False, pinned=[]))
    small, small_s = timed(lambda: check(HaltingVote, runs=0, pinned=[]))
    shrunk, shrunk_s = timed(lambda: check(Once, runs=5000, small=False, pinned=[]).counterexample)
    assert small.complete and code.counterexample is None and shrunk is not None
    assert shrunk.broken.property == "termination"

    bars = [
        Bar("model: 1,000 runs without Hypothesis", model_s, 5, "s"),
        Bar("code: a run with Hypothesis", 1e3 * code_s / code.runs, 10, "ms"),
        Bar("code: a run without it", 1e3 * bare_s / 300, None, "ms"),
        Bar("small scope: three inputs, one fault", small_s, 5, "s"),
        Bar("lost message, found and shrunk: inputs", len(shrunk.schedule.inputs), 3, ""),
        Bar("lost message, found and shrunk: faults", len(shrunk.schedule.faults), 1, ""),
        Bar("lost message, found and shrunk: forged", len(shrunk.schedule.forged), 0, ""),
        Bar("lost message: search and shrinking", shrunk_s, None, "s"),
    ]
    report(bars, {"schedules in the small scope": small.enumerated}, as_json=arguments.json)


if __name__ == "__main__":
    main()
