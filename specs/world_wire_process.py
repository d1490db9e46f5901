"""A participant's process, as the hub of a run over the wire holds it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from .world_wire_talk import Part

LINES_SHOWN = 8  # of what a process wrote before it died


class Process:
    """One participant's process, from one start to one end. It cannot outlive this one: its input ends with us.

    Attributes:
        pid: its process id. since: when it was started, on the monotonic clock.
        ready: it has reported. leaving: it has said that it ends.
    """

    def __init__(self, part: Part) -> None:
        self.since = time.monotonic()
        self.ready = self.leaving = False
        Path(part.folder).mkdir(exist_ok=True)
        self._said = Path(part.folder) / "said.txt"
        search = os.pathsep.join(str(Path(entry).resolve()) for entry in sys.path)
        with self._said.open("wb") as said:
            self._popen = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-m", f"{__package__}.world_wire_participant"],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                env={**os.environ, "PYTHONPATH": search},
            )
        self.pid = self._popen.pid
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: `death` says so
            self._popen.stdin.write(msgspec.json.encode(part) + b"\n")
            self._popen.stdin.flush()

    def death(self) -> str | None:
        """How it ended though nobody asked it to; None if it runs or may leave."""
        code = self._popen.poll()
        if code is None or self.leaving:
            return None
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        return "\n".join([f"its process ended unasked, with {how}", *self.said()])

    def said(self) -> list[str]:
        """The last lines that it wrote."""
        return self._said.read_text(errors="replace").splitlines()[-LINES_SHOWN:]

    def kill(self) -> None:
        """End it now. Killing twice does nothing."""
        self._popen.kill()
        self._popen.wait()
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()
