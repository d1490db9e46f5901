"""The fused kernels in JAX: interpreted here, and as far as the compiler for GPUs goes without one."""

import subprocess
import sys
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.conformance.one_pass import KEY, OnePass

from interlock.kernels import fixed, mask, mask_pallas
from interlock.kernels.mask import PLANES


class TestPallas(OnePass):
    """On JAX's own device."""

    kernels = mask_pallas

    def array(self, values: np.ndarray) -> jax.Array:
        """On the default device."""
        return jnp.asarray(values)

    def keystream(self, count: int, *, width: int, key: bytes = KEY) -> mask_pallas.Keystream:
        """On the default device."""
        return mask_pallas.Keystream(key, count, width=width)

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_half_precision_is_widened_exactly(self, dtype):
        halves = jnp.arange(65536, dtype=jnp.uint16).view(getattr(jnp, dtype))
        halves = jnp.where(jnp.isfinite(halves), halves, 1)
        encoded = fixed.encode(np.asarray(halves.astype(jnp.float32)), width=24, fraction=12)
        frame, clamped = mask_pallas.depart(halves, self.keystream(65536, width=24), fraction=12)
        assert clamped == encoded.clamped
        assert frame.tobytes() == mask.mask(encoded.integers, KEY, width=24).tobytes()

    def test_float64_is_refused_and_nothing_else_changes_with_x64(self):
        with jax.enable_x64(True):
            self.check(np.arange(5, dtype=np.float32), width=24, fraction=12)
            with pytest.raises(fixed.OutOfRange):
                self.depart(np.ones(5), width=24, fraction=12)


def test_values_elsewhere_than_the_keystream_are_refused():
    """In a process of its own, because the number of devices is fixed when JAX starts."""
    code = """
import jax, jax.numpy as jnp
from interlock.kernels.errors import OutOfRange
from interlock.kernels.mask_pallas import Keystream, arrive, depart
first, second = jax.devices()
values = jax.device_put(jnp.ones(5), second)
try:
    depart(values, Keystream(bytes(32), 5, width=24), fraction=12)
except OutOfRange as error:
    print(error)
frame, _ = depart(values, Keystream(bytes(32), 5, width=24, device=second), fraction=12)
found = arrive(frame, Keystream(bytes(32), 5, width=24, device=second), shape=(5,), fraction=12)
print(found.devices() == {second}, found.tolist())
"""
    ran = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
            "PYTHONPATH": ":".join(sys.path),
        },
        check=True,
    )
    assert "device of the values" in ran.stdout
    assert ran.stdout.endswith("True [1.0, 1.0, 1.0, 1.0, 1.0]\n")


def abstract(width: int, dtype: Any) -> tuple[Any, Any, list[Any], Any]:
    """Values, scales, planes and one scale of 5000 elements: four blocks and a part."""
    row = partial(jax.ShapeDtypeStruct, (5000,))
    return row(dtype), jax.ShapeDtypeStruct((2,), jnp.float32), [row(d) for d in PLANES[width]], jnp.ones(1)


@pytest.mark.parametrize("width", fixed.WIDTHS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_the_kernels_lower_for_cuda(width, dtype):
    values, scales, planes, scale = abstract(width, dtype)
    departing = mask_pallas._depart.trace(values, scales, planes, width, False)
    arriving = mask_pallas._arrive.trace(planes, planes, scale, (5000,), width, False)
    for traced in (departing, arriving):
        assert "triton" in traced.lower(lowering_platforms=("cuda",)).as_text()


def kernels_of(jaxpr: Any) -> list[Any]:
    """Bodies of all kernels that a program calls."""
    found = []
    for equation in jaxpr.eqns:
        inner = equation.params.get("jaxpr")
        if equation.primitive.name == "pallas_call":
            found.append(inner)
        elif inner is not None:
            found += kernels_of(getattr(inner, "jaxpr", inner))
    return found


def test_blocks_are_read_and_written_under_a_mask():
    """On a GPU a plain read or write of the last block goes past its array; the interpreter would not show it."""
    values, scales, planes, scale = abstract(24, jnp.float32)
    departing = jax.make_jaxpr(lambda *a: mask_pallas._depart(*a, 24, True))(values, scales, planes)
    arriving = jax.make_jaxpr(lambda *a: mask_pallas._arrive(*a, (5000,), 24, True))(planes, planes, scale)
    kernels = kernels_of(departing.jaxpr) + kernels_of(arriving.jaxpr)
    assert len(kernels) == 2
    touched = [(e.primitive.name, e.invars[0].aval.shape) for k in kernels for e in k.eqns if e.invars]
    assert ("masked_load", (1024,)) in touched and ("masked_swap", (1024,)) in touched
    assert [t for t in touched if t[0] in ("get", "swap") and t[1] == (1024,)] == []
