"""What a person chooses about a run, and what is chosen when nothing is said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a person chooses about a run; everything else follows. Sizes as in the manifest.

    Each field with a text is an option of `interlock new`. Bounds are the manifest's (`found.found`).
    """

    name: Annotated[str, "What people call the run."] = "run"
    stages: Annotated[int, "Stages that the model is cut into."] = 3
    replicas: Annotated[int, "Nodes at each stage."] = 2
    relays: Annotated[int, "Relays in use."] = 2
    keyholders: tuple[tuple[str, bytes], ...] = ()  # name and public key
    local: int = 0  # so many keyholders whose keys are made here
    release: Annotated[int, "k_e: gates that every tick needs."] = 2
    halt: Annotated[int, "k_h: keyholders that stop the run by an order."] = 2
    resume: Annotated[int, "k_r: keyholders that a resume needs."] = 3
    lying: Annotated[int, "f: gates that may lie; 2 k_e > n + f."] = 0
    releasing: Annotated[
        Literal["automatic", "manual"], "automatic, or manual: a gate waits until its keyholder allows an epoch."
    ] = "automatic"
    pause_hours: Annotated[int, "What one pause lasts at most."] = 24
    pause_cooldown_days: Annotated[int, "From a keyholder's pause to its next."] = 7
    resume_notice_s: Annotated[
        int | None, "Seconds from a halt to the earliest resume. Default: a day; 0 with --local."
    ] = None
    width: Annotated[int, "Width of the residual stream."] = 128
    heads: Annotated[int, "Attention heads."] = 2
    layers_per_stage: Annotated[int, "Layers in each stage."] = 2
    hidden: Annotated[int, "Inner width of the MLPs."] = 512
    mlp: Annotated[Literal["relu2", "swiglu"], "relu2 or swiglu."] = "relu2"
    context: Annotated[int, "Bytes in a window."] = 128
    rounds: Annotated[int, "Optimizer steps."] = 80
    epoch_rounds: Annotated[int, "Rounds between turns of the bases."] = 20
    microbatches: Annotated[int, "Micro-batches in a round."] = 4
    rows: Annotated[int, "Windows in a micro-batch."] = 4
    rate: Annotated[float, "Learning rate."] = 0.04
    warmup: Annotated[int, "Rounds over which the rate rises."] = 0
    decay: Annotated[int, "Last rounds over which it falls to zero."] = 40
    evaluate_every: Annotated[int, "Rounds between evaluations; 0: only before the first and after the last."] = 0
    validation_bytes: Annotated[int, "Text to hold out, in whole files."] = 200_000
    frame_width: Annotated[Literal[16, 24, 32], "Bits of a masked number: 16, 24 or 32."] = 24
    frame_fraction: Annotated[int, "Of these, bits after the point."] = 12
    gradient_exponent: Annotated[
        int | None, "Exponent of gradient frames in the first round. Default: -ceil(log2 tokens) - 4."
    ] = None
    admission: Annotated[
        Literal["invited", "open"], "invited, or open: anyone may join, which binds only the honest to one stage."
    ] = "invited"
    data: tuple[Path, ...] = ()
