"""Nodes on a GPU: values stay there between the stage and the frame, and what others see is what a CPU would send."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import jax
import torch
from tests.protocols.world import World
from tests.runs import identity, manifest

from interlock.kernels import mask_host, mask_pallas, mask_triton
from interlock.protocols.boundary import Frame
from interlock.protocols.journal import Committed
from interlock.protocols.service.engine import Engine

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PLATFORM = jax.devices()[0].platform  # "cpu", unless the JAX that is installed has another

Kind = tuple[str, str, ModuleType]  # library, device, boundary
TORCH: Kind = ("torch", DEVICE, mask_triton)
OVER_THE_HOST: Kind = ("torch", DEVICE, mask_host)
JAX: Kind = ("jax", PLATFORM, mask_host if PLATFORM == "cpu" else mask_pallas)
ON_THE_HOST: Kind = ("torch", "cpu", mask_host)


def run(*kinds: Kind, **made: Any) -> World:
    """A run whose nodes are of these kinds, by turns."""
    world = World(manifest(training=dict(rounds=1, epoch_rounds=1, decay=0), **made))
    for number, name in enumerate(world.engines):
        backend, device, boundary = kinds[number % len(kinds)]
        engine = world.engines[name] = Engine(world.manifest, backend=backend, device=device, clock=lambda: 0.0)
        engine._boundary = boundary
    return world.run()


def frames(world: World) -> list[bytes]:
    """What crossed the boundaries."""
    return [bytes(sent.blobs[0].data) for sent in world.all_sent(Frame)]


def test_a_run_whose_values_stay_on_the_device_sends_the_same_frames() -> None:
    expected = frames(run(OVER_THE_HOST))
    assert len(expected) > 20
    assert frames(run(TORCH)) == expected


def test_replicas_on_unlike_devices_hold_one_state() -> None:
    """Of two stages with two replicas each, at least one has replicas of two kinds."""
    world = run(TORCH, JAX, ON_THE_HOST, TORCH, stages=2, relays=1)
    rows = [row.body for row in world.rows() if isinstance(row.body, Committed)]
    assert rows[-1].round == 1
    for row in rows:
        assert {report.member for report in row.reports} == {identity(f"node{n}").public for n in range(4)}
        assert len({report.state for report in row.reports}) == 2
