"""Replicas with other instruction sets, thread counts and libraries keep equal states, bit for bit.

Each replica is a process of its own, run from this file with its configuration in the environment. It prints
the digests of two stages after each of 20 rounds, and of a float32 product as a control: were that equal
everywhere, the configurations would not differ in anything that matters.
"""

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import threadpoolctl

from interlock.kernels import basis, muon
from interlock.kernels.initial import Keystream, initial_state
from interlock.kernels.state import StageShape

WIDTH = 64
ROUNDS = 20
TURN_EVERY = 5
SHAPES = [
    StageShape(width=WIDTH, heads=4, layers=1, hidden=128, mlp="swiglu", first=True),
    StageShape(width=WIDTH, heads=4, layers=1, hidden=160, last=True),
]
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
# product, threads, OpenBLAS kernels, what else the environment says
CONFIGURATIONS = {
    "numpy": ("numpy", 1, None, {}),
    "numpy, two threads": ("numpy", 2, None, {}),
    "SSE": ("numpy", 1, "Prescott", {}),
    "AVX": ("numpy", 1, "Sandybridge", {}),
    "AVX2": ("numpy", 1, "Haswell", {}),
    "AVX-512": ("numpy", 1, "SkylakeX", {}),
    "numpy without dispatched loops": ("numpy", 1, "Prescott", {"NPY_DISABLE_CPU_FEATURES": "X86_V3"}),
    "torch": ("torch", 1, None, {}),
    "torch, two threads": ("torch", 2, None, {}),
    "jax": ("jax", 2, None, {"JAX_ENABLE_X64": "1", "JAX_PLATFORMS": "cpu"}),
}


def product_of(library: str) -> muon.Product:
    if library == "torch":
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        return lambda a, b: (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()
    if library == "jax":
        import jax.numpy as jnp

        return lambda a, b: np.array(jnp.matmul(a, b))  # a copy: jax's own memory is read-only
    return np.matmul


def digests(turns: list[np.ndarray], product: muon.Product) -> Iterator[str]:
    """Digests of both stages after each round, from one seed and one list of turns."""
    bridge = basis.quantise_bridge(np.ldexp(turns[0].astype(np.float64), -basis.TURN_GRID))
    states = [initial_state(s, bytes(32), bridge=None if s.first else bridge) for s in SHAPES]
    streams = [Keystream(bytes(32), f"gradients {i}") for i in range(len(SHAPES))]
    for number in range(ROUNDS):
        for i, (shape, stream) in enumerate(zip(SHAPES, streams, strict=True)):
            sums = {}
            for s in shape.tensors():
                words = np.frombuffer(stream.take(4 * s.rows * s.columns), "<i4").astype(np.int64)
                sums[s.name] = (words >> 8 + number % 5).reshape(s.rows, s.columns)
            exponents = dict.fromkeys(sums, -34 + number % 3)
            states[i] = muon.step(states[i], sums, exponents, rate=0.02, product=product)
        if number % TURN_EVERY == TURN_EVERY - 1:
            own = turns[number // TURN_EVERY : number // TURN_EVERY + 2]
            states[0] = basis.turn(muon.grow_grids(states[0]), own[0], turn_before=None)
            states[1] = basis.turn(muon.grow_grids(states[1]), own[1], turn_before=own[0])
        yield " ".join(state.digest().hex() for state in states)


def float32_digest(product: muon.Product) -> str:
    rng = np.random.default_rng(0)
    a, b = (rng.random((WIDTH, 500), np.float32) for _ in range(2))
    return hashlib.sha256(np.ascontiguousarray(product(a, b.T))).hexdigest()  # type: ignore[arg-type]


def replica(path: Path, library: str) -> None:
    product = product_of(library)
    for line in digests(list(np.load(path)), product):
        print(line)
    print(float32_digest(product))
    # numpy's own BLAS comes first; torch and jax bring theirs
    print(threadpoolctl.threadpool_info()[0].get("architecture"))


def supported(kernels: str | None) -> bool:
    """Whether this processor can run these OpenBLAS kernels; asked before, since it would die by SIGILL."""
    if kernels is None:
        return True
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    needed = {"Prescott": "pni", "Sandybridge": "avx", "Haswell": "avx2", "SkylakeX": "avx512vl"}[kernels]
    return needed in Path("/proc/cpuinfo").read_text().split()


def run(path: Path, name: str) -> list[str]:
    library, threads, kernels, more = CONFIGURATIONS[name]
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS_", "NPY_", "MKL_"))}
    environment |= dict.fromkeys(THREADS, str(threads)) | more
    environment["OMP_WAIT_POLICY"] = "passive"  # two threads that spin on one free core take a hundred times longer
    if kernels is not None:
        environment["OPENBLAS_CORETYPE"] = kernels
    done = subprocess.run(
        [sys.executable, __file__, str(path), library],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    lines = done.stdout.split("\n")[:-1]
    assert len(lines) == ROUNDS + 2
    if kernels is not None:
        # The oldest kernels answer to the names of all processors they serve.
        names = {"Prescott", "Katmai"} if kernels == "Prescott" else {kernels}
        assert lines[-1] in names, "the configuration was not in force"
    return lines


@pytest.mark.slow
def test_replicas_stay_equal_whatever_multiplies_for_them(tmp_path: Path) -> None:
    path = tmp_path / "turns.npy"
    # Drawn once and handed on, as a lead does: QR itself differs between these configurations.
    drawn = [basis.quantise_turn(basis.haar(bytes([i]) * 32, WIDTH)) for i in range(ROUNDS // TURN_EVERY + 1)]
    np.save(path, np.array(drawn))
    ran = {name: run(path, name) for name, c in CONFIGURATIONS.items() if supported(c[2])}
    here = list(digests(drawn, np.matmul))
    assert len(set(here)) == ROUNDS
    for name, lines in ran.items():
        assert lines[:ROUNDS] == here, name
    assert len({lines[ROUNDS] for lines in ran.values()}) > 1, "float32 was equal too: no configuration differs"


if __name__ == "__main__":
    replica(Path(sys.argv[1]), sys.argv[2])
