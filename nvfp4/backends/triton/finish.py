"""Sums of a product, finished: alpha and bias after them, before the only rounding; parts of them added in one order.

`finish` takes what programs that share every tile's columns wrote, `finish_shared` what those of the last tiles wrote.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from nvfp4.backends.triton.bits import rounded_to

__all__ = ["alpha_of", "finish", "finish_shared", "finished", "place_of_tile"]

_BAND = tl.constexpr(8)


@triton.jit
def alpha_of(alpha, token, row, tokens, PER_TOKEN: tl.constexpr, UP: tl.constexpr):
    """Of a product's rows and tokens, [1 or rows, 1 or tokens]; with UP rows of gate and up alternate by eight."""
    if PER_TOKEN:
        at = tl.minimum(token, tokens - 1)[None, :]
        further = tokens
    else:
        at = tl.zeros((1, 1), tl.int32)
        further = 1
    factor = tl.load(alpha + at)
    if UP:
        factor = tl.where((row // 8 % 2 == 0)[:, None], factor, tl.load(alpha + further + at))
    return factor


@triton.jit
def finished(acc, alpha, bias, row, rows, TO: tl.constexpr, BIAS: tl.constexpr):
    """Sums [rows, tokens] times alpha, and the rows' bias."""
    y = acc * 128.0 * alpha  # the operand has 2^-7 of a weight
    if BIAS:
        y += tl.load(bias + row, mask=row < rows, other=0.0).to(tl.float32)[:, None]
    return rounded_to(y, TO).to(TO)


@triton.jit
def place_of_tile(tile, down, across):
    """Where of `down` by `across` tiles one is: in bands of eight, so that neighbours read the same."""
    band = tile // (_BAND * across) * _BAND
    inside = tile % (_BAND * across)
    height = tl.minimum(down - band, _BAND)
    return band + inside % height, inside // height


@triton.jit(do_not_specialize=["tokens", "partials"])
def finish(
    sums, alpha, token_scale, weight_scale, bias, out, tokens, rows, partials, width,
    PER_TOKEN: tl.constexpr, UP: tl.constexpr, PER_ROW: tl.constexpr, QUANTISED: tl.constexpr, BIAS: tl.constexpr,
    N: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """N rows' results for a token, of float32 sums [partials, tokens, rows], added in this order; out [tokens, width].

    PER_ROW: the weight has a global scale a row, so that alpha is to be computed here; tokens have one if QUANTISED.
    EARLY: it is launched before the kernel that writes the sums has ended.
    """
    if EARLY:
        gdc_wait()
    token = tl.program_id(0) + tl.zeros((1,), tl.int32)
    row = tl.program_id(1) * N + tl.arange(0, N)
    at = token.to(tl.int64) * rows + row
    acc = tl.zeros((N,), tl.float32)
    sums += at
    for _ in tl.range(0, partials):
        acc += tl.load(sums, mask=row < rows, other=0.0)
        sums += tokens.to(tl.int64) * rows
    if PER_ROW:
        scales = tl.load(weight_scale + row, mask=row < rows, other=1.0).to(tl.float64)
        if QUANTISED:
            scales *= tl.load(token_scale + token * PER_TOKEN).to(tl.float64)
        factor = (1.0 / scales).to(tl.float32)[:, None]
    else:
        factor = alpha_of(alpha, token, row, tokens, PER_TOKEN, UP)
    y = finished(acc[:, None], factor, bias, row, rows, out.dtype.element_ty, BIAS)
    to = token.to(tl.int64) * width + row
    tl.store(out + to[:, None], y, mask=(row < rows)[:, None])


@triton.jit(do_not_specialize=["tokens", "whole", "parts"])
def finish_shared(
    sums, alpha, bias, out, tokens, rows, whole, parts,
    M: tl.constexpr, N: tl.constexpr, SOME: tl.constexpr, PER_TOKEN: tl.constexpr, UP: tl.constexpr,
    BIAS: tl.constexpr,
):  # fmt: skip
    """SOME tokens of a tile after `whole`: its parts' sums [parts, M, N], added in the order of the columns."""
    row_tile, token_tile = place_of_tile(whole + tl.program_id(0), tl.cdiv(rows, N), tl.cdiv(tokens, M))
    some, inside = tl.program_id(1) * SOME + tl.arange(0, SOME), tl.arange(0, N)
    sums += tl.program_id(0).to(tl.int64) * parts * (M * N) + some[None, :] * N + inside[:, None]
    acc = tl.zeros((N, SOME), tl.float32)
    for _ in tl.range(0, parts):
        acc += tl.load(sums)
        sums += M * N
    token, row = token_tile * M + some, row_tile * N + inside
    factor = alpha_of(alpha, token, row, tokens, PER_TOKEN, UP)
    y = finished(acc, factor, bias, row, rows, out.dtype.element_ty, BIAS)
    at = out + token.to(tl.int64)[None, :] * rows + row[:, None]
    tl.store(at, y, mask=(row < rows)[:, None] & (token < tokens)[None, :])
