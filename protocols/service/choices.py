"""What a person chooses about a run, and what is chosen when nothing is said."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..manifest import Keyholder


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a person chooses about a run; everything else follows. Sizes as in the manifest."""

    name: str = "run"
    stages: int = 3
    replicas: int = 2
    relays: int = 2
    keyholders: tuple[Keyholder, ...] = ()
    local: int = 0  # so many keyholders whose keys are made here
    release: int = 2
    halt: int = 2
    resume: int = 3
    lying: int = 0
    width: int = 128
    heads: int = 2
    layers_per_stage: int = 2
    hidden: int = 512
    mlp: Literal["relu2", "swiglu"] = "relu2"
    context: int = 128
    rounds: int = 80
    epoch_rounds: int = 20
    microbatches: int = 4
    rows: int = 4
    rate: float = 0.04
    warmup: int = 0
    decay: int = 40
    evaluate_every: int = 0
    validation_bytes: int = 200_000
    frame_width: Literal[16, 24, 32] = 24
    frame_fraction: int = 12
    gradient_exponent: int | None = None
    admission: Literal["invited", "open"] = "invited"
    data: tuple[Path, ...] = field(default=())
