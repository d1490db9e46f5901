"""The state of one pipeline stage: integers only, so that equal states have equal digests.

A stage of a transformer with vocabulary 256 (bytes). Every tensor is a matrix of int32 on a power-of-two
grid: weight = integer x 2**-grid. `side` says how a tensor meets the residual stream and so how it turns with
the stage's secret basis: a tensor that *reads* maps the stream to something else (shape (out, d), turned
`W A^T`), one that *writes* maps into the stream (shape (d, in), turned `A W`).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from .errors import OutOfRange

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

VOCABULARY = 256
MATRIX_GRID = 24  # weights of matrices start on 2**-24
LOOKUP_GRID = 22  # embedding and head on 2**-22


@dataclass(frozen=True, slots=True)
class TensorShape:
    """Name, shape and place of one tensor."""

    name: str
    rows: int
    columns: int
    kind: Literal["matrix", "embedding", "head"]
    side: Literal["reads", "writes"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageShape:
    """Shape of one stage.

    Args:
        width: d, the residual stream.
        heads: attention heads; `width / heads` must be even (rotary pairs).
        layers: transformer layers in this stage.
        hidden: inner width of the MLP.
        mlp: "relu2" (squared ReLU: up, down) or "swiglu" (gate, up, down).
        first: embeds tokens. last: projects to the vocabulary and takes the loss.

    Raises:
        OutOfRange: a size is not positive, heads do not divide the width into even parts.
    """

    width: int
    heads: int
    layers: int
    hidden: int
    mlp: Literal["relu2", "swiglu"] = "relu2"
    first: bool = False
    last: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.heads, self.layers, self.hidden) < 1:
            raise OutOfRange(f"stage sizes must be positive: {self}")
        if self.width % (2 * self.heads):
            raise OutOfRange(
                f"width {self.width} does not split into {self.heads} heads of an even size (rotary pairs)"
            )
        if self.mlp not in ("relu2", "swiglu"):
            raise OutOfRange(f"mlp must be relu2 or swiglu, not {self.mlp!r}")

    def tensors(self) -> tuple[TensorShape, ...]:
        """All tensors of the stage, in canonical order."""
        d, h = self.width, self.hidden
        found = [TensorShape("embedding", VOCABULARY, d, "embedding", "reads")] if self.first else []
        for i in range(self.layers):
            found += [TensorShape(f"layer{i}.{n}", d, d, "matrix", "reads") for n in ("query", "key", "value")]
            found.append(TensorShape(f"layer{i}.output", d, d, "matrix", "writes"))
            if self.mlp == "swiglu":
                found.append(TensorShape(f"layer{i}.gate", h, d, "matrix", "reads"))
            found.append(TensorShape(f"layer{i}.up", h, d, "matrix", "reads"))
            found.append(TensorShape(f"layer{i}.down", d, h, "matrix", "writes"))
        if self.last:
            found.append(TensorShape("head", VOCABULARY, d, "head", "reads"))
        return tuple(found)


@dataclass(frozen=True, slots=True)
class TensorState:
    """One tensor and what the optimizer keeps for it. Arrays are never changed in place.

    weight: int32 (rows, columns); the value is weight x 2**-grid.
    momentum: int32 (rows, columns); the value is momentum x 2**momentum_exponent.
    second: float64 (rows,), row second moments, each a number of 32 significant bits; None for matrices.
    sum_exponent: gradient sums of the next round are integers x 2**sum_exponent; None until measured.
    """

    weight: Int32
    grid: int
    momentum: Int32
    momentum_exponent: int
    second: npt.NDArray[np.float64] | None
    sum_exponent: int | None


@dataclass(frozen=True, slots=True)
class StageState:
    """Everything a stage's next step reads.

    round: optimizer steps taken. bridge: int32 (d, d) on 2**-29, from the basis of the stage before to this
    stage's; None for the first stage.
    """

    shape: StageShape
    round: int
    tensors: Mapping[str, TensorState]
    bridge: Int32 | None

    def digest(self) -> bytes:
        """SHA-256 of the state in canonical order. Secret: leaves its group only salted.

        Each array enters as its shape and little-endian bytes, each number as int64.
        """
        h = hashlib.sha256(b"interlock/state/v1")

        def array(a: npt.NDArray[np.int32] | npt.NDArray[np.float64] | None) -> None:
            if a is None:
                h.update(b"\0")
                return
            h.update(b"\1" + struct.pack("<B", a.ndim) + struct.pack(f"<{a.ndim}q", *a.shape))
            h.update(np.ascontiguousarray(a, dtype=a.dtype.newbyteorder("<")).data)

        h.update(struct.pack("<q", self.round))
        array(self.bridge)
        for spec in self.shape.tensors():
            t = self.tensors[spec.name]
            h.update(spec.name.encode() + b"\0")
            exponent = -(2**40) if t.sum_exponent is None else t.sum_exponent
            h.update(struct.pack("<qqq", t.grid, t.momentum_exponent, exponent))
            array(t.weight)
            array(t.momentum)
            array(t.second)
        return h.digest()
