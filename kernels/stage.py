"""The transformer stage in torch. What it takes, gives and refuses: `passes`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from .passes import EPSILON, Cache, Float32, Passes, Tokens, rotary_turns


class Stage(Passes):
    """One pipeline stage's transformer layers on a torch device: "cpu", "cuda", "cuda:1", "mps"."""

    def _make(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        self._device = torch.device(self.device)
        # One complex number turns one pair: a single fused product instead of six strided ones.
        self._turns = torch.from_numpy(rotary_turns(self.shape, self.context)).to(self._device)[:, None]
        self._leaves = {
            leaf: torch.zeros(size, device=self._device, requires_grad=True) for leaf, size in sizes.items()
        }
        d = self.shape.width
        self._bridge = None if self.shape.first else torch.zeros(d, d, device=self._device)

    @torch.no_grad()
    def _load(self, leaves: Mapping[str, Float32], bridge: Float32 | None) -> None:
        for leaf, weight in leaves.items():
            self._leaves[leaf].copy_(torch.from_numpy(weight))
        if self._bridge is not None and bridge is not None:
            self._bridge.copy_(torch.from_numpy(bridge))

    def _forward(self, inputs: Tokens | Float32, targets: Tokens | None) -> tuple[Any, Any]:
        start = self._put(inputs)
        if not self.shape.first:
            start.requires_grad_()
        result = self._run(start, targets)
        return self._give(result), (result, start)

    @torch.no_grad()
    def _evaluate(self, inputs: Tokens | Float32, targets: Tokens | None) -> Any:
        return self._give(self._run(self._put(inputs), targets))

    def _backward(self, kept: Any, start: Any) -> Any:
        result, inputs = kept
        if isinstance(start, float):
            result.backward(torch.full_like(result, start))
        else:
            result.backward(self._put(start))
        return None if self.shape.first else self._give(inputs.grad, leaves=True)

    def _totals(self) -> Mapping[str, Float32]:
        leaves = self._leaves.items()
        return {leaf: _numpy(torch.zeros_like(w) if w.grad is None else w.grad) for leaf, w in leaves}

    @property
    def where(self) -> torch.device:
        """The device."""
        return self._device

    def clear(self) -> None:
        """Forget the gradients."""
        for weight in self._leaves.values():
            weight.grad = None

    def _cache(self, rows: int, context: int) -> Cache:
        size = (self.shape.layers, rows, self.shape.heads, context, self.shape.width // self.shape.heads)
        keys, values = (torch.zeros(size, device=self._device) for _ in range(2))
        return Cache(rows, context, keys, values)

    @torch.no_grad()
    def _decode(self, inputs: Tokens | Float32, cache: Cache) -> Any:
        stream = self._stream(self._put(inputs), cache)
        return _numpy(self._logits(stream)) if self.shape.last else self._give(stream)

    def _give(self, result: Tensor, *, leaves: bool = False) -> Any:
        """What leaves: the last stage's losses on the host, all else where it is wanted."""
        stays = not self.host and (leaves or not self.shape.last)
        return result.detach() if stays else _numpy(result)

    def _put(self, inputs: npt.NDArray[Any] | Tensor) -> Tensor:
        """A copy on the device, so that no graph sees later changes."""
        if isinstance(inputs, Tensor):
            return inputs.detach().to(self._device, copy=True)
        dtype = torch.int64 if inputs.ndim == 2 else torch.float32
        return torch.tensor(inputs, dtype=dtype, device=self._device)

    def _run(self, start: Tensor, targets: Tokens | None) -> Tensor:
        """The stream (B, T, d), or losses (B, T)."""
        stream = self._stream(start)
        if targets is None:
            return stream
        logits = self._logits(stream).flatten(0, 1)
        return F.cross_entropy(logits, self._put(targets).flatten(), reduction="none").view(targets.shape)

    def _logits(self, stream: Tensor) -> Tensor:
        return F.linear(_norm(stream), self._leaves["head"])

    def _stream(self, start: Tensor, cache: Cache | None = None) -> Tensor:
        """Stream (B, T, d) behind the stage's layers."""
        leaves = self._leaves
        x = _norm(F.embedding(start, leaves["embedding"])) if self._bridge is None else F.linear(start, self._bridge)
        swiglu = self.shape.mlp == "swiglu"
        for i in range(self.shape.layers):
            reads, output, up, down = (leaves[f"layer{i}.{name}"] for name in ("reads", "output", "up", "down"))
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
                mask = torch.ones(tokens, new.stop, dtype=torch.bool, device=self._device).tril(past)
        # Without a past the square is causal; one token alone may see everything before it.
        y = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=not past)
        return y.transpose(1, 2).flatten(2)


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], eps=EPSILON)


def _numpy(x: Tensor) -> Float32:
    found: Float32 = x.detach().cpu().numpy()
    return found
