"""Quantise. A program has some blocks of sixteen, or a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nvfp4.backends.triton.bits import encode_block, finite_magnitude, rounded_to, scale_at
from nvfp4.formats import GROUP_SIZE

__all__ = [
    "DTYPES",
    "ends_of",
    "flattened",
    "load_blocks",
    "place_of_blocks",
    "quantize_blocks",
    "quantize_rows",
    "row_scale",
    "store_blocks",
    "tensor_scale",
]

_AMAX_BLOCKS = 256  # of sixteen, a program

DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def flattened(rows: int, groups: int, stride: int) -> tuple[int, int]:
    """The same as one row, where nothing lies between rows."""
    return (1, rows * groups) if stride == groups * GROUP_SIZE else (rows, groups)


def ends_of(rows: int, groups: int, blocks: int) -> int:
    """Ends of rows that some blocks can meet, as `place_of_blocks` counts them."""
    return 0 if rows == 1 else 1 if groups >= blocks else 2


@triton.jit
def load_blocks(x, row, group, stride, valid):
    """Values [B, 16] of the blocks at rows and groups [B]; zeros where not valid."""
    columns = tl.arange(0, 16)
    at = row[:, None] * stride + group[:, None] * 16 + columns[None, :]
    return tl.load(x + at, mask=valid[:, None], other=0.0)


@triton.jit
def place_of_blocks(rows, groups, B: tl.constexpr, ENDS: tl.constexpr):
    """Rows and groups (int64) of a program's B blocks, their flat indices (int64), and which of them there are.

    ENDS: of rows that a program can meet; 0 where there is one row, 1 where a row has at least B blocks, else 2. More
    rows take one division a program, of 32 bits: 2^32 blocks are more than a GPU's memory holds, and 64 bits take as
    long as quantising some blocks.
    """
    first = tl.program_id(0).to(tl.uint32) * B
    index = first.to(tl.int64) + tl.arange(0, B)
    if ENDS == 0:
        row, group = tl.zeros_like(index), index
        return row, group, index, group < groups
    else:
        divisor = tl.cast(groups, tl.uint32)  # Triton takes an argument of 1 for a constant, which has no methods
        row = first // divisor
        offset = (first - row * divisor).to(tl.int32) + tl.arange(0, B)
        if ENDS == 1:
            is_next = (offset >= groups).to(tl.int32)
            row, group = row.to(tl.int64) + is_next, (offset - is_next * groups).to(tl.int64)
        else:
            row, group = row.to(tl.int64) + offset // groups, (offset % groups).to(tl.int64)
        return row, group, index, row < rows


@triton.jit
def store_blocks(words, byte, packed, scale, row, group, groups, valid, SWIZZLED: tl.constexpr):
    """Words of codes [B, 2] and scale bytes [B] of the blocks at rows and groups [B]."""
    at = (row[:, None] * groups + group[:, None]) * 2 + tl.arange(0, 2)[None, :]
    tl.store(packed + at, words, mask=valid[:, None])
    tl.store(scale + scale_at(row, group, groups, SWIZZLED), byte.to(tl.uint8), mask=valid)


@triton.jit
def quantize_blocks(
    x, packed, scale, global_scale, rows, groups, stride,
    PER_ROW: tl.constexpr, SWIZZLED: tl.constexpr, EXACT_CT: tl.constexpr, ENDS: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """B blocks by a global scale that is known."""
    row, group, index, valid = place_of_blocks(rows, groups, B, ENDS)
    raw = load_blocks(x, row, group, stride, valid)
    if PER_ROW:
        given = tl.load(global_scale + row, mask=valid, other=1.0)
    else:
        given = tl.load(global_scale)
    words, byte = encode_block(raw.to(tl.float32), given, raw.dtype, EXACT_CT)
    tl.store(packed + index[:, None] * 2 + tl.arange(0, 2)[None, :], words, mask=valid[:, None])
    if SWIZZLED:
        index = scale_at(row, group, groups, True)
    tl.store(scale + index, byte.to(tl.uint8), mask=valid)


@triton.jit
def _row_amax(x, columns, FINITE: tl.constexpr, WIDE: tl.constexpr):
    """The largest magnitude, of a row that x points to; NaN where there is one, if not of the FINITE ones."""
    largest = tl.zeros((WIDE,), tl.float32)
    for first in tl.range(0, columns, WIDE):
        column = first + tl.arange(0, WIDE)
        values = tl.load(x + column, mask=column < columns, other=0.0).to(tl.float32)
        if FINITE:
            largest = tl.maximum(largest, finite_magnitude(values))
        else:
            largest = tl.maximum(largest, tl.abs(values), propagate_nan=tl.PropagateNan.ALL)
    # As integers, NaN is above infinity and both above every number.
    return tl.max(largest.to(tl.int32, bitcast=True), axis=0).to(tl.float32, bitcast=True)


@triton.jit
def row_scale(x, columns, WIDE: tl.constexpr):
    """The global scale of the row that x points to, by its finite values, WIDE of them at a time."""
    largest = _row_amax(x, columns, False, WIDE)
    if not (largest < float("inf")):
        largest = _row_amax(x, columns, True, WIDE)
    computed = tl.div_rn(2688.0, largest)
    return tl.where(computed < float("inf"), computed, 1.0)


@triton.jit
def quantize_rows(
    x, packed, scale, global_scale, stride,
    GROUPS: tl.constexpr, SWIZZLED: tl.constexpr, WIDE: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """A row by its own global scale, which is written. A kernel for each length: a model has few."""
    row = tl.program_id(0).to(tl.int64) + tl.zeros((B,), tl.int64)
    computed = row_scale(x + tl.program_id(0).to(tl.int64) * stride, GROUPS * 16, WIDE)
    tl.store(global_scale + tl.program_id(0), computed)
    for first in range(0, GROUPS, B):
        group = first + tl.arange(0, B).to(tl.int64)
        raw = load_blocks(x, row, group, stride, group < GROUPS)
        words, byte = encode_block(raw.to(tl.float32), computed, raw.dtype, False)
        store_blocks(words, byte, packed, scale, row, group, GROUPS, group < GROUPS, SWIZZLED)


@triton.jit
def _tensor_amax(x, amax, rows, groups, stride, ENDS: tl.constexpr, B: tl.constexpr):
    """The largest finite magnitude as float32's bits, which are ordered as the numbers are; amax begins at zero."""
    row, group, _, valid = place_of_blocks(rows, groups, B, ENDS)
    block = load_blocks(x, row, group, stride, valid).to(tl.float32)
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
    rows, groups = flattened(rows, groups, stride)
    _tensor_amax[(triton.cdiv(rows * groups, _AMAX_BLOCKS),)](
        x,
        amax,
        rows,
        groups,
        stride,
        ENDS=ends_of(rows, groups, _AMAX_BLOCKS),
        B=_AMAX_BLOCKS,
        num_warps=8,
        enable_fp_fusion=False,
    )
    _global_scale_of_tensor[(1,)](amax, global_scale, RAW=DTYPES[x.dtype], EXACT_CT=exact_ct, enable_fp_fusion=False)
