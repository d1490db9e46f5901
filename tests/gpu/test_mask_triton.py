"""The fused kernels in Triton: on the GPU, or interpreted; and compiled for GPUs in any case.

`make test-gpu` runs this folder, which `make test` leaves out because it needs the extra `gpu`.
"""

import doctest
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tests.conformance.one_pass import KEY, OnePass

from interlock.kernels import fixed, mask, mask_triton
from interlock.kernels.errors import OutOfRange

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class TestTriton(OnePass):
    """On the GPU if there is one."""

    kernels = mask_triton

    def array(self, values: np.ndarray) -> torch.Tensor:
        """On the device under test."""
        return torch.from_numpy(values).to(DEVICE)

    def keystream(self, count: int, *, width: int, key: bytes = KEY) -> mask_triton.Keystream:
        """On the device under test."""
        return mask_triton.Keystream(key, count, width=width, device=DEVICE)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision_is_widened_exactly(self, dtype):
        halves = torch.arange(65536).to(torch.uint16).view(dtype)
        halves = torch.where(torch.isfinite(halves), halves, torch.ones_like(halves))
        encoded = fixed.encode(halves.to(torch.float32).numpy(), width=24, fraction=12)
        frame, clamped = mask_triton.depart(halves.to(DEVICE), self.keystream(65536, width=24), fraction=12)
        assert clamped == encoded.clamped
        assert frame.tobytes() == mask.mask(encoded.integers, KEY, width=24).tobytes()

    def test_float64_is_refused(self):
        with pytest.raises(OutOfRange):
            self.depart(np.ones(5), width=24, fraction=12)

    def test_values_elsewhere_than_the_keystream_are_refused(self):
        with pytest.raises(OutOfRange, match="device of the values"):
            mask_triton.depart(torch.ones(5, device="meta"), self.keystream(5, width=24), fraction=12)

    def test_the_bridge_reads_rows_as_they_lie(self):
        frame, _ = self.depart(np.arange(34, dtype=np.float32).reshape(2, 17), width=24, fraction=12)
        rows = mask_triton.arrive(frame, self.keystream(34, width=24), shape=(2, 17), fraction=12)
        assert rows.is_contiguous() and rows.device.type == DEVICE and not rows.requires_grad

    def test_values_of_a_graph_cross_without_it(self):
        values = torch.ones(5, device=DEVICE, requires_grad=True)
        frame, _ = mask_triton.depart(values * 2, self.keystream(5, width=24), fraction=12)
        assert frame.tobytes() == self.depart(np.full(5, 2, np.float32), width=24, fraction=12)[0].tobytes()


def test_examples_in_the_docstrings_hold():
    assert doctest.testmod(mask_triton).failed == 0


COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from interlock.kernels import mask_triton

def compiled(kernel, width, **types):
    constants = {"WIDTH": width, "BLOCK": 1024}
    signature = types | dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    return triton.compile(source, target=GPUTarget("cuda", int(sys.argv[1]), 32)).asm["ptx"]

frames = dict(words="*u8", frame="*u8", count="i32", scale="fp32")
for width in (8, 16, 24, 32):
    for values in ("*fp32", "*fp16", "*bf16"):
        text = compiled(mask_triton._depart, width, values=values, counts="*i32", bound="fp32", **frames)
        assert "cvt.rzi.s32.f32" in text and "cvt.rn.f32.s32" in text and "__nv_" not in text, text
    assert "cvt.rn.f32.s32" in compiled(mask_triton._arrive, width, values="*fp32", **frames)
print("compiled")
"""


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile_for_gpus_that_are_not_here(capability, tmp_path):
    """Interpreted Python is more than a GPU's compiler takes. In a process of its own, which does not interpret."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", COMPILE, str(capability)]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (ran.stdout, ran.returncode) == ("compiled\n", 0), ran.stderr
