"""The check before the clock: every kernel that will be timed is first compared with the reference, bit for bit.

Linear: the operands of `nvfp4.bench.operands` make every product an integer times 112 (2q 2q' / 4 times the scales 448
and 1 or 2). A partial sum is exact in float32 while |sum| / 16 < 2^24, and the sum of all magnitudes stays below that
for K up to about 65,000 (a product is 20 on average in units of 1/4); for larger K the signs, which are random, keep it
there. So kernel and reference agree whatever the order of the sum, and atol = rtol = 0.
Quantise and dequantise: equal bytes, by the number contract.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nvfp4 import reference
from nvfp4.bench.cases import DTYPES
from nvfp4.bench.operands import LinearOperands, RowOperands
from nvfp4.tensor import NVFP4Tensor

__all__ = ["RefcheckError", "check_dequantize", "check_linear", "check_quantize", "sample"]

_SAMPLED = 48


class RefcheckError(RuntimeError):
    """A kernel's result differs from the reference: its speed means nothing."""


def sample(size: int, seed: int = 0) -> Tensor:
    """Sorted indices of at most 48 of `size` rows: the first, the last (where raggedness shows) and random ones."""
    chosen = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[: _SAMPLED - 2]
    ends = torch.tensor([0, size - 1])
    unique: Tensor = torch.unique(torch.cat((chosen, ends)))
    return unique


def _same(what: str, got: Tensor, wanted: Tensor) -> None:
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        raise RefcheckError(
            f"{what}: got {got.dtype} {tuple(got.shape)}, the reference has {wanted.dtype} {tuple(wanted.shape)}"
        )
    different = int((got != wanted).sum())
    if different:
        gap = float((got.double() - wanted.double()).abs().max())
        raise RefcheckError(
            f"{what}: {different} of {got.numel()} values differ from the reference by up to {gap:g}; nothing was timed"
        )


def check_linear(
    op: str, x: Tensor, operands: LinearOperands, y: Tensor, input_global_scale: Tensor | None = None
) -> None:
    """Compare sampled columns of y [m, n], the result of `op` on x and any copy of the weight.

    `input_global_scale` is given for a calibrated scale; without, every row of x has its own.

    Raises:
        RefcheckError: a value differs.
    """
    columns = sample(operands.n)
    plain = operands.plain
    scale = plain.scale.view(torch.uint8)[columns].view(torch.float8_e4m3fn)
    weight = NVFP4Tensor(plain.packed[columns], scale, plain.global_scale, (len(columns), operands.k))
    if op == "linear-w4a16":
        wanted = reference.linear(x, weight)
    else:
        wanted = reference.matmul(reference.quantize(x, input_global_scale, "row"), weight, None, x.dtype)
    _same(f"{op} M={x.shape[0]} N={operands.n} K={operands.k}", y[:, columns], wanted)


def check_quantize(
    x: Tensor, packed: Tensor, scale: Tensor, global_scale: Tensor, wanted_scale: Tensor | None = None
) -> None:
    """Compare sampled rows of quantised x [m, k] (scale bytes as uint8).

    `wanted_scale` [1] is the global scale of all rows; without, each has its own.

    Raises:
        RefcheckError: a byte differs.
    """
    rows = sample(x.shape[0])
    wanted = reference.quantize(x[rows], wanted_scale, "row")
    what = f"quantize [{x.shape[0]}, {x.shape[1]}]"
    _same(f"{what}: packed", packed[rows], wanted.packed)
    _same(f"{what}: scale", scale[rows], wanted.scale.view(torch.uint8))
    _same(f"{what}: global_scale", global_scale[rows] if wanted_scale is None else global_scale, wanted.global_scale)


def check_dequantize(operands: RowOperands, copy: int, y: Tensor) -> None:
    """Compare sampled rows of y [m, k], the values of one copy.

    Raises:
        RefcheckError: a value differs.
    """
    rows = sample(operands.m)
    parts = operands.packed[copy], operands.scale[copy], operands.global_scale[copy]
    packed, scale, global_scale = (part[rows] for part in parts)
    coded = NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), global_scale, (len(rows), operands.k))
    dtype = next(dtype for dtype in DTYPES.values() if dtype == y.dtype)
    _same(f"dequantize [{operands.m}, {operands.k}]", y[rows], reference.dequantize(coded, dtype))
