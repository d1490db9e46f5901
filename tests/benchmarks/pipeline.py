"""What it costs to train a model that nobody holds: processor time a token, against PyTorch's own pipeline.

    python tests/benchmarks/pipeline.py [--json] [--rounds N]

Four ways to train one model (width 256, six layers, 16 micro-batches of 8 x 128 bytes a round), one after another:

    masked      a whole run: 3 stages x 2 replicas, coordinator, 2 relays, 3 gates, all on this machine
    unmasked    the same run, but its nodes' keystreams are zeros: what is left is fixed point, hashes and signatures
    pipelining  torch.distributed.pipelining (1F1B), 3 stages x 2 replicas over gloo, gradients averaged, float32 Muon
    plain       one process, the same float32 Muon

Processor time of every process of each way counts, from the end of the first round to the end of the last; so does
every byte of text in between. A process has one thread for its arithmetic.

Where a node's time goes, by a sampling profiler (perf, and py-spy for the Python frames) on an AMD EPYC with AVX-512,
after the first rounds; in brackets what of it `pipelining` does not have:

    66 %    products of forward and backward in float32 (by count, the bridges' 1 %)
    10 %    the rest of forward and backward: norms, turns, activations, sums of gradients, attention
    10 %    the optimizer's step in whole numbers (float64 products 8 %), in place of one in float32
     3 %    SHA-256: frames, gradient sums, the state (all)
     2.5 %  Python: roles, msgspec, asyncio, calls into torch (two thirds)
     2 %    allocating and copying
     1.4 %  scheduling, epoll, sockets
     1.3 %  fixed point and gradient sums to whole numbers (all)
     1.1 %  CURVE (all)
     1.1 %  sealing gradient sums: BLAKE2b, ChaCha20-Poly1305 (all)
     0.4 %  keystreams, signatures (all)
     0.3 %  page faults

Nodes take 97 % of a run's time, relays 2.3 %, coordinator and gates 0.4 %. The thread that computes and the one that
listens do not cost each other time: of 11,000 samples two were in taking the interpreter's lock.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

WIDTH, HEADS, LAYERS, STAGES, REPLICAS = 256, 4, 2, 3, 2
MICROBATCHES, ROWS, CONTEXT = 16, 8, 128
TOKENS = MICROBATCHES * ROWS * CONTEXT
RATE = 0.01
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cost:
    """Seconds a token. parts: of the processor time, by who spent it."""

    cpu: float
    wall: float
    parts: Mapping[str, float] = field(default_factory=dict)


# -- a run ---------------------------------------------------------------------------------------------------------


def run(rounds: int, *, masked: bool) -> Cost:
    """A whole run of our own."""
    from interlock.protocols.service.choices import Choices
    from interlock.protocols.service.events import read_events
    from interlock.protocols.service.found import found
    from interlock.protocols.service.local import Local

    class Here(Local):
        def _spawn(self, name: str, arguments: list[str]) -> None:
            if masked or arguments[0] != "node":
                super()._spawn(name, arguments)
                return
            folder = self.run.folder(name)
            folder.mkdir(exist_ok=True)
            command = [sys.executable, __file__, "--unmasked-node", *arguments, "--parent", str(os.getpid())]
            with (folder / "log.txt").open("ab") as log:
                self._children[name] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )

        def spent_s(self) -> dict[str, float]:
            """Processor time of the children so far, by role; and of it, what nodes say that masking took."""
            found: dict[str, float] = defaultdict(float)
            for name, child in self._children.items():
                found[name.partition("-")[0]] += _spent_s(child.pid)
                if name.startswith("node"):
                    said = [e for e in read_events(self.run.folder(name)) if e["event"] == "Spent"]
                    found["masking"] += said[-1]["masking_s"]
            return found

    with tempfile.TemporaryDirectory() as folder:
        choices = Choices(
            name="pipeline",
            local=3,
            stages=STAGES,
            replicas=REPLICAS,
            width=WIDTH,
            heads=HEADS,
            layers_per_stage=LAYERS,
            hidden=4 * WIDTH,
            context=CONTEXT,
            rounds=rounds,
            epoch_rounds=rounds,
            decay=0,
            rate=RATE,
            microbatches=MICROBATCHES,
            rows=ROWS,
            validation_bytes=ROWS * CONTEXT * 8,
        )
        local = Here(found(Path(folder) / "run", choices)[0])
        local.backends = dict.fromkeys(local.backends, "torch")  # as the others
        marks: dict[int, tuple[dict[str, float], float]] = {}
        try:
            local.start()
            while not local.progress.ended:
                local.news()
                done = local.progress.round
                if done in (1, rounds) and done not in marks:
                    marks[done] = (local.spent_s(), time.perf_counter())
                local.check()
                time.sleep(0.02)
        finally:
            local.stop()
    (before, start), (after, end) = marks[1], marks[rounds]
    parts = {name: (after[name] - before[name]) / ((rounds - 1) * TOKENS) for name in after}
    masking = parts.pop("masking")
    whole = sum(parts.values())
    parts["node"] -= masking
    return Cost(whole, (end - start) / ((rounds - 1) * TOKENS), {"masks and hashes of frames": masking, **parts})


def _spent_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _cost(first: tuple[float, float], last: tuple[float, float], rounds: int) -> Cost:
    tokens = rounds * TOKENS
    return Cost((last[0] - first[0]) / tokens, (last[1] - first[1]) / tokens)


def unmasked_node(arguments: list[str]) -> None:
    """A node that masks with zeros."""
    import numpy as np

    from interlock.kernels import mask
    from interlock.protocols.cli import main

    mask.keystream = lambda key, size: np.zeros(size, np.uint8)
    main(["serve", *arguments])


# -- torch ---------------------------------------------------------------------------------------------------------


def part(index: int, stages: int) -> Any:
    """One of `stages` equal pieces of the model, as a module."""
    import torch
    import torch.nn.functional as F
    from torch import Tensor, nn

    def norm(x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), eps=1e-6)

    half = WIDTH // HEADS // 2
    angles = torch.arange(CONTEXT)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]

    def matrix(rows: int, columns: int) -> nn.Parameter:
        return nn.Parameter(torch.randn(rows, columns) / columns**0.5)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reads, self.output = matrix(3 * WIDTH, WIDTH), matrix(WIDTH, WIDTH)
            self.up, self.down = matrix(4 * WIDTH, WIDTH), matrix(WIDTH, 4 * WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            rows, tokens, _ = x.shape
            turned, values = F.linear(norm(x), self.reads).split((2 * WIDTH, WIDTH), -1)
            pairs = torch.view_as_complex(turned.reshape(rows, tokens, 2 * HEADS, -1, 2))
            turned = torch.view_as_real(pairs * turns[:tokens]).flatten(-2)
            queries, keys = turned.transpose(1, 2).chunk(2, 1)
            values = values.reshape(rows, tokens, HEADS, -1).transpose(1, 2)
            y = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
            x = x + F.linear(y.transpose(1, 2).flatten(2), self.output)
            return x + F.linear(F.relu(F.linear(norm(x), self.up)).square(), self.down)

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(Layer() for _ in range(STAGES * LAYERS // stages))
            self.embedding = nn.Parameter(torch.randn(256, WIDTH)) if index == 0 else None
            self.head = matrix(256, WIDTH) if index == stages - 1 else None

        def forward(self, x: Tensor) -> Tensor:
            if self.embedding is not None:
                x = norm(F.embedding(x, self.embedding))
            for layer in self.layers:
                x = layer(x)
            return x if self.head is None else F.linear(norm(x), self.head)

    torch.manual_seed(index)
    return Part()


class Muon:
    """Float32 Muon for matrices; rows over the root of their second moment for embedding and head."""

    def __init__(self, module: Any) -> None:
        import torch

        self._parameters = dict(module.named_parameters())
        self._momenta = {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        self._seconds: dict[str, Any] = {}

    def step(self) -> None:
        """One step, and no gradient left."""
        import torch

        with torch.no_grad():
            for name, parameter in self._parameters.items():
                momentum = self._momenta[name].mul_(0.9).add_(parameter.grad)
                if name in ("embedding", "head"):
                    second = parameter.grad.square().mean(1, keepdim=True)
                    self._seconds[name] = second = self._seconds.get(name, second).mul(0.95).add(second, alpha=0.05)
                    parameter.sub_(momentum / (second.sqrt() + 1e-12), alpha=RATE)
                    continue
                wide = momentum.shape[0] > momentum.shape[1]
                x = momentum.T if wide else momentum
                x = x / (x.norm() + 1e-12)
                for _ in range(5):
                    a = x @ x.T
                    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
                parameter.sub_(x.T if wide else x, alpha=RATE * max(1, parameter.shape[0] / parameter.shape[1]) ** 0.5)
        for parameter in self._parameters.values():
            parameter.grad = None


def texts(rounds: int, seed: int, batches: int) -> Any:
    """Windows of bytes to train on."""
    import torch

    source = torch.frombuffer(bytearray(Path(os.__file__).read_bytes()), dtype=torch.uint8).long()
    draw = torch.Generator().manual_seed(seed)
    for _ in range(rounds):
        starts = torch.randint(len(source) - CONTEXT - 1, (batches * ROWS,), generator=draw)
        windows = torch.stack([source[s : s + CONTEXT + 1] for s in starts.tolist()])
        yield windows[:, :-1], windows[:, 1:]


def loss(logits: Any, targets: Any) -> Any:
    """Mean nats a byte."""
    import torch.nn.functional as F

    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def rank(number: int, rounds: int, meet: str) -> None:
    """One process of torch's pipeline; prints its marks as JSON."""
    import torch
    import torch.distributed as dist
    from torch.distributed.pipelining import PipelineStage, Schedule1F1B

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=number, world_size=STAGES * REPLICAS)
    replica, index = divmod(number, STAGES)
    lines = [dist.new_group([r * STAGES + s for s in range(STAGES)]) for r in range(REPLICAS)]
    groups = [dist.new_group([r * STAGES + s for r in range(REPLICAS)]) for s in range(STAGES)]
    module, batches = part(index, STAGES), MICROBATCHES // REPLICAS
    stage = PipelineStage(module, index, STAGES, torch.device("cpu"), group=lines[replica])
    schedule, muon = Schedule1F1B(stage, batches, loss_fn=loss), Muon(module)
    marks = []
    for inputs, targets in texts(rounds, replica, batches):
        if index == 0:
            schedule.step(inputs)
        elif index == STAGES - 1:
            schedule.step(target=targets)
        else:
            schedule.step()
        for parameter in module.parameters():
            dist.all_reduce(parameter.grad, group=groups[index])
            parameter.grad /= REPLICAS
        muon.step()
        marks.append((time.process_time(), time.perf_counter()))
    dist.barrier()
    print(json.dumps(marks))
    dist.destroy_process_group()


def pipelining(rounds: int) -> Cost:
    """PyTorch's pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        meet = f"{folder}/meet"
        children = [
            subprocess.Popen(
                [sys.executable, __file__, "--rank", str(n), "--rounds", str(rounds), "--meet", meet],
                stdout=subprocess.PIPE,
                env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
            )
            for n in range(STAGES * REPLICAS)
        ]
        marks = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    first = (sum(m[0][0] for m in marks), max(m[0][1] for m in marks))
    last = (sum(m[-1][0] for m in marks), max(m[-1][1] for m in marks))
    return _cost(first, last, rounds - 1)


def plain(rounds: int) -> Cost:
    """One process."""
    import torch

    torch.set_num_threads(1)
    module = part(0, 1)
    muon, marks = Muon(module), []
    for inputs, targets in texts(rounds, 0, MICROBATCHES):
        for rows, wanted in zip(inputs.split(ROWS), targets.split(ROWS), strict=True):
            (loss(module(rows), wanted) / MICROBATCHES).backward()
        muon.step()
        marks.append((time.process_time(), time.perf_counter()))
    return _cost(marks[0], marks[-1], rounds - 1)


def main() -> None:
    if sys.argv[1:2] == ["--unmasked-node"]:
        unmasked_node(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description="What it costs to train a model that nobody holds.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--meet", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.rank is not None:
        rank(given.rank, given.rounds, given.meet)
        return
    from bars import Bar, report

    ways = {}
    for name, way in (
        ("masked", lambda: run(given.rounds, masked=True)),
        ("pipelining", lambda: pipelining(given.rounds)),
        ("unmasked", lambda: run(given.rounds, masked=False)),
        ("plain", lambda: plain(given.rounds)),
    ):
        ways[name] = way()
        print(f"{name}: {1e6 * ways[name].cpu:.1f} us of processor a token", file=sys.stderr)
    bars = [
        Bar("masked over torch pipelining, processor time", ways["masked"].cpu / ways["pipelining"].cpu, 4 / 3, "x")
    ]
    bars += [Bar(f"{name}, processor time a token", 1e6 * cost.cpu, None, "us") for name, cost in ways.items()]
    parts = ways["masked"].parts.items()
    bars += [Bar(f"masked, of it: {name}", 1e6 * cost, None, "us") for name, cost in parts]
    bars += [Bar(f"{name}, wall time a token", 1e6 * cost.wall, None, "us") for name, cost in ways.items()]
    report(bars, {}, as_json=given.json)


if __name__ == "__main__":
    main()
