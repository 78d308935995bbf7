"""Products of many tokens with a weight whose numbers lie in memory (`gemm.unpack_weight`), by the copy engine."""

from __future__ import annotations

import triton
import triton.language as tl

from nvfp4.backends.triton.bits import rounded_to
from nvfp4.backends.triton.gemm import place_of_tile

__all__ = ["multiply_dense"]


@triton.jit(do_not_specialize=["tokens", "columns"])
def multiply_dense(
    x, weight, alpha, bias, out, tokens, rows, width, columns,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, STAGES: tl.constexpr,
    PER_TOKEN: tl.constexpr, UP: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """A tile of M tokens by N rows.

    Args:
        x, weight: descriptors of [tokens, columns] and [rows, columns], 2^-7 of whose numbers are the weight's.
        alpha, bias: as `gemm.multiply` has them.
        out: [tokens, width], from the first of the rows on.
    """
    token_tile, row_tile = place_of_tile(tl.cdiv(tokens, M), tl.cdiv(rows, N))
    first_token, first_row = token_tile * M, row_tile * N
    tl.assume(columns > 0)  # a loop that may be left out makes ptxas wait for every single product
    acc = tl.zeros((M, N), tl.float32)
    for column in tl.range(0, columns, K, num_stages=STAGES):
        a = x.load([first_token, column])
        b = weight.load([first_row, column])
        acc = tl.dot(a, b.T, acc)
    token, row = first_token + tl.arange(0, M), first_row + tl.arange(0, N)
    at = tl.minimum(token, tokens - 1) if PER_TOKEN else tl.zeros((1,), tl.int32)
    factor = tl.load(alpha + at)[:, None]
    if UP:
        further = tokens if PER_TOKEN else 1
        factor = tl.where((row // 8 % 2 == 0)[None, :], factor, tl.load(alpha + further + at)[:, None])
    y = acc * 128.0 * factor
    if BIAS:
        y += tl.load(bias + row, mask=row < rows, other=0.0).to(tl.float32)[None, :]
    to: tl.constexpr = out.dtype.element_ty
    at = out + token.to(tl.int64)[:, None] * width + row[None, :]
    tl.store(at, rounded_to(y, to).to(to), mask=(token < tokens)[:, None] & (row < rows)[None, :])
