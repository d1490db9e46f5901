"""What a boundary costs on the devices that are here: float values to a frame for the wire, and back.

    python tests/benchmarks/device.py [--json]

numpy, torch and JAX encode, mask and split in several passes, and likewise back; on a GPU, so do Triton and Pallas in
one pass, with the keystream on the device before they begin, as it is when it is made while a stage computes. All give
the same bytes, which is checked first. Each way begins with values on its device and ends with a frame on the host, or
the other way round. On a GPU the clock is the wall's, and a stage's forward and backward are timed beside it; without
one it is the process's, all threads counted.

Interpreted kernels are never timed: that says nothing about any device. The bars compare ways within one run.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, TypeVar

import jax
import numpy as np
import torch
from bars import Bar, report

from interlock.kernels import basis, fixed, initial, mask, mask_jax, mask_torch, muon
from interlock.kernels.stage import Stage
from interlock.kernels.state import StageShape

ROWS, CONTEXT, MODEL_WIDTH, LAYERS = 16, 128, 1024, 2
SHAPE = (ROWS, CONTEXT, MODEL_WIDTH)
COUNT = ROWS * CONTEXT * MODEL_WIDTH
WIDTH, FRACTION = 24, 12
KEY = bytes(range(32))
DIRECTIONS = ("depart", "arrive")
Job = TypeVar("Job")
VALUES = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
FRAME = mask.mask(fixed.encode(VALUES, width=WIDTH, fraction=FRACTION).integers, KEY, width=WIDTH)


@dataclass(frozen=True)
class Way:
    """Values to a frame (`depart`) and back (`arrive`), each from what `prepare` gives, which is not timed."""

    name: str
    prepare: Callable[[], Any]
    depart: Callable[[Any], mask.Bytes]
    arrive: Callable[[Any], Any]


def in_numpy() -> Way:
    """What a node on a CPU does."""

    def depart(_: None) -> mask.Bytes:
        return mask.mask(fixed.encode(VALUES, width=WIDTH, fraction=FRACTION).integers, KEY, width=WIDTH)

    def arrive(_: None) -> fixed.Float32:
        return fixed.decode(mask.unmask(FRAME, KEY, count=COUNT, width=WIDTH), fraction=FRACTION).reshape(SHAPE)

    return Way("numpy", lambda: None, depart, arrive)


def in_torch(device: torch.device) -> Way:
    """Several passes over tensors."""
    values = torch.from_numpy(VALUES).to(device)

    def depart(_: None) -> mask.Bytes:
        integers = mask_torch.encode(values, width=WIDTH, fraction=FRACTION).integers
        return mask_torch.mask(integers, KEY, width=WIDTH).cpu().numpy()

    def arrive(_: None) -> torch.Tensor:
        frame = torch.tensor(FRAME, device=device)
        integers = mask_torch.unmask(frame, KEY, count=COUNT, width=WIDTH)
        return done(mask_torch.decode(integers, fraction=FRACTION).reshape(SHAPE))

    return Way(f"torch, {device.type}", lambda: None, depart, arrive)


def in_jax(device: jax.Device) -> Way:
    """Several passes over arrays."""
    values = jax.device_put(VALUES, device)

    def depart(_: None) -> mask.Bytes:
        integers = mask_jax.encode(values, width=WIDTH, fraction=FRACTION).integers
        return np.asarray(mask_jax.mask(integers, KEY, width=WIDTH))

    def arrive(_: None) -> jax.Array:
        integers = mask_jax.unmask(jax.device_put(FRAME, device), KEY, count=COUNT, width=WIDTH)
        return done(mask_jax.decode(integers, fraction=FRACTION).reshape(SHAPE))

    return Way(f"jax, {device.platform}", lambda: None, depart, arrive)


def in_one_pass(name: str, kernels: ModuleType, values: Any, device: Any, settle: Callable[[Any], object]) -> Way:
    """A fused kernel; `settle` waits until its keystream is on the device."""

    def prepare() -> Any:
        stream = kernels.Keystream(KEY, COUNT, width=WIDTH, device=device)
        settle(stream)
        return stream

    def depart(stream: Any) -> mask.Bytes:
        return kernels.depart(values, stream, fraction=FRACTION)[0]

    def arrive(stream: Any) -> Any:
        return done(kernels.arrive(FRAME, stream, shape=SHAPE, fraction=FRACTION))

    return Way(name, prepare, depart, arrive)


def done(values: Any) -> Any:
    """The values, when the device has computed them."""
    if isinstance(values, jax.Array):
        return values.block_until_ready()
    if values.is_cuda:
        torch.cuda.synchronize(values.device)
    return values


def ways(cuda: bool, chip: jax.Device) -> tuple[list[Way], list[tuple[Way, Way]]]:
    """Every way that this machine can measure, and pairs of which the first must not be slower."""
    numpy, torch_cpu = in_numpy(), in_torch(torch.device("cpu"))
    several = in_jax(chip)
    found, pairs = [numpy, torch_cpu, several], []
    if not cuda and chip.platform == "cpu":
        pairs += [(numpy, torch_cpu), (numpy, several)]  # why a node on a CPU takes numpy for whatever back end
    if chip.platform != "cpu":
        from interlock.kernels import mask_pallas

        def copied(stream: mask_pallas.Keystream) -> None:
            jax.block_until_ready(stream._words)

        fused = in_one_pass("one pass in Pallas", mask_pallas, jax.device_put(VALUES, chip), chip, copied)
        found.append(fused)
        pairs.append((fused, several))
    if cuda:
        from interlock.kernels import mask_triton  # a torch with CUDA brings triton

        card = torch.device("cuda")
        values = torch.from_numpy(VALUES).to(card)
        several = in_torch(card)
        fused = in_one_pass("one pass in Triton", mask_triton, values, card, lambda _: torch.cuda.synchronize())
        found += [several, fused]
        pairs.append((fused, several))
    return found, pairs


def check(way: Way) -> None:
    """Compare a way's frame and values with numpy's; compiles what it needs."""
    expected = fixed.decode(mask.unmask(FRAME, KEY, count=COUNT, width=WIDTH), fraction=FRACTION).reshape(SHAPE)
    found = way.arrive(way.prepare())
    found = found.cpu().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    if way.depart(way.prepare()).tobytes() != FRAME.tobytes() or found.tobytes() != expected.tobytes():
        raise SystemExit(f"{way.name} gives other bytes than numpy")


def median_seconds(
    jobs: Mapping[Job, Callable[[], Callable[[], object]]], clock: Callable[[], float], repeats: int
) -> dict[Job, float]:
    """Median time of each job, the jobs by turns; calling one gives the work to time."""
    taken: dict[Job, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            work = job()
            start = clock()
            work()
            taken[name].append(clock() - start)
    return {name: statistics.median(found) for name, found in taken.items()}


def leg(way: Way, direction: str) -> Callable[[], Callable[[], object]]:
    """One direction of a way, as `median_seconds` takes it."""
    return lambda: partial(getattr(way, direction), way.prepare())


def stage_work(device: str) -> Callable[[], object]:
    """Forward and backward of a middle stage on a device."""
    shape = StageShape(width=MODEL_WIDTH, heads=MODEL_WIDTH // 64, layers=LAYERS, hidden=4 * MODEL_WIDTH)
    bridge = basis.quantise_bridge(basis.haar(bytes(32), MODEL_WIDTH))
    stage = Stage(shape, context=CONTEXT, device=device)
    weights = muon.weights(initial.initial_state(shape, bytes(32), bridge=bridge))
    stage.load(weights, (bridge * 2.0**-29).astype(np.float32))

    def work() -> None:
        stage.backward(stage.forward(VALUES), VALUES)  # numpy in and out: waits for the device

    work()  # warms caches and allocators
    return work


def measure_stage(clock: Callable[[], float], frames_s: float, repeats: int) -> list[Bar]:
    """A stage on the GPU and on the CPU, and what two frames read and two sent are of the former."""
    works = {device: stage_work(device) for device in ("cuda", "cpu")}
    seconds = median_seconds({device: lambda w=work: w for device, work in works.items()}, clock, repeats)
    name = f"stage of {LAYERS} layers, forward and backward"
    return [
        *(Bar(f"{name}: {device}", 1e3 * taken, None, "ms") for device, taken in seconds.items()),
        Bar("two frames read and two sent / that on cuda", frames_s / seconds["cuda"], None, "x"),
    ]


def main() -> None:
    """Measure, print, exit 1 when a bar does not hold."""
    parser = argparse.ArgumentParser(description="the masked boundary on the devices of this machine")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    cuda, chip = torch.cuda.is_available(), jax.devices()[0]
    gpu = cuda or chip.platform != "cpu"
    clock = time.perf_counter if gpu else time.process_time

    found, pairs = ways(cuda, chip)
    for way in found:
        check(way)
    legs = {(way.name, direction): leg(way, direction) for direction in DIRECTIONS for way in found}
    seconds = median_seconds(legs, clock, repeats=21)
    rates = [
        Bar(f"{direction}: {name}", VALUES.nbytes / taken / 1e9, None, "GB/s")
        for (name, direction), taken in seconds.items()
    ]
    bars = [
        Bar(f"{d}: {fast.name} / {slow.name}", seconds[fast.name, d] / seconds[slow.name, d], 1.0, "x")
        for fast, slow in pairs
        for d in DIRECTIONS
    ]
    keystream = median_seconds({"": lambda: partial(mask.keystream, KEY, FRAME.size)}, clock, repeats=21)[""]
    rates.append(Bar("keystream alone", VALUES.nbytes / keystream / 1e9, None, "GB/s"))
    if cuda:
        frames_s = 2 * sum(seconds["one pass in Triton", direction] for direction in DIRECTIONS)
        rates += measure_stage(clock, frames_s, repeats=5)
    extra = {
        "device": f"torch on {torch.cuda.get_device_name() if cuda else 'the CPU'}, JAX on {chip.device_kind}",
        "rates": f"bytes of {COUNT} float32 values, by the {'wall' if gpu else 'process'} clock",
    }
    if not gpu:
        extra["note"] = "no GPU here: the one-pass kernels would be interpreted, and times of that mean nothing"
    report(bars + rates, extra, as_json=arguments.json)


if __name__ == "__main__":
    main()
