"""The functions a user calls: `NVFP4Tensor` in and out, over the ops."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nvfp4 import ops
from nvfp4.checks import check_choice
from nvfp4.layout import LAYOUTS, TILED_LAYOUTS
from nvfp4.reference import Granularity, Scheme
from nvfp4.tensor import NVFP4Tensor

__all__ = [
    "dequantize",
    "linear",
    "matmul",
    "pack",
    "quantize",
    "swizzle_scales",
    "to_layout",
    "unpack",
    "unswizzle_scales",
]

_ops = torch.ops.nvfp4


def _one(op: Any, *args: object) -> Tensor:
    """The result of an op that returns one tensor; the registry's handles are untyped."""
    result: Tensor = op.default(*args)
    return result


def _plain_tensor(name: str, x: Tensor) -> Tensor:
    if not isinstance(x, Tensor):
        raise TypeError(f"{name}: got {type(x).__name__}, wanted a torch.Tensor")
    return x


def _bytes(scale: Tensor) -> Tensor:
    _plain_tensor("scale", scale)
    return scale.view(torch.uint8) if scale.dtype == torch.float8_e4m3fn else scale


def _as_tensor(name: str, t: NVFP4Tensor) -> NVFP4Tensor:
    if not isinstance(t, NVFP4Tensor):
        raise TypeError(f"{name}: got {type(t).__name__}, wanted an NVFP4Tensor; make one with nvfp4.quantize")
    return t


def quantize(
    x: Tensor,
    global_scale: Tensor | None = None,
    granularity: Granularity = "tensor",
    *,
    scheme: Scheme = "nvfp4",
    layout: str = "plain",
) -> NVFP4Tensor:
    """Quantise x [..., K] to NVFP4, bit for bit as `nvfp4.reference.quantize` defines it.

    Args:
        x: float32, float16 or bfloat16; K a multiple of 16. Rows may be strided.
        global_scale: float32 [1] or [..., 1], the encode scale 2688 / amax; None computes it.
        granularity: of a computed global scale, ``tensor`` or ``row``. Per row, a row's bytes do not depend on its
            neighbours.
        scheme: ``nvfp4``, or ``compressed-tensors`` for the bytes llm-compressor writes for weights.
        layout: of the scales, ``plain`` or ``128x4``.

    Raises:
        TypeError: x is not one of the three dtypes.
        ValueError: K is no multiple of 16, a given global scale is not positive and finite, or an unknown choice.
    """
    _plain_tensor("quantize: x", x)
    packed, scale, out_scale = _ops.quantize.default(x, global_scale, granularity, scheme, layout)
    return NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), out_scale, tuple(x.shape), layout)


def dequantize(t: NVFP4Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The values q * (scale / global_scale) of t, computed in float32 and rounded once to `dtype`; shape `t.shape`."""
    return _as_tensor("dequantize", t).dequantize(dtype)


def to_layout(t: NVFP4Tensor, layout: str) -> NVFP4Tensor:
    """The same tensor in another byte layout of `nvfp4.layout.LAYOUTS`; the way back gives the same bytes.

    Raises:
        ValueError: the layout is unknown; or, for a tiled one, t is not a matrix or a block scale is negative.
    """
    _as_tensor("to_layout", t)
    check_choice("to_layout", layout, LAYOUTS)
    if layout == t.layout:
        return t
    groups = t.shape[-1] // 16
    packed, scale = t.packed, _bytes(t.scale)
    if t.layout in TILED_LAYOUTS:
        packed, scale = _ops.from_tiles.default(packed, *t.shape, t.layout)
    elif t.layout == "128x4":
        scale = _ops.unswizzle_scales.default(scale, t.rows, groups).view(*t.shape[:-1], groups)
    if layout in TILED_LAYOUTS:
        packed, scale = _ops.to_tiles.default(packed, scale, layout), scale.new_empty((0, groups))
    elif layout == "128x4":
        scale = _ops.swizzle_scales.default(scale.reshape(t.rows, groups))
    return NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), t.global_scale, t.shape, layout)


def pack(codes: Tensor) -> Tensor:
    """Two four-bit codes a byte, the even column in the low nibble: uint8 [..., K] to uint8 [..., K/2], K even."""
    return _one(_ops.pack, codes)


def unpack(packed: Tensor) -> Tensor:
    """The inverse of `pack`: uint8 [..., K/2] to uint8 codes [..., K]."""
    return _one(_ops.unpack, packed)


def swizzle_scales(scale: Tensor) -> Tensor:
    """Block scales [rows, K/16] (uint8 or float8_e4m3fn) in the 128x4 order, zero-padded; the same dtype."""
    return _one(_ops.swizzle_scales, _bytes(scale)).view(scale.dtype)


def unswizzle_scales(scale: Tensor, rows: int, groups: int) -> Tensor:
    """The inverse of `swizzle_scales`: the plain [rows, groups] of a padded 128x4 buffer; the same dtype."""
    return _one(_ops.unswizzle_scales, _bytes(scale), rows, groups).view(scale.dtype)


def matmul(
    a: NVFP4Tensor, b: NVFP4Tensor, bias: Tensor | None = None, *, out_dtype: torch.dtype = torch.bfloat16
) -> Tensor:
    """a [..., K] times b [N, K] transposed, plus bias [N]: the exact W4A4 product, accumulated in float32 or wider.

    y = alpha * sum_blocks (s_a * s_b) sum_16 q_a * q_b + bias with alpha = 1 / (G_a * G_b), rounded once to
    `out_dtype`.

    Raises:
        TypeError: an operand is no NVFP4Tensor, or a dtype is wrong.
        ValueError: shapes or devices do not fit.
    """
    a = to_layout(_as_tensor("matmul: a", a), "plain")
    _as_tensor("matmul: b", b)
    if len(b.shape) != 2 or a.shape[-1] != b.shape[-1]:
        raise ValueError(f"matmul: got a of shape {a.shape} and b of shape {b.shape}, wanted [..., K] and [N, K]")
    return _one(
        _ops.matmul, a.packed, _bytes(a.scale), a.global_scale, b.packed, _bytes(b.scale), b.global_scale, bias,
        b.shape[0], b.layout, out_dtype,
    )  # fmt: skip


def linear(
    x: Tensor,
    weight: NVFP4Tensor,
    bias: Tensor | None = None,
    *,
    activations: str | None = "nvfp4",
    input_global_scale: Tensor | None = None,
    granularity: Granularity = "row",
) -> Tensor:
    """x [..., K] times the weight [N, K] transposed, plus bias [N]; the result has x's dtype.

    Args:
        x: float32, float16 or bfloat16. Its gradient is grad_y @ the dequantised weight (straight through the
            rounding).
        weight: prepared with `to_layout` for speed, or plain.
        bias: [N] or None.
        activations: ``nvfp4`` quantises x first (W4A4), None does not (W4A16).
        input_global_scale: float32 [1], a calibrated encode scale of x; None computes one from x.
        granularity: of a computed scale: ``row`` (a row's result does not depend on its neighbours) or ``tensor``.

    Raises:
        TypeError, ValueError: as `matmul`; and an input_global_scale without activations.
    """
    _plain_tensor("linear: x", x)
    _as_tensor("linear: weight", weight)
    if len(weight.shape) != 2 or x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: got x of shape {tuple(x.shape)} and a weight of shape {weight.shape}, wanted [..., K] and [N, K]"
        )
    check_choice("linear: granularity", granularity, ("row", "tensor"))
    check_choice("linear: activations", activations or "None", ("nvfp4", "None"))
    mode: str = granularity if input_global_scale is None else "static"
    if activations is None:
        mode = "none"
    return ops.linear(
        x, weight.packed, _bytes(weight.scale), weight.global_scale, input_global_scale, bias,
        weight.shape[0], weight.layout, mode,
    )  # fmt: skip
