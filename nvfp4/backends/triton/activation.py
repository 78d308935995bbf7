"""GELU by tanh, GELU by erf and SiLU, times what they gate.

Twice as exact as 16 bits need, in float32; in float64 as exact as float32 needs.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from nvfp4.backends.triton.bits import IS_INTERPRETED

__all__ = ["activate"]

# log2(erfc(z) e^(z²) / t) / 4 with t = 1 / (1 + z / 2), highest power first. The form is that of Numerical Recipes'
# erfcc. Of t, to 2.4e-6 of erfc, as in `csrc/cuda/activation.cuh`; and of 2 t - 1, by Chebyshev's nodes, to 1.4e-9.
_NARROW = tl.constexpr((
    -0.057364918, 0.232608642, -0.303769861, 0.0824824115, 0.00374745933, 0.138182679, 0.360550603, -0.456436169,
))  # fmt: skip
_WIDE = tl.constexpr((
    7.81015911251242e-06, 4.75149325508802e-06, -5.686488116227673e-05, -1.136755180896428e-05, 0.00023867359472667262,
    -6.616840893567518e-05, -0.0008445370703450944, 0.0006387603178327772, 0.003182665623758257, -0.003561515877552671,
    -0.0169139998870409, 0.01707553105202476, 0.24260476071468445, -0.24229849882412124,
))  # fmt: skip
_INVERSE_FACTORIALS = tl.constexpr(tuple(1 / math.factorial(i) for i in range(10, -1, -1)))


@triton.jit
def _polynomial(t, COEFFICIENTS: tl.constexpr, COUNT: tl.constexpr):
    p = tl.full(t.shape, COEFFICIENTS[0], t.dtype)
    for i in tl.static_range(1, COUNT):
        # By tl.full, because tl.fma rounds a plain number to float32.
        p = tl.fma(p, t, tl.full(t.shape, COEFFICIENTS[i], t.dtype))
    return p


@triton.jit
def _exp2(x):
    """2^x of x up to 0, to some 22 bits in float32 and 35 in float64; Triton's own flushes small numbers to zero."""
    if x.dtype == tl.float64:
        # Adding 1.5 * 2^52 leaves the nearest integer in the low bits; of the rest, Taylor's series.
        shifted = x + 6755399441055744.0
        power = ((shifted.to(tl.int64, bitcast=True) + 1023) << 52).to(tl.float64, bitcast=True)
        rest = _polynomial(0.69314718055994531 * (x - (shifted - 6755399441055744.0)), _INVERSE_FACTORIALS, 11)
        return tl.where(x < -1000.0, 0.0, rest * power)
    elif IS_INTERPRETED:
        return tl.exp2(x)
    else:
        return tl.inline_asm_elementwise("ex2.approx.f32 $0, $1;", "=f,f", [x], tl.float32, is_pure=True, pack=1)


@triton.jit
def _reciprocal(y):
    """To almost all bits, of y >= 1: a division as IEEE rounds it takes several times as long."""
    if IS_INTERPRETED or y.dtype == tl.float64:
        root = tl.rsqrt(y)
        return root * root
    else:
        return tl.inline_asm_elementwise("rcp.approx.f32 $0, $1;", "=f,f", [y], tl.float32, is_pure=True, pack=1)


@triton.jit
def activate(gate, up, ACTIVATION: tl.constexpr):
    """act(gate) * up, both float32 or both float64.

    As (gate f s) (up f): for a negative gate f² is what act(gate) decays by, shared between both factors so that
    neither underflows before their product does; else f is 1.
    """
    if ACTIVATION == "gelu":
        # erfc(z) = t 2^(4 (p(t) - z² log2(e) / 4)) at z = |gate| / sqrt(2).
        t = _reciprocal(0.35355339059327379 * tl.abs(gate) + 1.0)
        p = _polynomial(2.0 * t - 1.0, _WIDE, 14) if gate.dtype == tl.float64 else _polynomial(t, _NARROW, 8)
        root = _exp2(p - 0.18033688011112042 * gate * gate)
        half, half_decay = 0.5 * t, root * root
        rest = tl.where(gate < 0, half, 1.0 - half * half_decay * half_decay)
    else:
        # x times the logistic function of t, which is x for SiLU; (1 + tanh(u)) / 2 is that of 2u.
        t = gate * (0.071354816272600247 * gate * gate + 1.5957691216057308) if ACTIVATION == "gelu_tanh" else gate
        root = _exp2(-0.36067376022224085 * tl.abs(t))
        half_decay = root * root
        rest = _reciprocal(half_decay * half_decay + 1.0)
    shared = tl.where(gate < 0, half_decay, 1.0)
    return gate * shared * rest * (up * shared)
