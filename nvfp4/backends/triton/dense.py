"""Products of many tokens with a weight whose numbers lie in memory (`gemm.unpack_weight`), by the copy engine.

Each multiprocessor takes one tile at a time. The last ones are shared by several programs each, so that none waits for
the others, and `finish_shared` adds what these wrote in the order of the columns.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nvfp4.backends.triton.bits import rounded_to
from nvfp4.backends.triton.gemm import place_of_tile

__all__ = ["finish_shared", "multiply_dense"]


@triton.jit
def _store(
    acc, alpha, alpha_step, bias, out, token, row, tokens, rows, width, UP: tl.constexpr, BIAS: tl.constexpr
):  # fmt: skip
    """Sums [tokens, rows], finished."""
    at = tl.minimum(token, tokens - 1) * alpha_step
    factor = tl.load(alpha + at)[:, None]
    if UP:
        further = tl.maximum(tokens * alpha_step, 1)
        factor = tl.where((row // 8 % 2 == 0)[None, :], factor, tl.load(alpha + further + at)[:, None])
    y = acc * 128.0 * factor
    if BIAS:
        y += tl.load(bias + row, mask=row < rows, other=0.0).to(tl.float32)[None, :]
    to: tl.constexpr = out.dtype.element_ty
    at = out + token.to(tl.int64)[:, None] * width + row[None, :]
    tl.store(at, rounded_to(y, to).to(to), mask=(token < tokens)[:, None] & (row < rows)[None, :])


@triton.jit(do_not_specialize=["alpha_step", "tokens", "columns", "whole", "parts", "each"])
def multiply_dense(
    x, weight, alpha, alpha_step, bias, out, sums, tokens, rows, width, columns, whole, parts, each,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, STAGES: tl.constexpr,
    UP: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """A tile of M tokens by N rows; or a part of its columns, for the tiles after `whole` of them.

    Args:
        x, weight: descriptors of [tokens, columns] and [rows, columns], 2^-7 of whose numbers are the weight's.
        alpha, bias: as `gemm.multiply` has them; `alpha_step` is 1 where a token has its own, else 0.
        out: [tokens, width], from the first of the rows on.
        sums: float32 [tiles after `whole`, parts, M, N], for `finish_shared`.
        each: columns of a part, a multiple of K.
    """
    program = tl.program_id(0)
    tile, first = program, 0
    if program >= whole:
        tile = whole + (program - whole) // parts
        first = (program - whole) % parts * each
        columns = tl.minimum(first + each, columns)
    token_tile, row_tile = place_of_tile(tile, tl.cdiv(tokens, M), tl.cdiv(rows, N))
    first_token, first_row = token_tile * M, row_tile * N
    tl.assume(columns > first)  # a loop that may be left out makes ptxas wait for every single product
    acc = tl.zeros((M, N), tl.float32)
    for column in tl.range(first, columns, K, num_stages=STAGES):
        a = x.load([first_token, column])
        b = weight.load([first_row, column])
        acc = tl.dot(a, b.T, acc)
    token, row = tl.arange(0, M), tl.arange(0, N)
    if program >= whole:
        at = (program - whole).to(tl.int64) * (M * N) + token[:, None] * N + row[None, :]
        tl.store(sums + at, acc)
    else:
        _store(acc, alpha, alpha_step, bias, out, first_token + token, first_row + row, tokens, rows, width, UP, BIAS)


@triton.jit(do_not_specialize=["alpha_step", "tokens", "whole", "parts"])
def finish_shared(
    sums, alpha, alpha_step, bias, out, tokens, rows, width, whole, parts,
    M: tl.constexpr, N: tl.constexpr, SOME: tl.constexpr, FUSED: tl.constexpr,
    UP: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """SOME tokens of a tile after `whole`: its parts' sums, added in the order of the columns.

    FUSED: tiles are in the order of `gemm.multiply`.
    """
    tile, down, across = whole + tl.program_id(0), tl.cdiv(tokens, M), tl.cdiv(rows, N)
    if FUSED:
        row_tile, token_tile = place_of_tile(tile, across, down)
    else:
        token_tile, row_tile = place_of_tile(tile, down, across)
    token, row = tl.program_id(1) * SOME + tl.arange(0, SOME), tl.arange(0, N)
    sums += tl.program_id(0).to(tl.int64) * parts * (M * N) + token[:, None] * N + row[None, :]
    acc = tl.zeros((SOME, N), tl.float32)
    for _ in tl.range(0, parts):
        acc += tl.load(sums)
        sums += M * N
    _store(acc, alpha, alpha_step, bias, out, token_tile * M + token, row_tile * N + row, tokens, rows, width, UP, BIAS)
