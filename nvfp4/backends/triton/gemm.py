"""Products of tokens (`tokens.py`) and weights in the layout n64k256: y = alpha * sum of q_x s_x q_w s_w + bias.

A weight's codes become 16-bit numbers in registers, the left operand of the product; tokens are the right one, so that
few of them cost little. Where tiles do not fill the GPU, several programs share a tile's columns, of all tiles or of
the last ones, and `finish.py` adds what they wrote in the order of the columns: the same bits in every run.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from nvfp4.backends.triton.bits import IS_INTERPRETED
from nvfp4.backends.triton.finish import alpha_of, finished, place_of_tile
from nvfp4.backends.triton.unpack import scaled_operands

__all__ = ["multiply", "unpack_weight"]


@triton.jit
def _dot(a, b, acc):
    """acc + a b; Triton's interpreter takes a bfloat16's bits for an integer."""
    if IS_INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), acc)
    else:
        return tl.dot(a, b, acc)


@triton.jit
def _store(
    acc, alpha, bias, out, row, token, tokens, rows,
    PARTIAL: tl.constexpr, PER_TOKEN: tl.constexpr, UP: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    """Sums [rows, tokens] of a tile, finished or PARTIAL as they are."""
    inside = (row < rows)[:, None] & (token < tokens)[None, :]
    out += token.to(tl.int64)[None, :] * rows + row[:, None]
    if PARTIAL:
        tl.store(out, acc, mask=inside)
    else:
        factor = alpha_of(alpha, token, row, tokens, PER_TOKEN, UP)
        tl.store(out, finished(acc, factor, bias, row, rows, out.dtype.element_ty, BIAS), mask=inside)


@triton.jit
def _store_tile(
    acc, alpha, bias, out, first_row, first_token, tokens, rows,
    PARTIAL: tl.constexpr, PER_TOKEN: tl.constexpr, UP: tl.constexpr, BIAS: tl.constexpr,
):  # fmt: skip
    N: tl.constexpr = acc.shape[0]
    M: tl.constexpr = acc.shape[1]
    row = first_row + tl.arange(0, N)
    if M < 64:
        token = first_token + tl.arange(0, M)
        _store(acc, alpha, bias, out, row, token, tokens, rows, PARTIAL, PER_TOKEN, UP, BIAS)
    else:
        # A half at a time: on their way to other lanes all sums at once would need more registers than there are.
        left, right = tl.split(tl.permute(tl.reshape(acc, (N, 2, M // 2)), (0, 2, 1)))
        token = first_token + tl.arange(0, M // 2)
        _store(left, alpha, bias, out, row, token, tokens, rows, PARTIAL, PER_TOKEN, UP, BIAS)
        token += M // 2
        _store(right, alpha, bias, out, row, token, tokens, rows, PARTIAL, PER_TOKEN, UP, BIAS)


@triton.jit
def _prefetch(units, each, PANELS: tl.constexpr):
    """What a program reads first of its panels' units [PANELS], on its way to the second-level cache."""
    line = tl.minimum(tl.arange(0, 128) * 128, each * 9216 - 128)
    at = (units[:, None] + line[None, :]).to(tl.int64)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [at], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def _joined(a, b):
    """Columns of a and then those of b."""
    return tl.reshape(tl.permute(tl.join(a, b), (0, 2, 1)), (a.shape[0], 2 * a.shape[1]))


@triton.jit
def _wait_for_products():
    """Until those that were issued have read their operands.

    A warpgroup's product reads registers after it was issued, and Triton does not wait for it before the next iteration
    unpacks into them. Nothing but the order of statements keeps unpacking behind this wait, because of what depends on
    a result of it Triton makes another layout. `test_triton_aot.py` looks for the order in the machine code.
    """
    tl.inline_asm_elementwise(
        "wgmma.wait_group.sync.aligned 0; mov.b32 $0, 0;", "=r", [], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit(do_not_specialize=["tokens", "units", "each", "whole", "parts"])
def multiply(
    words, halves, x, alpha, bias, out, sums, tokens, rows, units, each, whole, parts,
    TO: tl.constexpr, PANELS: tl.constexpr, M: tl.constexpr, STAGES: tl.constexpr, WARPGROUPS: tl.constexpr,
    COPIED: tl.constexpr, PARTIAL: tl.constexpr, SHARED: tl.constexpr, PER_TOKEN: tl.constexpr, UP: tl.constexpr,
    BIAS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """A tile of 64 * PANELS rows by M tokens, over `each` units of columns; PARTIAL writes the sums as they are.

    SHARED, only tiles after `whole` of them are cut like this, into `parts`, and the others take all units.

    Args:
        words, halves: the tiles, as int16 and as bytes.
        x: tokens [tokens, 256 * units], or COPIED their descriptor for the copy engine.
        alpha: float32, one or PER_TOKEN one each; with UP as many for the rows of up.
        out: [tokens, rows], or PARTIAL float32 [programs of a tile, tokens, rows].
        sums: float32 [tiles after `whole`, parts, M, 64 * PANELS], for `finish_shared`.
        TO: of the operands.
        WARPGROUPS: products of 16 tokens and more are issued by a group of four warps, and go on while these do.
        EARLY: it is launched before the kernel that writes tokens has ended.
    """
    N: tl.constexpr = 64 * PANELS
    COLUMNS: tl.constexpr = 128  # an iteration takes: half a unit
    tile, first = tl.program_id(0), tl.program_id(1) * each
    rest = tile - whole
    if SHARED:
        if rest >= 0:
            tile = whole + rest // parts
            first = rest % parts * each
        else:
            each = units
    row_tile, token_tile = place_of_tile(tile, tl.cdiv(rows, N), tl.cdiv(tokens, M))
    token = token_tile * M + tl.arange(0, M)
    iterations = tl.minimum(each, units - first) * 2
    panel = tl.minimum(row_tile * PANELS + tl.arange(0, PANELS), tl.cdiv(rows, 64) - 1)
    base = panel.to(tl.int64) * units + first
    step = tl.arange(0, 2)[:, None, None] * 1024 + tl.arange(0, 1024)[None, None, :]
    words += base[None, :, None] * 4608 + step
    lane = tl.arange(0, 128)[None, :, None] * 8 + tl.arange(0, 4)[None, None, :]
    weights = halves + base * 9216
    halves += base[:, None, None] * 9216 + 8192 + lane
    if not COPIED:
        valid = (token < tokens)[None, :]
        x += token.to(tl.int64)[None, :] * (units * 256) + (first * 256 + tl.arange(0, COLUMNS))[:, None]
    if EARLY:
        gdc_launch_dependents()
        _prefetch(weights, tl.minimum(each, units - first), PANELS)
        gdc_wait()
    tl.assume(iterations > 0)  # a loop that may be left out makes ptxas wait for every single product
    acc = tl.zeros((N, M), tl.float32)
    for iteration in tl.range(0, iterations, num_stages=STAGES):
        unit, part = iteration // 2, iteration % 2
        word = tl.load(words + unit * 4608 + part * 2048)
        half = tl.load(halves + unit * 9216 + part * 4)
        if WARPGROUPS:
            _wait_for_products()
        a, b, c, d = scaled_operands(word, half, TO, PANELS, 2)
        if COPIED:
            columns = x.load([token_tile * M, first * 256 + iteration * COLUMNS]).T
        else:
            columns = tl.load(x + iteration * COLUMNS, mask=valid, other=0.0)
        # Triton cuts this product into parts (two; 3.6 one for each 16 columns) and does not wait between them.
        acc = _dot(_joined(_joined(a, b), _joined(c, d)), columns, acc)
    first_row, first_token = row_tile * N, token_tile * M
    if PARTIAL:
        out += tl.program_id(1).to(tl.int64) * tokens * rows
    if SHARED:
        if rest >= 0:
            sums += rest.to(tl.int64) * (M * N)
            _store_tile(acc, alpha, bias, sums, 0, 0, M, N, True, False, False, False)
        else:
            _store_tile(acc, alpha, bias, out, first_row, first_token, tokens, rows, False, PER_TOKEN, UP, BIAS)
    else:
        _store_tile(acc, alpha, bias, out, first_row, first_token, tokens, rows, PARTIAL, PER_TOKEN, UP, BIAS)


@triton.jit(do_not_specialize=["units"])
def unpack_weight(words, halves, out, units):
    """q * s * 2^-7 of a unit a program, into [64 * panels, 256 * units], columns in the order of tokens."""
    unit, panel = tl.program_id(0), tl.program_id(1).to(tl.int64)
    base = panel * units + unit
    step = tl.arange(0, 4)[:, None, None] * 1024 + tl.arange(0, 1024)[None, None, :]
    word = tl.load(words + base * 4608 + step)
    half = tl.load(halves + base * 9216 + 8192 + tl.arange(0, 1024)[None, :])
    a, b, c, d = scaled_operands(word, half, out.dtype.element_ty, 1, 4)
    row, column = panel * 64 + tl.arange(0, 64), tl.arange(0, 64)
    at = out + row[:, None] * (units * 256) + unit * 256 + (column // 32 * 128 + column % 32)[None, :]
    tl.store(at, a)
    tl.store(at + 32, b)
    tl.store(at + 64, c)
    tl.store(at + 96, d)
