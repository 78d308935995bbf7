"""What the compiled backends tell their kernels: the codes of `csrc/include/nvfp4/problem.h`, and rows with strides."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from nvfp4 import layout as layouts
from nvfp4.formats import GROUP_SIZE

__all__ = [
    "ACTIVATION_CODES",
    "COMPUTE_ROW",
    "COMPUTE_TENSOR",
    "DTYPE_CODES",
    "GIVEN_TENSOR",
    "SCALE_LAYOUT_CODES",
    "SCHEME_CODES",
    "Quantized",
    "as_rows",
    "mode_of",
    "quantized_outputs",
    "without_columns",
]

DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
GIVEN_TENSOR, _GIVEN_ROW, COMPUTE_TENSOR, COMPUTE_ROW = 0, 1, 2, 3
ACTIVATION_CODES = {"gelu_tanh": 1, "gelu": 2, "silu": 3}
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


def mode_of(global_scale: Tensor | None, granularity: str) -> int:
    """Who gives the global scale of a quantize call, as the kernels are told."""
    if global_scale is None:
        return COMPUTE_ROW if granularity == "row" else COMPUTE_TENSOR
    return _GIVEN_ROW if global_scale.dim() > 1 else GIVEN_TENSOR


class Quantized(NamedTuple):
    """What a quantize kernel fills in, in the order of the op's results; `global_scale` only where none was given."""

    packed: Tensor
    scale: Tensor
    global_scale: Tensor


def quantized_outputs(x: Tensor, global_scale: Tensor | None, granularity: str, layout: str) -> tuple[int, Quantized]:
    """The mode of a quantize call of x [..., K], and memory for its results on x's device.

    The device is said at every allocation: a default device set by the user must not send a kernel another's pointers.
    """
    device, (*lead, k) = x.device, x.shape
    groups = k // GROUP_SIZE
    mode = mode_of(global_scale, granularity)
    if global_scale is None:
        per_row = mode == COMPUTE_ROW
        global_scale = torch.empty((*lead, 1) if per_row else (1,), dtype=torch.float32, device=device)
    else:
        global_scale = global_scale.contiguous().clone()
    shape = layouts.swizzled_shape(x.shape[:-1].numel(), groups) if layout == "128x4" else (*lead, groups)
    packed = torch.empty((*lead, k // 2), dtype=torch.uint8, device=device)
    return mode, Quantized(packed, torch.empty(shape, dtype=torch.uint8, device=device), global_scale)


def without_columns(out: Tensor, bias: Tensor | None) -> Tensor:
    """The product over no columns at all, written to `out`."""
    return out.zero_() if bias is None else out.copy_(bias.float().expand(out.shape))
