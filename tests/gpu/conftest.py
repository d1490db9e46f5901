"""Triton is told by the environment, before it is imported, to interpret its kernels where there is no GPU."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
