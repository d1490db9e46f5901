"""The transformer stage: forward, backward and cached decoding, in the stage's own secret basis.

The residual stream of a stage lives in an orthonormal frame that only its group knows, so nothing here may
depend on single coordinates of the stream: only gainless RMS norms and matrix products touch it. Turning the
weights and the bridge by an orthogonal matrix then leaves the loss as it is and turns the gradients alike.
Inside attention and the MLP there is no such freedom and none is needed: heads, rotary pairs and the
activation act on coordinates that never leave the stage.

Floating point is the device's own; its results are judged by a tolerance, never bit by bit. The number of
threads belongs to the process.

Shapes: B batch rows, T tokens, d width of the stream, H heads, k = d / H, h hidden.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

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

    output: float32 (B, T, d) in this stage's basis; None on the last stage.
    loss: on the last stage only.

    Activations are freed by the backward, or with this object.
    """

    output: Float32 | None
    loss: Loss | None
    _inputs: Tensor | None  # the leaf whose gradient goes to the stage before
    _result: Tensor | None  # where backward starts: the stream (B, T, d), or the losses (B T,)


class Cache:
    """Keys and values of the `length` tokens that a batch of `rows` texts has so far, at most `context`."""

    def __init__(self, shape: StageShape, rows: int, context: int, device: torch.device) -> None:
        size = (shape.layers, rows, shape.heads, context, shape.width // shape.heads)
        self.keys = torch.zeros(size, device=device)
        self.values = torch.zeros(size, device=device)
        self.rows, self.context, self.length = rows, context, 0


class Stage:
    """One pipeline stage's transformer layers on a device.

    Every layer is `x += attention(norm(x)); x += mlp(norm(x))`: causal rotary attention, squared ReLU or
    SwiGLU, no biases, no gains. The first stage embeds, then norms; the last norms, projects and takes the
    loss.

    Args:
        shape: sizes, and whether the stage is first or last.
        context: most tokens in a row.
        device: where the arithmetic runs.

    Source: rotary pairs: Su et al., "RoFormer", 2021, section 3.2.2 (pairs are neighbours, base 10,000);
    squared ReLU: So et al., "Primer", 2021; SwiGLU: Shazeer, "GLU Variants Improve Transformer", 2020.
    """

    def __init__(self, shape: StageShape, *, context: int = 1024, device: str | torch.device = "cpu") -> None:
        if context < 1:
            raise OutOfRange(f"context must be positive, not {context}")
        self.shape, self.context, self.device = shape, context, torch.device(device)
        half = shape.width // shape.heads // 2
        frequencies = ROTARY_BASE ** (-np.arange(half) / half)
        angles = np.arange(context)[:, None] * frequencies
        # One complex number turns one pair: a single fused product instead of six strided ones.
        self._turns = torch.from_numpy(np.exp(1j * angles).astype(np.complex64)).to(self.device)[:, None]

        # Matrices that read the same input are rows of one leaf, so one product serves them all.
        d, h = shape.width, shape.hidden
        inner = ("gate", "up") if shape.mlp == "swiglu" else ("up",)
        self._leaves: list[tuple[Tensor, tuple[str, ...]]] = []

        def leaf(rows: int, columns: int, *names: str) -> Tensor:
            weight = torch.zeros(len(names) * rows, columns, device=self.device, requires_grad=True)
            self._leaves.append((weight, names))
            return weight

        self._embedding = leaf(VOCABULARY, d, "embedding") if shape.first else None
        self._layers = [
            (
                leaf(d, d, *(f"layer{i}.{n}" for n in ("query", "key", "value"))),
                leaf(d, d, f"layer{i}.output"),
                leaf(h, d, *(f"layer{i}.{n}" for n in inner)),
                leaf(d, h, f"layer{i}.down"),
            )
            for i in range(shape.layers)
        ]
        self._head = leaf(VOCABULARY, d, "head") if shape.last else None
        self._bridge = None if shape.first else torch.zeros(d, d, device=self.device)

    def load(self, weights: Mapping[str, Float32], bridge: Float32 | None) -> None:
        """Copy weights, and the bridge G (d, d) from the sender's basis to ours, onto the device.

        A forward made before this cannot be taken backward any more: torch sees that its weights changed.

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
        with torch.no_grad():
            for leaf, names in self._leaves:
                for part, name in zip(leaf.chunk(len(names)), names, strict=True):
                    part.copy_(torch.tensor(weights[name]))
            if self._bridge is not None:
                self._bridge.copy_(torch.tensor(bridge))

    def forward(self, inputs: Tokens | Float32, *, targets: Tokens | None = None) -> Forward:
        """Run one micro-batch and keep its graph; several may be in flight.

        Args:
            inputs: token ids (B, T) for the first stage; else the stream (B, T, d) in the sender's basis.
            targets: the next token of each position (B, T); for the last stage only.

        Raises:
            OutOfRange: shapes do not fit the stage, or each other; more tokens than `context`.
            NonFinite: the loss is NaN or infinite.
        """
        start = self._take(inputs)
        if not self.shape.first:
            start.requires_grad_()
        return self._run(start, targets)

    @torch.no_grad()
    def evaluate(self, inputs: Tokens | Float32, *, targets: Tokens | None = None) -> Forward:
        """As `forward`, without a graph."""
        return self._run(self._take(inputs), targets)

    def backward(
        self, forward: Forward, output_gradient: Float32 | None = None, *, scale: float = 1.0
    ) -> Float32 | None:
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
        result, inputs = forward._result, forward._inputs
        assert result is not None, "a forward is taken backward once"
        assert result.requires_grad, "an evaluation has no backward"
        if self.shape.last:
            if output_gradient is not None:
                raise OutOfRange("the last stage starts from its loss and takes no gradient")
            start = torch.full_like(result, scale)
        else:
            if output_gradient is None or output_gradient.shape != result.shape:
                found = None if output_gradient is None else output_gradient.shape
                raise OutOfRange(f"output gradient: expected shape {tuple(result.shape)}, got {found}")
            start = torch.tensor(output_gradient, dtype=torch.float32, device=self.device)
        forward._result = forward._inputs = None
        result.backward(start)  # type: ignore[no-untyped-call]
        if self.shape.first:
            return None
        assert inputs is not None
        assert inputs.grad is not None
        return _numpy(inputs.grad)

    def gradients(self) -> dict[str, Float32]:
        """Sums of the weight gradients since the last `clear`, by name; zeros where there was no backward."""
        found: dict[str, Float32] = {}
        for leaf, names in self._leaves:
            total = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            parts = total.detach().cpu().chunk(len(names))
            found.update({name: part.numpy().copy() for name, part in zip(names, parts, strict=True)})
        return found

    def clear(self) -> None:
        """Forget the gradients."""
        for leaf, _ in self._leaves:
            leaf.grad = None

    def cache(self, rows: int, context: int | None = None) -> Cache:
        """Make an empty cache to decode `rows` texts of at most `context` tokens.

        Raises:
            OutOfRange: no rows, or more context than the stage has.
        """
        context = self.context if context is None else context
        if rows < 1 or not 1 <= context <= self.context:
            raise OutOfRange(f"a cache of {rows} rows and {context} tokens; the stage has {self.context}")
        return Cache(self.shape, rows, context, self.device)

    @torch.no_grad()
    def decode(self, inputs: Tokens | Float32, cache: Cache) -> Float32:
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
        start = self._take(inputs)
        rows, tokens = start.shape[:2]
        if rows != cache.rows or cache.length + tokens > cache.context:
            raise OutOfRange(
                f"{rows} rows of {tokens} tokens do not fit a cache of {cache.rows} rows "
                f"that holds {cache.length} of {cache.context} tokens"
            )
        stream = self._stream(start, cache)
        cache.length += tokens
        return _numpy(stream if self._head is None else F.linear(_norm(stream), self._head))

    def _take(self, inputs: Tokens | Float32) -> Tensor:
        """Copy inputs onto the device, so that no graph sees later changes; or raise `OutOfRange`."""
        first, d = self.shape.first, self.shape.width
        if inputs.ndim != (2 if first else 3) or not (first or inputs.shape[2] == d) or inputs.size == 0:
            raise OutOfRange(f"inputs of shape {inputs.shape} do not fit {self.shape}")
        if inputs.shape[1] > self.context:
            raise OutOfRange(f"{inputs.shape[1]} tokens in a row, but the context is {self.context}")
        if first:
            return _tokens(inputs, self.device)
        return torch.tensor(inputs, dtype=torch.float32, device=self.device)

    def _run(self, start: Tensor, targets: Tokens | None) -> Forward:
        stream = self._stream(start)
        if self._head is None:
            if targets is not None:
                raise OutOfRange("only the last stage takes targets")
            return Forward(_numpy(stream), None, start, stream)
        if targets is None or targets.shape != start.shape[:2]:
            raise OutOfRange("the last stage needs one target for every token")
        logits = F.linear(_norm(stream), self._head).flatten(0, 1)
        losses = F.cross_entropy(logits, _tokens(targets, self.device).flatten(), reduction="none")
        nats = float(losses.detach().double().sum())
        if not np.isfinite(nats):
            raise NonFinite(f"the loss is {nats}")
        return Forward(None, Loss(nats, losses.numel()), start, losses)

    def _stream(self, start: Tensor, cache: Cache | None = None) -> Tensor:
        """Stream (B, T, d) behind the stage's layers."""
        if self._embedding is not None:
            x = _norm(F.embedding(start, self._embedding))
        else:
            assert self._bridge is not None
            x = F.linear(start, self._bridge)
        swiglu = self.shape.mlp == "swiglu"
        for i, (reads, output, up, down) in enumerate(self._layers):
            x = x + F.linear(self._attention(F.linear(_norm(x), reads), cache, i), output)
            y = F.linear(_norm(x), up)
            if swiglu:
                gate, y = y.chunk(2, -1)
                y = F.silu(gate) * y
            else:
                y = F.relu(y).square()
            x = x + F.linear(y, down)
        return x

    def _attention(self, projected: Tensor, cache: Cache | None, layer: int) -> Tensor:
        """Causal attention (B, T, d) of queries, keys and values (B, T, 3 d), behind those in `cache`."""
        d, heads = self.shape.width, self.shape.heads
        rows, tokens, _ = projected.shape
        past = 0 if cache is None else cache.length
        turned, values = projected.split_with_sizes((2 * d, d), -1)
        pairs = torch.view_as_complex(turned.reshape(rows, tokens, 2 * heads, -1, 2))
        turned = torch.view_as_real(pairs * self._turns[past : past + tokens]).flatten(-2)
        queries, keys = turned.transpose(1, 2).chunk(2, 1)  # (B, H, T, k) each
        values = values.reshape(rows, tokens, heads, -1).transpose(1, 2)
        mask = None
        if cache is not None:
            new = slice(past, past + tokens)
            cache.keys[layer, :, :, new] = keys
            cache.values[layer, :, :, new] = values
            keys, values = cache.keys[layer, :, :, : new.stop], cache.values[layer, :, :, : new.stop]
            if past and tokens > 1:
                mask = torch.ones(tokens, new.stop, dtype=torch.bool, device=self.device).tril(past)
        # Without a past the square is causal; one token alone may see everything before it.
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=not past)
        return y.transpose(1, 2).flatten(2)


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=EPSILON)


def _numpy(x: Tensor) -> Float32:
    found: Float32 = x.detach().cpu().numpy()
    return found


def _tokens(ids: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Token ids on the device, or raise `OutOfRange`: an id past the vocabulary must not reach a kernel."""
    if ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= VOCABULARY:
        raise OutOfRange(f"token ids must be integers from 0 to {VOCABULARY - 1}")
    return torch.tensor(ids, dtype=torch.int64, device=device)
