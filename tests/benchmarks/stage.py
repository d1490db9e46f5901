"""Time forward and backward of a stage in JAX against the same in torch, on one thread.

    python tests/benchmarks/stage.py [--json]

A bar is the ratio of the two within one run, in processor time: micro-batches alternate, so that a busy machine slows
both alike, and medians are compared. Milliseconds are reported without a limit.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

os.environ["NPROC"] = "1"  # JAX reads it when it is imported

import numpy as np
import torch
from bars import Bar, report

from interlock.kernels.passes import Passes
from interlock.kernels.stage import Stage as TorchStage
from interlock.kernels.stage_jax import Stage as JaxStage
from interlock.kernels.state import StageShape

ROWS, CONTEXT, TOKENS = 8, 128, 16
LIMIT = 1.5  # measured: 1.1 to 1.3


def load(stage: Passes) -> None:
    """Weights as large as those of a run."""
    rng, shape = np.random.default_rng(0), stage.shape
    scaled = {t.name: rng.standard_normal((t.rows, t.columns)) / np.sqrt(t.columns) for t in shape.tensors()}
    weights = {name: weight.astype(np.float32) for name, weight in scaled.items()}
    stage.load(weights, np.eye(shape.width, dtype=np.float32))
    stage.warm(ROWS, CONTEXT)


def seconds(stage: Passes, stream: np.ndarray) -> tuple[float, float]:
    """Processor time of one micro-batch, and of one token decoded."""
    start = time.process_time()
    stage.backward(stage.forward(stream), stream)
    trained = time.process_time() - start
    cache = stage.cache(1)
    stage.decode(stream[:1, : CONTEXT - TOKENS], cache)
    start = time.process_time()
    for token in range(CONTEXT - TOKENS, CONTEXT):
        stage.decode(stream[:1, token : token + 1], cache)
    return trained, (time.process_time() - start) / TOKENS


def main() -> None:
    """Measure, print, exit 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(description="a stage in JAX against torch")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    bars, figures = [], []
    for width, repeats in ((128, 41), (256, 21)):
        shape = StageShape(width=width, heads=width // 64, layers=2, hidden=4 * width)
        stages: list[Passes] = [kind(shape, context=CONTEXT) for kind in (TorchStage, JaxStage)]
        for stage in stages:
            load(stage)
        stream = np.random.default_rng(1).standard_normal((ROWS, CONTEXT, width), dtype=np.float32)
        found = [[seconds(stage, stream) for stage in stages] for _ in range(repeats)]
        for name, index in (("forward and backward", 0), ("decoding a token", 1)):
            a, b = (statistics.median(pair[library][index] for pair in found) for library in range(2))
            bars.append(Bar(f"{name} in JAX / torch, d = {width}", b / a, LIMIT, "x"))
            figures += [
                Bar(f"{name}, {library}, d = {width}", 1e3 * s, None, "ms")
                for library, s in zip(("torch", "JAX"), (a, b), strict=True)
            ]
    report(bars + figures, {}, as_json=arguments.json)


if __name__ == "__main__":
    main()
