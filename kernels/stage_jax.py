"""The transformer stage in JAX. What it takes, gives and refuses: `passes`.

Each pass is one compiled program for each shape of its arguments. A forward gives back what its backward needs, the
residuals in the function that `jax.vjp` makes, and the backward is a program that takes them: no forward is computed
twice. Products have full float32 precision on every device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import Array

from .errors import OutOfRange
from .passes import EPSILON, Cache, Float32, Passes, Tokens, rotary_turns
from .state import StageShape

Leaves: TypeAlias = dict[str, Array]
Turns: TypeAlias = tuple[Array, Array]  # cosines and sines (T, 1, k / 2)
# From a layer's number and its new keys and values (B, T, H, k), those (B, S, H, k) that its queries look at.
Memory: TypeAlias = Callable[[int, Array, Array], tuple[Array, Array]]

PIECE = 32
"""Tokens that are decoded at once. With single ones for the rest, two programs decode texts of every length."""

# For GPUs: products by the vendor's library, as it chooses. To time other ways first took over half a minute for each
# program on one core of a machine with an H100, this takes two seconds. On other devices these say nothing.
_jit = partial(jax.jit, compiler_options={"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False})
_product = partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class Stage(Passes):
    """One pipeline stage's transformer layers on a JAX device: "cpu", "cuda", "cuda:1", "tpu".

    Raises:
        RuntimeError: there is no such platform. OutOfRange: it has no device of that number.
    """

    def _make(self, sizes: Mapping[str, tuple[int, int]]) -> None:
        self._device = _device(self.device)
        turns = rotary_turns(self.shape, self.context)[:, None]
        self._turns = self._put(turns.real), self._put(turns.imag)
        self._sizes = sizes
        self._leaves = self._zeros()
        self._sums: Leaves | None = None
        d = self.shape.width
        self._bridge = None if self.shape.first else self._put(np.zeros((d, d)))

    def _load(self, leaves: Mapping[str, Float32], bridge: Float32 | None) -> None:
        self._leaves = {leaf: self._put(weight) for leaf, weight in leaves.items()}
        self._bridge = None if bridge is None else self._put(bridge)

    def _forward(self, inputs: Tokens | Float32, targets: Tokens | None) -> tuple[Any, Any]:
        result, pull = _forward(self.shape, self._leaves, *self._arguments(inputs, targets))
        return self._give(result), (pull, result.shape)

    def _evaluate(self, inputs: Tokens | Float32, targets: Tokens | None) -> Any:
        return self._give(_evaluate(self.shape, self._leaves, *self._arguments(inputs, targets)))

    def _arguments(self, inputs: Tokens | Float32, targets: Tokens | None) -> tuple[Any, ...]:
        return self._put(inputs), None if targets is None else self._put(targets), self._bridge, self._turns

    def _backward(self, kept: Any, start: Any) -> Any:
        pull, shape = kept
        given = np.full(shape, start, np.float32) if isinstance(start, float) else start
        self._sums, gradient = _backward(pull, self._put(given), self._gathered())
        return None if gradient is None else self._give(gradient, leaves=True)

    def _totals(self) -> Mapping[str, Float32]:
        return {leaf: np.asarray(total) for leaf, total in self._gathered().items()}

    def _gathered(self) -> Leaves:
        return self._zeros() if self._sums is None else self._sums

    def _zeros(self) -> Leaves:
        return {leaf: self._put(np.zeros(size)) for leaf, size in self._sizes.items()}

    @property
    def where(self) -> Any:
        """The device."""
        return self._device

    def clear(self) -> None:
        """Forget the gradients."""
        self._sums = None

    def _cache(self, rows: int, context: int) -> Cache:
        # As long as the stage's context, whatever was asked for, so that one program serves all texts.
        size = (self.shape.layers, rows, self.context, self.shape.heads, self.shape.width // self.shape.heads)
        return Cache(rows, context, self._put(np.zeros(size)), self._put(np.zeros(size)))

    def _decode(self, inputs: Tokens | Float32, cache: Cache) -> Any:
        found = []
        for piece in _pieces(inputs.shape[1]):
            past = np.int32(cache.length + piece.start)
            start = self._put(inputs[:, piece])
            result, cache.keys, cache.values = _decode(
                self.shape, self._leaves, start, self._bridge, self._turns, cache.keys, cache.values, past
            )
            found.append(self._give(result))
        if len(found) == 1:
            return found[0]
        return np.concatenate(found, axis=1) if self.host or self.shape.last else jnp.concatenate(found, axis=1)

    def _give(self, result: Array, *, leaves: bool = False) -> Any:
        """What leaves: the last stage's losses and logits on the host, all else where it is wanted."""
        return result if not self.host and (leaves or not self.shape.last) else np.asarray(result)

    def _put(self, values: npt.NDArray[Any] | Array) -> Array:
        """On the device; what comes from the host as a copy, so that no program sees later changes."""
        if isinstance(values, Array):
            return jax.device_put(values, self._device)  # type: ignore[no-any-return]
        dtype = np.int32 if values.dtype.kind in "iu" else np.float32
        found: Array = jax.device_put(np.array(values, dtype), self._device)
        return found


def _device(name: str) -> Any:
    platform, _, number = name.partition(":")
    devices = jax.devices(platform)
    if number and (not number.isdigit() or int(number) >= len(devices)):
        raise OutOfRange(f"there is no device {name}: {platform} has {len(devices)}")
    return devices[int(number or 0)]


def _pieces(tokens: int) -> list[slice]:
    """Cut so many tokens into pieces, then single ones.

    >>> _pieces(34)
    [slice(0, 32, None), slice(32, 33, None), slice(33, 34, None)]
    """
    whole = tokens - tokens % PIECE
    starts = [(start, PIECE) for start in range(0, whole, PIECE)] + [(start, 1) for start in range(whole, tokens)]
    return [slice(start, start + size) for start, size in starts]


@partial(_jit, static_argnums=0)
def _forward(
    shape: StageShape, leaves: Leaves, start: Array, targets: Array | None, bridge: Array | None, turns: Turns
) -> tuple[Array, Any]:
    if shape.first:  # tokens have no gradient
        return jax.vjp(lambda leaves: _result(shape, leaves, start, targets, bridge, turns), leaves)
    return jax.vjp(lambda leaves, start: _result(shape, leaves, start, targets, bridge, turns), leaves, start)


@partial(_jit, donate_argnums=2)
def _backward(pull: Any, start: Array, sums: Leaves) -> tuple[Leaves, Array | None]:
    """Sums of gradients with those of one forward, and the gradient of its inputs."""
    gradients, *inputs = pull(start)
    return jax.tree.map(jnp.add, sums, gradients), (inputs[0] if inputs else None)


def _result(
    shape: StageShape, leaves: Leaves, start: Array, targets: Array | None, bridge: Array | None, turns: Turns
) -> Array:
    """The stream (B, T, d), or losses (B, T)."""
    tokens = start.shape[1]
    turns = turns[0][:tokens], turns[1][:tokens]
    seen = np.tril(np.ones((tokens, tokens), bool))
    stream = _stream(shape, leaves, start, bridge, turns, seen, lambda layer, keys, values: (keys, values))
    if targets is None:
        return stream
    logits = _logits(leaves, stream)
    chosen = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return jax.nn.logsumexp(logits, -1) - chosen


_evaluate = _jit(_result, static_argnums=0)


@partial(_jit, static_argnums=0, donate_argnums=(5, 6))
def _decode(
    shape: StageShape,
    leaves: Leaves,
    start: Array,
    bridge: Array | None,
    turns: Turns,
    keys: Array,
    values: Array,
    past: Array,
) -> tuple[Array, Array, Array]:
    """What the new tokens give, and the cache with them behind its first `past`."""
    tokens, context = start.shape[1], keys.shape[2]

    def remember(layer: int, new_keys: Array, new_values: Array) -> tuple[Array, Array]:
        nonlocal keys, values
        at = (layer, 0, past, 0, 0)
        keys = jax.lax.dynamic_update_slice(keys, new_keys[None], at)
        values = jax.lax.dynamic_update_slice(values, new_values[None], at)
        return keys[layer], values[layer]

    here = jax.lax.dynamic_slice_in_dim
    turns = here(turns[0], past, tokens), here(turns[1], past, tokens)
    seen = np.arange(context) <= past + np.arange(tokens)[:, None]
    stream = _stream(shape, leaves, start, bridge, turns, seen, remember)
    return (_logits(leaves, stream) if shape.last else stream), keys, values


def _stream(
    shape: StageShape,
    leaves: Leaves,
    start: Array,
    bridge: Array | None,
    turns: Turns,
    seen: npt.NDArray[np.bool_] | Array,
    memory: Memory,
) -> Array:
    """Stream (B, T, d) behind the stage's layers; query t looks at key s where `seen` (T, S)."""
    x = _norm(leaves["embedding"][start]) if bridge is None else _linear(start, bridge)
    rows, tokens, d = x.shape
    for i in range(shape.layers):
        reads, output, up, down = (leaves[f"layer{i}.{name}"] for name in ("reads", "output", "up", "down"))
        projected = _linear(_norm(x), reads).reshape(rows, tokens, 3, shape.heads, -1)
        queries, new_keys = _turned(projected[:, :, 0], turns), _turned(projected[:, :, 1], turns)
        keys, values = memory(i, new_keys, projected[:, :, 2])
        x = x + _linear(_attention(queries, keys, values, seen).reshape(rows, tokens, d), output)
        y = _linear(_norm(x), up)
        if shape.mlp == "swiglu":
            gate, y = jnp.split(y, 2, -1)
            y = jax.nn.silu(gate) * y
        else:
            y = jnp.square(jax.nn.relu(y))
        x = x + _linear(y, down)
    return x


def _attention(queries: Array, keys: Array, values: Array, seen: npt.NDArray[np.bool_] | Array) -> Array:
    scores = _product("bthk,bshk->bhts", queries * queries.shape[-1] ** -0.5, keys)
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), -1)
    return _product("bhts,bshk->bthk", weights, values)


def _turned(x: Array, turns: Turns) -> Array:
    """Each pair of neighbours in a head, turned by its position."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cosines, sines = turns
    return jnp.stack([even * cosines - odd * sines, even * sines + odd * cosines], -1).reshape(x.shape)


def _logits(leaves: Leaves, stream: Array) -> Array:
    return _linear(_norm(stream), leaves["head"])


def _linear(x: Array, weight: Array) -> Array:
    return _product("btd,od->bto", x, weight)


def _norm(x: Array) -> Array:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), -1, keepdims=True) + EPSILON)
