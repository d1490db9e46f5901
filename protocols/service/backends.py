"""The libraries that can compute a stage, by the names that people give them; each is imported when it is asked for."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from typing import Any

from interlock.kernels.passes import Passes
from interlock.kernels.state import StageShape

from ..errors import Misused

BACKENDS = ("torch", "jax")
_SMALLEST = StageShape(width=2, heads=1, layers=1, hidden=1)


def stage_of(backend: str, *, device: str = "cpu") -> type[Passes]:
    """The stage that a library computes, on a device that it has.

    Raises:
        Misused: E740, no such library; E741, it is not installed; E723, it has no such device.
    """
    if backend not in BACKENDS:
        raise Misused(740, "--backend", expected=" or ".join(BACKENDS), actual=backend, todo="Leave it out for torch.")
    if importlib.util.find_spec(backend) is None:
        raise Misused(741, f"{backend} is not installed", todo=f"Install it: pip install {backend}; or name another.")
    stage = _stage(backend)
    try:
        stage(_SMALLEST, context=1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:  # the libraries raise all of them
        first = str(error).partition("\n")[0]
        what = f"--device {device!r} cannot be used by {backend}: {first}"
        raise Misused(723, what, todo="Name another, such as cpu.") from None
    return stage


def _stage(backend: str) -> type[Passes]:
    if backend == "jax":
        from interlock.kernels import stage_jax

        return stage_jax.Stage
    from interlock.kernels import stage

    return stage.Stage


def boundary_of(backend: str, *, device: str = "cpu") -> Any:
    """The module that takes values to frames and back where a library computes (`kernels.mask_host` has the names).

    On a CUDA device torch needs the extra `gpu` for it; without, values go over the host.
    """
    if backend == "jax" and device.partition(":")[0] != "cpu":
        from interlock.kernels import mask_pallas

        return mask_pallas
    if backend == "torch" and device.startswith("cuda") and importlib.util.find_spec("triton") is not None:
        from interlock.kernels import mask_triton

        return mask_triton
    from interlock.kernels import mask_host

    return mask_host


def importable(library: str) -> bool:
    """Whether a process of this machine can import a library; tried in one that ends at once."""
    tried = subprocess.run([sys.executable, "-c", f"import {library}"], capture_output=True, check=False)  # noqa: S603
    return tried.returncode == 0
