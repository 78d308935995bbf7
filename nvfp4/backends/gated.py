"""A gated MLP where no kernel is fused: two linears, and the activation by its definition between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from nvfp4 import reference
from nvfp4.gated import GatedWeights, apart, gate_and_up_scales

if TYPE_CHECKING:
    from nvfp4.backends.base import Backend

__all__ = ["unfused"]


def _mode(input_global_scale: Tensor | None, activations: str) -> str:
    return activations if input_global_scale is None else "static"


def unfused(
    backend: Backend, x: Tensor, w: GatedWeights, input_global_scale: Tensor | None,
    down_input_global_scale: Tensor | None, activation: reference.Activation, activations: str,
) -> Tensor:  # fmt: skip
    """down(act(gate x) * up x) by a backend's own linears."""
    gate_up = backend.linear(
        x, w.gate_up, w.gate_up_scale, gate_and_up_scales(w.gate_global_scale, w.up_global_scale, w.intermediate),
        input_global_scale, w.gate_up_bias, 2 * w.intermediate, w.layout, _mode(input_global_scale, activations),
    )  # fmt: skip
    h = reference.gated_activation(*apart(gate_up, -1), activation)
    return backend.linear(
        h, w.down, w.down_scale, w.down_global_scale, down_input_global_scale, w.down_bias, w.out_features, w.layout,
        _mode(down_input_global_scale, activations),
    )  # fmt: skip
