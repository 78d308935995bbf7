"""A gated MLP on SM120: quantise, gate_up with its activation, down; with static scales these three kernels are all.

The product of gate and up rows holds both in one lane, applies the activation, and quantises the result by the given
global scale of down's input. Where that scale is to be computed from the result, a token's or the tensor's, the result
is written in 16 bits and a fourth kernel quantises it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nvfp4 import _C
from nvfp4.backends.arguments import ACTIVATION_CODES, DTYPE_CODES, as_rows
from nvfp4.backends.sm120 import Epilogue, Places, multiply, pitch_of, product, scale_mode, token_scale_bytes
from nvfp4.formats import GROUP_SIZE
from nvfp4.gated import GatedWeights

__all__ = ["gated_mlp", "is_fused"]

_kernels: Any = getattr(_C, "cuda", None)


def is_fused(x: Tensor, w: GatedWeights) -> bool:
    """Whether the kernels take it: 16-bit results to activate, whole groups of them, whole chunks of outputs."""
    return (
        x.dtype in (torch.float16, torch.bfloat16)
        and w.intermediate % GROUP_SIZE == 0
        and w.out_features % 8 == 0
        and min(x.numel(), w.intermediate, w.out_features) > 0
    )


@lru_cache(maxsize=4096)
def _places(m: int, intermediate: int, k: int, out_features: int, hidden_bytes: int, index: int) -> Places:
    """What the kernels share.

    The products use the same counters and partial sums, one after the other: counters are zero again when one ends.
    """
    first, second = product(m, 2 * intermediate, k, index), product(m, out_features, intermediate, index)
    return Places.of(
        codes=m * pitch_of(k), scales=token_scale_bytes(m, k), global_scale=m * 4, alpha=m * 4, up_alpha=m * 4,
        amax=_kernels.WORKSPACE_BYTES, arrivals=max(first.arrivals, second.arrivals) * 4,
        partials=max(first.partial_bytes, second.partial_bytes), hidden=m * intermediate * hidden_bytes,
        hidden_codes=m * pitch_of(intermediate), hidden_scales=token_scale_bytes(m, intermediate),
        hidden_global_scale=m * 4, hidden_alpha=m * 4,
    )  # fmt: skip


def gated_mlp(
    x: Tensor, w: GatedWeights, gate_up: Tensor, down: Tensor, input_global_scale: Tensor | None,
    down_input_global_scale: Tensor | None, activation: str, activations: str,
) -> Tensor:  # fmt: skip
    """y [..., out_features] of x [..., K]; `gate_up` and `down` are the weights in units."""
    *lead, k = x.shape
    out = x.new_empty(*lead, w.out_features)
    x, m, stride = as_rows(x)
    index, static = x.device.index, down_input_global_scale is not None
    first, second = product(m, 2 * w.intermediate, k, index), product(m, w.out_features, w.intermediate, index)
    hidden_bytes = 0 if static else x.element_size()
    _memory, at = _places(m, w.intermediate, k, w.out_features, hidden_bytes, index).allocate(x.device)
    arrivals = max(first.arrivals, second.arrivals)
    pitch, hidden_pitch = pitch_of(k), pitch_of(w.intermediate)
    mode, scale = scale_mode(input_global_scale, activations, at["global_scale"])
    hidden_mode, hidden_scale = scale_mode(down_input_global_scale, activations, at["hidden_global_scale"])
    shared = {"arrivals": at["arrivals"], "partials": at["partials"]}
    epilogue = Epilogue(w.gate_up_bias, ACTIVATION_CODES[activation], at["up_alpha"])
    if static:
        epilogue = epilogue._replace(
            packed=at["hidden_codes"], packed_pitch=hidden_pitch, scale=at["hidden_scales"], global_scale=hidden_scale
        )
    down_scale = w.down_global_scale.data_ptr()
    with torch.cuda.device(x.device):
        stream = torch.cuda.current_stream().cuda_stream
        _kernels.quantize_tokens(
            x.data_ptr(), DTYPE_CODES[x.dtype], m, k, stride, mode, scale, at["codes"], pitch, at["scales"],
            at["amax"], w.gate_global_scale.data_ptr(), at["alpha"], at["arrivals"], arrivals, stream,
            w.up_global_scale.data_ptr(), at["up_alpha"], hidden_scale if static else 0, down_scale if static else 0,
            at["hidden_alpha"] if static else 0,
        )  # fmt: skip
        multiply(
            first, m, 2 * w.intermediate, k, at["codes"], pitch, {"scales": at["scales"], **shared}, gate_up,
            at["alpha"], input_global_scale is None and activations == "row", at["hidden"], x.dtype, epilogue, stream,
        )  # fmt: skip
        if not static:
            _kernels.quantize_tokens(
                at["hidden"], DTYPE_CODES[x.dtype], m, w.intermediate, w.intermediate, hidden_mode, hidden_scale,
                at["hidden_codes"], hidden_pitch, at["hidden_scales"], at["amax"], down_scale, at["hidden_alpha"],
                0, 0, stream,
            )  # fmt: skip
        multiply(
            second, m, w.out_features, w.intermediate, at["hidden_codes"], hidden_pitch,
            {"scales": at["hidden_scales"], **shared}, down, at["hidden_alpha"],
            not static and activations == "row", out.data_ptr(), out.dtype, Epilogue(w.down_bias), stream,
        )  # fmt: skip
    return out
