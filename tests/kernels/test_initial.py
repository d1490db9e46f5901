"""Initial weights: one seed gives one state, of the intended scale, Gaussian enough, by integers alone."""

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from interlock.kernels import initial
from interlock.kernels.errors import OutOfRange
from interlock.kernels.state import StageShape

SEED = bytes(range(32))
FIRST = StageShape(width=64, heads=4, layers=1, hidden=256, first=True, last=True)


def test_a_seed_has_one_digest_on_every_machine() -> None:
    state = initial.initial_state(FIRST, SEED, bridge=None)
    assert state.digest().hex() == "7fdc27fbb2d0f944e8e9f091adde19e277f7437ccd6a230877702009bee55a17"


def test_entries_are_those_of_python_integers() -> None:
    t = initial.initial_state(FIRST, SEED, bridge=None).tensors["layer0.down"]
    rows, columns = t.weight.shape
    n = rows * columns
    key = hashlib.blake2b(b"interlock/keystream/v1\0initial/layer0.down", key=SEED, digest_size=32).digest()
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(2 * 16 * n))
    # floor(2**20 x 2**24 x std / std of a word sum), std = 1 / (2 sqrt(columns)), variance 16 (2**32 - 1) / 12
    square = (12 * 2**88) // (4 * columns * 16 * (2**32 - 1))
    scale = next(s for s in range(int(square**0.5) + 2, 0, -1) if s * s <= square)
    for i in (0, 1, columns, n - 1):
        words = [int.from_bytes(stream[2 * (j * n + i) :][:2], "little") for j in range(16)]
        expected = ((sum(words) - 8 * 65535) * scale + 2**19) >> 20
        assert t.weight.flat[i] == expected


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("embedding", 1.0),
        ("layer0.query", 64**-0.5),
        ("layer0.output", 0.5 * 64**-0.5),
        ("layer0.up", 64**-0.5),
        ("layer0.down", 0.5 * 256**-0.5),
        ("head", 0.5 * 64**-0.5),
    ],
)
def test_weights_are_near_gaussian_of_the_documented_scale(name: str, deviation: float) -> None:
    t = initial.initial_state(FIRST, SEED, bridge=None).tensors[name]
    z = t.weight.astype(np.float64).ravel() * 2.0**-t.grid / deviation
    error = z.size**-0.5
    assert abs(z.mean()) < 4 * error
    assert abs((z**2).mean() - 1) < 4 * 2**0.5 * error
    assert abs((z**3).mean()) < 4 * 15**0.5 * error
    assert abs((z**4).mean() - 3 + 1.2 / 16) < 4 * 96**0.5 * error
    assert np.abs(z).max() < 6.93


def test_tensors_and_seeds_have_streams_of_their_own() -> None:
    a = initial.initial_state(FIRST, SEED, bridge=None).tensors
    b = initial.initial_state(FIRST, bytes(32), bridge=None).tensors
    arrays = [a["layer0.query"], a["layer0.key"], a["layer0.value"], b["layer0.query"]]
    for i, x in enumerate(arrays):
        for y in arrays[:i]:
            assert np.mean(x.weight == y.weight) < 0.01


def test_optimizer_starts_empty_and_unmeasured() -> None:
    state = initial.initial_state(FIRST, SEED, bridge=None)
    assert state.round == 0
    for name, t in state.tensors.items():
        assert not t.momentum.any()
        assert t.sum_exponent is None
        assert (t.second is None) == (name not in ("embedding", "head"))
        assert t.second is None or not t.second.any()


def test_a_bridge_belongs_to_every_stage_but_the_first() -> None:
    bridge = np.zeros((64, 64), np.int32)
    later = StageShape(width=64, heads=4, layers=1, hidden=256)
    assert initial.initial_state(later, SEED, bridge=bridge).bridge is bridge
    for shape, given in ((FIRST, bridge), (later, None), (later, bridge[:32]), (later, bridge.astype(np.int16))):
        with pytest.raises(OutOfRange):
            initial.initial_state(shape, SEED, bridge=given)  # type: ignore[arg-type]
    with pytest.raises(OutOfRange):
        initial.initial_state(FIRST, SEED[:31], bridge=None)
