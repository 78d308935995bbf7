"""Quantise and dequantise. A program has some blocks of sixteen, or a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nvfp4.backends.triton.bits import decode_e2m1, decode_e4m3, encode_block, finite_magnitude, rounded_to, scale_at

__all__ = ["DTYPES", "dequantize_blocks", "global_scale_of_tensor", "quantize_blocks", "quantize_rows", "tensor_amax"]

DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def _load_blocks(x, row, group, stride, valid):
    columns = tl.arange(0, 16)
    at = row[:, None] * stride + group[:, None] * 16 + columns[None, :]
    return tl.load(x + at, mask=valid[:, None], other=0.0)


@triton.jit
def _store_blocks(codes, byte, packed, scale, row, group, groups, valid, SWIZZLED: tl.constexpr, B: tl.constexpr):
    even, odd = tl.split(tl.reshape(codes, (B, 8, 2)))
    at = (row[:, None] * groups + group[:, None]) * 8 + tl.arange(0, 8)[None, :]
    tl.store(packed + at, (even | (odd << 4)).to(tl.uint8), mask=valid[:, None])
    tl.store(scale + scale_at(row, group, groups, SWIZZLED), byte.to(tl.uint8), mask=valid)


@triton.jit
def quantize_blocks(
    x, packed, scale, global_scale, rows, groups, stride,
    PER_ROW: tl.constexpr, SWIZZLED: tl.constexpr, EXACT_CT: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """B blocks by a global scale that is known."""
    index = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    row, group = index // groups, index % groups
    valid = row < rows
    raw = _load_blocks(x, row, group, stride, valid)
    if PER_ROW:
        given = tl.load(global_scale + row, mask=valid, other=1.0)
    else:
        given = tl.load(global_scale) + tl.zeros((B,), tl.float32)
    codes, byte = encode_block(raw.to(tl.float32), given, raw.dtype, EXACT_CT)
    _store_blocks(codes, byte, packed, scale, row, group, groups, valid, SWIZZLED, B)


@triton.jit
def quantize_rows(
    x, packed, scale, global_scale, stride, GROUPS: tl.constexpr, SWIZZLED: tl.constexpr, B: tl.constexpr
):  # fmt: skip
    """A row by its own global scale, which is written. A kernel for each length: a model has few."""
    row = tl.program_id(0).to(tl.int64) + tl.zeros((B,), tl.int64)
    largest = tl.zeros((B,), tl.float32)
    for first in range(0, GROUPS, B):
        group = first + tl.arange(0, B).to(tl.int64)
        block = _load_blocks(x, row, group, stride, group < GROUPS).to(tl.float32)
        largest = tl.maximum(largest, tl.max(finite_magnitude(block), axis=1))
    computed = tl.div_rn(2688.0, tl.max(largest, axis=0))
    computed = tl.where(computed < float("inf"), computed, 1.0)
    tl.store(global_scale + tl.program_id(0), computed)
    for first in range(0, GROUPS, B):
        group = first + tl.arange(0, B).to(tl.int64)
        raw = _load_blocks(x, row, group, stride, group < GROUPS)
        codes, byte = encode_block(raw.to(tl.float32), computed + tl.zeros((B,), tl.float32), raw.dtype, False)
        _store_blocks(codes, byte, packed, scale, row, group, GROUPS, group < GROUPS, SWIZZLED, B)


@triton.jit
def tensor_amax(x, amax, rows, groups, stride, B: tl.constexpr):
    """The largest finite magnitude as float32's bits, which are ordered as the numbers are; amax begins at zero."""
    index = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    row, group = index // groups, index % groups
    block = _load_blocks(x, row, group, stride, row < rows).to(tl.float32)
    largest = tl.max(tl.max(finite_magnitude(block), axis=1), axis=0)
    tl.atomic_max(amax, largest.to(tl.int32, bitcast=True))


@triton.jit
def global_scale_of_tensor(amax, global_scale, RAW: tl.constexpr, EXACT_CT: tl.constexpr):
    """From `tensor_amax`; 1 where amax is 0 or the quotient overflows."""
    largest = tl.load(amax).to(tl.float32, bitcast=True)
    if EXACT_CT:
        computed = rounded_to(rounded_to(tl.div_rn(1.0, largest), RAW) * 2688.0, RAW)
    else:
        computed = tl.div_rn(2688.0, largest)
    tl.store(global_scale, tl.where(computed < float("inf"), computed, 1.0))


@triton.jit
def dequantize_blocks(
    packed, scale, global_scale, out, rows, groups, PER_ROW: tl.constexpr, SWIZZLED: tl.constexpr, B: tl.constexpr
):  # fmt: skip
    """B blocks: q * (s / G), rounded once to out's dtype."""
    index = tl.program_id(0).to(tl.int64) * B + tl.arange(0, B)
    row, group = index // groups, index % groups
    valid = row < rows
    at = index[:, None] * 8 + tl.arange(0, 8)[None, :]
    pairs = tl.load(packed + at, mask=valid[:, None], other=0).to(tl.int32)
    byte = tl.load(scale + scale_at(row, group, groups, SWIZZLED), mask=valid, other=0).to(tl.int32)
    if PER_ROW:
        given = tl.load(global_scale + row, mask=valid, other=1.0)
    else:
        given = tl.load(global_scale) + tl.zeros((B,), tl.float32)
    step = tl.div_rn(decode_e4m3(byte), given)
    codes = tl.reshape(tl.join(pairs & 15, pairs >> 4), (B, 16))
    values = decode_e2m1(codes) * tl.broadcast_to(step[:, None], (B, 16))
    to = index[:, None] * 16 + tl.arange(0, 16)[None, :]
    values = rounded_to(values, out.dtype.element_ty)
    tl.store(out + to, values.to(out.dtype.element_ty), mask=valid[:, None])
