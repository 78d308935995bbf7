"""The torch ops that do several steps in one call: a norm or an activation and quantise; or a whole gated MLP.

As in `nvfp4/ops.py`; what they return of codes and scales is what its op quantize returns. None has a gradient, and an
input that requires one is refused, since a sum or values without it would be trained wrongly in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nvfp4 import checks, ops
from nvfp4 import layout as layouts
from nvfp4.backends import select
from nvfp4.formats import GROUP_SIZE
from nvfp4.gated import GatedWeights

__all__ = ["gated_mlp"]


def _source_of(global_scale: Tensor | None, granularity: str) -> str:
    return granularity if global_scale is None else "static"


def _fake_codes(x: Tensor, k: int, global_scale: Tensor | None, layout: str) -> tuple[Tensor, Tensor, Tensor]:
    lead, groups = x.shape[:-1], k // GROUP_SIZE
    shape = layouts.swizzled_shape(lead.numel(), groups) if layout == "128x4" else (*lead, groups)
    out_scale = x.new_empty((*lead, 1) if global_scale is None else global_scale.shape, dtype=torch.float32)
    return x.new_empty((*lead, k // 2), dtype=torch.uint8), x.new_empty(shape, dtype=torch.uint8), out_scale


def _refusing_gradients(name: str, arguments: Sequence[str]) -> Callable[..., Any]:
    """An Autograd kernel that skips autograd, once no tensor among the arguments asks for it."""
    op = getattr(torch.ops.nvfp4, name).default

    def run(*args: Any) -> Any:
        if torch.is_grad_enabled():
            for what, given in zip(arguments, args, strict=False):
                if isinstance(given, Tensor) and given.requires_grad:
                    raise ValueError(
                        f"{name}: got {what} that requires grad, wanted one that does not: codes have no gradient; "
                        f"call under torch.no_grad(), or pass {what}.detach()"
                    )
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    return run


def _define(schema: str, real: Callable[..., Any], fake: Callable[..., Any], arguments: Sequence[str]) -> None:
    ops.define(schema, real, fake)
    name = schema.split("(", 1)[0]
    ops.library.impl(name, _refusing_gradients(name, arguments), "Autograd")


# --- rms_norm_quantize ----------------------------------------------------------------------------------------------


def _rms_norm_quantize(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    checks.check_rms_norm_quantize(x, *args)
    weight, eps, unit_offset, residual, global_scale, granularity, layout = args
    backend = select("rms_norm_quantize", x.device.type, x.dtype, layout, _source_of(global_scale, granularity))
    return backend.rms_norm_quantize(x, weight, eps, unit_offset, residual, global_scale, layout)


def _rms_norm_quantize_fake(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    checks.check_rms_norm_quantize(x, *args)
    residual, global_scale, _, layout = args[3:]
    total = x.new_empty(0) if residual is None else x.new_empty(x.shape)
    return *_fake_codes(x, x.shape[-1], global_scale, layout), total


_define(
    "rms_norm_quantize(Tensor x, Tensor weight, float eps, bool unit_offset, Tensor? residual, Tensor? global_scale, "
    "str granularity, str layout) -> (Tensor, Tensor, Tensor, Tensor)",
    _rms_norm_quantize,
    _rms_norm_quantize_fake,
    ("x", "weight", "eps", "unit_offset", "residual", "global_scale"),
)

# --- gated_quantize -------------------------------------------------------------------------------------------------


def _gated_quantize(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    checks.check_gated_quantize(x, *args)
    activation, interleaved, global_scale, granularity, layout = args
    backend = select("gated_quantize", x.device.type, x.dtype, layout, _source_of(global_scale, granularity))
    return backend.gated_quantize(x, activation, interleaved, global_scale, layout)


def _gated_quantize_fake(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    checks.check_gated_quantize(x, *args)
    _, _, global_scale, _, layout = args
    return _fake_codes(x, x.shape[-1] // 2, global_scale, layout)


_define(
    "gated_quantize(Tensor x, str activation, bool interleaved, Tensor? global_scale, str granularity, str layout) "
    "-> (Tensor, Tensor, Tensor)",
    _gated_quantize,
    _gated_quantize_fake,
    ("x", "activation", "interleaved", "global_scale"),
)

# --- quantize_dequantize --------------------------------------------------------------------------------------------


def _quantize_dequantize(x: Tensor, *args: Any) -> Tensor:
    checks.check_quantize_dequantize(x, *args)
    _, granularity, scheme, _ = args
    backend = select("quantize_dequantize", x.device.type, x.dtype, "plain", granularity, scheme)
    return backend.quantize_dequantize(x, *args)


def _quantize_dequantize_fake(x: Tensor, *args: Any) -> Tensor:
    checks.check_quantize_dequantize(x, *args)
    return x.new_empty(x.shape, dtype=args[-1])


_define(
    "quantize_dequantize(Tensor x, Tensor? global_scale, str granularity, str scheme, ScalarType dtype) -> Tensor",
    _quantize_dequantize,
    _quantize_dequantize_fake,
    ("x", "global_scale"),
)

# --- gated_mlp ------------------------------------------------------------------------------------------------------


def _gated_mlp(
    x: Tensor,
    gate_up: Tensor,
    gate_up_scale: Tensor,
    gate_global_scale: Tensor,
    up_global_scale: Tensor,
    gate_up_bias: Tensor | None,
    down: Tensor,
    down_scale: Tensor,
    down_global_scale: Tensor,
    down_bias: Tensor | None,
    intermediate: int,
    out_features: int,
    layout: str,
    *rest: Any,
) -> Tensor:
    weights = GatedWeights(
        gate_up, gate_up_scale, gate_global_scale, up_global_scale, gate_up_bias, down, down_scale, down_global_scale,
        down_bias, intermediate, out_features, layout,
    )  # fmt: skip
    checks.check_gated_mlp(x, weights, *rest)
    input_global_scale, down_input_global_scale, _, activations = rest
    static = input_global_scale is not None and down_input_global_scale is not None
    backend = select("gated_mlp", x.device.type, x.dtype, layout, "static" if static else activations)
    return backend.gated_mlp(x, weights, *rest)


def _gated_mlp_fake(x: Tensor, *args: Any) -> Tensor:
    weights = GatedWeights(*args[:12])
    checks.check_gated_mlp(x, weights, *args[12:])
    return x.new_empty((*x.shape[:-1], weights.out_features))


_define(
    "gated_mlp(Tensor x, Tensor gate_up, Tensor gate_up_scale, Tensor gate_global_scale, Tensor up_global_scale, "
    "Tensor? gate_up_bias, Tensor down, Tensor down_scale, Tensor down_global_scale, Tensor? down_bias, "
    "SymInt intermediate, SymInt out_features, str layout, Tensor? input_global_scale, "
    "Tensor? down_input_global_scale, str activation, str activations) -> Tensor",
    _gated_mlp,
    _gated_mlp_fake,
    ("x", *GatedWeights._fields, "input_global_scale", "down_input_global_scale"),
)
ops.impl_autocast("gated_mlp")


def gated_mlp(
    x: Tensor, weights: GatedWeights, input_global_scale: Tensor | None, down_input_global_scale: Tensor | None,
    activation: str, activations: str,
) -> Tensor:  # fmt: skip
    """`torch.ops.nvfp4.gated_mlp`: y [..., out_features] = down(act(gate x) * up x) of x [..., K], in x's dtype.

    Args:
        x: float32, float16 or bfloat16.
        weights: both weights, and their biases.
        input_global_scale: float32 [1], the encode scale of x; None computes it as `activations` says.
        down_input_global_scale: the same of down's input, which is rounded to x's dtype before it is quantised.
        activation: one of `nvfp4.reference.ACTIVATIONS`.
        activations: ``row`` or ``tensor`` (W4A4: what computed global scales belong to), or ``none`` (W4A16).

    Raises:
        TypeError, ValueError: dtypes, shapes or devices do not fit, or something requires grad.
    """
    y: Tensor = torch.ops.nvfp4.gated_mlp.default(
        x, *weights, input_global_scale, down_input_global_scale, activation, activations
    )
    return y
