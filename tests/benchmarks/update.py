"""Time the exact update and turning against the same step in float32 torch, on one thread.

    python tests/benchmarks/update.py [--json]

A bar is the ratio of the two within one run, in processor time: rounds alternate, so that a busy machine
slows both alike, and medians are compared. A twentieth of a turn is added to each exact round, for a turn every
20 rounds. The milliseconds of a layer are reported without a limit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from bars import Bar, report
from threadpoolctl import threadpool_limits

from interlock.kernels import basis, muon
from interlock.kernels.initial import initial_state
from interlock.kernels.state import StageShape, StageState

TURN_EVERY = 20
RATE = 0.02
LIMIT = 2.0  # the aim is 1.5


class FloatStage:
    """The same optimizer in float32 torch: what a trainer without exactness would run."""

    def __init__(self, state: StageState) -> None:
        self.specs = state.shape.tensors()
        self.w = {n: torch.from_numpy(w.copy()) for n, w in muon.weights(state).items()}
        self.m = {n: torch.zeros_like(w) for n, w in self.w.items()}
        self.v = {n: torch.zeros(len(w), 1) for n, w in self.w.items()}

    def step(self, gradients: dict[str, torch.Tensor]) -> None:
        """One step in place."""
        for s in self.specs:
            w, m, v, g = self.w[s.name], self.m[s.name], self.v[s.name], gradients[s.name]
            m.mul_(0.9).add_(g)
            if s.kind == "matrix":
                w.sub_(self._newton_schulz(m), alpha=RATE * max(1.0, s.rows / s.columns) ** 0.5)
            else:
                v.mul_(0.95).add_(g.square().mean(dim=1, keepdim=True), alpha=0.05)
                size = 10 * RATE if s.kind == "embedding" else 4 * RATE / s.columns**0.5
                w.addcmul_(m, v.rsqrt(), value=-0.1 * size)

    @staticmethod
    def _newton_schulz(m: torch.Tensor) -> torch.Tensor:
        x = m / (m.norm() + 1e-7)
        tall = x.shape[0] > x.shape[1]
        if tall:
            x = x.T
        for _ in range(5):
            a = x @ x.T
            q = torch.addmm(a, a, a, beta=-4.7750, alpha=2.0315)
            x = torch.addmm(x, q, x, beta=3.4445)
        result: torch.Tensor = x.T if tall else x
        return result


def seconds(work: Callable[[], object]) -> float:
    """Processor time of the process: on one thread that is the wall time of a machine that does nothing else."""
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(shape: StageShape, repeats: int) -> tuple[float, float, float]:
    """Median seconds of an exact step, of a turn, and of a float32 step."""
    d = shape.width
    bridge = basis.quantise_bridge(basis.haar(bytes(32), d))
    state = initial_state(shape, bytes(32), bridge=bridge)
    rng = np.random.default_rng(0)
    sums = {s.name: rng.integers(-(2**20), 2**20, (s.rows, s.columns)) for s in shape.tensors()}
    exponents = dict.fromkeys(sums, -30)
    gradients = {n: torch.from_numpy(np.ldexp(g.astype(np.float32), -30)) for n, g in sums.items()}
    turn = basis.quantise_turn(basis.haar(b"\1" * 32, d))
    floats = FloatStage(state)
    current = state
    times: tuple[list[float], list[float], list[float]] = ([], [], [])

    def exact_step() -> None:
        nonlocal current
        current = muon.step(current, sums, exponents, rate=RATE)

    def exact_turn() -> None:
        nonlocal current
        current = basis.turn(muon.grow_grids(current), turn, turn_before=turn)

    jobs = (exact_step, exact_turn, lambda: floats.step(gradients))
    for i in range(repeats + 1):
        for job, found in zip(jobs, times, strict=True):
            taken = seconds(job)
            if i:  # the first round warms caches and allocators
                found.append(taken)
    return tuple(statistics.median(found) for found in times)  # type: ignore[return-value]


def main() -> None:
    """Measure, print, exit 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(description="exact update against float32 torch")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bars, figures = [], []
    for d, layers, repeats in ((128, 2, 41), (256, 2, 21), (1024, 1, 5)):
        shape = StageShape(width=d, heads=d // 32, layers=layers, hidden=4 * d)
        with threadpool_limits(1):
            step, turn, floats = measure(shape, repeats)
        if d > 128:
            ratio = (step + turn / TURN_EVERY) / floats
            bars.append(Bar(f"exact update and turns / float32 torch, d = {d}", ratio, LIMIT, "x"))
        figures += [
            Bar(f"exact step of a layer, d = {d}", 1e3 * step / layers, None, "ms"),
            Bar(f"exact turn of a layer, d = {d}", 1e3 * turn / layers, None, "ms"),
            Bar(f"float32 step of a layer, d = {d}", 1e3 * floats / layers, None, "ms"),
        ]
    report(bars + figures, {}, as_json=arguments.json)


if __name__ == "__main__":
    main()
