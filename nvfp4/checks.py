"""Argument checks of the ops, shared by the real and the fake kernels: each error says what, got, wanted, what to do.

Only metadata is looked at, never values, so that the same checks run under `torch.compile` and `torch.export`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nvfp4.formats import GROUP_SIZE, check_group_multiple
from nvfp4.gated import GatedWeights
from nvfp4.kinds import check_choice
from nvfp4.layout import LAYOUTS, TILE_BYTES, TILED_LAYOUTS, swizzled_shape, tiles_shape
from nvfp4.reference import ACTIVATIONS as GATED_ACTIVATIONS

__all__ = [
    "ACTIVATIONS",
    "check_dequantize",
    "check_gated_mlp",
    "check_gated_quantize",
    "check_linear",
    "check_matmul",
    "check_pack",
    "check_quantize",
    "check_quantize_dequantize",
    "check_rms_norm_quantize",
    "check_swizzle",
    "check_tiles",
    "check_unpack",
    "check_unswizzle",
    "check_untile",
]

FLOATS = (torch.float32, torch.float16, torch.bfloat16)

ACTIVATIONS = ("row", "tensor", "static", "none")


def _tensor(what: str, x: object) -> None:
    # The dispatcher takes None where a schema says Tensor, and hands it on.
    if not isinstance(x, Tensor):
        raise TypeError(f"{what}: got {type(x).__name__}, wanted a tensor")


def _dtype(what: str, x: Tensor, wanted: Sequence[torch.dtype], hint: str = "") -> None:
    _tensor(what, x)
    if x.dtype not in wanted:
        names = ", ".join(str(d) for d in wanted)
        raise TypeError(f"{what}: got {x.dtype}, wanted {names}{'; ' + hint if hint else ''}")


def _shape(what: str, x: Tensor, wanted: Sequence[int], hint: str = "") -> None:
    if len(x.shape) != len(wanted) or any(g != w for g, w in zip(x.shape, wanted, strict=True)):
        raise ValueError(f"{what}: got shape {tuple(x.shape)}, wanted {tuple(wanted)}{'; ' + hint if hint else ''}")


def _device(what: str, x: Tensor, like: Tensor) -> None:
    if x.device != like.device:
        raise ValueError(
            f"{what}: is on {x.device}, but the first argument on {like.device}; move one with .to(device)"
        )


def _contiguous(what: str, x: Tensor) -> None:
    if not x.is_contiguous():
        raise ValueError(f"{what}: got strides {tuple(x.stride())}, wanted contiguous memory; call .contiguous()")


def _last(what: str, x: Tensor) -> int:
    _tensor(what, x)
    if x.dim() == 0:
        raise ValueError(f"{what}: got a scalar, wanted at least one dimension, [..., K]")
    return x.shape[-1]


def _global_scale(what: str, scale: Tensor, like: Tensor, per_row: Sequence[int] | None) -> None:
    _dtype(what, scale, (torch.float32,))
    _device(what, scale, like)
    if scale.dim() == 1 and scale.shape[0] == 1:
        return
    if per_row is None:
        raise ValueError(f"{what}: got shape {tuple(scale.shape)}, wanted (1,), one encode scale for the tensor")
    _shape(what, scale, (*per_row, 1), "or (1,) for one scale for the tensor")


def _bias(bias: Tensor | None, n: int, like: Tensor) -> None:
    if bias is not None:
        _dtype("bias", bias, FLOATS)
        _shape("bias", bias, (n,))
        _device("bias", bias, like)
        _contiguous("bias", bias)


def check_quantize(
    x: Tensor, global_scale: Tensor | None, granularity: str, scheme: str, layout: str, what: str = "quantize"
) -> None:
    """Arguments of the op quantize."""
    _dtype(f"{what}: x", x, FLOATS, "cast it first")
    check_group_multiple(_last(f"{what}: x", x), f"{what}: x")
    check_choice(f"{what}: granularity", granularity, ("tensor", "row"))
    check_choice(f"{what}: scheme", scheme, ("nvfp4", "compressed-tensors"))
    check_choice(f"{what}: layout", layout, ("plain", "128x4"))
    if scheme == "compressed-tensors" and granularity == "row":
        raise ValueError(f"{what}: the scheme compressed-tensors has one global scale a tensor, got granularity 'row'")
    if global_scale is not None:
        per_row = None if scheme == "compressed-tensors" else x.shape[:-1]
        _global_scale(f"{what}: global_scale", global_scale, x, per_row)


def check_quantize_dequantize(
    x: Tensor, global_scale: Tensor | None, granularity: str, scheme: str, dtype: torch.dtype
) -> None:
    """Arguments of the op quantize_dequantize."""
    check_quantize(x, global_scale, granularity, scheme, "plain", "quantize_dequantize")
    if dtype not in FLOATS:
        raise TypeError(f"quantize_dequantize: dtype: got {dtype}, wanted {', '.join(map(str, FLOATS))}")


def _fused(what: str, x: Tensor, global_scale: Tensor | None, granularity: str, layout: str) -> None:
    """What every op has that computes values and quantises them."""
    check_choice(f"{what}: granularity", granularity, ("tensor", "row"))
    check_choice(f"{what}: layout", layout, ("plain", "128x4"))
    if global_scale is not None:
        _global_scale(f"{what}: global_scale", global_scale, x, x.shape[:-1])
    elif granularity == "tensor":
        raise ValueError(
            f"{what}: got granularity 'tensor' without a global_scale, wanted 'row' or a scale: the values are never "
            "in memory to be measured; or compute the values first and pass them to nvfp4.quantize"
        )


def check_rms_norm_quantize(
    x: Tensor,
    weight: Tensor,
    eps: float,
    unit_offset: bool,
    residual: Tensor | None,
    global_scale: Tensor | None,
    granularity: str,
    layout: str,
) -> None:
    """Arguments of the op rms_norm_quantize."""
    what = "rms_norm_quantize"
    _dtype(f"{what}: x", x, FLOATS, "cast it first")
    k = _last(f"{what}: x", x)
    check_group_multiple(k, f"{what}: x")
    _dtype(f"{what}: weight", weight, (x.dtype,), "the dtype of x; cast it first")
    _shape(f"{what}: weight", weight, (k,), "one number a column of x")
    _device(f"{what}: weight", weight, x)
    _contiguous(f"{what}: weight", weight)
    if not 1e-30 <= eps <= 1e30:
        raise ValueError(f"{what}: eps: got {eps}, wanted a number from 1e-30 to 1e30, such as 1e-6")
    if residual is not None:
        _dtype(f"{what}: residual", residual, (x.dtype,), "the dtype of x; cast it first")
        _shape(f"{what}: residual", residual, x.shape, "the shape of x")
        _device(f"{what}: residual", residual, x)
    _fused(what, x, global_scale, granularity, layout)


def check_gated_quantize(
    x: Tensor, activation: str, interleaved: bool, global_scale: Tensor | None, granularity: str, layout: str
) -> None:
    """Arguments of the op gated_quantize."""
    what = "gated_quantize"
    _dtype(f"{what}: x", x, FLOATS, "cast it first")
    columns = _last(f"{what}: x", x)
    if columns % (2 * GROUP_SIZE):
        raise ValueError(
            f"{what}: x: got {columns} columns, wanted gate and up of K columns each, K a multiple of {GROUP_SIZE}"
        )
    check_choice(f"{what}: activation", activation, GATED_ACTIVATIONS)
    _fused(what, x, global_scale, granularity, layout)


def _operand(what: str, packed: Tensor, scale: Tensor, shape: Sequence[int], layout: str) -> None:
    """The parts of one NVFP4 operand of a logical shape."""
    check_choice(f"{what}: layout", layout, LAYOUTS)
    if len(shape) == 0 or any(size < 0 for size in shape):
        raise ValueError(f"{what}: got the logical shape {tuple(shape)}, wanted [..., K] without negative sizes")
    lead, k = list(shape[:-1]), shape[-1]
    check_group_multiple(k, what)
    wanted_packed: Sequence[int] = (*lead, k // 2)
    wanted_scale: Sequence[int] = (*lead, k // GROUP_SIZE)
    if layout in TILED_LAYOUTS:
        if len(lead) != 1:
            raise ValueError(f"{what}: layout {layout} holds matrices [N, K], got the logical shape {tuple(shape)}")
        wanted_packed, wanted_scale = tiles_shape(lead[0], k, layout), (0, k // GROUP_SIZE)
    elif layout == "128x4":
        rows = 1
        for size in lead:
            rows *= size
        wanted_scale = swizzled_shape(rows, k // GROUP_SIZE)
    for name, part, wanted in (("packed", packed, wanted_packed), ("scale", scale, wanted_scale)):
        _dtype(f"{what}: {name}", part, (torch.uint8,), "scales cross the ops as bytes: scale.view(torch.uint8)")
        _shape(f"{what}: {name}", part, wanted, f"for {tuple(shape)} in layout {layout}")
        _device(f"{what}: {name}", part, packed)
        _contiguous(f"{what}: {name}", part)


def check_dequantize(
    packed: Tensor, scale: Tensor, global_scale: Tensor, shape: Sequence[int], layout: str, dtype: torch.dtype
) -> None:
    """Arguments of the op dequantize."""
    _operand("dequantize", packed, scale, shape, layout)
    _global_scale("dequantize: global_scale", global_scale, packed, shape[:-1])
    if dtype not in FLOATS:
        raise TypeError(f"dequantize: dtype: got {dtype}, wanted {', '.join(map(str, FLOATS))}")


def check_matmul(
    a_packed: Tensor,
    a_scale: Tensor,
    a_global_scale: Tensor,
    b_packed: Tensor,
    b_scale: Tensor,
    b_global_scale: Tensor,
    bias: Tensor | None,
    n: int,
    layout: str,
    out_dtype: torch.dtype,
) -> None:
    """Arguments of the op matmul."""
    k = _last("matmul: a_packed", a_packed) * 2
    lead = a_packed.shape[:-1]
    _operand("matmul: a", a_packed, a_scale, (*lead, k), "plain")
    _global_scale("matmul: a_global_scale", a_global_scale, a_packed, lead)
    _operand("matmul: b", b_packed, b_scale, (n, k), layout)
    _device("matmul: b", b_packed, a_packed)
    _global_scale("matmul: b_global_scale", b_global_scale, a_packed, (n,))
    _bias(bias, n, a_packed)
    if out_dtype not in FLOATS:
        raise TypeError(f"matmul: out_dtype: got {out_dtype}, wanted {', '.join(map(str, FLOATS))}")


def check_linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_global_scale: Tensor,
    input_global_scale: Tensor | None,
    bias: Tensor | None,
    out_features: int,
    layout: str,
    activations: str,
) -> None:
    """Arguments of the op linear.

    This one runs at every layer of every token, so the usual good call is recognised by one expression; only when
    something is unusual are the checks made one by one, to say what is wrong.
    """
    if (
        layout == "n16k64"
        and type(out_features) is int
        and isinstance(x, Tensor)
        and isinstance(weight, Tensor)
        and isinstance(weight_scale, Tensor)
        and isinstance(weight_global_scale, Tensor)
        and x.dtype in FLOATS
        and x.dim()
        and (
            (
                activations == "static"
                and isinstance(input_global_scale, Tensor)
                and input_global_scale.shape == (1,)
                and input_global_scale.dtype is torch.float32
                and input_global_scale.device == x.device
            )
            if input_global_scale is not None
            else activations in ("row", "tensor", "none")
        )
        and (
            bias is None
            or (
                isinstance(bias, Tensor)
                and bias.dtype in FLOATS
                and bias.shape == (out_features,)
                and bias.device == x.device
                and bias.is_contiguous()
            )
        )
        and weight.dtype is torch.uint8
        and not (k := x.shape[-1]) % GROUP_SIZE
        and weight.shape == (-(-out_features // 16), -(-k // 64), TILE_BYTES)
        and weight_global_scale.dtype is torch.float32
        and weight_global_scale.shape == (1,)
        and weight_scale.shape == (0, k // GROUP_SIZE)
        and weight_scale.dtype is torch.uint8
        and x.device == weight.device == weight_global_scale.device
        and weight.is_contiguous()
    ):
        return
    _dtype("linear: x", x, FLOATS, "cast it first")
    k = _last("linear: x", x)
    _operand("linear: weight", weight, weight_scale, (out_features, k), layout)
    _device("linear: weight", weight, x)
    _global_scale("linear: weight_global_scale", weight_global_scale, x, (out_features,))
    _contiguous("linear: weight_global_scale", weight_global_scale)
    check_choice("linear: activations", activations, ACTIVATIONS)
    if (input_global_scale is not None) != (activations == "static"):
        got = "none" if input_global_scale is None else "one"
        raise ValueError(
            f"linear: input_global_scale: got {got} with activations {activations!r}; 'static' alone takes one"
        )
    if input_global_scale is not None:
        _global_scale("linear: input_global_scale", input_global_scale, x, None)
    _bias(bias, out_features, x)


def check_gated_mlp(
    x: Tensor,
    weights: GatedWeights,
    input_global_scale: Tensor | None,
    down_input_global_scale: Tensor | None,
    activation: str,
    activations: str,
) -> None:
    """Arguments of the op gated_mlp."""
    w, op = weights, "gated_mlp"
    _dtype(f"{op}: x", x, FLOATS, "cast it first")
    k = _last(f"{op}: x", x)
    check_choice(f"{op}: activation", activation, GATED_ACTIVATIONS)
    check_choice(f"{op}: activations", activations, ("row", "tensor", "none"))
    check_group_multiple(w.intermediate, f"{op}: intermediate")
    _operand(f"{op}: gate_up", w.gate_up, w.gate_up_scale, (2 * w.intermediate, k), w.layout)
    _operand(f"{op}: down", w.down, w.down_scale, (w.out_features, w.intermediate), w.layout)
    for name, weight in (("gate_up", w.gate_up), ("down", w.down)):
        _device(f"{op}: {name}", weight, x)
    scales = {"gate": w.gate_global_scale, "up": w.up_global_scale, "down": w.down_global_scale}
    for name, scale in scales.items():
        _global_scale(f"{op}: {name}_global_scale", scale, x, None)
    given = {"input_global_scale": input_global_scale, "down_input_global_scale": down_input_global_scale}
    for name, value in given.items():
        if value is None:
            continue
        if activations == "none":
            raise ValueError(f"{op}: {name}: got one with activations 'none', which quantises no input; pass None")
        _global_scale(f"{op}: {name}", value, x, None)
    _bias(w.gate_up_bias, 2 * w.intermediate, x)
    _bias(w.down_bias, w.out_features, x)


def check_pack(codes: Tensor) -> None:
    """Arguments of the op pack."""
    _dtype("pack: codes", codes, (torch.uint8,))
    if _last("pack: codes", codes) % 2:
        raise ValueError(f"pack: codes: got {codes.shape[-1]} columns, wanted an even number, two codes a byte")


def check_unpack(packed: Tensor) -> None:
    """Arguments of the op unpack."""
    _dtype("unpack: packed", packed, (torch.uint8,))
    _last("unpack: packed", packed)


def check_swizzle(scale: Tensor) -> None:
    """Arguments of the op swizzle_scales."""
    _dtype("swizzle_scales: scale", scale, (torch.uint8,), "view e4m3 scales as bytes: scale.view(torch.uint8)")
    if scale.dim() != 2:
        raise ValueError(f"swizzle_scales: scale: got shape {tuple(scale.shape)}, wanted [rows, K/16]")


def check_unswizzle(scale: Tensor, rows: int, groups: int) -> None:
    """Arguments of the op unswizzle_scales."""
    _dtype("unswizzle_scales: scale", scale, (torch.uint8,), "view e4m3 scales as bytes: scale.view(torch.uint8)")
    if rows < 0 or groups < 0:
        raise ValueError(f"unswizzle_scales: got rows = {rows}, groups = {groups}, wanted sizes >= 0")
    _shape("unswizzle_scales: scale", scale, swizzled_shape(rows, groups), f"for {rows} x {groups} scales")
    _contiguous("unswizzle_scales: scale", scale)


def check_tiles(packed: Tensor, scale: Tensor, layout: str) -> None:
    """Arguments of the op to_tiles."""
    check_choice("to_tiles: layout", layout, TILED_LAYOUTS)
    _tensor("to_tiles: packed", packed)
    if packed.dim() != 2:
        raise ValueError(f"to_tiles: packed: got shape {tuple(packed.shape)}, wanted [N, K/2]")
    _operand("to_tiles", packed, scale, (packed.shape[0], packed.shape[1] * 2), "plain")


def check_untile(tiles: Tensor, n: int, k: int, layout: str) -> None:
    """Arguments of the op from_tiles."""
    check_choice("from_tiles: layout", layout, TILED_LAYOUTS)
    _tensor("from_tiles: tiles", tiles)
    _operand("from_tiles", tiles, tiles.new_empty((0, max(k, 0) // GROUP_SIZE)), (n, k), layout)
