"""What the compiled backends tell their kernels: the codes of `csrc/include/nvfp4/problem.h`, and rows with strides."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "COMPUTE_ROW",
    "COMPUTE_TENSOR",
    "DTYPE_CODES",
    "GIVEN_ROW",
    "GIVEN_TENSOR",
    "SCALE_LAYOUT_CODES",
    "SCHEME_CODES",
    "as_rows",
]

DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
GIVEN_TENSOR, GIVEN_ROW, COMPUTE_TENSOR, COMPUTE_ROW = 0, 1, 2, 3
SCHEME_CODES = {"nvfp4": 0, "compressed-tensors": 1}
SCALE_LAYOUT_CODES = {"plain": 0, "128x4": 1}


def as_rows(x: Tensor) -> tuple[Tensor, int, int]:
    """x [..., K] as (tensor, rows, row stride): itself where its strides allow, a contiguous copy otherwise."""
    k = x.shape[-1]
    if x.is_contiguous() and k:
        return x, x.numel() // k, k
    if x.dim() == 2 and x.stride(1) == 1:
        return x, x.shape[0], x.stride(0)
    return x.contiguous(), x.shape[:-1].numel(), k
