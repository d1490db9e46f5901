"""`python -m tests.fuzz`: nearly right messages against coordinator, gate, relay and nodes.

Ends with status 1 at the first fault, which is saved in a file for --replay, or if memory grows beyond its bound.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path

from .campaign import GROWTH_MIB_MAX, Found, Outcome, replay, run

EVERY_S = 5.0


class Progress:
    """Says on standard error how far it is, once in a while."""

    def __init__(self, count: int) -> None:
        self._count, self._began, self._said = count, time.monotonic(), 0.0

    def __call__(self, outcome: Outcome) -> None:
        """So far."""
        spent = time.monotonic() - self._began
        if spent - self._said < EVERY_S:
            return
        self._said = spent
        rate = outcome.heard / spent
        left = (self._count - outcome.heard) / rate
        print(
            f"{outcome.heard:,} of {self._count:,} messages, {rate:,.0f} a second, about {left:.0f} s left, "
            f"memory grew by {outcome.growth_mib:.0f} MiB",
            file=sys.stderr,
        )


def main() -> int:
    """Run, or replay; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="mutated messages")
    parser.add_argument("--seed", type=int, help="default: another one each time")
    parser.add_argument("--save", type=Path, default=Path("runs/fuzz"), help="folder for what breaks")
    parser.add_argument("--replay", type=Path, help="a saved fault, to be played again")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.replay is not None:
        return _replayed(arguments.replay, as_json=arguments.json)
    seed = time.time_ns() % 2**32 if arguments.seed is None else arguments.seed
    print(f"seed {seed}", file=sys.stderr)
    began = time.process_time()
    outcome = run(seed, arguments.count, Progress(arguments.count))
    path = arguments.save / f"fault-{seed}.json"
    if outcome.found is not None:
        outcome.found.save(path)
    spent = time.process_time() - began
    if arguments.json:
        _say_json(outcome, spent, path)
    else:
        _say(outcome, spent, path)
    return 0 if outcome.holds else 1


def _say_json(outcome: Outcome, spent: float, path: Path) -> None:
    found = outcome.found
    said = {
        "seed": outcome.seed,
        "messages": outcome.heard,
        "episodes": outcome.episodes,
        "cpu_s": spent,
        "by_number": {str(number): times for number, times in sorted(outcome.by_number.items())},
        "by_kind": outcome.by_kind,
        "memory_growth_mib": outcome.growth_mib,
        "fault": None if found is None else {"what": found.fault, "file": str(path)},
        "holds": outcome.holds,
    }
    print(json.dumps(said))


def _say(outcome: Outcome, spent: float, path: Path) -> None:
    names = {"c": "coordinator", "g": "gates", "r": "relay", "n": "nodes"}
    shares = ", ".join(f"{names[kind]} {times:,}" for kind, times in sorted(outcome.by_kind.items()))
    print(f"{outcome.heard:,} messages in {outcome.episodes} runs, {spent:.0f} s of CPU: {shares}")
    for number, times in sorted(outcome.by_number.items()):
        print(f"  {f'refused E{number}' if number else 'not refused':<14}{times:>10,}")
    print(f"memory grew by {outcome.growth_mib:.0f} MiB (at most {GROWTH_MIB_MAX})")
    if outcome.found is not None:
        _say_found(outcome.found)
        print(f"again: python -m tests.fuzz --replay {path}")


def _say_found(found: Found) -> None:
    print(f"FAULT after {found.heard} messages of run {found.episode} of seed {found.seed}: {found.fault}")
    print(found.trace.rstrip())


def _replayed(path: Path, *, as_json: bool) -> int:
    try:
        found = replay(path)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if as_json:
        print(json.dumps({"file": str(path), "fault": None if found is None else asdict(found)["fault"]}))
    elif found is None:
        print("it does not happen any more")
    else:
        _say_found(found)
    return 0 if found is None else 1


if __name__ == "__main__":
    sys.exit(main())
