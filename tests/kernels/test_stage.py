"""The transformer stage in torch and in JAX against a float64 oracle, and the symmetries that secret bases rest on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interlock.kernels import stage_jax
from interlock.kernels.errors import NonFinite, OutOfRange
from interlock.kernels.passes import Cache, Forward, Passes
from interlock.kernels.stage import Stage as TorchStage
from interlock.kernels.stage_jax import Stage as JaxStage
from interlock.kernels.state import VOCABULARY, StageShape

Array = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
Loaded = Callable[[StageShape, dict[str, Float32], Float32 | None], Passes]

CONTEXT = 40


# --- The oracle: the same model written down plainly, one text, one head and one position at a time. ---


def oracle_norm(x: Array) -> Array:
    found: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
    return found


def oracle_rotate(x: Array) -> Array:
    """Rotate each pair of neighbours of x (T, k) by its position times its frequency."""
    y = np.empty_like(x)
    for position in range(len(x)):
        for pair in range(x.shape[1] // 2):
            angle = position * 10_000.0 ** (-2 * pair / x.shape[1])
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            y[position, 2 * pair : 2 * pair + 2] = turn @ x[position, 2 * pair : 2 * pair + 2]
    return y


def oracle_attention(shape: StageShape, w: dict[str, Array], layer: str, x: Array) -> Array:
    heads = []
    size = shape.width // shape.heads
    for head in range(shape.heads):
        rows = slice(head * size, (head + 1) * size)
        q = oracle_rotate(x @ w[layer + "query"][rows].T)
        k = oracle_rotate(x @ w[layer + "key"][rows].T)
        v = x @ w[layer + "value"][rows].T
        y = np.empty_like(v)
        for t in range(len(x)):
            score = np.exp(k[: t + 1] @ q[t] / np.sqrt(size))
            y[t] = score @ v[: t + 1] / score.sum()
        heads.append(y)
    return np.concatenate(heads, axis=1) @ w[layer + "output"].T


def oracle_mlp(shape: StageShape, w: dict[str, Array], layer: str, x: Array) -> Array:
    up = x @ w[layer + "up"].T
    if shape.mlp == "relu2":
        inner = np.maximum(up, 0) ** 2
    else:
        gate = x @ w[layer + "gate"].T
        inner = gate / (1 + np.exp(-gate)) * up
    return inner @ w[layer + "down"].T


def oracle(shape: StageShape, w: dict[str, Array], bridge: Array | Float32 | None, inputs: npt.NDArray[Any]) -> Array:
    """Stream (B, T, d), or the last stage's logits (B, T, 256)."""
    found = []
    for text in inputs:
        x = oracle_norm(w["embedding"][text]) if shape.first else np.stack([bridge @ row for row in text])
        for i in range(shape.layers):
            x = x + oracle_attention(shape, w, f"layer{i}.", oracle_norm(x))
            x = x + oracle_mlp(shape, w, f"layer{i}.", oracle_norm(x))
        found.append(oracle_norm(x) @ w["head"].T if shape.last else x)
    return np.stack(found)


def oracle_nats(logits: Array, targets: Ids) -> float:
    logits = logits - logits.max(-1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -float(np.take_along_axis(logs, targets[..., None], -1).sum())


# --- Stages, inputs and bases to try them on. ---


def draw_weights(shape: StageShape, rng: np.random.Generator) -> dict[str, Float32]:
    return {
        t.name: (rng.standard_normal((t.rows, t.columns)) / np.sqrt(t.columns)).astype(np.float32)
        for t in shape.tensors()
    }


def draw_basis(width: int, rng: np.random.Generator) -> Array:
    q, r = np.linalg.qr(rng.standard_normal((width, width)))
    found: Array = q * np.sign(np.diag(r))
    return found


def draw_bridge(shape: StageShape, rng: np.random.Generator) -> Float32 | None:
    return None if shape.first else draw_basis(shape.width, rng).astype(np.float32)


def draw_inputs(shape: StageShape, rng: np.random.Generator, rows: int, tokens: int) -> Any:
    """Token ids or a stream, as the stage takes them."""
    if shape.first:
        return rng.integers(0, VOCABULARY, (rows, tokens))
    return rng.standard_normal((rows, tokens, shape.width)).astype(np.float32)


def draw_targets(shape: StageShape, rng: np.random.Generator, rows: int, tokens: int) -> Any:
    return rng.integers(0, VOCABULARY, (rows, tokens)) if shape.last else None


@pytest.fixture(scope="module", params=[TorchStage, JaxStage], ids=["torch", "jax"])
def kind(request: pytest.FixtureRequest) -> type[Passes]:
    """The stage of each library."""
    found: type[Passes] = request.param
    return found


@pytest.fixture(scope="module")
def loaded(kind: type[Passes]) -> Loaded:
    """Make a stage with weights and a bridge."""

    def made(shape: StageShape, weights: dict[str, Float32], bridge: Float32 | None) -> Passes:
        stage = kind(shape, context=CONTEXT)
        stage.load(weights, bridge)
        return stage

    return made


def examples(kind: type[Passes]) -> settings:
    """JAX takes a second to compile a pass for each new shape, so it gets fewer."""
    return settings(max_examples=40 if kind is TorchStage else 4, deadline=None, derandomize=True)


def turned(shape: StageShape, tensors: dict[str, Float32], basis: Array) -> dict[str, Float32]:
    """Tensors, or gradients, of a stage whose stream is turned by `basis`."""
    sides = {t.name: t.side for t in shape.tensors()}
    return {
        name: (tensor @ basis.T if sides[name] == "reads" else basis @ tensor).astype(np.float32)
        for name, tensor in tensors.items()
    }


def nats(forward: Forward) -> float:
    assert forward.loss is not None
    return forward.loss.nats


def output(forward: Forward) -> Float32:
    assert forward.output is not None
    return forward.output


def assert_close(found: npt.ArrayLike, expected: npt.ArrayLike, tolerance: float = 1e-5) -> None:
    """Compare within `tolerance` of the largest entry: what float32 sums promise."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * max(1e-3, np.abs(expected).max())


@st.composite
def stage_shapes(draw: st.DrawFn) -> StageShape:
    heads = draw(st.integers(1, 3))
    return StageShape(
        width=heads * 2 * draw(st.integers(1, 4)),
        heads=heads,
        layers=draw(st.integers(1, 2)),
        hidden=draw(st.integers(1, 20)),
        mlp=draw(st.sampled_from(["relu2", "swiglu"])),
        first=draw(st.booleans()),
        last=draw(st.booleans()),
    )


SHAPE = StageShape(width=16, heads=2, layers=2, hidden=24)
PLACES = [(True, False), (False, False), (False, True), (True, True)]
places = pytest.mark.parametrize(("first", "last"), PLACES, ids=["first", "middle", "last", "only"])


# --- Forward ---


def test_forward_equals_the_oracle(kind: type[Passes], loaded: Loaded) -> None:
    @examples(kind)
    @given(stage_shapes(), st.integers(1, 3), st.integers(1, 9), st.integers(0, 2**32))
    def holds(shape: StageShape, rows: int, tokens: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        weights, bridge = draw_weights(shape, rng), draw_bridge(shape, rng)
        inputs, targets = draw_inputs(shape, rng, rows, tokens), draw_targets(shape, rng, rows, tokens)
        wide = {name: w.astype(np.float64) for name, w in weights.items()}
        expected = oracle(shape, wide, bridge, inputs)
        stage = loaded(shape, weights, bridge)
        for found in (stage.forward(inputs, targets=targets), stage.evaluate(inputs, targets=targets)):
            if targets is None:
                assert found.loss is None
                assert output(found).dtype == np.float32
                assert_close(output(found), expected)
            else:
                assert found.output is None
                assert_close(nats(found), oracle_nats(expected, targets))
                assert found.loss is not None
                assert found.loss.count == rows * tokens

    holds()


@places
def test_later_tokens_do_not_change_earlier_outputs(loaded: Loaded, first: bool, last: bool) -> None:
    rng = np.random.default_rng(1)
    shape = replace(SHAPE, first=first, last=last)
    stage = loaded(shape, draw_weights(shape, rng), draw_bridge(shape, rng))
    inputs = draw_inputs(shape, rng, 2, 12)
    other = np.concatenate([inputs[:, :7], draw_inputs(shape, rng, 2, 5)], axis=1)
    found = [stage.decode(x, stage.cache(2)) for x in (inputs, other)]
    assert_close(found[0][:, :7], found[1][:, :7], 1e-6)
    assert np.abs(found[0][:, 7:] - found[1][:, 7:]).max() > 0.1
    if not last:
        outputs = [output(stage.forward(x)) for x in (inputs, other)]
        assert_close(outputs[0][:, :7], outputs[1][:, :7], 1e-6)


def test_batch_rows_are_independent(loaded: Loaded) -> None:
    rng = np.random.default_rng(2)
    shape = replace(SHAPE, first=True)
    stage = loaded(shape, draw_weights(shape, rng), None)
    inputs = draw_inputs(shape, rng, 5, 9)
    together = output(stage.forward(inputs))
    for row in range(5):
        assert_close(together[row], output(stage.forward(inputs[row : row + 1]))[0], 1e-6)


# --- Gradients ---


def difference(function: Callable[[], float], array: Array, rows: Ids | None = None) -> Array:
    """Central differences of a scalar function by the entries of `array`, or of some of its rows."""
    found: Array = np.zeros_like(array)
    step = 1e-5
    chosen = range(len(array)) if rows is None else rows.tolist()
    for at in ((row, *rest) for row in chosen for rest in np.ndindex(array.shape[1:])):
        kept = array[at]
        array[at] = kept + step
        above = function()
        array[at] = kept - step
        found[at] = (above - function()) / (2 * step)
        array[at] = kept
    return found


@pytest.mark.parametrize("mlp", ["relu2", "swiglu"])
@places
def test_gradients_equal_finite_differences_of_the_oracle(loaded: Loaded, first: bool, last: bool, mlp: Any) -> None:
    rng = np.random.default_rng(3)
    shape = StageShape(width=4, heads=1, layers=1, hidden=3, mlp=mlp, first=first, last=last)
    weights, bridge = draw_weights(shape, rng), draw_bridge(shape, rng)
    inputs, targets = draw_inputs(shape, rng, 2, 3), draw_targets(shape, rng, 2, 3)
    upstream = None if last else rng.standard_normal((2, 3, 4)).astype(np.float32)
    wide = {name: w.astype(np.float64) for name, w in weights.items()}
    values = inputs if first else inputs.astype(np.float64)

    def objective() -> float:
        y = oracle(shape, wide, bridge, values)
        return float((y * upstream).sum()) if upstream is not None else 0.125 * oracle_nats(y, targets)

    stage = loaded(shape, weights, bridge)
    found = stage.backward(stage.forward(inputs, targets=targets), upstream, scale=0.125)
    gradients = stage.gradients()
    assert gradients.keys() == wide.keys()
    for name, weight in wide.items():
        if name == "embedding":
            seen = np.unique(inputs)
            assert_close(gradients[name], difference(objective, weight, seen), 1e-4)
        else:
            assert_close(gradients[name], difference(objective, weight), 1e-4)
    if first:
        assert found is None
    else:
        assert found is not None
        assert found.dtype == np.float32
        assert_close(found, difference(objective, values), 1e-4)


def test_gradients_add_up_over_micro_batches_in_any_order(loaded: Loaded) -> None:
    rng = np.random.default_rng(4)
    shape = replace(SHAPE, last=True)
    stage = loaded(shape, draw_weights(shape, rng), draw_bridge(shape, rng))
    inputs, targets = draw_inputs(shape, rng, 6, 8), draw_targets(shape, rng, 6, 8)
    assert targets is not None
    assert not any(g.any() for g in stage.gradients().values())
    whole = stage.backward(stage.forward(inputs, targets=targets), scale=1 / 48)
    expected = stage.gradients()
    stage.clear()
    assert not any(g.any() for g in stage.gradients().values())
    parts = [slice(0, 2), slice(2, 4), slice(4, 6)]
    forwards = [stage.forward(inputs[part], targets=targets[part]) for part in parts]
    for i in (1, 2, 0):
        found = stage.backward(forwards[i], scale=1 / 48)
        assert whole is not None
        assert found is not None
        assert_close(found, whole[parts[i]])
    for name, gradient in stage.gradients().items():
        assert_close(gradient, expected[name])


def test_gradients_do_not_change_under_later_backwards(loaded: Loaded) -> None:
    rng = np.random.default_rng(5)
    shape = replace(SHAPE, first=True, last=True)
    stage = loaded(shape, draw_weights(shape, rng), None)
    inputs, targets = draw_inputs(shape, rng, 1, 4), draw_targets(shape, rng, 1, 4)
    stage.backward(stage.forward(inputs, targets=targets))
    before = stage.gradients()
    kept = {name: g.copy() for name, g in before.items()}
    stage.backward(stage.forward(inputs, targets=targets))
    assert all(np.array_equal(before[name], kept[name]) for name in kept)
    assert all(np.allclose(g, 2 * kept[name]) for name, g in stage.gradients().items())


@pytest.mark.parametrize(("first", "last"), [(False, False), (True, True)], ids=["middle", "only"])
def test_warming_leaves_no_gradient_and_no_weight_changed(loaded: Loaded, first: bool, last: bool) -> None:
    rng = np.random.default_rng(18)
    shape = replace(SHAPE, first=first, last=last)
    weights, bridge = draw_weights(shape, rng), draw_bridge(shape, rng)
    stage, warmed = loaded(shape, weights, bridge), loaded(shape, weights, bridge)
    warmed.warm(2, 6)
    assert not any(g.any() for g in warmed.gradients().values())
    inputs, targets = draw_inputs(shape, rng, 2, 6), draw_targets(shape, rng, 2, 6)
    found, expected = (s.evaluate(inputs, targets=targets) for s in (warmed, stage))
    assert found.loss == expected.loss
    assert last or np.array_equal(output(found), output(expected))


def test_a_forward_goes_backward_once_and_only_under_its_own_weights(loaded: Loaded) -> None:
    rng = np.random.default_rng(6)
    shape = replace(SHAPE, first=True, last=True)
    weights = draw_weights(shape, rng)
    stage = loaded(shape, weights, None)
    inputs, targets = draw_inputs(shape, rng, 1, 4), draw_targets(shape, rng, 1, 4)
    once = stage.forward(inputs, targets=targets)
    stage.backward(once)
    with pytest.raises(AssertionError):
        stage.backward(once)
    with pytest.raises(AssertionError):
        stage.backward(stage.evaluate(inputs, targets=targets))
    stale = stage.forward(inputs, targets=targets)
    stage.load(weights, None)
    with pytest.raises(AssertionError, match="under its own weights"):
        stage.backward(stale)


def aligned(array: Any) -> Any:
    """The same in memory that begins at a multiple of 64 bytes: JAX takes such an array as it is, without a copy."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    found = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


def test_arrays_of_the_caller_are_copied(loaded: Loaded) -> None:
    rng = np.random.default_rng(7)
    shape = replace(SHAPE, last=True)
    weights, bridge = draw_weights(shape, rng), draw_bridge(shape, rng)
    inputs, targets = draw_inputs(shape, rng, 1, 4), draw_targets(shape, rng, 1, 4)
    stage = loaded(shape, weights, bridge)
    stage.backward(stage.forward(inputs, targets=targets))
    expected = stage.gradients()
    stage.clear()
    forward = stage.forward(inputs, targets=targets)
    inputs *= 0
    assert bridge is not None
    bridge *= 0
    for weight in weights.values():
        weight *= 0
    assert targets is not None
    targets *= 0
    stage.backward(forward)
    assert all(np.array_equal(g, expected[name]) for name, g in stage.gradients().items())


def test_a_gradient_of_the_caller_is_copied(loaded: Loaded) -> None:
    rng = np.random.default_rng(20)
    shape = replace(SHAPE, first=True)
    stage = loaded(shape, draw_weights(shape, rng), None)
    inputs, upstream = draw_inputs(shape, rng, 2, 6), aligned(rng.standard_normal((2, 6, 16)).astype(np.float32))
    stage.backward(stage.forward(inputs), upstream.copy())
    expected = stage.gradients()
    stage.clear()
    stage.backward(stage.forward(inputs), upstream)  # of the first stage nothing is given back, so it may still run
    upstream[...] = 0
    assert all(np.array_equal(g, expected[name]) for name, g in stage.gradients().items())


def test_read_only_arrays_are_accepted(loaded: Loaded) -> None:
    rng = np.random.default_rng(8)
    weights, bridge = draw_weights(SHAPE, rng), draw_bridge(SHAPE, rng)
    inputs = draw_inputs(SHAPE, rng, 1, 4)
    assert bridge is not None
    for array in (*weights.values(), bridge, inputs):
        array.setflags(write=False)
    stage = loaded(SHAPE, weights, bridge)
    stage.backward(stage.forward(inputs), inputs)
    shape = replace(SHAPE, first=True, last=True)
    stage = loaded(shape, draw_weights(shape, rng), None)
    ids = np.frombuffer(b"read only", dtype=np.uint8)[None]
    assert nats(stage.evaluate(ids, targets=ids)) > 0


@pytest.mark.parametrize(("first", "last"), PLACES[:3], ids=["first", "middle", "last"])
def test_torch_and_jax_agree_value_by_value(first: bool, last: bool) -> None:
    rng = np.random.default_rng(19)
    shape = StageShape(width=64, heads=2, layers=2, hidden=256, first=first, last=last)
    weights, bridge = draw_weights(shape, rng), draw_bridge(shape, rng)
    inputs, targets = draw_inputs(shape, rng, 3, CONTEXT), draw_targets(shape, rng, 3, CONTEXT)
    upstream = None if last else rng.standard_normal((3, CONTEXT, 64)).astype(np.float32)
    stages = [TorchStage(shape, context=CONTEXT), JaxStage(shape, context=CONTEXT)]
    forwards, backwards, decoded = [], [], []
    for stage in stages:
        stage.load(weights, bridge)
        forwards.append(stage.forward(inputs, targets=targets))
        backwards.append(stage.backward(forwards[-1], upstream, scale=1 / 120))
        decoded.append(stage.decode(inputs, stage.cache(3)))
    a, b = forwards
    if last:
        assert_close(nats(b), nats(a), 1e-6)
    else:
        assert_close(output(b), output(a))
    assert_close(decoded[1], decoded[0])
    if first:
        assert backwards == [None, None]
    else:
        assert backwards[0] is not None and backwards[1] is not None
        assert_close(backwards[1], backwards[0])
    expected = stages[0].gradients()
    for name, gradient in stages[1].gradients().items():
        assert_close(gradient, expected[name])


# --- Secret bases ---


def test_a_turned_stage_has_the_same_loss_and_turned_gradients(kind: type[Passes], loaded: Loaded) -> None:
    @examples(kind)
    @given(stage_shapes(), st.integers(0, 2**32))
    def holds(shape: StageShape, seed: int) -> None:
        rng = np.random.default_rng(seed)
        basis = draw_basis(shape.width, rng)
        weights, bridge = draw_weights(shape, rng), draw_bridge(shape, rng)
        inputs, targets = draw_inputs(shape, rng, 2, 6), draw_targets(shape, rng, 2, 6)
        upstream = None if shape.last else rng.standard_normal((2, 6, shape.width)).astype(np.float32)
        plain = loaded(shape, weights, bridge)
        secret = loaded(
            shape,
            turned(shape, weights, basis),
            None if bridge is None else (basis @ bridge).astype(np.float32),
        )
        a, b = plain.forward(inputs, targets=targets), secret.forward(inputs, targets=targets)
        if shape.last:
            assert_close(nats(b), nats(a))
            gradients = plain.backward(a, scale=0.1), secret.backward(b, scale=0.1)
        else:
            assert upstream is not None
            assert_close(output(b), output(a) @ basis.T)
            gradients = plain.backward(a, upstream), secret.backward(b, (upstream @ basis.T).astype(np.float32))
        if gradients[0] is not None and gradients[1] is not None:
            assert_close(gradients[1], gradients[0], 1e-3)  # in the sender's basis, which did not turn
        back = turned(shape, secret.gradients(), basis.T)
        for name, gradient in plain.gradients().items():
            assert_close(back[name], gradient, 1e-3)

    holds()


def test_stages_joined_by_bridges_equal_one_plain_stage(loaded: Loaded) -> None:
    rng = np.random.default_rng(9)
    shapes = [replace(SHAPE, first=True), SHAPE, replace(SHAPE, last=True)]
    weights = [draw_weights(shape, rng) for shape in shapes]
    bridges = [draw_bridge(shape, rng) for shape in shapes]
    inputs, targets = draw_inputs(shapes[0], rng, 3, 10), draw_targets(shapes[2], rng, 3, 10)
    stages = [loaded(*each) for each in zip(shapes, weights, bridges, strict=True)]
    forwards, stream = [], inputs
    for stage in stages:
        last = stage.shape.last
        forwards.append(stage.forward(stream, targets=targets if last else None))
        stream = inputs if last else output(forwards[-1])
    gradient: Float32 | None = None
    for stage, forward in zip(reversed(stages), reversed(forwards), strict=True):
        gradient = stage.backward(forward, gradient, scale=1 / 30)

    one = StageShape(width=16, heads=2, layers=6, hidden=24, first=True, last=True)
    plain: dict[str, Float32] = {}
    gradients: dict[str, Float32] = {}
    basis = np.eye(16)  # from the first stage's frame to this stage's
    for i, stage in enumerate(stages):
        bridge = bridges[i]
        basis = basis if bridge is None else bridge @ basis
        for found, tensors in ((plain, weights[i]), (gradients, stage.gradients())):
            for name, tensor in turned(stage.shape, tensors, basis.T).items():
                layer, _, rest = name.partition(".")
                found[f"layer{int(layer[5:]) + 2 * i}.{rest}" if rest else name] = tensor
    whole = loaded(one, plain, None)
    forward = whole.forward(inputs, targets=targets)
    assert_close(nats(forwards[-1]), nats(forward))
    whole.backward(forward, scale=1 / 30)
    for name, expected in whole.gradients().items():
        assert_close(gradients[name], expected, 1e-4)


# --- Cached decoding ---


def test_cached_decoding_equals_the_oracle_over_the_whole_text(kind: type[Passes], loaded: Loaded) -> None:
    @examples(kind)
    @given(stage_shapes(), st.lists(st.integers(1, 4), min_size=1, max_size=5), st.integers(0, 2**32))
    def holds(shape: StageShape, pieces: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        weights, bridge = draw_weights(shape, rng), draw_bridge(shape, rng)
        inputs = draw_inputs(shape, rng, 2, sum(pieces))
        wide = {name: w.astype(np.float64) for name, w in weights.items()}
        stage = loaded(shape, weights, bridge)
        cache = stage.cache(2, context=sum(pieces))
        found = [stage.decode(x, cache) for x in np.split(inputs, np.cumsum(pieces)[:-1], axis=1)]
        assert cache.length == sum(pieces)
        assert_close(np.concatenate(found, axis=1), oracle(shape, wide, bridge, inputs))

    holds()


@places
def test_a_long_prompt_and_then_tokens_are_decoded_as_one_text(loaded: Loaded, first: bool, last: bool) -> None:
    rng = np.random.default_rng(16)
    shape = replace(SHAPE, first=first, last=last)
    weights, bridge = draw_weights(shape, rng), draw_bridge(shape, rng)
    inputs = draw_inputs(shape, rng, 1, CONTEXT)
    stage = loaded(shape, weights, bridge)
    cache = stage.cache(1)
    cuts = [stage_jax.PIECE + 3, stage_jax.PIECE + 4]
    found = [stage.decode(x, cache) for x in np.split(inputs, cuts, axis=1)]
    wide = {name: w.astype(np.float64) for name, w in weights.items()}
    assert_close(np.concatenate(found, axis=1), oracle(shape, wide, bridge, inputs))


def test_a_token_is_never_compiled_anew() -> None:
    rng = np.random.default_rng(17)
    shape = replace(SHAPE, first=True)
    stage = JaxStage(shape, context=CONTEXT)
    stage.load(draw_weights(shape, rng), None)
    stage.warm(2, CONTEXT)
    programs = (stage_jax._forward, stage_jax._backward, stage_jax._evaluate, stage_jax._decode)
    before = [program._cache_size() for program in programs]
    inputs = draw_inputs(shape, rng, 2, CONTEXT)
    stage.backward(stage.forward(inputs), output(stage.evaluate(inputs)))
    for context in (CONTEXT, 7):
        cache = stage.cache(1, context=context)
        for token in range(context):
            stage.decode(inputs[:1, token : token + 1], cache)
    stage.decode(inputs[:1], stage.cache(1))
    assert [program._cache_size() for program in programs] == before


def test_a_text_cannot_grow_past_its_cache(loaded: Loaded) -> None:
    rng = np.random.default_rng(10)
    shape = replace(SHAPE, first=True)
    stage = loaded(shape, draw_weights(shape, rng), None)
    inputs = draw_inputs(shape, rng, 1, 9)
    cache = stage.cache(1, context=8)
    stage.decode(inputs[:, :6], cache)
    kept = np.asarray(cache.keys).copy()
    with pytest.raises(OutOfRange, match="holds 6 of 8"):
        stage.decode(inputs[:, 6:9], cache)
    with pytest.raises(OutOfRange, match="2 rows"):
        stage.decode(np.concatenate([inputs, inputs])[:, :1], cache)
    assert cache.length == 6
    assert np.array_equal(np.asarray(cache.keys), kept)
    assert_close(stage.decode(inputs[:, 6:8], cache), output(stage.forward(inputs[:, :8]))[:, 6:])


# --- Refusals ---


def test_weights_that_do_not_fit_are_refused(kind: type[Passes]) -> None:
    rng = np.random.default_rng(11)
    weights, bridge = draw_weights(SHAPE, rng), draw_bridge(SHAPE, rng)
    stage = kind(SHAPE)
    with pytest.raises(OutOfRange, match=r"fit the stage: layer0\.up"):
        stage.load({**weights, "layer0.up": weights["layer0.up"].T}, bridge)
    with pytest.raises(OutOfRange, match=r"fit the stage: layer1\.key"):
        stage.load({n: w for n, w in weights.items() if n != "layer1.key"}, bridge)
    with pytest.raises(OutOfRange, match="fit the stage: head"):
        stage.load({**weights, "head": weights["layer0.up"]}, bridge)
    with pytest.raises(OutOfRange, match="bridge"):
        stage.load(weights, None)
    first = replace(SHAPE, first=True)
    with pytest.raises(OutOfRange, match="bridge"):
        kind(first).load(draw_weights(first, rng), bridge)


def test_inputs_that_do_not_fit_are_refused(loaded: Loaded) -> None:
    rng = np.random.default_rng(12)
    shape = replace(SHAPE, first=True, last=True)
    stage = loaded(shape, draw_weights(shape, rng), None)
    ids = draw_inputs(shape, rng, 2, 4)
    for wrong in (ids + VOCABULARY, ids - VOCABULARY, ids.astype(np.float32), ids[0], ids[:, :0]):
        with pytest.raises(OutOfRange):
            stage.forward(wrong, targets=ids)
        with pytest.raises(OutOfRange):
            stage.forward(ids, targets=wrong)
    with pytest.raises(OutOfRange, match=f"context is {CONTEXT}"):
        stage.forward(np.zeros((1, CONTEXT + 1), np.int64), targets=np.zeros((1, CONTEXT + 1), np.int64))
    with pytest.raises(OutOfRange, match="every token"):
        stage.forward(ids)
    middle = loaded(SHAPE, draw_weights(SHAPE, rng), draw_bridge(SHAPE, rng))
    stream = draw_inputs(SHAPE, rng, 2, 4)
    for wrong in (stream[..., :15], stream[0], stream[:, :0]):
        with pytest.raises(OutOfRange):
            middle.forward(wrong)
    with pytest.raises(OutOfRange, match="only the last"):
        middle.forward(stream, targets=ids)


def test_gradients_that_do_not_fit_are_refused(loaded: Loaded) -> None:
    rng = np.random.default_rng(13)
    middle = loaded(SHAPE, draw_weights(SHAPE, rng), draw_bridge(SHAPE, rng))
    stream = draw_inputs(SHAPE, rng, 2, 4).astype(np.float32)
    forward = middle.forward(stream)
    for wrong in (None, stream[:1], stream[..., :15]):
        with pytest.raises(OutOfRange, match="output gradient"):
            middle.backward(forward, wrong)
    middle.backward(forward, stream)  # a refusal leaves the forward usable
    last = replace(SHAPE, last=True)
    stage = loaded(last, draw_weights(last, rng), draw_bridge(last, rng))
    with pytest.raises(OutOfRange, match="takes no gradient"):
        stage.backward(stage.forward(stream, targets=np.zeros((2, 4), np.int64)), stream)


def test_a_loss_that_is_not_finite_is_refused(loaded: Loaded) -> None:
    rng = np.random.default_rng(14)
    shape = replace(SHAPE, first=True, last=True)
    weights = draw_weights(shape, rng)
    weights["head"] *= np.float32(np.inf)
    stage = loaded(shape, weights, None)
    ids = draw_inputs(shape, rng, 1, 4)
    with pytest.raises(NonFinite):
        stage.evaluate(ids, targets=ids)
    last = replace(SHAPE, last=True)
    stage = loaded(last, draw_weights(last, rng), draw_bridge(last, rng))
    stream = draw_inputs(last, rng, 1, 4)
    stream[0, 3, 5] = np.nan
    with pytest.raises(NonFinite):
        stage.forward(stream, targets=ids)


def test_a_middle_stage_passes_on_what_is_not_a_number(loaded: Loaded) -> None:
    rng = np.random.default_rng(15)
    stage = loaded(SHAPE, draw_weights(SHAPE, rng), draw_bridge(SHAPE, rng))
    stream = draw_inputs(SHAPE, rng, 1, 4)
    stream[0, 2, 5] = np.nan
    assert np.isnan(output(stage.forward(stream))[0, 2:]).all()  # encoding refuses it


def test_a_device_that_is_not_there_is_refused(kind: type[Passes]) -> None:
    with pytest.raises(RuntimeError, match="abacus"):
        kind(SHAPE, device="abacus")


def test_a_jax_device_of_a_number_that_is_not_there_is_refused() -> None:
    assert JaxStage(SHAPE, device="cpu:0").cache(1).rows == 1
    for name in ("cpu:99", "cpu:x"):
        with pytest.raises(OutOfRange, match=f"no device {name}: cpu has"):
            JaxStage(SHAPE, device=name)


@pytest.mark.parametrize(("rows", "context"), [(0, 8), (1, 0), (1, 33)])
def test_a_cache_larger_than_the_stage_is_refused(kind: type[Passes], rows: int, context: int) -> None:
    stage = kind(SHAPE, context=32)
    assert isinstance(stage.cache(1), Cache)
    with pytest.raises(OutOfRange):
        stage.cache(rows, context)
    with pytest.raises(OutOfRange):
        kind(SHAPE, context=0)
