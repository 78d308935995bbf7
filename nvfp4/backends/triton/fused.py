"""RMS norm, or a gated activation, and quantise in one kernel: what is quantised is never in memory.

For 16-bit inputs in float32, of which consumer GPUs have plenty, for float32 in float64; rounded once to the input's
dtype, and within one unit of `nvfp4/reference.py`. Codes and scales are exactly those of the rounded values.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents

from nvfp4.backends.arguments import COMPUTE_ROW, Quantized, as_rows, quantized_outputs
from nvfp4.backends.triton.activation import activate
from nvfp4.backends.triton.bits import encode_block, finite_magnitude, round_block, rounded_to
from nvfp4.backends.triton.quantize import load_blocks, scale_of_largest, store_blocks
from nvfp4.backends.triton.tokens import store_tokens, write_alpha
from nvfp4.formats import GROUP_SIZE

__all__ = [
    "gated_blocks",
    "gated_quantize",
    "gated_tokens",
    "normed",
    "rms_norm_quantize",
    "root_of_factor",
    "summed",
    "tile_of_norm",
]

_BLOCKS = 128  # of an activation, that a program encodes at a time
_WIDE_BLOCKS = {2: 512, 4: 128}  # that it looks at together for the largest value, by the size of a value
_WARPS = 8
PROGRAMS = 256  # that a GPU has room for, about


@triton.jit
def gated_blocks(x, row, group, groups, stride, valid, ACTIVATION: tl.constexpr, INTERLEAVED: tl.constexpr):
    """act(gate) * up of the blocks at rows and groups [B], rounded to x's dtype: float32 [B, 16]."""
    raw: tl.constexpr = x.dtype.element_ty
    to: tl.constexpr = tl.float64 if raw == tl.float32 else tl.float32
    columns = tl.arange(0, 16)
    if INTERLEAVED:
        at = group[:, None] * 32 + (columns // 8 * 16 + columns % 8)[None, :]
        up = 8
    else:
        at = group[:, None] * 16 + columns[None, :]
        up = groups * 16
    at += row[:, None] * stride
    gates = tl.load(x + at, mask=valid[:, None], other=0.0).to(to)
    ups = tl.load(x + up + at, mask=valid[:, None], other=0.0).to(to)
    return rounded_to(activate(gates, ups, ACTIVATION), raw)


@triton.jit
def _scale_of_gated(
    x, row, groups, stride, ACTIVATION: tl.constexpr, INTERLEAVED: tl.constexpr, B: tl.constexpr
):  # fmt: skip
    """As every program of a row finds it: waiting for another one takes longer."""
    largest = tl.zeros((B,), tl.float32)
    for first in tl.range(0, groups, B):
        group = first + tl.arange(0, B)
        rows = row + tl.zeros_like(group)
        values = gated_blocks(x, rows, group, groups, stride, group < groups, ACTIVATION, INTERLEAVED)
        largest = tl.maximum(largest, tl.max(finite_magnitude(values), axis=1))
    return scale_of_largest(tl.max(largest, axis=0))


@triton.jit(do_not_specialize=["groups", "each"])
def quantize_gated(
    x, packed, scale, global_scale, groups, stride, each,
    COMPUTED: tl.constexpr, PER_ROW: tl.constexpr, ACTIVATION: tl.constexpr, INTERLEAVED: tl.constexpr,
    SWIZZLED: tl.constexpr, WIDE: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """`each` blocks of a row a program; a global scale that is COMPUTED is written, WIDE blocks looked at together."""
    row = tl.program_id(0).to(tl.int64)
    if COMPUTED:
        given = _scale_of_gated(x, row, groups, stride, ACTIVATION, INTERLEAVED, WIDE)
        tl.store(global_scale + row, given, mask=tl.program_id(1) == 0)
    else:
        given = tl.load(global_scale + row * PER_ROW)
    begin = tl.program_id(1) * each
    end = tl.minimum(begin + each, groups)
    for first in tl.range(begin, end, B):
        group = first + tl.arange(0, B)
        rows, valid = row + tl.zeros_like(group), group < end
        values = gated_blocks(x, rows, group, groups, stride, valid, ACTIVATION, INTERLEAVED)
        words, byte = encode_block(values, given, tl.float32, False)
        store_blocks(words, byte, packed, scale, rows, group, groups, valid, SWIZZLED)


@triton.jit(do_not_specialize=["groups", "units", "each"])
def gated_tokens(
    x, tokens, global_scale, weight_scale, up_scale, alpha, groups, units, stride, each,
    PER_ROW: tl.constexpr, UP: tl.constexpr, WIDE: tl.constexpr, U: tl.constexpr,
    ACTIVATION: tl.constexpr, QUANTISED: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The right operand of a product from x [rows, 32 * groups], where eight columns of gate and of up alternate.

    Arguments and grid are those of `tokens.quantize_tokens`, with `groups` of act(gate) * up. Not QUANTISED it is
    `tokens.permute_tokens` of them, in x's dtype; then `global_scale` is not looked at.
    """
    if EARLY:
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    if PER_ROW:
        given = _scale_of_gated(x, row, groups, stride, ACTIVATION, True, WIDE // 16)
        tl.store(global_scale + row, given, mask=tl.program_id(1) == 0)
        write_alpha(alpha, row, given, weight_scale, up_scale, tl.num_programs(0), UP)
    else:
        given = tl.load(global_scale) if QUANTISED else tl.full((), 1.0, tl.float32)
        if row == 0:
            write_alpha(alpha, 0, given, weight_scale, up_scale, 1, UP)
    begin = tl.program_id(1) * each
    for unit in tl.range(begin, tl.minimum(begin + each, units), U):
        group = unit * 16 + tl.arange(0, 16 * U)
        values = gated_blocks(x, row + tl.zeros_like(group), group, groups, stride, group < groups, ACTIVATION, True)
        if QUANTISED:
            store_tokens(round_block(values, given), tokens, row, unit, units, U)
        else:
            store_tokens(values, tokens, row, unit, units, U)


@triton.jit
def summed(x, residual, row, group, stride, residual_stride, valid, RESIDUAL: tl.constexpr):
    """x, or x + residual rounded to x's dtype, of the blocks at rows and groups [B]: float32 [B, 16]."""
    s = load_blocks(x, row, group, stride, valid).to(tl.float32)
    if RESIDUAL:
        other = load_blocks(residual, row, group, residual_stride, valid).to(tl.float32)
        s = rounded_to(s + other, x.dtype.element_ty)
    return s


@triton.jit
def _squares(
    x, residual, row, groups, stride, residual_stride, RESIDUAL: tl.constexpr, TO: tl.constexpr, B: tl.constexpr
):  # fmt: skip
    """The sum of a row's squares."""
    sums = tl.zeros((B,), TO)
    for first in tl.range(0, groups, B):
        group = first + tl.arange(0, B)
        rows = row + tl.zeros_like(group)
        s = summed(x, residual, rows, group, stride, residual_stride, group < groups, RESIDUAL).to(TO)
        sums += tl.sum(s * s, axis=1)
    return tl.sum(sums, axis=0)


@triton.jit
def root_of_factor(
    x, residual, row, groups, stride, residual_stride, eps, RESIDUAL: tl.constexpr, B: tl.constexpr
):  # fmt: skip
    """The fourth root of 1 / (mean(s²) + eps)², in float64: what both s and the weight are multiplied by.

    The squares of 16-bit numbers are added in float32, and once more in float64 where they leave its range.
    """
    narrow: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float32 else tl.float32
    squares = _squares(x, residual, row, groups, stride, residual_stride, RESIDUAL, narrow, B).to(tl.float64)
    if narrow == tl.float32:  # noqa: SIM102 (this is decided at compilation)
        if not (squares < float("inf")):
            squares = _squares(x, residual, row, groups, stride, residual_stride, RESIDUAL, tl.float64, B)
    return tl.sqrt(tl.rsqrt(squares / (groups * 16).to(tl.float64) + eps))


@triton.jit
def normed(s, weight, group, root, valid, UNIT_OFFSET: tl.constexpr):
    """Values of blocks [B, 16] of a sum by `root_of_factor`, rounded to the weight's dtype: float32 [B, 16]."""
    raw: tl.constexpr = weight.dtype.element_ty
    to: tl.constexpr = tl.float64 if raw == tl.float32 else tl.float32
    w = load_blocks(weight, tl.zeros_like(group), group, 0, valid).to(to)
    if UNIT_OFFSET:
        w += 1.0
    # Neither product leaves float32's range where the whole factor might.
    return rounded_to((s.to(to) * root.to(to)) * (w * root.to(to)), raw)


@triton.jit(do_not_specialize=["groups"])
def quantize_norm(
    x, residual, weight, total, packed, scale, global_scale, groups, stride, residual_stride, eps: tl.float64,
    RESIDUAL: tl.constexpr, UNIT_OFFSET: tl.constexpr, COMPUTED: tl.constexpr, PER_ROW: tl.constexpr,
    SWIZZLED: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """A row a program, B blocks at a time; what is read again is near."""
    row = tl.program_id(0).to(tl.int64)
    root = root_of_factor(x, residual, row, groups, stride, residual_stride, eps, RESIDUAL, B)
    if COMPUTED:
        largest = tl.zeros((B,), tl.float32)
        for first in tl.range(0, groups, B):
            group = first + tl.arange(0, B)
            rows, valid = row + tl.zeros_like(group), group < groups
            s = summed(x, residual, rows, group, stride, residual_stride, valid, RESIDUAL)
            values = normed(s, weight, group, root, valid, UNIT_OFFSET)
            largest = tl.maximum(largest, tl.max(finite_magnitude(values), axis=1))
        given = scale_of_largest(tl.max(largest, axis=0))
        tl.store(global_scale + row, given)
    else:
        given = tl.load(global_scale + row * PER_ROW)
    for first in tl.range(0, groups, B):
        group = first + tl.arange(0, B)
        rows, valid = row + tl.zeros_like(group), group < groups
        s = summed(x, residual, rows, group, stride, residual_stride, valid, RESIDUAL)
        if RESIDUAL:
            at = (rows * groups + group)[:, None] * 16 + tl.arange(0, 16)[None, :]
            tl.store(total + at, s.to(total.dtype.element_ty), mask=valid[:, None])
        values = normed(s, weight, group, root, valid, UNIT_OFFSET)
        words, byte = encode_block(values, given, tl.float32, False)
        store_blocks(words, byte, packed, scale, rows, group, groups, valid, SWIZZLED)


def _outputs(shaped: Tensor, global_scale: Tensor | None, layout: str) -> tuple[dict[str, bool], Quantized]:
    """Memory for what quantising something of a shape gives, and what kernels are told of it."""
    mode, out = quantized_outputs(shaped, global_scale, "row", layout)
    if shaped.numel() == 0 and global_scale is None:
        out.global_scale.fill_(1.0)
    if layout == "128x4":
        out.scale.zero_()  # padding has to be
    is_per_row = out.global_scale.dim() > 1
    return {"COMPUTED": mode == COMPUTE_ROW, "PER_ROW": is_per_row, "SWIZZLED": layout == "128x4"}, out


def tile_of_norm(x: Tensor) -> dict[str, int]:
    """How many blocks of a row a program has at a time, on which the order of the sum depends, and its warps."""
    size = x.element_size()
    blocks = min(1024 // size, max(32, triton.next_power_of_2(x.shape[-1] // GROUP_SIZE)))
    return {"B": blocks, "num_warps": blocks * size // 64}


def rms_norm_quantize(
    x: Tensor, weight: Tensor, eps: float, unit_offset: bool, residual: Tensor | None, global_scale: Tensor | None,
    layout: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """As `Backend.rms_norm_quantize`, on x's device, which is the current one."""
    kinds, out = _outputs(x, global_scale, layout)
    total = x.new_empty(0 if residual is None else x.shape)
    x, rows, stride = as_rows(x)
    other, _, other_stride = (x, rows, stride) if residual is None else as_rows(residual)
    groups = x.shape[-1] // GROUP_SIZE
    if rows and groups:
        quantize_norm[(rows,)](
            x, other, weight, total, out.packed.view(torch.int32), out.scale, out.global_scale, groups, stride,
            other_stride, eps,
            RESIDUAL=residual is not None, UNIT_OFFSET=unit_offset, **kinds, **tile_of_norm(x),
            enable_fp_fusion=False,
        )  # fmt: skip
    return *out, total


def gated_quantize(
    x: Tensor, activation: str, interleaved: bool, global_scale: Tensor | None, layout: str
) -> tuple[Tensor, Tensor, Tensor]:
    """As `Backend.gated_quantize`, on x's device, which is the current one."""
    kinds, out = _outputs(x[..., : x.shape[-1] // 2], global_scale, layout)
    x, rows, stride = as_rows(x)
    groups = x.shape[-1] // (2 * GROUP_SIZE)
    if rows and groups:
        # Few rows are shared by several programs, each of which looks at all of a row first.
        parts = min(triton.cdiv(groups, _BLOCKS), max(1, PROGRAMS // rows))
        each = triton.cdiv(triton.cdiv(groups, parts), _BLOCKS) * _BLOCKS
        quantize_gated[(rows, triton.cdiv(groups, each))](
            x, out.packed.view(torch.int32), out.scale, out.global_scale, groups, stride, each, **kinds,
            ACTIVATION=activation, INTERLEAVED=interleaved, WIDE=_WIDE_BLOCKS[x.element_size()], B=_BLOCKS,
            num_warps=_WARPS, enable_fp_fusion=False,
        )  # fmt: skip
    return out
