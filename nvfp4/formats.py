"""The numbers: e2m1 values, e4m3 block scales, the constants, and the one rounding rule.

e2m1 is the four-bit float of the OCP MX specification: sign, two exponent bits, one mantissa bit. A code is
`sign << 3 | magnitude`, the magnitude an index into {0, 0.5, 1, 1.5, 2, 3, 4, 6}. e4m3 is `torch.float8_e4m3fn`: bias
7, largest finite value 448, no infinities, 0x7F and 0xFF are NaN.

Rounding is to nearest, ties to the even code, as PTX `cvt.rn.satfinite.e2m1x2.f32` does it.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "E2M1_MAX",
    "E2M1_VALUES",
    "E4M3_MAX",
    "E4M3_NAN",
    "GROUP_SIZE",
    "SCALE_RANGE",
    "ZERO_BLOCK_SCALE",
    "check_group_multiple",
    "decode_e2m1",
    "decode_e4m3",
    "encode_e2m1",
    "encode_e4m3",
]

GROUP_SIZE = 16
"""Values along K that share one block scale."""

E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitude of every e2m1 code, by index."""

E2M1_MAX = 6.0
E2M1_NAN_CODE = 7
"""e2m1 has no NaN: a NaN becomes +6, as in PTX. Its block's scale is NaN, so nobody is fooled."""

E4M3_MAX = 448.0
E4M3_NAN = 0x7F

SCALE_RANGE = E4M3_MAX * E2M1_MAX
"""2688: a tensor's global scale is `SCALE_RANGE / amax`, so that its largest block scale is 448."""

ZERO_BLOCK_SCALE = 0.125
"""Replaces a block scale that rounds to zero, as compressed-tensors does. Every code of such a block is a zero."""

# A magnitude belongs to the index that counts the midpoints below it. A tie at an even index stays there; a tie at an
# odd one goes up to the even neighbour. So midpoints 0, 2, 4, 6 need "greater than" and midpoints 1, 3, 5 "at least".
_MIDPOINTS = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)


def encode_e2m1(x: Tensor) -> Tensor:
    """Round to e2m1 codes: nearest, ties to the even code, saturating at 6, the sign of zero kept, NaN to code 7.

    Args:
        x: any shape, floating point; rounded as its float32 value.

    Returns:
        uint8 codes 0..15 of the same shape.
    """
    x = x.float()
    magnitude = x.abs()
    code = torch.zeros_like(x, dtype=torch.uint8)
    for index, midpoint in enumerate(_MIDPOINTS):
        code += magnitude > midpoint if index % 2 == 0 else magnitude >= midpoint
    code += torch.signbit(x).to(torch.uint8) << 3
    return torch.where(x.isnan(), torch.full_like(code, E2M1_NAN_CODE), code)


def decode_e2m1(codes: Tensor) -> Tensor:
    """Codes 0..15 (uint8, any shape) to their float32 values; code 8 is -0.0."""
    table = torch.tensor([*E2M1_VALUES, *(-v for v in E2M1_VALUES)], dtype=torch.float32, device=codes.device)
    return table[codes.long()]


def encode_e4m3(x: Tensor) -> Tensor:
    """Round to e4m3 bytes: nearest, ties to even, saturating at ±448, every NaN to 0x7F.

    Args:
        x: any shape, floating point.

    Returns:
        uint8 bytes of the same shape; view them as `torch.float8_e4m3fn` for the values.
    """
    x = x.float()
    code = x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).view(torch.uint8)
    return torch.where(x.isnan(), torch.full_like(code, E4M3_NAN), code)


def decode_e4m3(code: Tensor) -> Tensor:
    """e4m3 bytes (uint8, or float8_e4m3fn itself) to float32, exact; 0x7F and 0xFF are NaN."""
    return code.view(torch.float8_e4m3fn).float()


def check_group_multiple(k: int, what: str) -> None:
    """Refuse a K that is not a multiple of 16, and name the nearest that is.

    Raises:
        ValueError: `k % 16 != 0`.
    """
    if k % GROUP_SIZE:
        lower, upper = k // GROUP_SIZE * GROUP_SIZE, (k // GROUP_SIZE + 1) * GROUP_SIZE
        nearest = upper if k - lower > GROUP_SIZE // 2 or lower == 0 else lower
        pad = "pad with zeros" if nearest == upper else f"to pad with zeros, take {upper}"
        raise ValueError(
            f"{what}: got K = {k}, wanted a multiple of {GROUP_SIZE}; the nearest legal K is {nearest} ({pad})"
        )
