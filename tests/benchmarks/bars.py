"""What every benchmark shares: bars to hold, the machine they were measured on, one way to print them."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Bar:
    """A measured value that must not exceed its limit; without a limit, a figure that is only reported."""

    name: str
    value: float
    limit: float | None
    unit: str

    @property
    def holds(self) -> bool:
        """False also for a value that is not a number."""
        return self.limit is None or self.value <= self.limit


def machine() -> str:
    """Processor, cores and library versions; no host name."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("numpy", "torch"))
    return f"{_processor()}, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}"


def report(bars: list[Bar], extra: Mapping[str, object], *, as_json: bool) -> None:
    """Print the bars as a table or as JSON, then exit: 0 if all of them hold, else 1.

    Args:
        extra: more fields of the JSON object, and more lines under the table.
    """
    if as_json:
        rows = [asdict(bar) | {"holds": bar.holds} for bar in bars]
        print(json.dumps({"machine": machine(), "bars": rows, **extra}))
    else:
        print(machine())
        width = max((len(bar.name) for bar in bars), default=0)
        for bar in bars:
            limit = "" if bar.limit is None else f"<= {bar.limit:g}"
            verdict = "" if bar.limit is None else "holds" if bar.holds else "FAILS"
            print(f"{bar.name:<{width}}  {bar.value:>9.3f} {bar.unit:<4} {limit:>9}  {verdict}".rstrip())
        for name, value in extra.items():
            print(f"{name}: {value}")
    sys.exit(0 if all(bar.holds for bar in bars) else 1)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
