"""Calls of the fused quantisation kernels with everything said: what was quantised, the scales' layout, preparation."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nvfp4 import _C, NVFP4Tensor, layout

kernels: Any = getattr(_C, "cuda", None)

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
ACTIVATIONS = {"gelu_tanh": 1, "gelu": 2, "silu": 3}
LAYOUTS = {"plain": (0, 1), "128x4": (1, 128), "32x4": (2, 32)}  # code, rows of an atom
GIVEN_TENSOR, GIVEN_ROW, COMPUTE_ROW = 0, 1, 3
_POISON = 0xAA


class Outputs(NamedTuple):
    """What one call wrote; memory was filled with poison before."""

    packed: Tensor
    scale: Tensor
    global_scale: Tensor
    values: Tensor
    total: Tensor
    alpha: Tensor
    up_alpha: Tensor
    zeros: Tensor

    def tensor(self) -> NVFP4Tensor:
        """Of scales in the plain layout."""
        scale = self.scale.view(torch.float8_e4m3fn)
        return NVFP4Tensor(self.packed, scale, self.global_scale, tuple(self.values.shape))


def _poisoned(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    size = torch.empty(shape, dtype=dtype, device="meta").nbytes
    return torch.full((size,), _POISON, dtype=torch.uint8, device="cuda").view(dtype).view(shape)


def _outputs(x: Tensor, k: int, global_scale: Tensor | None, scale_layout: str, pitch: int, zeros: int) -> tuple:
    rows, (code, atom) = x.shape[0], LAYOUTS[scale_layout]
    groups = k // 16
    shape = (rows, groups) if atom == 1 else (-(-rows // atom) * atom, -(-groups // 4) * 4)
    if global_scale is None:
        mode, scale = COMPUTE_ROW, _poisoned((rows, 1), torch.float32)
    else:
        mode, scale = (GIVEN_ROW if global_scale.dim() > 1 else GIVEN_TENSOR), global_scale
    packed = _poisoned((rows, pitch or k // 2), torch.uint8)[:, : k // 2]
    factors = (rows, 1) if mode != GIVEN_TENSOR else (1,)
    return mode, code, Outputs(
        packed, _poisoned(shape, torch.uint8), scale, _poisoned((rows, k), x.dtype), _poisoned((rows, k), x.dtype),
        _poisoned(factors, torch.float32), _poisoned(factors, torch.float32), _poisoned((zeros,), torch.int32),
    )  # fmt: skip


def _stream() -> int:
    return torch.cuda.current_stream().cuda_stream


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def gated(
    x: Tensor,
    activation: str = "gelu_tanh",
    interleaved: bool = False,
    global_scale: Tensor | None = None,
    *,
    scale_layout: str = "plain",
    pitch: int = 0,
    weight_global_scale: Tensor | None = None,
    zeros: int = 0,
) -> Outputs:
    """act(gate) * up of x [rows, 2 * K], quantised."""
    k = x.shape[1] // 2
    mode, code, out = _outputs(x, k, global_scale, scale_layout, pitch, zeros)
    kernels.gated_quantize(
        x.data_ptr(), DTYPES[x.dtype], x.shape[0], k, x.stride(0), ACTIVATIONS[activation], interleaved, mode, code,
        out.global_scale.data_ptr(), out.packed.data_ptr(), pitch, out.scale.data_ptr(), out.values.data_ptr(),
        _address(weight_global_scale), 0 if weight_global_scale is None else out.alpha.data_ptr(),
        out.zeros.data_ptr(), zeros, _stream(),
    )  # fmt: skip
    return out


def norm(
    x: Tensor,
    weight: Tensor,
    eps: float = 1e-6,
    unit_offset: bool = False,
    residual: Tensor | None = None,
    global_scale: Tensor | None = None,
    *,
    scale_layout: str = "plain",
    pitch: int = 0,
    weight_global_scales: tuple[Tensor, Tensor] | None = None,
    zeros: int = 0,
) -> Outputs:
    """The RMS norm of x [rows, K] or of x + residual, quantised."""
    mode, code, out = _outputs(x, x.shape[1], global_scale, scale_layout, pitch, zeros)
    weight_scale, up_scale = weight_global_scales or (None, None)
    stride, total = (0, 0) if residual is None else (residual.stride(0), out.total.data_ptr())
    kernels.rms_norm_quantize(
        x.data_ptr(), DTYPES[x.dtype], x.shape[0], x.shape[1], x.stride(0), weight.data_ptr(), eps, unit_offset,
        _address(residual), stride, total, mode, code,
        out.global_scale.data_ptr(), out.packed.data_ptr(), pitch, out.scale.data_ptr(), out.values.data_ptr(),
        _address(weight_scale), 0 if weight_scale is None else out.alpha.data_ptr(),
        _address(up_scale), 0 if up_scale is None else out.up_alpha.data_ptr(), out.zeros.data_ptr(), zeros, _stream(),
    )  # fmt: skip
    return out


def ulps(got: Tensor, wanted: Tensor) -> int:
    """The largest distance in units of the last place; a NaN is like any other, and as far as can be from a number."""
    bits = {2: torch.int16, 4: torch.int32}[got.itemsize]

    def order(t: Tensor) -> Tensor:
        i = t.contiguous().view(bits).long()
        return torch.where(i < 0, torch.iinfo(bits).min - i, i)

    if not torch.equal(got.isnan(), wanted.isnan()):
        return 1 << 40
    far = (order(got) - order(wanted)).abs().masked_fill(got.isnan(), 0)
    return int(far.max()) if far.numel() else 0


def swizzled(scale: Tensor, scale_layout: str) -> Tensor:
    """Plain scale bytes in another layout, on the host."""
    rows, groups = scale.shape
    if scale_layout == "plain":
        return scale
    if scale_layout == "128x4":
        return layout.swizzle_scales(scale)
    padded = torch.zeros(-(-rows // 32) * 32, -(-groups // 4) * 4, dtype=torch.uint8, device=scale.device)
    padded[:rows, :groups] = scale
    atoms = padded.view(-1, 4, 8, padded.shape[1] // 4, 4)  # atom, quarter, row of it, atom beside, group
    return atoms.permute(0, 3, 2, 1, 4).reshape(padded.shape)
