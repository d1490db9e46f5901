"""Drawing a token: from the right distribution, from no token outside the nucleus, the same every time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from interlock.kernels.errors import NonFinite, OutOfRange
from interlock.kernels.sample import draw

LOGITS = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=256)


def nucleus(logits: list[float], temperature: float, top_p: float) -> dict[int, float]:
    """Tokens and their probabilities, slowly: the likeliest ones that together reach `top_p`."""
    top = max(logits)
    weights = [math.exp((x - top) / temperature) for x in logits]
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    kept: dict[int, float] = {}
    for i in order:
        kept[i] = weights[i]
        if math.fsum(kept.values()) >= top_p * math.fsum(weights):
            break
    whole = math.fsum(kept.values())
    return {i: weight / whole for i, weight in kept.items()}


@given(LOGITS, st.floats(0.05, 5), st.floats(0.01, 0.99), st.integers(0, 2**53), st.integers(0, 10**6))
def test_what_is_drawn_lies_in_the_nucleus(
    logits: list[float], temperature: float, top_p: float, seed: int, position: int
) -> None:
    array = np.array(logits, np.float32)
    found = draw(array, temperature=temperature, top_p=top_p, seed=seed, position=position)
    wider = nucleus([float(x) for x in array], temperature, top_p + 1e-9)  # where sums differ in the last digit
    assert found in wider
    assert found == draw(array, temperature=temperature, top_p=top_p, seed=seed, position=position)


@given(LOGITS, st.integers(0, 2**53))
def test_temperature_zero_takes_the_first_of_the_likeliest(logits: list[float], seed: int) -> None:
    array = np.array(logits, np.float32)
    assert draw(array, temperature=0.0, top_p=1.0, seed=seed, position=0) == int(np.argmax(array))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 0.7)])
def test_tokens_come_as_often_as_their_probabilities_say(temperature: float, top_p: float) -> None:
    logits = [1.5, -0.5, 0.25, 1.0, -2.0]
    array, count = np.array(logits, np.float32), 20_000
    drawn = [draw(array, temperature=temperature, top_p=top_p, seed=7, position=n) for n in range(count)]
    expected = nucleus(logits, temperature, top_p)
    assert set(drawn) <= set(expected)
    tokens = sorted(expected)
    observed = [drawn.count(token) for token in tokens]
    assert chisquare(observed, [count * expected[token] for token in tokens]).pvalue > 1e-4


def test_seeds_and_positions_draw_apart() -> None:
    flat = np.zeros(256, np.float32)
    drawn = {
        (seed, position): draw(flat, temperature=1.0, top_p=1.0, seed=seed, position=position)
        for seed in range(8)
        for position in range(8)
    }
    assert len(set(drawn.values())) > 48


def test_extremes_do_not_overflow() -> None:
    array = np.array([3e38, -3e38, 0.0], np.float32)
    for temperature in (1e-300, 1e-3, 100.0):
        assert draw(array, temperature=temperature, top_p=1.0, seed=0, position=0) == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(NonFinite):
        draw(np.array([0.0, value], np.float32), temperature=1.0, top_p=1.0, seed=0, position=0)


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(-1.0, 1.0), (math.nan, 1.0), (math.inf, 1.0), (1.0, 0.0), (1.0, 1.1), (1.0, math.nan)]
)
def test_parameters_out_of_range_are_refused(temperature: float, top_p: float) -> None:
    with pytest.raises(OutOfRange):
        draw(np.zeros(2, np.float32), temperature=temperature, top_p=top_p, seed=0, position=0)
