"""Dequantise. A program has some blocks of sixteen."""

from __future__ import annotations

import triton
import triton.language as tl

from nvfp4.backends.triton.bits import decode_e2m1, decode_e4m3, rounded_to, scale_at
from nvfp4.backends.triton.quantize import place_of_blocks

__all__ = ["dequantize_blocks"]


@triton.jit
def dequantize_blocks(
    packed, scale, global_scale, out, rows, groups,
    PER_ROW: tl.constexpr, SWIZZLED: tl.constexpr, ENDS: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """B blocks: q * (s / G), rounded once to out's dtype."""
    row, group, index, valid = place_of_blocks(rows, groups, B, ENDS)
    at = index[:, None] * 8 + tl.arange(0, 8)[None, :]
    pairs = tl.load(packed + at, mask=valid[:, None], other=0).to(tl.int32)
    place = scale_at(row, group, groups, True) if SWIZZLED else index
    byte = tl.load(scale + place, mask=valid, other=0).to(tl.int32)
    if PER_ROW:
        given = tl.load(global_scale + row, mask=valid, other=1.0)
    else:
        given = tl.load(global_scale)
    step = tl.div_rn(decode_e4m3(byte), given + tl.zeros((B,), tl.float32))
    codes = tl.reshape(tl.join(pairs & 15, pairs >> 4), (B, 16))
    values = decode_e2m1(codes) * tl.broadcast_to(step[:, None], (B, 16))
    to = index[:, None] * 16 + tl.arange(0, 16)[None, :]
    values = rounded_to(values, out.dtype.element_ty)
    tl.store(out + to, values.to(out.dtype.element_ty), mask=valid[:, None])
