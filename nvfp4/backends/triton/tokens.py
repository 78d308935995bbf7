"""Activations as the operand of the products: 16-bit numbers whose columns lie as the weight's codes do.

In W4A4 a number is q * s, at most six significant bits, so exact in bfloat16; its global scale waits for the end of the
product, as alpha = 1 / (G_x * G_w). Of 256 columns the order is [half of them, code of a word, step, half of a group,
group, pair], which sums do not see: those of a code lie together in the 128 that a product takes at a time.

Where the next kernel may be launched EARLY, it is, and waits for these numbers where it first needs them.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents

from nvfp4.backends.triton.bits import decode_e2m1, decode_e4m3, round_block, rounded_to
from nvfp4.backends.triton.quantize import load_blocks, row_scale

__all__ = ["decode_tokens", "permute_tokens", "quantize_tokens", "store_parts", "store_tokens", "write_alpha"]


@triton.jit
def store_tokens(values, tokens, row, unit, units, U: tl.constexpr):
    """Groups [16 * U, 16] of U units of a row."""
    to: tl.constexpr = tokens.dtype.element_ty
    values = tl.reshape(rounded_to(values, to).to(to), (U, 2, 2, 4, 2, 2, 4))
    values = tl.reshape(tl.permute(values, (0, 1, 6, 2, 4, 3, 5)), (256 * U,))
    column = unit * 256 + tl.arange(0, 256 * U)
    tl.store(tokens + row.to(tl.int64) * units * 256 + column, values, mask=column < units * 256)


@triton.jit
def store_parts(values, tokens, row, rows, unit, units, PARTS: tl.constexpr, U: tl.constexpr):
    """The same, a float32 as the sum of three bfloat16 where PARTS says so, `rows` rows apart."""
    for part in tl.static_range(PARTS):
        if PARTS == 1:
            store_tokens(values, tokens, row, unit, units, U)
        else:
            # The upper half of a float32 is a bfloat16, and three times eight bits are all of it.
            upper = (values.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)
            upper = tl.where(values == values, upper, values)
            store_tokens(upper, tokens, row + part * rows, unit, units, U)
            values = tl.where(tl.abs(values) < float("inf"), values - upper, 0.0)


@triton.jit
def write_alpha(alpha, at, token_scale, weight_scale, up_scale, tokens, UP: tl.constexpr):
    """1 / (G_x * G_w), by float64 as the definition has it; with UP that of the up rows, `tokens` further on."""
    if tl.program_id(1) == 0:
        wide = token_scale.to(tl.float64)
        tl.store(alpha + at, (1.0 / (wide * tl.load(weight_scale).to(tl.float64))).to(tl.float32))
        if UP:
            tl.store(alpha + tokens + at, (1.0 / (wide * tl.load(up_scale).to(tl.float64))).to(tl.float32))


@triton.jit(do_not_specialize=["rows", "groups", "units"])
def permute_tokens(
    x, tokens, weight_scale, up_scale, alpha, rows, groups, units, stride,
    UP: tl.constexpr, PARTS: tl.constexpr, U: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """As they are; a float32 as the sum of three bfloat16, `rows` rows apart."""
    if EARLY:
        gdc_launch_dependents()
    row, first = tl.program_id(0), tl.program_id(1) * U
    if row == 0:
        write_alpha(alpha, 0, tl.full((), 1.0, tl.float32), weight_scale, up_scale, 1, UP)
    group = first * 16 + tl.arange(0, 16 * U)
    values = load_blocks(x, row.to(tl.int64) + tl.zeros_like(group), group, stride, group < groups).to(tl.float32)
    store_parts(values, tokens, row, rows, first, units, PARTS, U)


@triton.jit(do_not_specialize=["groups", "units", "each"])
def quantize_tokens(
    x, tokens, global_scale, weight_scale, up_scale, alpha, groups, units, stride, each,
    PER_ROW: tl.constexpr, UP: tl.constexpr, WIDE: tl.constexpr, U: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """By a global scale that is known, or PER_ROW by a row's own, which is written; `each` units, whole U, a program.

    Every program of a row looks for its largest value, WIDE values at a time: waiting for another one takes longer.
    """
    if EARLY:
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    begin = tl.program_id(1) * each
    end = tl.minimum(begin + each, units)
    rows = row + tl.zeros((16 * U,), tl.int64)
    group = begin * 16 + tl.arange(0, 16 * U)
    raw = load_blocks(x, rows, group, stride, group < groups)
    if PER_ROW:
        given = row_scale(x + row * stride, groups * 16, WIDE)
        tl.store(global_scale + row, given, mask=tl.program_id(1) == 0)
        write_alpha(alpha, row, given, weight_scale, up_scale, tl.num_programs(0), UP)
    else:
        given = tl.load(global_scale)
        if row == 0:
            write_alpha(alpha, 0, given, weight_scale, up_scale, 1, UP)
    for unit in tl.range(begin, end, U):
        group += 16 * U
        following = load_blocks(x, rows, group, stride, group < tl.minimum(groups, end * 16))
        store_tokens(round_block(raw.to(tl.float32), given), tokens, row, unit, units, U)
        raw = following


@triton.jit(do_not_specialize=["groups", "units"])
def decode_tokens(
    packed, scale, tokens, global_scale, weight_scale, alpha, groups, units,
    PER_ROW: tl.constexpr, U: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Of what is quantised already (plain bytes)."""
    if EARLY:
        gdc_launch_dependents()
    row, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * U
    if PER_ROW:
        write_alpha(alpha, row, tl.load(global_scale + row), weight_scale, weight_scale, 0, False)
    elif row == 0:
        write_alpha(alpha, 0, tl.load(global_scale), weight_scale, weight_scale, 0, False)
    group = first * 16 + tl.arange(0, 16 * U)
    valid = group < groups
    index = row * groups + group
    pairs = tl.load(packed + index[:, None] * 8 + tl.arange(0, 8)[None, :], mask=valid[:, None], other=0).to(tl.int32)
    step = decode_e4m3(tl.load(scale + index, mask=valid, other=0).to(tl.int32))
    codes = tl.reshape(tl.join(pairs & 15, pairs >> 4), (16 * U, 16))
    store_tokens(decode_e2m1(codes) * tl.broadcast_to(step[:, None], (16 * U, 16)), tokens, row, first, units, U)
