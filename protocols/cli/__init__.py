"""The `interlock` command.

What goes where: results to standard output (`--json`: one JSON value a line), everything else to standard error,
errors as `error: E701 ...` and `hint: ...` with exit status 1; wrong usage is status 2.

Commands import what they need when they are called: numpy reads the number of threads when it is imported, and
`interlock --help` should not wait for torch.
"""

from .app import main

__all__ = ["main"]
