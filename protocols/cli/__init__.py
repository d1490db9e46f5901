"""The `interlock` command.

What goes where: results to standard output (`--json`: one JSON value a line), everything else to standard error,
errors as `error: E701 ...` and `hint: ...` with exit status 1; wrong usage is status 2, Ctrl-C 130.

Commands import what they need when they are called: numpy reads the number of threads when it is imported, and
`interlock --help` should not wait for torch.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit."""
    signal.signal(signal.SIGINT, _stopped)  # before the imports, which take a while
    try:
        from .app import run

        run(arguments)
    except RuntimeError as error:
        if isinstance(error.__cause__, SystemExit):  # Python 3.11 wraps what comes while a class is being made
            raise error.__cause__ from None
        raise


def _stopped(number: int, frame: object) -> NoReturn:
    print("stopped", file=sys.stderr)
    sys.exit(128 + number)
