"""The two weights of a gated MLP, and how the rows of gate and up alternate in one of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["INTERLEAVED", "GatedWeights", "alternate", "apart", "gate_and_up_scales"]

INTERLEAVED = 8
"""Gate and up rows alternate by so many: the rows whose results one lane of an m16n8 product holds are eight apart."""


class GatedWeights(NamedTuple):
    """Both weights of h = act(gate x) * up x, y = down h, in one layout; bytes as the op linear takes them.

    Attributes:
        gate_up, gate_up_scale: of [2 * intermediate, K], eight rows of gate, eight of up, and so on.
        gate_global_scale, up_global_scale: float32 [1].
        gate_up_bias: [2 * intermediate], as the rows, or None.
        down, down_scale, down_global_scale: of [out_features, intermediate].
        down_bias: [out_features] or None.
        intermediate: number of gates.
        out_features: of down.
        layout: of both weights.
    """

    gate_up: Tensor
    gate_up_scale: Tensor
    gate_global_scale: Tensor
    up_global_scale: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_scale: Tensor
    down_global_scale: Tensor
    down_bias: Tensor | None
    intermediate: int
    out_features: int
    layout: str


def alternate(gate: Tensor, up: Tensor) -> Tensor:
    """Rows of gate and up, eight of each in turn: [N, ...] twice to [2 * N, ...], N a multiple of 8."""
    both = [rows.unflatten(0, (-1, INTERLEAVED)) for rows in (gate, up)]
    return torch.stack(both, dim=1).flatten(0, 2)


def apart(rows: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Gate and up of what alternates along a dimension."""
    dim %= rows.dim()
    gate, up = rows.unflatten(dim, (rows.shape[dim] // (2 * INTERLEAVED), 2, INTERLEAVED)).unbind(dim + 1)
    return gate.flatten(dim, dim + 1), up.flatten(dim, dim + 1)


def gate_and_up_scales(gate: Tensor, up: Tensor, intermediate: int) -> Tensor:
    """Global scales [2 * intermediate, 1] of the alternating rows."""
    both = torch.cat((gate, up)).view(1, 2, 1)
    return both.expand(intermediate // INTERLEAVED, 2, INTERLEAVED).reshape(-1, 1)
