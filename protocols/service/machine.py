"""What a process asks of its machine before anything heavy is imported."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import time

from ..errors import Failed, Misused

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC")
"""What numeric libraries read when they are imported; the last is JAX's, for its CPU."""

_PR_SET_PDEATHSIG = 1  # prctl(2)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # mallopt(3)


def set_threads(count: int) -> None:
    """Give the numeric libraries `count` threads; they read this when they are imported.

    Many threads on small matrices cost two to five times the CPU, and one machine runs many of these processes.

    Raises:
        Misused: E720, fewer than one.
    """
    if count < 1:
        raise Misused(720, "--threads", expected="1 or more", actual=count, todo="Leave it out for 1.")
    for name in THREADS:
        os.environ[name] = str(count)


def keep_memory() -> None:
    """Let freed buffers stay with this process.

    glibc gives large ones back to the system at once and asks for them again, which costs a tenth of a small stage's
    time with torch and a third with JAX. One arena for all threads, since a thread's own is made of heaps of 64 MiB
    that are unmapped as they empty, whatever the thresholds: that is three times as many page faults. Call it before
    there is a second thread. Elsewhere this does nothing.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
            mallopt(_M_ARENA_MAX, 1)


def share_devices() -> None:
    """Let JAX take a device's memory as it needs it: on its own it takes three quarters, and a second process fails."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def limit_memory(gib: float) -> None:
    """Bound this process's address space: an allocation beyond it fails, and with it the process.

    Address space is more than memory in use: torch alone reserves two or three GiB.

    Raises:
        Misused: E720, not positive, or more than the system lets this process have.
    """
    if gib <= 0:
        raise Misused(
            720, "--memory", expected="a positive number of GiB", actual=gib, todo="Leave it out for no bound."
        )
    try:
        resource.setrlimit(resource.RLIMIT_AS, (int(gib * 2**30),) * 2)
    except (ValueError, OSError) as error:
        raise Misused(
            720, f"the memory limit of {gib} GiB cannot be set: {error}", todo="Name less than 'ulimit -v' allows."
        ) from None


def forbid_core_dumps() -> None:
    """Let no crash write this process's memory, secrets included, to a disk."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def die_with(parent: int) -> None:
    """End this process when the process `parent`, which started it, ends for whatever reason (Linux only).

    Raises:
        Failed: E721, the parent is gone already.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        raise Failed(721, "the process that started this one is gone", todo="Start the whole run again.")


def now_s() -> float:
    """Seconds on a clock that never goes back."""
    return time.monotonic()
