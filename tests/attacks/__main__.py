"""Run every attack and print what each recovered and what it cost.

    python -m tests.attacks [--short] [--only WORD] [--json | --markdown]

The exit status is 1 if one ended otherwise than the threat model says, or if a control did not win.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from .attack import Attack, Found
from .table import ATTACKS


def main(arguments: Sequence[str] | None = None, attacks: Sequence[Attack] = ATTACKS) -> int:
    """Parse the command line, run, print; give the exit status."""
    parser = argparse.ArgumentParser(prog="attacks", description="Run every attack on Interlock's own code.")
    parser.add_argument("--short", action="store_true", help="the smaller sizes of `make test`")
    parser.add_argument("--only", default="", metavar="WORD", help="attacks whose name has this word")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print a JSON object")
    form.add_argument("--markdown", action="store_true", help="print the table of docs/threat-model.md")
    options = parser.parse_args(arguments)
    progress = Console(stderr=True)
    rows: list[tuple[Attack, Found]] = []
    for attack in attacks:
        if options.only in attack.name:
            progress.print(f"{attack.name} ...", style="dim", highlight=False)
            rows.append((attack, attack.carry_out(short=options.short)))
    if options.json:
        print(json.dumps({"attacks": [as_json(*row) for row in rows]}))
    elif options.markdown:
        print("\n".join(markdown(rows)))
    else:
        Console(width=None if sys.stdout.isatty() else 200).print(table(rows))
    return 0 if rows and all(attack.holds(found) for attack, found in rows) else 1


def as_json(attack: Attack, found: Found) -> dict[str, object]:
    """One row, everything that was measured."""
    named = {"attack": attack.name, "who": attack.who, "target": attack.target, "expected": attack.outcome}
    return named | {
        "won": found.won,
        "holds": attack.holds(found),
        "control": found.control,
        "recovered": found.recovered,
        "measures": dict(found.measures),
        "cost": asdict(found.cost),
    }


def cost(found: Found) -> str:
    """What was spent, in a few characters each."""
    spent = found.cost
    parts = [f"{spent.cpu_s:.1f} s" if spent.cpu_s >= 0.05 else f"{spent.cpu_s * 1e3:.1f} ms"]
    parts += [f"{spent.tokens / 1e3:.0f} k tokens"] if spent.tokens >= 500 else []
    parts += [f"{spent.seen_bytes / 1e6:.1f} MB" if spent.seen_bytes >= 1e5 else f"{spent.seen_bytes / 1e3:.1f} kB"]
    return ", ".join(parts)


def table(rows: list[tuple[Attack, Found]]) -> Table:
    """For people."""
    made = Table(show_lines=False, header_style="bold")
    for title in ("attack", "who", "on", "recovered", "cost", "expected", "so"):
        made.add_column(title, overflow="fold")
    for attack, found in rows:
        holds = attack.holds(found)
        verdict = "[green]holds[/]" if holds else "[bold red]NO[/]"
        made.add_row(attack.name, attack.who, attack.target, found.recovered, cost(found), attack.outcome, verdict)
    return made


def markdown(rows: list[tuple[Attack, Found]]) -> list[str]:
    """For the threat model."""
    lines = ["| attack | who | on | outcome | recovered | cost |", "| --- | --- | --- | --- | --- | --- |"]
    for attack, found in rows:
        cells = (attack.name, attack.who, attack.target, attack.outcome, found.recovered, cost(found))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    sys.exit(main())
