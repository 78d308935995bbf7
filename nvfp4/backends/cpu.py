"""The CPU backend: the compiled core through `nvfp4._C`, pointers and sizes only.

The ops have checked dtypes, shapes and devices before these methods see a tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nvfp4 import _C, env
from nvfp4 import layout as layouts
from nvfp4.backends.arguments import (
    COMPUTE_ROW,
    COMPUTE_TENSOR,
    DTYPE_CODES,
    GIVEN_TENSOR,
    SCALE_LAYOUT_CODES,
    SCHEME_CODES,
    as_rows,
    quantized_outputs,
)
from nvfp4.backends.base import FUSED_OPS, Backend, Desc, refused_by_contract
from nvfp4.backends.calls import record
from nvfp4.formats import GROUP_SIZE

__all__ = ["CpuBackend"]

_kernels = _C.cpu

_NO_BIAS = -1

# Said at every allocation: a default device set by the user must not send a kernel another device's pointers.
_CPU = torch.device("cpu")

_THREADS = env.num_threads()


def _threads() -> int:
    return _THREADS or torch.get_num_threads()


def _bias(bias: Tensor | None) -> tuple[int, int]:
    """Pointer and dtype of a bias. No bias is told by the dtype, so that a tensor without memory is an error."""
    return (0, _NO_BIAS) if bias is None else (bias.data_ptr(), DTYPE_CODES[bias.dtype])


class CpuBackend(Backend):
    """C++ kernels, the variant picked by the CPU at run time (or by `NVFP4_CPU_ISA`)."""

    name = "cpu"

    def __init__(self) -> None:
        """Choose the instruction set; an unknown or unsupported `NVFP4_CPU_ISA` is a ValueError."""
        try:
            _kernels.set_isa(env.get("NVFP4_CPU_ISA"))
        except ValueError as error:
            raise ValueError(f"NVFP4_CPU_ISA: {error}") from error
        self.isa = _kernels.isa()
        self._linear_w4a4 = f"cpu/{self.isa}/linear/w4a4"
        self._linear_w4a16 = f"cpu/{self.isa}/linear/w4a16"

    def supports(self, desc: Desc) -> tuple[bool, str]:
        """Everything on the CPU in float32, float16 and bfloat16."""
        if desc.device != "cpu":
            return False, f"tensors are on {desc.device}, the kernels need the CPU"
        refusal = refused_by_contract(desc)
        if refusal:
            return False, refusal
        if desc.op == "tiles" and desc.layout in ("n128k128", "n64k256"):
            return False, f"{desc.layout} is the layout of another backend's kernels"
        note = ""
        if desc.op in ("linear", "matmul", "gated_mlp") and desc.layout != "n16k64":
            note = f"; repacks the {desc.layout} weight at every call, nvfp4.prepare(module) does it once"
        if desc.op == "quantize_dequantize":
            note = "; by way of the codes"
        elif desc.op in FUSED_OPS:
            note = "; the values first, by their definition in torch (slow)"
        between = ", torch applies the activation between two products" if desc.op == "gated_mlp" else ""
        return True, f"C++ {self.isa} kernels{between}{note}"

    def weight_layout(self, activations: str = "row") -> str:
        """The kernels' own tiles."""
        return "n16k64"

    def quantize(
        self, x: Tensor, global_scale: Tensor | None, granularity: str, scheme: str, layout: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pass for the global scale where it is computed, one for the codes."""
        record(f"cpu/{self.isa}/quantize")
        mode, out = quantized_outputs(x, global_scale, granularity, layout)
        x, rows, stride = as_rows(x)
        _kernels.quantize(
            x.data_ptr(), DTYPE_CODES[x.dtype], rows, x.shape[-1], stride, mode, SCHEME_CODES[scheme],
            SCALE_LAYOUT_CODES[layout], out.global_scale.data_ptr(), out.packed.data_ptr(), out.scale.data_ptr(),
            _threads(),
        )  # fmt: skip
        return out

    def dequantize(
        self, packed: Tensor, scale: Tensor, global_scale: Tensor, shape: list[int], layout: str, dtype: torch.dtype
    ) -> Tensor:
        """Tiles are unpacked first."""
        record(f"cpu/{self.isa}/dequantize")
        if layout in layouts.TILED_LAYOUTS:
            packed, scale = self._plain(packed, shape[0], shape[1], layout)
            layout = "plain"
        out = torch.empty(shape, dtype=dtype, device=_CPU)
        k = shape[-1]
        rows = torch.Size(shape[:-1]).numel()
        packed, scale, global_scale = packed.contiguous(), scale.contiguous(), global_scale.contiguous()
        _kernels.dequantize(
            packed.data_ptr(), scale.data_ptr(), SCALE_LAYOUT_CODES[layout], global_scale.data_ptr(),
            global_scale.dim() > 1, rows, k, out.data_ptr(), DTYPE_CODES[dtype], _threads(),
        )  # fmt: skip
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
        """The W4A4 gemm over tiles."""
        record(f"cpu/{self.isa}/matmul")
        tiles = self._tiles(b_packed, b_scale, n, layout)
        lead, k = a_packed.shape[:-1], a_packed.shape[-1] * 2
        out = torch.empty((*lead, n), dtype=out_dtype, device=_CPU)
        a_packed, a_scale = a_packed.contiguous(), a_scale.contiguous()
        a_global_scale, b_global_scale = a_global_scale.contiguous(), b_global_scale.contiguous()
        _kernels.gemm_w4a4(
            lead.numel(), n, k, a_packed.data_ptr(), a_scale.data_ptr(), a_global_scale.data_ptr(),
            a_global_scale.dim() > 1, tiles.data_ptr(), b_global_scale.data_ptr(), b_global_scale.dim() > 1,
            *_bias(bias), out.data_ptr(), DTYPE_CODES[out_dtype], _threads(),
        )  # fmt: skip
        return out

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
        """Quantise and multiply in one call into the core (W4A4), or multiply by the exact weight (W4A16)."""
        tiles = weight if layout == "n16k64" else self._tiles(weight, weight_scale, out_features, layout)
        dtype = x.dtype
        *lead, k = x.shape
        out = x.new_empty(*lead, out_features)
        x, m, stride = as_rows(x)
        bias_ptr, bias_dtype = _bias(bias)
        per_row = weight_global_scale.dim() > 1
        if activations == "none":
            record(self._linear_w4a16)
            _kernels.gemm_w4a16(
                m, out_features, k, x.data_ptr(), DTYPE_CODES[dtype], stride, tiles.data_ptr(),
                weight_global_scale.data_ptr(), per_row, bias_ptr, bias_dtype, out.data_ptr(), DTYPE_CODES[dtype],
                _threads(),
            )  # fmt: skip
            return out
        record(self._linear_w4a4)
        if input_global_scale is None:
            mode, scale_ptr = (COMPUTE_ROW if activations == "row" else COMPUTE_TENSOR), 0
        else:
            mode, scale_ptr = GIVEN_TENSOR, input_global_scale.data_ptr()
        _kernels.linear_w4a4(
            m, out_features, k, x.data_ptr(), DTYPE_CODES[dtype], stride, mode, scale_ptr, tiles.data_ptr(),
            weight_global_scale.data_ptr(), per_row, bias_ptr, bias_dtype, out.data_ptr(), DTYPE_CODES[dtype],
            _threads(),
        )  # fmt: skip
        return out

    def _plain(self, tiles: Tensor, n: int, k: int, layout: str) -> tuple[Tensor, Tensor]:
        return (self if layout == "n16k64" else layouts).from_tiles(tiles, n, k, layout)

    def _tiles(self, packed: Tensor, scale: Tensor, n: int, layout: str) -> Tensor:
        if layout == "n16k64":
            return packed
        if layout == "128x4":
            scale = self.unswizzle_scales(scale, n, packed.shape[1] * 2 // GROUP_SIZE)
        elif layout in layouts.TILED_LAYOUTS:
            packed, scale = self._plain(packed, n, scale.shape[1] * GROUP_SIZE, layout)
        return self.to_tiles(packed, scale, "n16k64")

    def swizzle_scales(self, scale: Tensor) -> Tensor:
        """Padding bytes are zero."""
        out = torch.empty(layouts.swizzled_shape(*scale.shape), dtype=torch.uint8, device=_CPU)
        scale = scale.contiguous()
        _kernels.swizzle_scales(scale.data_ptr(), scale.shape[0], scale.shape[1], out.data_ptr())
        return out

    def unswizzle_scales(self, scale: Tensor, rows: int, groups: int) -> Tensor:
        """The rows and groups that are not padding."""
        out = torch.empty((rows, groups), dtype=torch.uint8, device=_CPU)
        scale = scale.contiguous()
        _kernels.unswizzle_scales(scale.data_ptr(), rows, groups, out.data_ptr())
        return out

    def to_tiles(self, packed: Tensor, scale: Tensor, layout: str) -> Tensor:
        """The operand of the gemm."""
        n, k = packed.shape[0], packed.shape[1] * 2
        tiles = torch.empty(layouts.tiles_shape(n, k), dtype=torch.uint8, device=_CPU)
        packed, scale = packed.contiguous(), scale.contiguous()
        _kernels.repack(packed.data_ptr(), scale.data_ptr(), n, k, tiles.data_ptr(), _threads())
        return tiles

    def from_tiles(self, tiles: Tensor, n: int, k: int, layout: str) -> tuple[Tensor, Tensor]:
        """The plain bytes of tiles."""
        packed = torch.empty((n, k // 2), dtype=torch.uint8, device=_CPU)
        scale = torch.empty((n, k // GROUP_SIZE), dtype=torch.uint8, device=_CPU)
        tiles = tiles.contiguous()
        _kernels.unrepack(tiles.data_ptr(), n, k, packed.data_ptr(), scale.data_ptr(), _threads())
        return packed, scale
