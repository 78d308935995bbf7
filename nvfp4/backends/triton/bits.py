"""The formats' bits inside Triton kernels, by integers: Triton refuses float8e4nv below compute capability 8.9.

Mirrors `nvfp4/formats.py`; float32 in and out, divisions as IEEE rounds them.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "IS_INTERPRETED",
    "decode_e2m1",
    "decode_e4m3",
    "encode_block",
    "encode_e2m1",
    "encode_e4m3",
    "finite_magnitude",
    "larger",
    "largest_of_blocks",
    "round_block",
    "rounded_to",
    "scale_at",
]

IS_INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Whether Triton's interpreter runs the kernels, whose tl.fma rounds twice."""

_SUM_OF_MAGIC = tl.constexpr(-(5 << 24))


@triton.jit
def rounded_to(x, RAW: tl.constexpr):
    """float32 rounded to a dtype and back; bfloat16 by integers in Triton's interpreter, which cuts it off."""
    if IS_INTERPRETED and RAW == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) & -65536
        return tl.where(x != x, x, nearest.to(tl.float32, bitcast=True))
    else:
        return x.to(RAW).to(tl.float32)


@triton.jit
def encode_e4m3(x):
    """float32 >= 0, or NaN, to e4m3fn: nearest, ties to even, saturating at 448; NaN gives 0x7F."""
    bits = tl.minimum(x, 448.0).to(tl.int32, bitcast=True)
    # Three bits of mantissa, with the carry going where it belongs; e4m3's exponent of zero is float32's 120.
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    # Below 2^-6 the codes count units of 2^-9, which adding 2^23 rounds to.
    subnormal = (x * 512.0 + 8388608.0).to(tl.int32, bitcast=True) & 0xF
    code = tl.where(x < 0.015625, subnormal, normal)
    return tl.where(x != x, 0x7F, code)


@triton.jit
def decode_e4m3(code):
    """An e4m3fn byte (int32) to float32; its sign bit counts."""
    magnitude = ((code & 0x7F) << 20).to(tl.float32, bitcast=True) * 1.329227995784916e36  # 2^120
    value = tl.where((code & 0x80) != 0, -magnitude, magnitude)
    return tl.where((code & 0x7F) == 0x7F, float("nan"), value)


@triton.jit
def _magic(clamped):
    """Bits of what is to be added to a magnitude up to 6, so that the sum has exactly e2m1's grid.

    That is 2^22 times the power of two below it (at least 1): steps of a half up to 2, of 1 up to 4, of 2 above.
    """
    return (tl.maximum(clamped, 1.0).to(tl.int32, bitcast=True) & 0x7F800000) + (22 << 23)


@triton.jit
def _code_of_magnitude(a):
    """float32 >= 0 (no NaN) to an e2m1 code: nearest, ties to even, saturating at 6."""
    clamped = tl.minimum(a, 6.0)
    magic = _magic(clamped)
    steps = (clamped + magic.to(tl.float32, bitcast=True)).to(tl.int32, bitcast=True) - magic
    # Every binade above the first has two codes more below it.
    return steps + ((magic - (22 << 23)) >> 22) - 254


@triton.jit
def encode_e2m1(q):
    """float32 to e2m1 (int32): nearest, ties to even, saturating at 6; NaN gives 7."""
    negative = (q.to(tl.int32, bitcast=True) >> 28) & 8
    return tl.where(q != q, 7, _code_of_magnitude(tl.abs(q)) | negative)


@triton.jit
def decode_e2m1(code):
    """An e2m1 code (int32, four bits) to float32."""
    magnitude = (code & 7) << 22
    # Two bits of exponent and one of mantissa at float32's own places are the value times 2^-126, subnormal included.
    value = magnitude.to(tl.float32, bitcast=True) * 8.507059173023462e37
    return tl.where((code & 8) != 0, -value, value)


@triton.jit
def finite_magnitude(x):
    """|x|, and 0 for NaN and infinities."""
    a = tl.abs(x)
    return tl.where(a < float("inf"), a, 0.0)


@triton.jit
def larger(a, b):
    """The larger one, or NaN."""
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def largest_of_blocks(x):
    """Largest magnitudes [B] of blocks [B, 16]; NaN where there is one."""
    if IS_INTERPRETED:
        # The interpreter would call `larger` number by number. As integers, NaN is above every number, too.
        return tl.max(tl.abs(x).to(tl.int32, bitcast=True), axis=1).to(tl.float32, bitcast=True)
    else:
        return tl.reduce(tl.abs(x), 1, larger)


@triton.jit
def _scale(bits, global_scale, RAW: tl.constexpr, EXACT_CT: tl.constexpr):
    """Scale bytes (int32) and steps s / G of blocks, whose largest magnitudes' bits are given."""
    sixth = tl.div_rn(bits.to(tl.float32, bitcast=True), 6.0)
    if EXACT_CT:
        sixth = rounded_to(sixth, RAW)
    byte = encode_e4m3(global_scale * sixth)
    byte = tl.where(byte == 0, 0x20, byte)
    # One that is not positive and finite, which nobody can check without waiting for the GPU, gives NaN.
    sound = (global_scale > 0) & (global_scale < float("inf"))
    byte = tl.where(sound, byte, 0x7F)
    return byte, tl.div_rn(decode_e4m3(byte), global_scale)


@triton.jit
def _corrected(a, negated, reciprocal):
    """a / b, correctly rounded, from -b and the correctly rounded 1 / b (Markstein; the rest is exact).

    Where neither the quotient nor the rest over- or underflows. Negating every quotient instead would take an addition.
    """
    near = a * reciprocal
    return tl.fma(tl.fma(near, negated, a), reciprocal, near)


@triton.jit
def _usual_scale(bits, global_scale):
    """Scale bytes, scales and steps as `_scale` finds them where all blocks are usual, and whether they are.

    Usual is where numbers and quotients are normal or too small to count, and no scale is so coarse or so large that a
    quotient leaves (-6.5, 6.5). The interpreter's fma rounds twice, so by it nothing is usual.
    """
    if IS_INTERPRETED:
        byte = tl.zeros_like(bits)
        return byte, byte.to(tl.float32), byte.to(tl.float32), False
    else:
        wanted = global_scale * _corrected(bits.to(tl.float32, bitcast=True), -6.0, 0.1666666716337204)
        # A normal scale that does not saturate; or below 2^-10, where it would be 0. Neither can be of NaN, of an
        # infinity, or of more than 2^72 with a global scale from 2^-60 to 2^60.
        is_normal = wanted >= 0.015625
        usual = (is_normal & (wanted <= 464.0)) | (wanted <= 0.0009765625)
        usual &= (global_scale >= 8.673617379884035e-19) & (global_scale <= 1.152921504606847e18)
        wide = wanted.to(tl.int32, bitcast=True)
        wide = tl.where(is_normal, wide + 0x7FFFF + ((wide >> 20) & 1), 0x3E000000)  # 0.125
        value = (wide & -0x100000).to(tl.float32, bitcast=True)
        step = _corrected(value, -global_scale, tl.div_rn(1.0, global_scale))
        return (wide >> 20) - (120 << 3), value, step, tl.min(usual.to(tl.int32), axis=0) == 1


@triton.jit
def _usual_quotient(x, step):
    """x / step of blocks [B, 16] and steps [B]."""
    negated = tl.broadcast_to(-step[:, None], x.shape)
    return _corrected(x, negated, tl.broadcast_to(tl.div_rn(1.0, step)[:, None], x.shape))


@triton.jit
def _packed(codes):
    """Codes [B, 16], of four bits each, as they lie in memory, eight a word: int32 [B, 2]."""
    places = tl.arange(0, 8)[None, None, :] * 4
    return tl.sum(tl.reshape(codes, (codes.shape[0], 2, 8)) << places, axis=2)


@triton.jit
def _packed_usual(x, quotient):
    """The same of quotients' magnitudes below 6.5, and x's signs.

    e2m1 counts halves up to 2, ones up to 4 and twos up to 6, and adding 2^23 rounds to whole numbers. Of the three
    sums the least is the code, and as integers they are ordered as the numbers are.
    """
    halves = tl.fma(quotient, 2.0, 8388608.0).to(tl.int32, bitcast=True)
    ones = (quotient + 8388610.0).to(tl.int32, bitcast=True)
    twos = tl.fma(quotient, 0.5, 8388612.0).to(tl.int32, bitcast=True)
    codes = tl.reshape(tl.minimum(tl.minimum(halves, ones), twos), (x.shape[0], 2, 8))
    signs = tl.reshape(x.to(tl.uint32, bitcast=True), (x.shape[0], 2, 8))
    places = tl.arange(0, 8)[None, None, :] * 4
    signs = tl.xor_sum((signs >> (28 - places)) & (8 << places).to(tl.uint32), axis=2)
    # 2^23 has the bits 0x4B000000, which eight of them add up to 0xFB000000 of.
    return (tl.sum(codes << places, axis=2) - _SUM_OF_MAGIC) | signs.to(tl.int32, bitcast=True)


@triton.jit
def encode_block(x, global_scale, RAW: tl.constexpr, EXACT_CT: tl.constexpr):
    """Codes, eight a word (int32 [B, 2]), and scale bytes (int32) of blocks [B, 16] by a global scale, or one a block.

    RAW is x's own dtype, to which the scheme compressed-tensors rounds amax / 6.
    """
    bits = largest_of_blocks(x).to(tl.int32, bitcast=True)
    byte, _, step, is_usual = _usual_scale(bits, global_scale)
    if not EXACT_CT and is_usual:
        words = _packed_usual(x, _usual_quotient(tl.abs(x), step))
    else:
        byte, step = _scale(bits, global_scale, RAW, EXACT_CT)
        quotient = tl.div_rn(x, tl.broadcast_to(step[:, None], x.shape))
        codes = encode_e2m1(quotient)
        if EXACT_CT:
            codes = tl.where(quotient == 0, 0, codes)
        words = _packed(codes)
    return words, byte


@triton.jit
def round_block(x, global_scale):
    """q * s of blocks [B, 16], without their codes: float32 [B, 16], exact in bfloat16; zeros are positive."""
    bits = largest_of_blocks(x).to(tl.int32, bitcast=True)
    _, value, step, is_usual = _usual_scale(bits, global_scale)
    if is_usual:
        quotient = _usual_quotient(x, step)
    else:
        byte, step = _scale(bits, global_scale, tl.float32, False)
        value = decode_e4m3(byte)
        quotient = tl.div_rn(x, tl.broadcast_to(step[:, None], x.shape))
        quotient = tl.where(quotient != quotient, quotient, tl.minimum(tl.maximum(quotient, -6.0), 6.0))
    # What is added rounds to e2m1's grid: to halves below 2, ones below 4 and twos above.
    binade = (tl.maximum(tl.abs(quotient), 1.0).to(tl.int32, bitcast=True) & 0x7F800000).to(tl.float32, bitcast=True)
    if IS_INTERPRETED:
        rounded = (quotient + binade * 6291456.0) - binade * 6291456.0
    else:
        rounded = tl.fma(binade, -6291456.0, tl.fma(binade, 6291456.0, quotient))  # 1.5 * 2^22
    return rounded * tl.broadcast_to(value[:, None], x.shape)


@triton.jit
def scale_at(row, group, groups, SWIZZLED: tl.constexpr):
    """Where a block's scale lies: plain, or in the 128x4 order of `nvfp4/layout.py`."""
    if SWIZZLED:
        atoms = (groups + 3) // 4
        atom = (row // 128) * atoms + group // 4
        return atom * 512 + (row % 32) * 16 + (row % 128) // 32 * 4 + group % 4
    else:
        return row * groups + group
