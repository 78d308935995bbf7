"""The formats' bits inside Triton kernels, by integers: Triton refuses float8e4nv below compute capability 8.9.

Mirrors `nvfp4/formats.py`; float32 in and out, divisions as IEEE rounds them.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = [
    "decode_e2m1",
    "decode_e4m3",
    "encode_block",
    "encode_e2m1",
    "encode_e4m3",
    "finite_magnitude",
    "rounded_to",
    "scale_at",
]

_IS_INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))
"""Whether Triton's interpreter runs the kernels, whose tl.fma rounds twice."""


@triton.jit
def rounded_to(x, RAW: tl.constexpr):
    """float32 rounded to a dtype and back; bfloat16 by integers, since Triton's interpreter cuts it off."""
    if RAW == tl.bfloat16:
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
def _code_of_magnitude(a):
    """float32 >= 0 (no NaN) to an e2m1 code: nearest, ties to even, saturating at 6."""
    clamped = tl.minimum(a, 6.0)
    # Adding 2^22 times the power of two below it (at least 1) leaves exactly e2m1's grid in the sum: steps of a half up
    # to 2, of 1 up to 4, of 2 above. Every binade above the first has two codes more below it.
    power = tl.maximum(clamped, 1.0).to(tl.int32, bitcast=True) & 0x7F800000
    magic = power + (22 << 23)
    steps = (clamped + magic.to(tl.float32, bitcast=True)).to(tl.int32, bitcast=True) - magic
    return steps + (power >> 22) - 254


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
def encode_block(x, global_scale, RAW: tl.constexpr, EXACT_CT: tl.constexpr):
    """Codes (int32) and scale bytes (int32) of blocks [B, 16] by global scales that broadcast to [B].

    RAW is x's own dtype, to which the scheme compressed-tensors rounds amax / 6.
    """
    # As integers, NaN is above infinity and both above every number.
    bits = tl.max(tl.abs(x).to(tl.int32, bitcast=True), axis=1)
    sixth = tl.div_rn(bits.to(tl.float32, bitcast=True), 6.0)
    if EXACT_CT:
        sixth = rounded_to(sixth, RAW)
    byte = encode_e4m3(global_scale * sixth)
    byte = tl.where(byte == 0, 0x20, byte)
    # One that is not positive and finite, which nobody can check without waiting for the GPU, gives NaN.
    sound = (global_scale > 0) & (global_scale < float("inf"))
    byte = tl.where(sound, byte, 0x7F)
    step = tl.div_rn(decode_e4m3(byte), global_scale)
    steps = tl.broadcast_to(step[:, None], x.shape)
    # Numbers only, and quotients that neither overflow nor, unless below the least code, underflow.
    usual = (bits <= 0x65800000) & (global_scale >= 8.673617379884035e-19) & (global_scale <= 1.152921504606847e18)
    if EXACT_CT:
        quotient = tl.div_rn(x, steps)
        codes = tl.where(quotient == 0, 0, encode_e2m1(quotient))
    elif not _IS_INTERPRETED and tl.min(usual.to(tl.int32), axis=0) == 1:
        # Markstein's division: one correction, whose rest is exact, from a correctly rounded reciprocal.
        reciprocal = tl.div_rn(1.0, step)
        reciprocals = tl.broadcast_to(reciprocal[:, None], x.shape)
        magnitude = tl.abs(x)
        near = magnitude * reciprocals
        quotient = tl.fma(tl.fma(-near, steps, magnitude), reciprocals, near)
        codes = _code_of_magnitude(quotient) | ((x.to(tl.int32, bitcast=True) >> 28) & 8)
    else:
        codes = encode_e2m1(tl.div_rn(x, steps))
    return codes, byte


@triton.jit
def scale_at(row, group, groups, SWIZZLED: tl.constexpr):
    """Where a block's scale lies: plain, or in the 128x4 order of `nvfp4/layout.py`."""
    if SWIZZLED:
        atoms = (groups + 3) // 4
        atom = (row // 128) * atoms + group // 4
        return atom * 512 + (row % 32) * 16 + (row % 128) // 32 * 4 + group % 4
    else:
        return row * groups + group
