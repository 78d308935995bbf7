"""Quantise. A program has some blocks of sixteen, or a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from nvfp4.backends.triton.bits import encode_block, finite_magnitude, larger, largest_of_blocks, rounded_to, scale_at
from nvfp4.formats import GROUP_SIZE

__all__ = [
    "AMAX_BLOCKS",
    "DTYPES",
    "ends_of",
    "flattened",
    "load_blocks",
    "place_of_blocks",
    "quantize_blocks",
    "quantize_rows",
    "row_scale",
    "scale_of_largest",
    "store_blocks",
    "tensor_scale",
    "tile_of_row",
]

AMAX_BLOCKS = 512  # of sixteen, a program
_HELD = 3  # blocks of a row that a thread has in registers; with more, too few programs fit a multiprocessor

DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def flattened(rows: int, groups: int, stride: int) -> tuple[int, int]:
    """The same as one row, where nothing lies between rows."""
    return (1, rows * groups) if stride == groups * GROUP_SIZE else (rows, groups)


def ends_of(rows: int, groups: int, blocks: int) -> int:
    """Ends of rows that some blocks can meet, as `place_of_blocks` counts them."""
    return 0 if rows == 1 else 1 if groups >= blocks else 2


@triton.jit
def _load_some(first, valid, N: tl.constexpr):
    """N neighbours [B, N] at every one of B places."""
    return tl.load(first[:, None] + tl.arange(0, N)[None, :], mask=valid[:, None], other=0.0)


@triton.jit
def load_blocks(x, row, group, stride, valid):
    """Values [B, 16] of the blocks at rows and groups [B]; zeros where not valid.

    Each load is of 16 bytes a thread, and all of a block's go to the same one: then no thread waits for another, and
    none does again what another does for the same block.
    """
    first = x + row * stride + group * 16
    if x.dtype.element_ty.primitive_bitwidth == 16:
        halves = tl.join(_load_some(first, valid, 8), _load_some(first + 8, valid, 8))
        return tl.reshape(tl.permute(halves, (0, 2, 1)), (row.shape[0], 16))
    else:
        lower = tl.join(_load_some(first, valid, 4), _load_some(first + 4, valid, 4))
        upper = tl.join(_load_some(first + 8, valid, 4), _load_some(first + 12, valid, 4))
        return tl.reshape(tl.permute(tl.join(lower, upper), (0, 3, 2, 1)), (row.shape[0], 16))


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
def _largest_of(magnitudes):
    """The largest of [B], or NaN: as integers, which a warp compares at once, it is above every number."""
    return tl.max(magnitudes.to(tl.int32, bitcast=True), axis=0).to(tl.float32, bitcast=True)


@triton.jit
def _row_amax(x, columns, FINITE: tl.constexpr, WIDE: tl.constexpr):
    """The largest magnitude, of a row that x points to; NaN where there is one, if not of the FINITE ones."""
    largest = tl.zeros((WIDE,), tl.float32)
    # Unrolled, the loop waits for memory once in three turns.
    for first in tl.range(0, columns, WIDE, loop_unroll_factor=3):
        column = first + tl.arange(0, WIDE)
        values = tl.load(x + column, mask=column < columns, other=0.0).to(tl.float32)
        largest = larger(largest, finite_magnitude(values) if FINITE else tl.abs(values))
    return _largest_of(largest)


@triton.jit
def _if_finite(scale):
    """1 where the largest finite magnitude is 0, or the quotient overflows."""
    return tl.where(scale < float("inf"), scale, 1.0)


@triton.jit
def scale_of_largest(largest):
    """A global scale from the largest finite magnitude."""
    return _if_finite(tl.div_rn(2688.0, largest))


@triton.jit
def row_scale(x, columns, WIDE: tl.constexpr):
    """The global scale of the row that x points to, by its finite values, WIDE of them at a time."""
    largest = _row_amax(x, columns, False, WIDE)
    if not (largest < float("inf")):
        largest = _row_amax(x, columns, True, WIDE)
    return scale_of_largest(largest)


@triton.jit
def _quantize_part(
    block, packed, scale, global_scale, row, first,
    GROUPS: tl.constexpr, SWIZZLED: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """B blocks of a row, from the `first` on."""
    group = first + tl.arange(0, B).to(tl.int64)
    words, byte = encode_block(block.to(tl.float32), global_scale, block.dtype, False)
    store_blocks(words, byte, packed, scale, row + tl.zeros_like(group), group, GROUPS, group < GROUPS, SWIZZLED)


@triton.jit
def _load_part(x, first, GROUPS: tl.constexpr, B: tl.constexpr):
    group = first + tl.arange(0, B).to(tl.int64)
    return load_blocks(x, tl.zeros_like(group), group, 0, group < GROUPS)


@triton.jit
def _amax_of_parts(parts, FINITE: tl.constexpr):
    """As `_row_amax`, of a row that is HELD."""
    largest = tl.zeros((parts[0].shape[0],), tl.float32)
    for i in tl.static_range(len(parts)):
        values = parts[i].to(tl.float32)
        largest = larger(largest, largest_of_blocks(finite_magnitude(values) if FINITE else values))
    return _largest_of(largest)


@triton.jit
def quantize_rows(
    x, packed, scale, global_scale, stride,
    GROUPS: tl.constexpr, SWIZZLED: tl.constexpr, HELD: tl.constexpr, WIDE: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """A row by its own global scale, which is written. A kernel for each length: a model has few.

    B blocks at a time; all of them are HELD in registers, or read twice.
    """
    row = tl.program_id(0).to(tl.int64)
    x += row * stride
    if HELD:
        parts = ()
        for first in tl.static_range(0, GROUPS, B):
            parts += (_load_part(x, first, GROUPS, B),)
        largest = _amax_of_parts(parts, False)
        if not (largest < float("inf")):
            largest = _amax_of_parts(parts, True)
        computed = scale_of_largest(largest)
        for i in tl.static_range(len(parts)):
            _quantize_part(parts[i], packed, scale, computed, row, i * B, GROUPS, SWIZZLED, B)
    else:
        computed = row_scale(x, GROUPS * 16, WIDE)
        for first in range(0, GROUPS, B):
            part = _load_part(x, first, GROUPS, B)
            _quantize_part(part, packed, scale, computed, row, first, GROUPS, SWIZZLED, B)
    tl.store(global_scale + tl.program_id(0), computed)


@triton.jit
def _tensor_amax(x, amax, rows, groups, stride, ENDS: tl.constexpr, B: tl.constexpr):
    """The largest finite magnitude as float32's bits, which are ordered as the numbers are; amax begins at zero."""
    row, group, _, valid = place_of_blocks(rows, groups, B, ENDS)
    block = load_blocks(x, row, group, stride, valid).to(tl.float32)
    largest = tl.max(tl.max(finite_magnitude(block), axis=1), axis=0)
    tl.atomic_max(amax, largest.to(tl.int32, bitcast=True))


@triton.jit
def _global_scale_of_tensor(amax, global_scale, RAW: tl.constexpr, EXACT_CT: tl.constexpr):
    """From `_tensor_amax`."""
    largest = tl.load(amax).to(tl.float32, bitcast=True)
    if EXACT_CT:
        computed = _if_finite(rounded_to(rounded_to(tl.div_rn(1.0, largest), RAW) * 2688.0, RAW))
    else:
        computed = scale_of_largest(largest)
    tl.store(global_scale, computed)


def tile_of_row(groups: int, size: int) -> dict[str, int | bool]:
    """How `quantize_rows` goes through a row of values of some bytes: a block a thread at a time, or all at once."""
    warps = min(8, triton.next_power_of_2(triton.cdiv(groups, _HELD * 32)))
    blocks = 32 * warps
    return {"HELD": groups <= _HELD * blocks, "WIDE": 4096 // size, "B": blocks, "num_warps": warps}


def tensor_scale(
    x: torch.Tensor, global_scale: torch.Tensor, rows: int, groups: int, stride: int, exact_ct: bool
) -> None:
    """Write the global scale [1] of rows of x, some elements apart."""
    amax = torch.zeros(1, dtype=torch.int32, device=x.device)
    rows, groups = flattened(rows, groups, stride)
    _tensor_amax[(triton.cdiv(rows * groups, AMAX_BLOCKS),)](
        x,
        amax,
        rows,
        groups,
        stride,
        ENDS=ends_of(rows, groups, AMAX_BLOCKS),
        B=AMAX_BLOCKS,
        num_warps=8,
        enable_fp_fusion=False,
    )
    _global_scale_of_tensor[(1,)](amax, global_scale, RAW=DTYPES[x.dtype], EXACT_CT=exact_ct, enable_fp_fusion=False)
