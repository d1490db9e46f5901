"""A node on a CUDA device: values stay there between the stage and the frame, and frames are those of the host."""

from __future__ import annotations

from typing import Any

import torch
from tests.protocols.world import World
from tests.runs import manifest

from interlock.kernels import mask_host, mask_triton
from interlock.protocols.boundary import Frame
from interlock.protocols.service.engine import Engine

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def frames(boundary: Any) -> list[bytes]:
    """All frames of a run whose nodes use one module at their boundaries."""
    made = manifest(training=dict(rounds=1, epoch_rounds=1, decay=0))
    world = World(made)
    for name in world.engines:
        engine = world.engines[name] = Engine(made, device=DEVICE, clock=lambda: 0.0)
        engine._boundary = boundary
    return [bytes(sent.blobs[0].data) for sent in world.run().all_sent(Frame)]


def test_a_run_whose_values_stay_on_the_device_sends_the_same_frames() -> None:
    expected = frames(mask_host)
    assert len(expected) > 20
    assert frames(mask_triton) == expected
