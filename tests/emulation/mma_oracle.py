"""A second, independent model of the FP4 tensor-core instruction of SM120, in numpy with int64 arithmetic.

The instruction is `mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3`.
Layouts and selectors are the formulas of the PTX ISA ("Matrix Fragments for mma.m16n8k64" and "Block Scaling for
mma.sync"). The arithmetic is the rule that microsoft/MMA-Sim @ c7851383 publishes
(`nv_fused_dot_add_with_block_scale` and `fused_sum` in mmasim/simulator/arithmetic.py), restated here in integers.
Every array has a leading axis of tiles; the second axis of a register array is the lane of the warp.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

U8: TypeAlias = npt.NDArray[np.uint8]
U32: TypeAlias = npt.NDArray[np.uint32]
I64: TypeAlias = npt.NDArray[np.int64]
F32: TypeAlias = npt.NDArray[np.float32]

FRACTION_BITS = 35  # MMA-Sim: every aligned term keeps this many bits below the largest exponent.
ZERO_EXPONENT = -126  # MMA-Sim: a zero scale, like a zero in C, takes part in the alignment with this exponent.
NAN_BITS = 0x7FFFFFFF  # MMA-Sim: the one NaN that the instruction returns.
CHUNK = 64  # Tiles that are computed at a time, so that the intermediate arrays stay in the cache.

LANE = np.arange(32)
GROUP, THREAD = LANE >> 2, LANE & 3  # PTX: groupID and threadID_in_group.


class Registers(NamedTuple):
    """The operands as the lanes hold them; `mma_m16n8k64` takes them in this order."""

    a: U32  # [tiles, 32, 4]: eight e2m1 codes a register, the first in the lowest bits.
    b: U32  # [tiles, 32, 2]: as a.
    c: F32  # [tiles, 32, 4].
    sfa: U32  # [tiles, 32]: four ue4m3 codes, the one of k = 0..15 in the lowest byte.
    sfb: U32  # [tiles, 32]: as sfa.


def _positions() -> tuple[I64, I64, I64]:
    """Where element i of a lane lies in its matrix, row by row; the fragment formulas of PTX.

    Returns int64 [32, 32] into A [16, 64], int64 [32, 16] into B [64, 8] and int64 [32, 4] into C or D [16, 8].
    """
    g, t = GROUP[:, None], THREAD[:, None]
    i = np.arange(32)
    row_a, col_a = np.where((i < 8) | ((i >= 16) & (i < 24)), g, g + 8), t * 8 + (i & 7) + np.where(i < 16, 0, 32)
    i = np.arange(16)
    row_b, col_b = t * 8 + (i & 7) + np.where(i < 8, 0, 32), g
    i = np.arange(4)
    row_c, col_c = np.where(i < 2, g, g + 8), t * 2 + (i & 1)
    return row_a * 64 + col_a, row_b * 8 + col_b, row_c * 8 + col_c


POSITIONS_A, POSITIONS_B, POSITIONS_C = _positions()
# A fragment holds every element once, so sorting the positions inverts the formula.
ORDER_A, ORDER_B, ORDER_C = (np.argsort(p, axis=None) for p in (POSITIONS_A, POSITIONS_B, POSITIONS_C))


def _selector(name: str, value: int, limit: int) -> int:
    """Return `value`, or raise ValueError if it isn't an int in 0..limit - 1 (PTX: undefined behaviour)."""
    if not isinstance(value, int) or not 0 <= value < limit:
        raise ValueError(f"{name}: got {value!r}, wanted an int in 0..{limit - 1}")
    return value


def _suppliers(thread_id_a: int, thread_id_b: int) -> tuple[I64, I64, I64, I64]:
    """Which lanes supply scales: (lanes, rows of A), int64 [16] each, then (lanes, columns of B), int64 [8] each.

    PTX: thread-id-a names a pair of threads in each quad, of which the even one supplies row groupID and the odd one
    row groupID + 8; thread-id-b names the thread of each quad that supplies column groupID.
    """
    lanes_a = np.flatnonzero(_selector("thread_id_a", thread_id_a, 2) == THREAD >> 1)
    lanes_b = np.flatnonzero(_selector("thread_id_b", thread_id_b, 4) == THREAD)
    return lanes_a, GROUP[lanes_a] + 8 * (THREAD[lanes_a] & 1), lanes_b, GROUP[lanes_b]


def _pack(codes: U8, bits: int) -> U32:
    """Join the last axis of uint8 codes into uint32 words, the first code in the lowest bits."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return np.asarray(np.bitwise_or.reduce(codes.astype(np.uint32) << shifts, axis=-1), np.uint32)


def _unpack(words: U32, bits: int) -> U8:
    """Inverse of `_pack`: a new last axis of 32 / bits uint8 codes."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    return np.asarray((words[..., None] >> shifts) & np.uint32((1 << bits) - 1), np.uint8)


def registers(
    a_codes: U8, b_codes: U8, c: F32, a_scales: U8, b_scales: U8, thread_id_a: int, thread_id_b: int,
    random: np.random.Generator,
) -> Registers:  # fmt: skip
    """Lay matrices out over the lanes; scale registers that the selectors don't name hold random bits.

    a_codes: uint8 [tiles, 16, 64] and b_codes: uint8 [tiles, 64, 8], e2m1 codes 0..15; c: float32 [tiles, 16, 8];
    a_scales: uint8 [tiles, 16, 4] and b_scales: uint8 [tiles, 4, 8], ue4m3 codes of one block of 16 along K each.
    """
    tiles = len(a_codes)
    lanes_a, rows, lanes_b, columns = _suppliers(thread_id_a, thread_id_b)
    sfa, sfb = random.integers(0, 1 << 32, size=(2, tiles, 32), dtype=np.uint32)
    sfa[:, lanes_a] = _pack(a_scales, 8)[:, rows]
    sfb[:, lanes_b] = _pack(b_scales.transpose(0, 2, 1), 8)[:, columns]
    a = _pack(a_codes.reshape(tiles, 1024)[:, POSITIONS_A].reshape(tiles, 32, 4, 8), 4)
    b = _pack(b_codes.reshape(tiles, 512)[:, POSITIONS_B].reshape(tiles, 32, 2, 8), 4)
    return Registers(a, b, c.reshape(tiles, 128)[:, POSITIONS_C], sfa, sfb)


def matrices(
    a: U32, b: U32, c: F32, sfa: U32, sfb: U32, thread_id_a: int, thread_id_b: int
) -> tuple[U8, U8, F32, U8, U8]:
    """Inverse of `registers`: (a_codes, b_codes, c, a_scales, b_scales) with the shapes and dtypes given there."""
    tiles = len(a)
    lanes_a, rows, lanes_b, columns = _suppliers(thread_id_a, thread_id_b)
    a_codes = np.take(_unpack(a, 4).reshape(tiles, 1024), ORDER_A, axis=1).reshape(tiles, 16, 64)
    b_codes = np.take(_unpack(b, 4).reshape(tiles, 512), ORDER_B, axis=1).reshape(tiles, 64, 8)
    a_scales = _unpack(sfa[:, lanes_a[np.argsort(rows)]], 8)
    b_scales = _unpack(sfb[:, lanes_b[np.argsort(columns)]], 8).transpose(0, 2, 1)
    return a_codes, b_codes, matrix_of_accumulator(c), a_scales, b_scales


def matrix_of_accumulator(d: F32) -> F32:
    """Gather C or D, float32 [tiles, 32, 4], into float32 [tiles, 16, 8]."""
    return np.take(d.reshape(len(d), 128), ORDER_C, axis=1).reshape(len(d), 16, 8)


def _halves(codes: I64) -> I64:
    """Twice the value of e2m1 codes, as int64: sign, two exponent bits with bias 1, one fraction bit (PTX .e2m1)."""
    exponent, fraction = codes >> 1 & 3, codes & 1
    magnitude = np.where(exponent == 0, fraction, (2 + fraction) << np.maximum(exponent - 1, 0))
    return np.where(codes & 8, -magnitude, magnitude)


def _scale(codes: I64) -> tuple[I64, I64, npt.NDArray[np.bool_]]:
    """Significand in eighths, exponent, and whether it is NaN, of ue4m3 codes; the sign bit is ignored (MMA-Sim).

    The bias is 7; a subnormal has exponent -6 and a significand below one, a zero has `ZERO_EXPONENT`, 0x7F is NaN.
    """
    magnitude = codes & 0x7F
    field, fraction = magnitude >> 3, magnitude & 7
    exponent = np.where(magnitude == 0, ZERO_EXPONENT, np.maximum(field, 1) - 7)
    return fraction + 8 * (field > 0), exponent, magnitude == 0x7F


# The decoders run once over all codes; the rest of the module looks values up.
HALVES = _halves(np.arange(16))
EIGHTHS, EXPONENTS, IS_NAN = _scale(np.arange(256))


def multiply_add(a_codes: U8, b_codes: U8, c: F32, a_scales: U8, b_scales: U8) -> F32:
    """D = (A × scales of A)(B × scales of B) + C on matrices; shapes and dtypes as in `registers` -> [tiles, 16, 8].

    Each of the five terms of an output (C and four blocks of 16 along K) is an exact significand and an exponent. All
    are aligned to the largest exponent, truncated towards zero at `FRACTION_BITS`, and added exactly; the sum is
    truncated towards zero to float32. A sum of zero is +0, whatever the signs of the terms.

    A NaN in C or in any of the eight scales of an output gives `NAN_BITS`. Otherwise C = ±infinity is returned as it
    is: MMA-Sim raises there, and this is the only IEEE answer, since every other term is finite.
    """
    bits = np.where(np.isfinite(c), c, np.float32(0)).view(np.uint32).astype(np.int64)
    field, fraction = bits >> 23 & 0xFF, bits & 0x7FFFFF
    magnitude = np.where(field == 0, fraction, fraction | 0x800000)
    # A term is an integer with FRACTION_BITS fractional bits at its own exponent; C comes with 23 of them.
    terms = [np.where(bits >> 31, -magnitude, magnitude) << (FRACTION_BITS - 23)]
    exponents = [np.maximum(field, 1) - 127]  # A subnormal and a zero share the least exponent, -126.
    halves_a, halves_b = HALVES[a_codes], HALVES[b_codes]
    for block in range(4):
        k = slice(16 * block, 16 * block + 16)
        scale_a, scale_b = a_scales[:, :, block, None], b_scales[:, None, block, :]
        # Two factors in halves and two in eighths: 8 fractional bits. At most 576 × 4 × 15 × 15 before the shift.
        products = (halves_a[:, :, k] @ halves_b[:, k, :]) * (EIGHTHS[scale_a] * EIGHTHS[scale_b])
        terms.append(products << (FRACTION_BITS - 8))
        exponents.append(EXPONENTS[scale_a] + EXPONENTS[scale_b])
    largest = np.maximum.reduce(exponents)
    total = np.zeros(c.shape, np.int64)
    for term, exponent in zip(terms, exponents, strict=True):
        kept = np.abs(term) >> np.minimum(largest - exponent, 63)  # A shift by 64 or more isn't defined.
        total += np.where(term < 0, -kept, kept)
    d = _truncate(total, largest - FRACTION_BITS)
    d = np.where(np.isinf(c), c, d)
    nan = np.any(IS_NAN[a_scales], axis=2, keepdims=True) | np.any(IS_NAN[b_scales], axis=1, keepdims=True)
    return np.where(nan | np.isnan(c), np.uint32(NAN_BITS), d.view(np.uint32)).view(np.float32)


def _truncate(total: I64, exponent: I64) -> F32:
    """float32 nearest to total × 2^exponent that isn't further from zero; |total| is below 2^53.

    The lowest bit that is kept is that of 24 significant bits, or 2^-149 where this is higher (subnormals).
    """
    magnitude = np.abs(total)
    length = np.frexp(magnitude.astype(np.float64))[1].astype(np.int64)  # Exact below 2^53.
    dropped = np.maximum(np.maximum(length - 24, -149 - exponent), 0)
    kept = magnitude >> dropped << dropped
    return np.asarray(np.ldexp(np.where(total < 0, -kept, kept).astype(np.float64), exponent), np.float32)


def mma_m16n8k64(a: U32, b: U32, c: F32, sfa: U32, sfb: U32, thread_id_a: int, thread_id_b: int) -> F32:
    """Run the instruction on warps: registers in, registers out, as `Registers` and PTX lay them out.

    a: uint32 [tiles, 32, 4]; b: uint32 [tiles, 32, 2]; c: float32 [tiles, 32, 4]; sfa, sfb: uint32 [tiles, 32];
    thread_id_a: int in 0..1; thread_id_b: int in 0..3 (ValueError otherwise); byte-id-a and byte-id-b are 0, as PTX
    demands of scale_vec::4X. Returns D, float32 [tiles, 32, 4].
    """
    shapes = (32, 4), (32, 2), (32, 4), (32,), (32,)
    for name, got, lanes in zip(Registers._fields, (a, b, c, sfa, sfb), shapes, strict=True):
        dtype, shape = np.dtype(np.float32 if name == "c" else np.uint32), (len(a), *lanes)
        if got.dtype != dtype or got.shape != shape:
            raise ValueError(f"{name}: got {got.dtype} {got.shape}, wanted {dtype} {shape}")
    d = np.empty(c.shape, np.float32)
    for first in range(0, max(len(c), 1), CHUNK):
        part = slice(first, first + CHUNK)
        inputs = matrices(a[part], b[part], c[part], sfa[part], sfb[part], thread_id_a, thread_id_b)
        d[part] = multiply_add(*inputs).reshape(-1, 128)[:, POSITIONS_C]
    return d
