"""The CUDA backend: the compiled kernels through `nvfp4._C.cuda`, on torch's current stream, without synchronising.

What quantising and converting scales need is here for every GPU whose architecture was compiled in; matrix products
(W4A4) are for the SM120 family (`nvfp4/backends/sm120.py`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nvfp4 import _C
from nvfp4 import layout as layouts
from nvfp4.backends import sm120, sm120_gated, sm120_tuning
from nvfp4.backends.arguments import (
    ACTIVATION_CODES,
    COMPUTE_TENSOR,
    DTYPE_CODES,
    SCALE_LAYOUT_CODES,
    SCHEME_CODES,
    as_rows,
    mode_of,
    quantized_outputs,
)
from nvfp4.backends.base import NEGATIVE_SCALE, Backend, Desc, refused_off_gpu
from nvfp4.backends.calls import record
from nvfp4.backends.gated import unfused
from nvfp4.formats import GROUP_SIZE
from nvfp4.gated import GatedWeights
from nvfp4.reference import Activation
from nvfp4.tuning import note

__all__ = ["CudaBackend"]

_kernels: Any = getattr(_C, "cuda", None)

_UNPROVEN = ", which their authors never ran on a card: `nvfp4 selftest` checks them on this one"
"""What is said of kernels for SM120, where no emulation runs."""


@lru_cache(maxsize=1)
def _refusal() -> str:
    """Why no GPU here is served, or an empty string. The GPUs of a process do not change."""
    if _kernels is None:
        return "this build has no CUDA part (no nvcc was found, it was too old, or NVFP4_CUDA=OFF when it was built)"
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    refusal: str = _kernels.driver_refusal()
    if refusal:
        return refusal
    built = ";".join(_kernels.built_archs())
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        if not _kernels.runs_on(major, minor):
            name = torch.cuda.get_device_name(index)
            return (
                f"built for {built}, but cuda:{index} ({name}) is {major}.{minor}, for which there are no kernels yet"
            )
    return ""


def _aligned(t: Tensor) -> Tensor:
    """The tensor, contiguous and beginning at a multiple of 16 bytes: kernels load whole words."""
    t = t.contiguous()
    return t if t.data_ptr() % 16 == 0 else t.clone()


def _aligned_rows(x: Tensor) -> tuple[Tensor, int, int]:
    """As `as_rows`, with every row at a multiple of 16 bytes: the fused kernels read whole words only."""
    x, rows, stride = as_rows(x)
    if x.data_ptr() % 16 or (rows > 1 and stride * x.itemsize % 16):
        return as_rows(x.clone(memory_format=torch.contiguous_format))
    return x, rows, stride


class CudaBackend(Backend):
    """Compiled kernels for Hopper (SM90) and the SM120 family."""

    name = "cuda"

    def supports(self, desc: Desc) -> tuple[bool, str]:
        """Quantising, dequantising and the scales' layouts; on SM120 also products of quantised activations."""
        refusal = refused_off_gpu(desc, _refusal)
        if refusal:
            return False, refusal
        if desc.layout in ("n16k64", "n64k256"):
            return False, f"{desc.layout} is the layout of another backend's kernels"
        if desc.op == "dequantize" and desc.layout == "n128k128":
            return True, "CUDA kernels; the units become plain bytes first"
        if desc.op not in ("linear", "matmul", "gated_mlp", "tiles"):
            is_sm120 = torch.cuda.get_device_capability()[0] == 12
            return True, f"CUDA kernels for {';'.join(_kernels.built_archs())}" + (_UNPROVEN if is_sm120 else "")
        return self._supports_product(desc)

    def _supports_product(self, desc: Desc) -> tuple[bool, str]:
        refusal = sm120.gemm_refusal()
        if refusal:
            return False, refusal
        if desc.op in ("linear", "gated_mlp") and desc.activations == "none":
            return False, "this version of nvfp4 has no CUDA kernels for 16-bit activations (W4A16)"
        if desc.op == "tiles":
            return True, "CUDA kernels; n128k128 is the layout of the products"
        answer = "SM120 kernels" + ("" if _kernels.emulation() else _UNPROVEN)
        if desc.op == "gated_mlp":
            if desc.dtype == torch.float32:
                answer += "; two linears, torch applies the activation to their float32 results"
            elif desc.activations == "static":
                answer += ", three launches where outputs are a multiple of eight"
        if _kernels.emulation():
            answer += f", their instruction emulated ({_kernels.emulation()}): a build for tests"
        answer += note(sm120_tuning.measured(torch.cuda.current_device()))
        if desc.layout != "n128k128":
            answer += f"; repacks the {desc.layout} weight at every call, nvfp4.prepare(module) does it once"
        return True, answer

    def weight_layout(self, activations: str = "row") -> str:
        """Units where the products run."""
        return "plain" if _refusal() or sm120.gemm_refusal() else "n128k128"

    def quantize(
        self, x: Tensor, global_scale: Tensor | None, granularity: str, scheme: str, layout: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pass, or with a computed scale per tensor one for it and one for the codes.

        A given global scale cannot be looked at without waiting for the GPU. One that is not positive and finite makes
        every block scale NaN.
        """
        record("cuda/quantize")
        mode, out = quantized_outputs(x, global_scale, granularity, layout)
        workspace = torch.empty(
            _kernels.WORKSPACE_BYTES if mode == COMPUTE_TENSOR else 0, dtype=torch.uint8, device=x.device
        )
        x, rows, stride = as_rows(x)
        with torch.cuda.device(x.device):
            _kernels.quantize(
                x.data_ptr(), DTYPE_CODES[x.dtype], rows, x.shape[-1], stride, mode, SCHEME_CODES[scheme],
                SCALE_LAYOUT_CODES[layout], out.global_scale.data_ptr(), out.packed.data_ptr(), out.scale.data_ptr(),
                workspace.data_ptr(), torch.cuda.current_stream().cuda_stream,
            )  # fmt: skip
        return out

    def rms_norm_quantize(
        self,
        x: Tensor,
        weight: Tensor,
        eps: float,
        unit_offset: bool,
        residual: Tensor | None,
        global_scale: Tensor | None,
        layout: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One kernel; rows that do not begin at multiples of 16 bytes are copied first."""
        record("cuda/rms_norm_quantize")
        mode, out = quantized_outputs(x, global_scale, "row", layout)
        device, shape, k = x.device, x.shape, x.shape[-1]
        x, rows, stride = _aligned_rows(x)
        weight = _aligned(weight)
        total = torch.empty(shape if residual is not None else (0,), dtype=x.dtype, device=device)
        residual_address = residual_stride = total_address = 0
        if residual is not None:
            residual, _, residual_stride = _aligned_rows(residual)
            residual_address, total_address = residual.data_ptr(), total.data_ptr()
        with torch.cuda.device(device):
            _kernels.rms_norm_quantize(
                x.data_ptr(), DTYPE_CODES[x.dtype], rows, k, stride, weight.data_ptr(), eps, unit_offset,
                residual_address, residual_stride, total_address, mode, SCALE_LAYOUT_CODES[layout],
                out.global_scale.data_ptr(), out.packed.data_ptr(), 0, out.scale.data_ptr(), 0, 0, 0, 0, 0, 0, 0,
                torch.cuda.current_stream().cuda_stream,
            )  # fmt: skip
        return *out, total

    def gated_quantize(
        self, x: Tensor, activation: str, interleaved: bool, global_scale: Tensor | None, layout: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One kernel; rows that do not begin at multiples of 16 bytes are copied first."""
        record("cuda/gated_quantize")
        k = x.shape[-1] // 2
        mode, out = quantized_outputs(x[..., :k], global_scale, "row", layout)
        x, rows, stride = _aligned_rows(x)
        with torch.cuda.device(x.device):
            _kernels.gated_quantize(
                x.data_ptr(), DTYPE_CODES[x.dtype], rows, k, stride, ACTIVATION_CODES[activation], interleaved, mode,
                SCALE_LAYOUT_CODES[layout], out.global_scale.data_ptr(), out.packed.data_ptr(), 0,
                out.scale.data_ptr(), 0, 0, 0, 0, 0, torch.cuda.current_stream().cuda_stream,
            )  # fmt: skip
        return out

    def quantize_dequantize(
        self, x: Tensor, global_scale: Tensor | None, granularity: str, scheme: str, dtype: torch.dtype
    ) -> Tensor:
        """As many passes as `quantize`; rows that do not begin at multiples of 16 bytes are copied first."""
        record("cuda/quantize_dequantize")
        out = torch.empty(x.shape, dtype=dtype, device=x.device)
        if out.numel() == 0:
            return out
        x, rows, stride = _aligned_rows(x)
        mode = mode_of(global_scale, granularity)
        workspace = torch.empty(
            _kernels.WORKSPACE_BYTES if mode == COMPUTE_TENSOR else 0, dtype=torch.uint8, device=x.device
        )
        global_scale = None if global_scale is None else global_scale.contiguous()
        with torch.cuda.device(x.device):
            _kernels.quantize_dequantize(
                x.data_ptr(), DTYPE_CODES[x.dtype], rows, x.shape[-1], stride, mode, SCHEME_CODES[scheme],
                0 if global_scale is None else global_scale.data_ptr(), out.data_ptr(), DTYPE_CODES[dtype],
                workspace.data_ptr(), torch.cuda.current_stream().cuda_stream,
            )  # fmt: skip
        return out

    def dequantize(
        self, packed: Tensor, scale: Tensor, global_scale: Tensor, shape: list[int], layout: str, dtype: torch.dtype
    ) -> Tensor:
        """One pass."""
        record("cuda/dequantize")
        if layout == "n128k128":
            packed, scale = self.from_tiles(packed, shape[0], shape[1], layout)
            layout = "plain"
        out = torch.empty(shape, dtype=dtype, device=packed.device)
        packed, scale, global_scale = _aligned(packed), scale.contiguous(), global_scale.contiguous()
        with torch.cuda.device(packed.device):
            _kernels.dequantize(
                packed.data_ptr(), scale.data_ptr(), SCALE_LAYOUT_CODES[layout], global_scale.data_ptr(),
                global_scale.dim() > 1, torch.Size(shape[:-1]).numel(), shape[-1], out.data_ptr(), DTYPE_CODES[dtype],
                torch.cuda.current_stream().cuda_stream,
            )  # fmt: skip
        return out

    def swizzle_scales(self, scale: Tensor) -> Tensor:
        """Padding bytes are zero."""
        rows, groups = scale.shape
        return self._reorder(_kernels.swizzle_scales, scale, rows, groups, layouts.swizzled_shape(rows, groups))

    def unswizzle_scales(self, scale: Tensor, rows: int, groups: int) -> Tensor:
        """The rows and groups that are not padding."""
        return self._reorder(_kernels.unswizzle_scales, scale, rows, groups, (rows, groups))

    def _reorder(self, kernel: Any, scale: Tensor, rows: int, groups: int, shape: tuple[int, ...]) -> Tensor:
        out = torch.empty(shape, dtype=torch.uint8, device=scale.device)
        scale = scale.contiguous()
        with torch.cuda.device(scale.device):
            kernel(scale.data_ptr(), rows, groups, out.data_ptr(), torch.cuda.current_stream().cuda_stream)
        return out

    def matmul(
        self,
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
    ) -> Tensor:
        """The tokens' scales into the kernels' order, then the product."""
        record("cuda/sm120/matmul")
        units = self._units(b_packed, b_scale, n, layout)
        return sm120.matmul(a_packed, a_scale, a_global_scale, units, b_global_scale.contiguous(), bias, n, out_dtype)

    def linear(
        self,
        x: Tensor,
        weight: Tensor,
        weight_scale: Tensor,
        weight_global_scale: Tensor,
        input_global_scale: Tensor | None,
        bias: Tensor | None,
        out_features: int,
        layout: str,
        activations: str,
    ) -> Tensor:
        """Quantise, then multiply."""
        record("cuda/sm120/linear/w4a4")
        units = self._units(weight, weight_scale, out_features, layout)
        return sm120.linear(x, units, weight_global_scale, input_global_scale, bias, out_features, activations)

    def gated_mlp(
        self,
        x: Tensor,
        weights: GatedWeights,
        input_global_scale: Tensor | None,
        down_input_global_scale: Tensor | None,
        activation: Activation,
        activations: str,
    ) -> Tensor:
        """Quantise, gate_up with its activation, down; by two linears where x is float32 or sizes are odd."""
        if not sm120_gated.is_fused(x, weights):
            return unfused(self, x, weights, input_global_scale, down_input_global_scale, activation, activations)
        record("cuda/sm120/gated_mlp")
        w = weights
        gate_up = self._units(w.gate_up, w.gate_up_scale, 2 * w.intermediate, w.layout)
        down = self._units(w.down, w.down_scale, w.out_features, w.layout)
        return sm120_gated.gated_mlp(
            x, w, gate_up, down, input_global_scale, down_input_global_scale, activation, activations
        )

    def _units(self, packed: Tensor, scale: Tensor, n: int, layout: str) -> Tensor:
        if layout == "n128k128":
            return _aligned(packed)
        if layout == "128x4":
            scale = self.unswizzle_scales(scale, n, packed.shape[1] * 2 // GROUP_SIZE)
        return self._to_units(packed, scale)

    def to_tiles(self, packed: Tensor, scale: Tensor, layout: str) -> Tensor:
        """The operand of the products. Waits for the GPU, to know that no scale is negative."""
        if bool((scale > 0x7F).any()):
            raise ValueError(NEGATIVE_SCALE)
        return self._to_units(packed, scale)

    def _to_units(self, packed: Tensor, scale: Tensor) -> Tensor:
        n, k = packed.shape[0], packed.shape[1] * 2
        units = torch.empty(layouts.tiles_shape(n, k, "n128k128"), dtype=torch.uint8, device=packed.device)
        packed, scale = _aligned(packed), scale.contiguous()
        with torch.cuda.device(packed.device):
            stream = torch.cuda.current_stream().cuda_stream
            _kernels.to_units(packed.data_ptr(), scale.data_ptr(), n, k, units.data_ptr(), stream)
        return units

    def from_tiles(self, tiles: Tensor, n: int, k: int, layout: str) -> tuple[Tensor, Tensor]:
        """The plain bytes of units."""
        packed = torch.empty((n, k // 2), dtype=torch.uint8, device=tiles.device)
        scale = torch.empty((n, k // GROUP_SIZE), dtype=torch.uint8, device=tiles.device)
        tiles = _aligned(tiles)
        with torch.cuda.device(tiles.device):
            stream = torch.cuda.current_stream().cuda_stream
            _kernels.from_units(tiles.data_ptr(), n, k, packed.data_ptr(), scale.data_ptr(), stream)
        return packed, scale
