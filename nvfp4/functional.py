"""The functions a user calls: `NVFP4Tensor` in and out, over the ops."""

from __future__ import annotations

from typing import Any, overload

import torch
from torch import Tensor

from nvfp4 import fused_ops, ops  # noqa: F401  (registered where they are imported)
from nvfp4.kinds import check_activations, check_arguments, check_choice, check_kind, kinds_of
from nvfp4.layout import LAYOUTS, TILED_LAYOUTS
from nvfp4.reference import Activation, Granularity, Scheme
from nvfp4.tensor import NVFP4Tensor

__all__ = [
    "dequantize",
    "gated_quantize",
    "linear",
    "matmul",
    "pack",
    "quantize",
    "quantize_dequantize",
    "rms_norm_quantize",
    "swizzle_scales",
    "to_layout",
    "unpack",
    "unswizzle_scales",
]

_ops = torch.ops.nvfp4
_KINDS = {name: kinds_of(getattr(_ops, name)) for name in ops.OP_NAMES}


def _call(name: str, *args: object) -> Any:
    """An op's results, once its arguments are of the kinds that it takes; the registry's handles are untyped."""
    check_arguments(name, _KINDS[name], args)
    return getattr(_ops, name).default(*args)


def _check_tensor(what: str, x: object) -> None:
    check_kind(what, x, (Tensor,), "a torch.Tensor")


def _bytes(scale: Tensor, what: str = "scale") -> Tensor:
    _check_tensor(what, scale)
    return scale.view(torch.uint8) if scale.dtype == torch.float8_e4m3fn else scale


def _as_tensor(name: str, t: NVFP4Tensor) -> NVFP4Tensor:
    check_kind(name, t, (NVFP4Tensor,), "an NVFP4Tensor; make one with nvfp4.quantize")
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
        TypeError: x is not one of the three dtypes, or an argument is of another kind than it is documented to be.
        ValueError: K is no multiple of 16, a given global scale is not positive and finite, or an unknown choice.
    """
    packed, scale, out_scale = _call("quantize", x, global_scale, granularity, scheme, layout)
    return NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), out_scale, tuple(x.shape), layout)


def dequantize(t: NVFP4Tensor, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """The values q * (scale / global_scale) of t, computed in float32 and rounded once to `dtype`; shape `t.shape`."""
    return _as_tensor("dequantize", t).dequantize(dtype)


def quantize_dequantize(
    x: Tensor,
    global_scale: Tensor | None = None,
    granularity: Granularity = "tensor",
    *,
    scheme: Scheme = "nvfp4",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """What NVFP4 makes of x: `dequantize(quantize(x, …), dtype)` bit for bit, without its codes in memory.

    Args:
        x: [..., K], as `quantize` takes it, with its other arguments.
        global_scale: as `quantize`.
        granularity: as `quantize`.
        scheme: as `quantize`.
        dtype: of the result; None: x's.

    Raises:
        TypeError, ValueError: as `quantize`; and an x that requires grad.
    """
    _check_tensor("quantize_dequantize: x", x)
    values: Tensor = _call(
        "quantize_dequantize", x, global_scale, granularity, scheme, x.dtype if dtype is None else dtype
    )
    return values


def gated_quantize(
    x: Tensor,
    activation: Activation = "gelu_tanh",
    *,
    interleaved: bool = False,
    global_scale: Tensor | None = None,
    granularity: Granularity = "row",
    layout: str = "plain",
) -> NVFP4Tensor:
    """Quantise act(gate) * up [..., K] of x [..., 2 * K], the middle of a gated MLP, in one call.

    The product is rounded once, to x's dtype: on the CPU and in the reference from its float64 evaluation
    (`nvfp4.reference.gated_activation`), by the CUDA kernel to within one unit in the last place of that. What this
    gives is quantised bit for bit as `quantize` does.

    Args:
        x: float32, float16 or bfloat16: gate and up, one after the other.
        activation: ``gelu_tanh`` (Gemma), ``gelu`` (by erf) or ``silu`` (Llama).
        interleaved: x has eight columns of gate, eight of up, and so on.
        global_scale: float32 [1] or [..., 1]; None computes one a row.
        granularity: ``row``; ``tensor`` only beside a global scale, which it says nothing about.
        layout: of the scales, ``plain`` or ``128x4``.

    Raises:
        TypeError, ValueError: as `quantize`; and an x that requires grad.
    """
    packed, scale, out_scale = _call("gated_quantize", x, activation, interleaved, global_scale, granularity, layout)
    shape = (*x.shape[:-1], x.shape[-1] // 2)
    return NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), out_scale, shape, layout)


@overload
def rms_norm_quantize(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    *,
    unit_offset: bool = False,
    residual: None = None,
    global_scale: Tensor | None = None,
    granularity: Granularity = "row",
    layout: str = "plain",
) -> NVFP4Tensor: ...
@overload
def rms_norm_quantize(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    *,
    unit_offset: bool = False,
    residual: Tensor,
    global_scale: Tensor | None = None,
    granularity: Granularity = "row",
    layout: str = "plain",
) -> tuple[NVFP4Tensor, Tensor]: ...
def rms_norm_quantize(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    *,
    unit_offset: bool = False,
    residual: Tensor | None = None,
    global_scale: Tensor | None = None,
    granularity: Granularity = "row",
    layout: str = "plain",
) -> NVFP4Tensor | tuple[NVFP4Tensor, Tensor]:
    """Quantise the RMS norm of x, or of x + residual, in one call.

    y = s / sqrt(mean(s²) + eps) * weight with s = x + residual rounded to x's dtype. It is rounded once, after the
    product with the weight (Gemma's rule; Llama's own code rounds before it too). The CPU and the reference evaluate it
    in float64, as `nvfp4.reference.rms_norm` defines it; the CUDA kernel in float32 for 16-bit x and in float64 for
    float32, within one unit in the last place of that wherever s / sqrt(mean(s²) + eps) is a normal float32 number.
    What this gives is quantised bit for bit as `quantize` does. A row's result does not depend on its neighbours.

    A NaN in x makes its whole row NaN. An infinity does not saturate as in `quantize`: its block of 16 becomes NaN and
    the rest of its row zero, as in any RMS norm.

    Args:
        x: [..., K] float32, float16 or bfloat16; K a multiple of 16.
        weight: [K] in x's dtype.
        eps: added to the mean of the squares, from 1e-30 to 1e30. Without it a row of zeros would divide by zero.
        unit_offset: multiply by 1 + weight, as Gemma stores it.
        residual: as x, or None.
        global_scale: float32 [1] or [..., 1]; None computes one a row.
        granularity: ``row``; ``tensor`` only beside a global scale, which it says nothing about.
        layout: of the scales, ``plain`` or ``128x4``.

    Returns:
        The norm in NVFP4; with a residual also s, in memory of its own.

    Raises:
        TypeError, ValueError: as `quantize`; a weight or residual that does not fit; an eps that is not in its range;
            and a tensor that requires grad.
    """
    packed, scale, out_scale, total = _call(
        "rms_norm_quantize", x, weight, eps, unit_offset, residual, global_scale, granularity, layout
    )
    t = NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), out_scale, tuple(x.shape), layout)
    return t if residual is None else (t, total)


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
        packed, scale = _call("from_tiles", packed, *t.shape, t.layout)
    elif t.layout == "128x4":
        scale = _call("unswizzle_scales", scale, t.rows, groups).view(*t.shape[:-1], groups)
    if layout in TILED_LAYOUTS:
        packed, scale = _call("to_tiles", packed, scale, layout), scale.new_empty((0, groups))
    elif layout == "128x4":
        scale = _call("swizzle_scales", scale.reshape(t.rows, groups))
    return NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), t.global_scale, t.shape, layout)


def pack(codes: Tensor) -> Tensor:
    """Two four-bit codes a byte, the even column in the low nibble: uint8 [..., K] to uint8 [..., K/2], K even."""
    packed: Tensor = _call("pack", codes)
    return packed


def unpack(packed: Tensor) -> Tensor:
    """The inverse of `pack`: uint8 [..., K/2] to uint8 codes [..., K]."""
    codes: Tensor = _call("unpack", packed)
    return codes


def swizzle_scales(scale: Tensor) -> Tensor:
    """Block scales [rows, K/16] (uint8 or float8_e4m3fn) in the 128x4 order, zero-padded; the same dtype."""
    swizzled: Tensor = _call("swizzle_scales", _bytes(scale, "swizzle_scales: scale"))
    return swizzled.view(scale.dtype)


def unswizzle_scales(scale: Tensor, rows: int, groups: int) -> Tensor:
    """The inverse of `swizzle_scales`: the plain [rows, groups] of a padded 128x4 buffer; the same dtype."""
    plain: Tensor = _call("unswizzle_scales", _bytes(scale, "unswizzle_scales: scale"), rows, groups)
    return plain.view(scale.dtype)


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
    y: Tensor = _call(
        "matmul", a.packed, _bytes(a.scale), a.global_scale, b.packed, _bytes(b.scale), b.global_scale, bias,
        b.shape[0], b.layout, out_dtype,
    )  # fmt: skip
    return y


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
    _check_tensor("linear: x", x)
    _as_tensor("linear: weight", weight)
    if len(weight.shape) != 2 or x.dim() == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: got x of shape {tuple(x.shape)} and a weight of shape {weight.shape}, wanted [..., K] and [N, K]"
        )
    check_choice("linear: granularity", granularity, ("row", "tensor"))
    check_activations("linear", activations)
    mode: str = granularity if input_global_scale is None else "static"
    if activations is None:
        mode = "none"
    args = (
        x, weight.packed, _bytes(weight.scale), weight.global_scale, input_global_scale, bias,
        weight.shape[0], weight.layout, mode,
    )  # fmt: skip
    check_arguments("linear", _KINDS["linear"], args)
    return ops.linear(*args)
