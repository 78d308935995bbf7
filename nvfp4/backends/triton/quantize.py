"""Quantise. A program has some blocks of sixteen, or a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nvfp4.backends.triton.bits import encode_block, finite_magnitude, rounded_to, scale_at

__all__ = [
    "DTYPES",
    "load_blocks",
    "place_of_blocks",
    "quantize_blocks",
    "quantize_rows",
    "store_blocks",
    "tensor_scale",
]

_AMAX_BLOCKS = 256  # of sixteen, a program

DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def load_blocks(x, row, group, stride, valid):
    """Values [B, 16] of the blocks at rows and groups [B]; zeros where not valid."""
    columns = tl.arange(0, 16)
    at = row[:, None] * stride + group[:, None] * 16 + columns[None, :]
    return tl.load(x + at, mask=valid[:, None], other=0.0)


@triton.jit
def place_of_blocks(groups, B: tl.constexpr, LONG: tl.constexpr):
    """Rows (int64), groups and flat indices (int64) of a program's B blocks; LONG: a row has at least B.

    One division a program, of 32 bits: 2^32 blocks are more than a GPU's memory holds, and 64 bits take as long as
    quantising some blocks.
    """
    first = tl.program_id(0).to(tl.uint32) * B
    row = first // groups.to(tl.uint32)
    offset = (first - row * groups.to(tl.uint32)).to(tl.int32) + tl.arange(0, B)
    index = first.to(tl.int64) + tl.arange(0, B)
    if LONG:
        is_next = (offset >= groups).to(tl.int32)
        return row.to(tl.int64) + is_next, offset - is_next * groups, index
    else:
        return row.to(tl.int64) + offset // groups, offset % groups, index


@triton.jit
def packed_words(codes, B: tl.constexpr):
    """Codes [B, 16] as they lie in memory, eight a word: int32 [B, 2]."""
    places = tl.arange(0, 8)[None, None, :] * 4
    return tl.sum(tl.reshape(codes, (B, 2, 8)) << places, axis=2)


@triton.jit
def store_blocks(codes, byte, packed, scale, row, group, groups, valid, SWIZZLED: tl.constexpr, B: tl.constexpr):
    """Codes [B, 16] and scale bytes [B] of the blocks at rows and groups [B]."""
    at = (row[:, None] * groups + group[:, None]) * 2 + tl.arange(0, 2)[None, :]
    tl.store(packed + at, packed_words(codes, B), mask=valid[:, None])
    tl.store(scale + scale_at(row, group, groups, SWIZZLED), byte.to(tl.uint8), mask=valid)


@triton.jit
def quantize_blocks(
    x, packed, scale, global_scale, rows, groups, stride,
    PER_ROW: tl.constexpr, SWIZZLED: tl.constexpr, EXACT_CT: tl.constexpr, LONG: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """B blocks by a global scale that is known."""
    row, group, index = place_of_blocks(groups, B, LONG)
    valid = row < rows
    raw = load_blocks(x, row, group, stride, valid)
    if PER_ROW:
        given = tl.load(global_scale + row, mask=valid, other=1.0)
    else:
        given = tl.load(global_scale)
    codes, byte = encode_block(raw.to(tl.float32), given, raw.dtype, EXACT_CT)
    tl.store(packed + index[:, None] * 2 + tl.arange(0, 2)[None, :], packed_words(codes, B), mask=valid[:, None])
    if SWIZZLED:
        index = scale_at(row, group, groups, True)
    tl.store(scale + index, byte.to(tl.uint8), mask=valid)


@triton.jit
def quantize_rows(
    x, packed, scale, global_scale, stride, GROUPS: tl.constexpr, SWIZZLED: tl.constexpr, B: tl.constexpr
):  # fmt: skip
    """A row by its own global scale, which is written. A kernel for each length: a model has few."""
    row = tl.program_id(0).to(tl.int64) + tl.zeros((B,), tl.int64)
    largest = tl.zeros((B,), tl.float32)
    for first in range(0, GROUPS, B):
        group = first + tl.arange(0, B).to(tl.int64)
        block = load_blocks(x, row, group, stride, group < GROUPS).to(tl.float32)
        largest = tl.maximum(largest, tl.max(finite_magnitude(block), axis=1))
    computed = tl.div_rn(2688.0, tl.max(largest, axis=0))
    computed = tl.where(computed < float("inf"), computed, 1.0)
    tl.store(global_scale + tl.program_id(0), computed)
    for first in range(0, GROUPS, B):
        group = first + tl.arange(0, B).to(tl.int64)
        raw = load_blocks(x, row, group, stride, group < GROUPS)
        codes, byte = encode_block(raw.to(tl.float32), computed, raw.dtype, False)
        store_blocks(codes, byte, packed, scale, row, group, GROUPS, group < GROUPS, SWIZZLED, B)


@triton.jit
def _tensor_amax(x, amax, rows, groups, stride, LONG: tl.constexpr, B: tl.constexpr):
    """The largest finite magnitude as float32's bits, which are ordered as the numbers are; amax begins at zero."""
    row, group, _ = place_of_blocks(groups, B, LONG)
    block = load_blocks(x, row, group, stride, row < rows).to(tl.float32)
    largest = tl.max(tl.max(finite_magnitude(block), axis=1), axis=0)
    tl.atomic_max(amax, largest.to(tl.int32, bitcast=True))


@triton.jit
def _global_scale_of_tensor(amax, global_scale, RAW: tl.constexpr, EXACT_CT: tl.constexpr):
    """From `_tensor_amax`; 1 where amax is 0 or the quotient overflows."""
    largest = tl.load(amax).to(tl.float32, bitcast=True)
    if EXACT_CT:
        computed = rounded_to(rounded_to(tl.div_rn(1.0, largest), RAW) * 2688.0, RAW)
    else:
        computed = tl.div_rn(2688.0, largest)
    tl.store(global_scale, tl.where(computed < float("inf"), computed, 1.0))


def tensor_scale(
    x: torch.Tensor, global_scale: torch.Tensor, rows: int, groups: int, stride: int, exact_ct: bool
) -> None:
    """Write the global scale [1] of rows of x, some elements apart."""
    amax = torch.zeros(1, dtype=torch.int32, device=x.device)
    _tensor_amax[(triton.cdiv(rows * groups, _AMAX_BLOCKS),)](
        x, amax, rows, groups, stride, LONG=groups >= _AMAX_BLOCKS, B=_AMAX_BLOCKS, num_warps=8, enable_fp_fusion=False
    )
    _global_scale_of_tensor[(1,)](amax, global_scale, RAW=DTYPES[x.dtype], EXACT_CT=exact_ct, enable_fp_fusion=False)
