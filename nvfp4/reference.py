"""The definition of NVFP4 in plain torch: slow, readable, on any device. Every kernel must equal it.

With G the tensor's global (encode) scale, s the e4m3 scale of a block of 16 and q the e2m1 value, x̂ = q * (s / G).
Formulas: compressed-tensors 0.20 (`calculate_qparams`, `generate_gparam`, `cast_to_fp4`), evaluated in float32.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, get_args

import torch
from torch import Tensor

from nvfp4 import formats, gated, layout
from nvfp4.formats import E2M1_MAX, E4M3_MAX, GROUP_SIZE, SCALE_RANGE, ZERO_BLOCK_SCALE
from nvfp4.tensor import NVFP4Tensor

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Granularity",
    "Scheme",
    "alpha",
    "dequantize",
    "gated_activation",
    "gated_halves",
    "global_scale_of",
    "linear",
    "matmul",
    "quantize",
    "rms_norm",
    "unscaled",
]

Granularity = Literal["tensor", "row"]
Scheme = Literal["nvfp4", "compressed-tensors"]
Activation = Literal["gelu_tanh", "gelu", "silu"]

ACTIVATIONS: tuple[str, ...] = get_args(Activation)
"""Of a gated MLP: GELU by its tanh approximation (Gemma), GELU by erf, SiLU (Llama)."""


def _blocks(x: Tensor) -> Tensor:
    return x.reshape(*x.shape[:-1], x.shape[-1] // GROUP_SIZE, GROUP_SIZE)


def global_scale_of(x: Tensor, granularity: Granularity = "tensor", scheme: Scheme = "nvfp4") -> Tensor:
    """G = 448 * 6 / amax, so that the largest block scale becomes 448.

    Args:
        x: [..., K], floating point.
        granularity: one scale for the tensor, or one a row.
        scheme: ``nvfp4`` divides in float32; ``compressed-tensors`` multiplies the reciprocal of amax by 2688, each
            rounded to x's own dtype, and not per row.

    Returns:
        float32 [1] or [..., 1]. It is 1 where amax is 0 or the quotient overflows. amax is taken over finite values
        only.
    """
    magnitude = torch.where(x.isfinite(), x, torch.zeros_like(x)).abs()
    if granularity == "row":
        amax = magnitude.amax(dim=-1, keepdim=True) if x.shape[-1] else magnitude.new_zeros((*x.shape[:-1], 1))
    else:
        amax = magnitude.max().reshape(1) if x.numel() else magnitude.new_zeros(1)
    if scheme == "compressed-tensors":
        # This is what `2688 / amax` does in torch, where a scalar over a tensor is no division, and so what is on disk.
        scale = amax.reciprocal() * SCALE_RANGE
    else:
        scale = torch.full_like(amax, SCALE_RANGE, dtype=torch.float32) / amax.float()
    return torch.where(scale.isfinite(), scale, torch.ones_like(scale)).float()


def quantize(
    x: Tensor,
    global_scale: Tensor | None = None,
    granularity: Granularity = "tensor",
    scheme: Scheme = "nvfp4",
) -> NVFP4Tensor:
    """Quantise [..., K] to NVFP4, K a multiple of 16.

    Per block: s = e4m3(min(G * (amax / 6), 448)), a zero s becomes 0.125; then q = e2m1(clamp(x / (s / G), ±6)). A
    NaN makes its block's scale NaN; ±Inf saturates. Under ``compressed-tensors`` amax / 6 is rounded to x's dtype and
    -0.0 gets code 0, so that bf16 weights come out byte for byte as llm-compressor writes them.

    Args:
        x: float32, float16 or bfloat16.
        global_scale: float32 [1] or [..., 1]; None computes it from x at the given granularity.
        granularity: ``tensor`` or ``row``, of a computed global scale.
        scheme: ``nvfp4`` or ``compressed-tensors``.
    """
    formats.check_group_multiple(x.shape[-1], "quantize")
    exact_ct = scheme == "compressed-tensors"
    if global_scale is None:
        global_scale = global_scale_of(x, granularity, scheme)

    blocks = _blocks(x)
    amax = blocks.abs().amax(dim=-1)
    amax = amax if exact_ct else amax.float()
    # By a tensor: on a GPU torch divides by a number by multiplying with its reciprocal.
    block_scale = global_scale * (amax / torch.full_like(amax, E2M1_MAX)).float()
    scale = formats.encode_e4m3(block_scale.clamp(max=E4M3_MAX))
    scale = torch.where(scale == 0, formats.encode_e4m3(torch.tensor(ZERO_BLOCK_SCALE, device=x.device)), scale)

    step = formats.decode_e4m3(scale) / global_scale
    quotient = blocks.float() / step.unsqueeze(-1)
    codes = formats.encode_e2m1(quotient.clamp(-E2M1_MAX, E2M1_MAX))
    if exact_ct:
        codes = torch.where(quotient == 0, torch.zeros_like(codes), codes)
    return NVFP4Tensor(
        layout.pack(codes.flatten(-2)), scale.view(torch.float8_e4m3fn), global_scale, tuple(x.shape), "plain"
    )


def plain(t: NVFP4Tensor) -> tuple[Tensor, Tensor]:
    """The packed codes [..., K/2] and scale bytes (uint8 [..., K/16]) of a tensor in any layout."""
    if t.layout in layout.TILED_LAYOUTS:
        n, k = t.shape
        return layout.from_tiles(t.packed, n, k, t.layout)
    if t.layout == "128x4":
        groups = t.shape[-1] // GROUP_SIZE
        scale = layout.unswizzle_scales(t.scale, t.rows, groups).view(*t.shape[:-1], groups)
        return t.packed, scale.view(torch.uint8)
    return t.packed, t.scale.view(torch.uint8)


def unscaled(t: NVFP4Tensor) -> Tensor:
    """q * s, without the global scale: at most six significant bits, so exact in float32; shape `t.shape`."""
    packed, scale = plain(t)
    values = _blocks(formats.decode_e2m1(layout.unpack(packed)))
    return (values * formats.decode_e4m3(scale).unsqueeze(-1)).flatten(-2)


def dequantize(t: NVFP4Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """x̂ = q * (s / G) in float32, rounded once to `dtype`; shape `t.shape`."""
    packed, scale = plain(t)
    values = _blocks(formats.decode_e2m1(layout.unpack(packed)))
    step = formats.decode_e4m3(scale) / t.global_scale
    return (values * step.unsqueeze(-1)).flatten(-2).to(dtype)


def alpha(*global_scales: Tensor) -> Tensor:
    """1 / (G_a * G_b), correctly rounded to float32: the product of two float32 is exact in float64."""
    product = torch.ones(1, dtype=torch.float64, device=global_scales[0].device)
    for scale in global_scales:
        product = product * scale.double()
    return (1.0 / product).float()


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    """No autocast inside: it would round the terms."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def _finish(acc: Tensor, scale: Tensor, bias: Tensor | None, out_dtype: torch.dtype) -> Tensor:
    y = acc.float() * scale
    if bias is not None:
        y = y + bias.float()
    return y.to(out_dtype)


def matmul(
    a: NVFP4Tensor, b: NVFP4Tensor, bias: Tensor | None = None, out_dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """y = alpha * sum_blocks (s_a * s_b) sum_16 q_a * q_b + bias: one float32 running sum over the blocks, ascending.

    A block's term has at most 20 significant bits (12 of the doubled codes' dot product, 4 of each scale), so it is
    exact in float32 however its 16 products are added; the running sum rounds, once a block, and its order defines the
    bits. Hardware that adds in another order agrees where every partial sum is representable.

    Args:
        a: [..., K] activations.
        b: [N, K] weight.
        bias: [N], any floating dtype, or None.
        out_dtype: dtype of the result.

    Returns:
        [..., N].
    """
    x, w = unscaled(a), unscaled(b)
    acc = torch.zeros((*x.shape[:-1], w.shape[0]), dtype=torch.float32, device=x.device)
    with _full_precision(x.device):
        for k in range(0, x.shape[-1], GROUP_SIZE):
            acc += x[..., k : k + GROUP_SIZE] @ w[:, k : k + GROUP_SIZE].T
    return _finish(acc, alpha(a.global_scale, b.global_scale.flatten()), bias, out_dtype)


def linear(x: Tensor, weight: NVFP4Tensor, bias: Tensor | None = None) -> Tensor:
    """W4A16: x [..., K] in its own dtype times the exact weight values, summed in float64; the result has x's dtype."""
    with _full_precision(x.device):
        acc = x.double() @ unscaled(weight).double().T
    return _finish(acc, alpha(weight.global_scale.flatten()), bias, x.dtype)


def gated_activation(gate: Tensor, up: Tensor, activation: Activation) -> Tensor:
    """act(gate) * up, evaluated in float64 and rounded once to gate's dtype.

    Both are rounded before, as if a product had written them; act(gate) is not rounded in between.

    Args:
        gate: [...], floating point.
        up: as gate.
        activation: ``gelu_tanh``, ``gelu`` (by erf) or ``silu``.

    Returns:
        [...] in gate's dtype.
    """
    x = gate.double()
    if activation == "gelu":
        # By erfc, which does not cancel for negative x.
        value = 0.5 * x * torch.special.erfc(-math.sqrt(0.5) * x)
    elif activation == "gelu_tanh":
        # (1 + tanh(u)) / 2 is the logistic function of 2u.
        value = x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    else:
        value = x * torch.sigmoid(x)
    result: Tensor = value * up.double()
    return result.to(gate.dtype)


def gated_halves(x: Tensor, interleaved: bool = False) -> tuple[Tensor, Tensor]:
    """Gate and up, each [..., K], of x [..., 2 * K]: one after the other, or eight columns of each in turn."""
    if not interleaved:
        gate, up = x.chunk(2, dim=-1)
        return gate, up
    return gated.apart(x, -1)


def rms_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-6, unit_offset: bool = False, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """y = s / sqrt(mean(s²) + eps) * weight with s = x + residual, evaluated in float64 and rounded once.

    Gemma's rule: nothing is rounded between the norm and the product with the weight (Llama's own code rounds there).

    Args:
        x: [..., K], floating point.
        weight: [K].
        eps: added to the mean of the squares.
        unit_offset: multiply by 1 + weight, as Gemma stores it.
        residual: as x; s is x + residual rounded to x's dtype, or x where there is none.

    Returns:
        y and s, in x's dtype.
    """
    s = x if residual is None else (x + residual).to(x.dtype)
    wide, factors = s.double(), weight.double()
    if unit_offset:
        factors = 1.0 + factors
    y: Tensor = wide * (wide.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * factors
    return y.to(x.dtype), s
