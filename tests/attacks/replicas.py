"""A relay with two replicas' frames of one unit: what their one mask shows.

Equal state and input give equal masks, on purpose: a frame is compared with its twin by subtracting. Two honest
replicas whose devices round differently show these differences and no more. A replica that sends something else under
the right tau shows the other's value; it could as well send that value itself. And a stage that scaled a row to make
it fit, next to one that did not, would show the row: so what does not fit is clamped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from interlock.kernels import fixed, mask
from interlock.kernels.stage import Stage
from interlock.protocols.boundary import Crossing, Departure, Unit
from interlock.protocols.change import Prepare
from interlock.protocols.manifest import Model
from interlock.protocols.service.engine import Engine
from interlock.vault import GroupKey, PairKey

from . import engines
from .attack import Cost, Found
from .engines import TICK_KEY, difference, plain, small, take

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


class OtherOrder(Stage):
    """A stage on a device that adds in another order: here, over the hidden units from the last to the first."""

    def load(self, weights: Mapping[str, Float32], bridge: Float32 | None) -> None:
        """The same stage, whose outputs differ by rounding only."""
        backwards = {name: w[::-1] if name.endswith(("up", "gate")) else w for name, w in weights.items()}
        backwards |= {name: w[:, ::-1] for name, w in weights.items() if name.endswith("down")}
        super().load({name: np.ascontiguousarray(w) for name, w in backwards.items()}, bridge)


class OtherDevice(Engine):
    """An engine on such a device."""

    def _prepare(self, job: Prepare) -> Any:
        prepared = super()._prepare(job)
        self._stage = OtherOrder(self._manifest.shape(job.stage), context=self._manifest.model.context)
        return prepared


def _two(kind: type[Engine], *, width: int, context: int, rows: int) -> tuple[Departure, Departure]:
    model = Model(width=width, heads=2, layers_per_stage=2, hidden=4 * width, mlp="relu2", context=context)
    made = small(stages=2, model=model, training=dict(rows=rows))
    by, under, unit = engines.group(0), engines.pair(0), engines.unit(made)
    one, other = (take(made, engines.engine(made, 0, kind=k), unit, by=by, under=under) for k in (Engine, kind))
    return one, other


def rounding(*, width: int = 128, context: int = 128, rows: int = 8) -> Found:
    """Subtract the frames of two honest replicas on devices that round differently."""
    one, other = _two(OtherDevice, width=width, context=context, rows=rows)
    cost = Cost(tokens=rows * context, seen_bytes=one.frame.size + other.frame.size)
    with cost.clock():
        found = difference(one, other)
    held = plain(one, under=engines.pair(0))
    off, largest = float(np.mean(found != 0)), int(np.abs(found).max())
    shown = float(np.corrcoef(found[found != 0], held[found != 0])[0, 1]) if off else 0.0
    return Found(
        won=0 < off < 0.05 and largest <= 2,
        recovered=f"that {off:.2%} of the words differ, by {largest} unit at most",
        measures={"words that differ": off, "largest": largest, "correlation with the values": shown},
        cost=cost,
    )


class Silent(Engine):
    """A replica that computes nothing and masks zeros under the tau that its group would use."""

    def _depart(self, group: GroupKey, out: Crossing, values: Float32, read: bytes) -> Departure:
        return super()._depart(group, out, np.zeros_like(values), read)


def lying(*, width: int = 64, context: int = 64, rows: int = 8) -> Found:
    """Subtract the frame of a replica that sends zeros under the right tau from its twin's."""
    one, other = _two(Silent, width=width, context=context, rows=rows)
    cost = Cost(tokens=rows * context, seen_bytes=one.frame.size + other.frame.size)
    with cost.clock():
        found = difference(one, other)
    right = float(np.mean(found == plain(one, under=engines.pair(0))))
    return Found(
        won=right == 1.0,
        recovered=f"all {found.size} values of the honest replica's frame",
        measures={"words right": right},
        cost=cost,
    )


# -- the range's edge ----------------------------------------------------------------------------------------------


def scaled(values: Float32, unit: Unit) -> Int32:
    """An encoder that does not clamp: it halves a row until it fits (a row: one token's vector)."""
    limit = fixed.largest(unit.width) + 0.5
    real = values.astype(np.float64) * 2.0 ** (unit.fraction - unit.exponent)
    over = np.abs(real).max(-1, keepdims=True) / limit
    halvings = np.where(over >= 1, np.floor(np.log2(np.maximum(over, 1))) + 1, 0)
    return np.rint(real * 2.0**-halvings).astype(np.int32)


def clamped(values: Float32, unit: Unit) -> Int32:
    """The real encoder."""
    return fixed.encode(values, width=unit.width, fraction=unit.fraction, exponent=unit.exponent).integers


def at_the_edge(*, scales: bool, rows: int = 64, width: int = 128) -> Found:
    """Subtract two replicas' frames of rows whose largest element is the largest that fits, but for rounding.

    Both replicas are honest. In each row the largest element rounds to what just fits at one of them, and to one
    unit more at the other.
    """
    made = small()
    unit, under = engines.unit(made), engines.pair(0)
    rng = np.random.default_rng(1)
    values = rng.standard_normal((rows, width)) * 100.0
    edge = (fixed.largest(unit.width) + 0.5) * 2.0**-unit.fraction
    values[np.arange(rows), rng.integers(0, width, rows)] = edge
    one, other = (np.asarray(values * (1 + side * 2.0**-22), np.float32) for side in (-1, 1))
    encode = scaled if scales else clamped
    tau = engines.group(0).tau(unit.keyed(TICK_KEY), b"s" * 32, b"i" * 32)
    frames = [_frame(encode(x, unit), unit, under, tau) for x in (one, other)]
    cost = Cost(seen_bytes=sum(frame.size for frame in frames))
    with cost.clock():
        found = mask.difference(frames[0], frames[1], count=one.size, width=unit.width).reshape(rows, width)
        guess = 2 * found * 2.0**-unit.fraction  # a halved row shows its other half
    shown = float(np.mean(np.abs(guess - one).max(-1) < 1e-2))
    largest = int(np.abs(found).max())
    return Found(
        won=shown > 0.5,
        recovered=f"{shown:.0%} of the rows, to a thousandth" if scales else f"nothing: words differ by {largest} unit",
        measures={"rows shown": shown, "largest difference": largest},
        cost=cost,
        control=None if scales else at_the_edge(scales=True, rows=rows, width=width).won,
    )


def _frame(integers: Int32, unit: Unit, under: PairKey, tau: bytes) -> npt.NDArray[np.uint8]:
    return mask.mask(integers, under.mask_key(unit.keyed(TICK_KEY), tau), width=unit.width)
