"""From the words and scales of the layout n64k256 to 16-bit numbers in the order of an MMA's operand.

Four codes lie in a word so that shifts and masks put each where a bfloat16 (times 2^126) or a float16 (times 2^14) has
its bits, two words at a time; one multiplication by the scale makes q * s * 2^-7 of it, exactly: q * s has at most six
significant bits. Triton has no shape-changing bitcast, so these lines are PTX; its interpreter, which knows no PTX,
takes the formats' own arithmetic.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nvfp4.backends.triton.bits import IS_INTERPRETED, decode_e2m1, rounded_to

__all__ = ["scaled_operands"]

_SIGN = 0x80008000
_AND_OR = "0xEA"  # (a & b) | c


def _bfloat16_words() -> str:
    lines = [
        "and.b32 $0, $4, 0x81C081C0;",
        "shl.b32 t, $4, 3; and.b32 $1, t, 0x81C081C0;",
        "shl.b32 t, $4, 6; and.b32 $2, t, 0x81C081C0;",
        f"shl.b32 t, $4, 1; and.b32 t, t, {_SIGN};",
        f"shr.b32 u, $4, 3; lop3.b32 t, u, 0x01800180, t, {_AND_OR};",
        f"shr.b32 u, $4, 7; lop3.b32 $3, u, 0x00400040, t, {_AND_OR};",
        *(f"fma.rn.bf16x2 ${code}, ${code}, $5, zero;" for code in range(4)),
    ]
    # Before compute capability 9.0 there is no mul.bf16x2; adding -0 changes nothing.
    return f"{{ .reg .b32 t, u, zero; mov.b32 zero, {_SIGN}; " + " ".join(lines) + " }"


def _float16_words() -> str:
    shifts = ((3, 0), (6, 3), (9, 6))  # of a code's magnitude, and of its sign
    lines = [
        f"shl.b32 t, $4, {magnitude}; and.b32 t, t, 0x0E000E00; shl.b32 u, $4, {sign}; "
        f"lop3.b32 ${code}, u, {_SIGN}, t, {_AND_OR};"
        for code, (magnitude, sign) in enumerate(shifts)
    ]
    lines += [
        f"shl.b32 t, $4, 1; and.b32 t, t, {_SIGN}; lop3.b32 t, $4, 0x0C000C00, t, {_AND_OR};",
        f"shr.b32 u, $4, 4; lop3.b32 $3, u, 0x02000200, t, {_AND_OR};",
        *(f"mul.f16x2 ${code}, ${code}, $5;" for code in range(4)),
    ]
    return "{ .reg .b32 t, u; " + " ".join(lines) + " }"


def _bfloat16_scales() -> str:
    # 2^7 s with an exponent whose bias is 15 instead of 127: times 2^120 and 2^104 it is 2^119 s. What stands for NaN
    # becomes an infinity, and 0 times it plus it the NaN that it means.
    lines = []
    for register, selector in enumerate(("0x4140", "0x4342")):
        out = f"${register}"
        lines.append(
            f"prmt.b32 {out}, $2, 0, {selector}; shl.b32 {out}, {out}, 4; fma.rn.bf16x2 {out}, {out}, a, zero; "
            f"fma.rn.bf16x2 {out}, {out}, b, zero; fma.rn.bf16x2 {out}, {out}, none, {out};"
        )
    constants = f"mov.b32 zero, {_SIGN}; mov.b32 none, 0; mov.b32 a, 0x7B807B80; mov.b32 b, 0x73807380; "
    return "{ .reg .b32 zero, none, a, b; " + constants + " ".join(lines) + " }"


_BFLOAT16_WORDS = tl.constexpr(_bfloat16_words())
_FLOAT16_WORDS = tl.constexpr(_float16_words())
_BFLOAT16_SCALES = tl.constexpr(_bfloat16_scales())
_FLOAT16_SCALES = tl.constexpr(
    "prmt.b32 $0, $2, 0, 0x4140; shl.b32 $0, $0, 7; prmt.b32 $1, $2, 0, 0x4342; shl.b32 $1, $1, 7;"
)


@triton.jit
def _scales(halves, TO: tl.constexpr):
    """2^7 s as a float16, or 2^119 s as a bfloat16; by the interpreter 2^-7 s as a float32."""
    if IS_INTERPRETED:
        byte = halves.to(tl.int32)
        value = ((byte + (112 << 3)) << 20).to(tl.float32, bitcast=True) * 6.103515625e-05  # 2^-14
        return tl.where(byte == 0, 0.0, tl.where(byte == 0xFF, float("nan"), value))
    elif TO == tl.bfloat16:
        return tl.inline_asm_elementwise(_BFLOAT16_SCALES, "=&r,=&r,r", [halves], tl.bfloat16, is_pure=True, pack=4)
    else:
        return tl.inline_asm_elementwise(_FLOAT16_SCALES, "=&r,=&r,r", [halves], tl.float16, is_pure=True, pack=4)


@triton.jit
def _codes(word, scale, TO: tl.constexpr):
    """Of words [N, C] and their scales the four codes' numbers, each [N, C]."""
    if IS_INTERPRETED:
        word = word.to(tl.int32) & 0xFFFF
        a, b = ((word >> 6) & 7) | ((word >> 12) & 8), ((word >> 3) & 7) | ((word >> 9) & 8)
        c, d = (word & 7) | ((word >> 6) & 8), ((word >> 9) & 6) | ((word >> 13) & 1) | ((word >> 11) & 8)
        return (
            rounded_to(decode_e2m1(a) * scale, TO).to(TO),
            rounded_to(decode_e2m1(b) * scale, TO).to(TO),
            rounded_to(decode_e2m1(c) * scale, TO).to(TO),
            rounded_to(decode_e2m1(d) * scale, TO).to(TO),
        )
    elif TO == tl.bfloat16:
        return tl.inline_asm_elementwise(
            _BFLOAT16_WORDS, "=&r,=&r,=&r,=&r,r,r", [word, scale],
            (tl.bfloat16, tl.bfloat16, tl.bfloat16, tl.bfloat16), is_pure=True, pack=2,
        )  # fmt: skip
    else:
        return tl.inline_asm_elementwise(
            _FLOAT16_WORDS, "=&r,=&r,=&r,=&r,r,r", [word, scale],
            (tl.float16, tl.float16, tl.float16, tl.float16), is_pure=True, pack=2,
        )  # fmt: skip


@triton.jit
def scaled_operands(words, halves, TO: tl.constexpr, PANELS: tl.constexpr, STEPS: tl.constexpr):
    """q * s * 2^-7 of words [STEPS, PANELS, 1024] and scales [PANELS, 128, 2 * STEPS] of a unit or a part of it.

    Returns:
        Four [64 * PANELS, 16 * STEPS], one for each code of a word. A lane has loaded what the operand of m16n8k16 (and
        of a warpgroup's product) wants in its registers, so that nothing moves between lanes.
    """
    # step, panel, warp, row, group, half, upper, pair -> panel, warp, upper, row, step, half, group, pair
    words = tl.permute(tl.reshape(words, (STEPS, PANELS, 4, 8, 4, 2, 2, 2)), (1, 2, 6, 3, 0, 5, 4, 7))
    words = tl.reshape(words, (64 * PANELS, 16 * STEPS))
    # panel, warp, row, group, step, upper -> panel, warp, upper, row, step, group
    scales = tl.permute(tl.reshape(_scales(halves, TO), (PANELS, 4, 8, 4, STEPS, 2)), (0, 1, 5, 2, 4, 3))
    scales = tl.reshape(scales, (PANELS, 4, 2, 8, STEPS, 1, 4, 1))
    scales = tl.broadcast_to(scales, (PANELS, 4, 2, 8, STEPS, 2, 4, 2))
    return _codes(words, tl.reshape(scales, (64 * PANELS, 16 * STEPS)), TO)
