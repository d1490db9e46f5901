"""The passes of a pipeline stage, whichever library computes them: forward, backward and cached decoding.

`stage.Stage` computes with torch, `stage_jax.Stage` with JAX; a process imports the one that it uses. Here is what
they share: what is taken, given and refused.

The residual stream of a stage lives in an orthonormal frame that only its group knows, so nothing in a stage may
depend on single coordinates of the stream: only gainless RMS norms and matrix products touch it. Turning the
weights and the bridge by an orthogonal matrix then leaves the loss as it is and turns the gradients alike.
Inside attention and the MLP there is no such freedom and none is needed: heads, rotary pairs and the
activation act on coordinates that never leave the stage.

Floating point is the library's and the device's own; its results are judged by a tolerance, never bit by bit. The
number of threads belongs to the process.

Shapes: B batch rows, T tokens, d width of the stream, H heads, k = d / H, h hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import NonFinite, OutOfRange
from .state import VOCABULARY, StageShape

Float32 = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.integer[Any]]

ROTARY_BASE = 10_000.0
EPSILON = 1e-12  # of RMS norms: keeps a row of zeros finite, too small for any other row to feel


@dataclass(frozen=True, slots=True)
class Loss:
    """Sum of the losses, `nats`, over `count` predicted tokens."""

    nats: float
    count: int


@dataclass(slots=True)
class Forward:
    """What one forward gave, and what its backward needs.

    output: float32 (B, T, d) in this stage's basis, where the stage leaves its values; None on the last stage.
    loss: on the last stage only.

    Activations are freed by the backward, or with this object.
    """

    output: Any
    loss: Loss | None
    _kept: Any  # the library's own; None after the backward, and for an evaluation
    _load: int  # which weights it was made with


@dataclass(slots=True)
class Cache:
    """Keys and values of the `length` tokens that a batch of `rows` texts has so far, at most `context`."""

    rows: int
    context: int
    keys: Any
    values: Any
    length: int = 0


class Passes(ABC):
    """One pipeline stage's transformer layers on a device.

    Every layer is `x += attention(norm(x)); x += mlp(norm(x))`: causal rotary attention, squared ReLU or
    SwiGLU, no biases, no gains. The first stage embeds, then norms; the last norms, projects and takes the
    loss.

    Args:
        shape: sizes, and whether the stage is first or last.
        context: most tokens in a row.
        device: where the arithmetic runs, as the library names it.
        host: streams and gradients that leave are NumPy arrays; if False they are the library's, on the device, and
            those that come in may be, too. Losses, logits and sums of gradients are always NumPy arrays.

    Source: rotary pairs: Su et al., "RoFormer", 2021, section 3.2.2 (pairs are neighbours, base 10,000);
    squared ReLU: So et al., "Primer", 2021; SwiGLU: Shazeer, "GLU Variants Improve Transformer", 2020.
    """

    def __init__(self, shape: StageShape, *, context: int = 1024, device: str = "cpu", host: bool = True) -> None:
        if context < 1:
            raise OutOfRange(f"context must be positive, not {context}")
        self.shape, self.context, self.device, self.host = shape, context, device, host
        self._names = leaf_names(shape)
        self._loads = 0
        self._make({leaf: _leaf_size(shape, names) for leaf, names in self._names.items()})

    def load(self, weights: Mapping[str, Float32], bridge: Float32 | None) -> None:
        """Copy weights, and the bridge G (d, d) from the sender's basis to ours, onto the device.

        A forward made before this cannot be taken backward any more.

        Raises:
            OutOfRange: a tensor is missing, unknown or of another shape; a bridge is missing or superfluous.
        """
        expected = {t.name: (t.rows, t.columns) for t in self.shape.tensors()}
        found = {name: weight.shape for name, weight in weights.items()}
        if found != expected:
            differing = sorted(n for n in found.keys() | expected.keys() if found.get(n) != expected.get(n))
            raise OutOfRange(f"weights do not fit the stage: {', '.join(differing)}")
        d = self.shape.width
        if (bridge.shape if bridge is not None else None) != (None if self.shape.first else (d, d)):
            raise OutOfRange("every stage but the first needs a bridge of shape (width, width)")
        self._loads += 1
        leaves = {
            leaf: np.concatenate([weights[n] for n in names], dtype=np.float32) for leaf, names in self._names.items()
        }
        self._load(leaves, None if bridge is None else np.array(bridge, np.float32))

    def forward(self, inputs: Tokens | Float32, *, targets: Tokens | None = None) -> Forward:
        """Run one micro-batch and keep what its backward needs; several may be in flight.

        Args:
            inputs: token ids (B, T) for the first stage; else the stream (B, T, d) in the sender's basis.
            targets: the next token of each position (B, T); for the last stage only.

        Raises:
            OutOfRange: shapes do not fit the stage, or each other; more tokens than `context`.
            NonFinite: the loss is NaN or infinite.
        """
        self._verify(inputs)
        self._verify_targets(inputs, targets)
        return self._given(*self._forward(inputs, targets))

    def evaluate(self, inputs: Tokens | Float32, *, targets: Tokens | None = None) -> Forward:
        """As `forward`, but nothing is kept."""
        self._verify(inputs)
        self._verify_targets(inputs, targets)
        return self._given(self._evaluate(inputs, targets), None)

    def backward(self, forward: Forward, output_gradient: Any = None, *, scale: float = 1.0) -> Any:
        """Add the weight gradients of one forward and give the gradient of its inputs, once.

        Args:
            forward: made by this stage since the last `load`.
            output_gradient: (B, T, d) in this stage's basis; None on the last stage.
            scale: what the last stage's summed nats are multiplied with: one over the round's tokens.

        Returns:
            Gradient (B, T, d) in the *sender's* basis, `g G`; None on the first stage.

        Raises:
            OutOfRange: the gradient is missing, superfluous or of another shape than the output.
        """
        kept = forward._kept
        assert kept is not None, "a forward is taken backward once, an evaluation never"
        assert forward._load == self._loads, "a forward is taken backward under its own weights"
        if self.shape.last:
            if output_gradient is not None:
                raise OutOfRange("the last stage starts from its loss and takes no gradient")
        else:
            assert forward.output is not None
            expected = tuple(forward.output.shape)
            found = None if output_gradient is None else tuple(output_gradient.shape)
            if output_gradient is None or found != expected:
                raise OutOfRange(f"output gradient: expected shape {expected}, got {found}")
        forward._kept = None
        return self._backward(kept, float(scale) if output_gradient is None else output_gradient)

    def gradients(self) -> dict[str, Float32]:
        """Sums of the weight gradients since the last `clear`, by name; zeros where there was no backward."""
        found: dict[str, Float32] = {}
        for leaf, total in self._totals().items():
            names = self._names[leaf]
            found.update({name: part.copy() for name, part in zip(names, np.split(total, len(names)), strict=True)})
        return found

    @abstractmethod
    def clear(self) -> None:
        """Forget the gradients."""

    def cache(self, rows: int, context: int | None = None) -> Cache:
        """Make an empty cache to decode `rows` texts of at most `context` tokens.

        Raises:
            OutOfRange: no rows, or more context than the stage has.
        """
        context = self.context if context is None else context
        if rows < 1 or not 1 <= context <= self.context:
            raise OutOfRange(f"a cache of {rows} rows and {context} tokens; the stage has {self.context}")
        return self._cache(rows, context)

    def decode(self, inputs: Tokens | Float32, cache: Cache) -> Any:
        """Append tokens to the cached texts and give their outputs: equal to a forward over the whole text.

        Args:
            inputs: as in `forward`, the new tokens only: a prompt, or one token.
            cache: grows by these tokens.

        Returns:
            The stream (B, T, d), or the last stage's logits (B, T, 256); float32.

        Raises:
            OutOfRange: shapes do not fit the stage or the cache, or the text grows past the cache's context.
                The cache is left as it was.
        """
        self._verify(inputs)
        rows, tokens = inputs.shape[:2]
        if rows != cache.rows or cache.length + tokens > cache.context:
            raise OutOfRange(
                f"{rows} rows of {tokens} tokens do not fit a cache of {cache.rows} rows "
                f"that holds {cache.length} of {cache.context} tokens"
            )
        found = self._decode(inputs, cache)
        cache.length += tokens
        return found

    def warm(self, rows: int, tokens: int) -> None:
        """Run every pass once, on zeros: what compiles, or loads as it is first used, has done so afterwards.

        Gradients are forgotten, weights stay. Compiled programs are for `rows` texts of `tokens` tokens, and for
        decoding one text.
        """
        zeros: Any = np.zeros((rows, tokens), np.int64)
        targets = zeros if self.shape.last else None
        stream = np.zeros((rows, tokens, self.shape.width), np.float32)
        inputs = zeros if self.shape.first else stream
        self.evaluate(inputs, targets=targets)
        self.backward(self.forward(inputs, targets=targets), None if self.shape.last else stream)
        self.clear()
        cache = self.cache(1)
        for piece in (inputs[:1, 1:], inputs[:1, :1]):
            if piece.size:
                self.decode(piece, cache)

    @property
    @abstractmethod
    def where(self) -> Any:
        """The device, as the library's own object."""

    # -- what a library does ------------------------------------------------------------------------------------

    @abstractmethod
    def _make(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        """Make the leaves, and what is constant."""

    @abstractmethod
    def _load(self, leaves: Mapping[str, Float32], bridge: Float32 | None) -> None:
        """Put leaves and bridge, arrays that nobody else has, onto the device."""

    @abstractmethod
    def _forward(self, inputs: Tokens | Float32, targets: Tokens | None) -> tuple[Any, Any]:
        """The stream behind the layers, or the last stage's losses (B, T); and what backward needs."""

    @abstractmethod
    def _evaluate(self, inputs: Tokens | Float32, targets: Tokens | None) -> Any:
        """As `_forward`, and nothing is kept."""

    @abstractmethod
    def _backward(self, kept: Any, start: Any) -> Any:
        """Add to the gradients. `start`: of the output, or what the sum of the losses is multiplied with."""

    @abstractmethod
    def _totals(self) -> Mapping[str, Float32]:
        """The gradients' sums, by leaf."""

    @abstractmethod
    def _cache(self, rows: int, context: int) -> Cache:
        """An empty cache."""

    @abstractmethod
    def _decode(self, inputs: Tokens | Float32, cache: Cache) -> Any:
        """Outputs of the new tokens, whose keys and values go into the cache behind its `length`."""

    # -- checks -------------------------------------------------------------------------------------------------

    def _verify(self, inputs: Tokens | Float32) -> None:
        first, d = self.shape.first, self.shape.width
        if inputs.ndim != (2 if first else 3) or not (first or inputs.shape[2] == d) or 0 in inputs.shape:
            raise OutOfRange(f"inputs of shape {inputs.shape} do not fit {self.shape}")
        if inputs.shape[1] > self.context:
            raise OutOfRange(f"{inputs.shape[1]} tokens in a row, but the context is {self.context}")
        if first:
            _verify_tokens(inputs)

    def _verify_targets(self, inputs: Tokens | Float32, targets: Tokens | None) -> None:
        if not self.shape.last:
            if targets is not None:
                raise OutOfRange("only the last stage takes targets")
            return
        if targets is None or targets.shape != inputs.shape[:2]:
            raise OutOfRange("the last stage needs one target for every token")
        _verify_tokens(targets)

    def _given(self, result: Any, kept: Any) -> Forward:
        if not self.shape.last:
            return Forward(result, None, kept, self._loads)
        nats = float(result.sum(dtype=np.float64))
        if not np.isfinite(nats):
            raise NonFinite(f"the loss is {nats}")
        return Forward(None, Loss(nats, result.size), kept, self._loads)


def leaf_names(shape: StageShape) -> dict[str, tuple[str, ...]]:
    """Names of a stage's tensors by leaf: matrices that read the same input are rows of one leaf, for one product.

    >>> list(leaf_names(StageShape(width=8, heads=1, layers=1, hidden=8, mlp="swiglu", last=True)).items())
    ... # doctest: +NORMALIZE_WHITESPACE
    [('layer0.reads', ('layer0.query', 'layer0.key', 'layer0.value')), ('layer0.output', ('layer0.output',)),
     ('layer0.up', ('layer0.gate', 'layer0.up')), ('layer0.down', ('layer0.down',)), ('head', ('head',))]
    """
    inner = ("gate", "up") if shape.mlp == "swiglu" else ("up",)
    layer = {"reads": ("query", "key", "value"), "output": ("output",), "up": inner, "down": ("down",)}
    found: dict[str, tuple[str, ...]] = {"embedding": ("embedding",)} if shape.first else {}
    for i in range(shape.layers):
        found |= {f"layer{i}.{leaf}": tuple(f"layer{i}.{name}" for name in names) for leaf, names in layer.items()}
    return found | ({"head": ("head",)} if shape.last else {})


def rotary_turns(shape: StageShape, context: int) -> npt.NDArray[np.complex64]:
    """What turns pair i at position t, as one complex number: `exp(1j t ROTARY_BASE**(-2 i / k))`, (context, k / 2)."""
    half = shape.width // shape.heads // 2
    frequencies = ROTARY_BASE ** (-np.arange(half) / half)
    found: npt.NDArray[np.complex64] = np.exp(1j * np.arange(context)[:, None] * frequencies).astype(np.complex64)
    return found


def _leaf_size(shape: StageShape, names: Sequence[str]) -> tuple[int, int]:
    found = [(t.rows, t.columns) for t in shape.tensors() if t.name in names]
    return sum(rows for rows, _ in found), found[0][1]


def _verify_tokens(ids: npt.NDArray[Any]) -> None:
    """An id past the vocabulary must not reach a kernel."""
    if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= VOCABULARY:
        raise OutOfRange(f"token ids must be integers from 0 to {VOCABULARY - 1}")
