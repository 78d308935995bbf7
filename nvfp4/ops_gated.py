"""The op of a whole gated MLP: one call, so that a backend may fuse what lies between its products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nvfp4 import checks
from nvfp4.backends import select
from nvfp4.gated import GatedWeights
from nvfp4.ops import define, impl_autocast, library

__all__ = ["gated_mlp"]


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


define(
    "gated_mlp(Tensor x, Tensor gate_up, Tensor gate_up_scale, Tensor gate_global_scale, Tensor up_global_scale, "
    "Tensor? gate_up_bias, Tensor down, Tensor down_scale, Tensor down_global_scale, Tensor? down_bias, "
    "SymInt intermediate, SymInt out_features, str layout, Tensor? input_global_scale, "
    "Tensor? down_input_global_scale, str activation, str activations) -> Tensor",
    _gated_mlp,
    _gated_mlp_fake,
)

_op = torch.ops.nvfp4.gated_mlp.default


def _autograd(x: Tensor, *args: Any) -> Tensor:
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in (x, *args)):
        raise ValueError(
            "gated_mlp: got an input that requires grad, wanted none that does: what is between the products is not "
            "kept; use nvfp4.GatedMLP, which then runs two linears, or torch.no_grad()"
        )
    with torch._C._AutoDispatchBelowAutograd():
        y: Tensor = _op(x, *args)
    return y


library.impl("gated_mlp", _autograd, "Autograd")
impl_autocast("gated_mlp")


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
    y: Tensor = _op(x, *weights, input_global_scale, down_input_global_scale, activation, activations)
    return y
