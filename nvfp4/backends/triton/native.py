"""The product of two NVFP4 matrices by Blackwell's own instruction, which tl.dot_scaled of e2m1 and e4m3 becomes.

Only for what `versions.py` allows: elsewhere Triton fails or aborts the process when it compiles this. Operands are
plain bytes (`nvfp4/layout.py`). As in `gemm.py` the weight is the left operand and tokens are the right one: the left
one has 128 rows and no fewer where tensor cores have a memory of their own (10.x), so few tokens have to be the right.

It is only compiled here, for GPUs that nobody here has, and was never run on one. `nvfp4 selftest` on your own GPU
compares its results with the reference's.
"""

from __future__ import annotations

from math import gcd
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from nvfp4.backends.triton.bits import rounded_to
from nvfp4.backends.triton.gemm import place_of_tile

__all__ = ["Tile", "multiply_native", "product", "tile_for"]


class Tile(NamedTuple):
    """A tile of `rows` of the weight by `tokens`, `columns` an iteration.

    `unit`: the largest power of two up to `columns` that divides K; where it is smaller, the end of K is masked.
    """

    rows: int
    tokens: int
    columns: int
    warps: int
    stages: int
    unit: int


@triton.jit
def _operand(packed, scale, row, step, half, groups, K: tl.constexpr, UNIT: tl.constexpr):
    """Codes [rows, K / 2] and scales [rows, K / 16] of a step's columns; past the end both are zero."""
    code, group = step * (K // 2) + tl.arange(0, K // 2)[None, :], step * (K // 16) + tl.arange(0, K // 16)[None, :]
    packed += row[:, None] * half + code
    scale += row[:, None] * groups + group
    if UNIT == K:
        codes, bytes_ = tl.load(packed), tl.load(scale)
    else:
        codes, bytes_ = tl.load(packed, mask=code < half, other=0), tl.load(scale, mask=group < groups, other=0)
    return codes, bytes_.to(tl.float8e4nv, bitcast=True)


@triton.jit
def _store(acc, alpha, bias, out, row, token, tokens, rows, PER_TOKEN: tl.constexpr, BIAS: tl.constexpr):
    """Sums [rows, tokens] of a tile, finished."""
    if PER_TOKEN:
        acc *= tl.load(alpha + tl.minimum(token, tokens - 1))[None, :]
    else:
        acc *= tl.load(alpha)
    if BIAS:
        acc += tl.load(bias + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    inside = (row < rows)[:, None] & (token < tokens)[None, :]
    out += token.to(tl.int64)[None, :] * rows + row[:, None]
    tl.store(out, rounded_to(acc, out.dtype.element_ty).to(out.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["tokens"])
def multiply_native(
    packed_x, scale_x, packed_w, scale_w, alpha, bias, out, tokens, rows, k,
    N: tl.constexpr, M: tl.constexpr, K: tl.constexpr, UNIT: tl.constexpr, STAGES: tl.constexpr,
    PER_TOKEN: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """A tile of N rows by M tokens: y = alpha * sum of q_x s_x q_w s_w + bias, added in float32 and rounded once.

    Args:
        packed_x, packed_w: codes [tokens, k / 2] and [rows, k / 2].
        scale_x, scale_w: e4m3 as bytes [tokens, k / 16] and [rows, k / 16].
        alpha: float32, one or PER_TOKEN one each.
        out: [tokens, rows].
        K: columns an iteration takes.
        UNIT: a power of two up to K that divides k, by which loads are as wide as they can be.
    """
    row_tile, token_tile = place_of_tile(tl.program_id(0), tl.cdiv(rows, N), tl.cdiv(tokens, M))
    row, token = row_tile * N + tl.arange(0, N), token_tile * M + tl.arange(0, M)
    half, groups = k // UNIT * (UNIT // 2), k // UNIT * (UNIT // 16)
    # What is read past the end is what is there, and not written.
    row_read, token_read = tl.minimum(row, rows - 1).to(tl.int64), tl.minimum(token, tokens - 1).to(tl.int64)
    acc = tl.zeros((N, M), tl.float32)
    for step in tl.range(0, tl.cdiv(k, K), num_stages=STAGES):
        w, s_w = _operand(packed_w, scale_w, row_read, step, half, groups, K, UNIT)
        x, s_x = _operand(packed_x, scale_x, token_read, step, half, groups, K, UNIT)
        acc = tl.dot_scaled(w, s_w, "e2m1", x.T, s_x, "e2m1", acc)
    if M < 256:
        _store(acc, alpha, bias, out, row, token, tokens, rows, PER_TOKEN, BIAS)
    else:
        # A half at a time: finished all at once they would need more registers than there are.
        left, right = tl.split(tl.permute(tl.reshape(acc, (N, 2, M // 2)), (0, 2, 1)))
        token = token_tile * M + tl.arange(0, M // 2)
        _store(left, alpha, bias, out, row, token, tokens, rows, PER_TOKEN, BIAS)
        _store(right, alpha, bias, out, row, token + M // 2, tokens, rows, PER_TOKEN, BIAS)


def tile_for(tokens: int, k: int, capability: tuple[int, int]) -> Tile:
    """The tile for as many tokens of k columns, by what compiles without spills and fits; no GPU has measured them.

    Few tokens are bound by the weight's bytes: on 12.x tiles of few rows spread these over more multiprocessors. Tensor
    cores of 10.x take 128 rows and no fewer. From 512 bytes of tokens' scales an iteration on, Triton copies them ahead
    of their use, which sets how small tokens times columns may be.
    """
    if capability[0] == 10:
        across = min(256, max(32, triton.next_power_of_2(tokens)))
        rows, columns, warps, stages = 128, 256, 8 if across > 32 else 4, 4
    elif tokens <= 16:
        rows, across, columns, warps, stages = 64, 16, 512, 4, 3
    elif tokens <= 32:
        rows, across, columns, warps, stages = 64, 32, 256, 4, 4
    else:
        rows, across, warps, stages = 128, 64 if tokens <= 64 else 128, 8, 3
        columns = 256 if k % 64 == 0 else 128  # scales whose rows are not whole words come by bytes, in registers
    return Tile(rows, across, columns, warps, stages, gcd(k, columns))


def product(
    packed_x: Tensor,
    scale_x: Tensor,
    packed_w: Tensor,
    scale_w: Tensor,
    alpha: Tensor,
    bias: Tensor | None,
    out: Tensor,
) -> None:
    """out [tokens, rows] = alpha * x w^T + bias, of plain bytes; alpha is float32 [1] or [tokens].

    The caller has asked `versions.native_refusal` and is on the tensors' GPU. All tensors are contiguous, codes and
    scales uint8.
    """
    (tokens, rows), k = out.shape, packed_x.shape[1] * 2
    if out.numel() == 0:
        return
    tile = tile_for(tokens, k, torch.cuda.get_device_capability(out.device))
    grid = (triton.cdiv(tokens, tile.tokens) * triton.cdiv(rows, tile.rows),)
    multiply_native[grid](
        packed_x, scale_x, packed_w, scale_w, alpha, alpha if bias is None else bias, out, tokens, rows, k,
        N=tile.rows, M=tile.tokens, K=tile.columns, UNIT=tile.unit, STAGES=tile.stages,
        PER_TOKEN=alpha.numel() > 1, BIAS=bias is not None, num_warps=tile.warps, enable_fp_fusion=False,
    )  # fmt: skip
