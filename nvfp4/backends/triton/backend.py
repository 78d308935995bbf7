"""What Triton serves. Triton itself is imported by the first call that needs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from nvfp4 import layout as layouts
from nvfp4 import reference
from nvfp4.backends.arguments import COMPUTE_ROW, COMPUTE_TENSOR, as_rows, quantized_outputs, without_columns
from nvfp4.backends.base import NEGATIVE_SCALE, Backend, Desc, refused_off_gpu
from nvfp4.backends.calls import record
from nvfp4.backends.gated import unfused
from nvfp4.backends.triton import tuned
from nvfp4.backends.triton.versions import OLDEST, native_refusal, triton_refusal, unproven
from nvfp4.formats import GROUP_SIZE
from nvfp4.gated import GatedWeights
from nvfp4.reference import Activation
from nvfp4.tuning import note

__all__ = ["TritonBackend"]

_CAPABILITY = (8, 0)
_TILES = "n64k256"
_NATIVE = "; FP4 tensor cores by tl.dot_scaled"
_BLOCKS = 64  # of sixteen, a program
_COMMON: dict[str, Any] = {"num_warps": 2, "enable_fp_fusion": False}


@lru_cache(maxsize=1)
def _refusal() -> str:
    """Why no GPU here is served, or an empty string. Neither GPUs nor installed packages change in a process."""
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    if torch.version.hip:
        return "torch is built for ROCm, which was never tried"
    if importlib.util.find_spec("triton") is None:
        return f"Triton is not installed: pip install 'triton>={OLDEST[0]}.{OLDEST[1]}'"
    refusal = triton_refusal(importlib.metadata.version("triton"))
    if refusal:
        return refusal
    for index in range(torch.cuda.device_count()):
        if torch.cuda.get_device_capability(index) < _CAPABILITY:
            return f"cuda:{index} ({torch.cuda.get_device_name(index)}) is older than compute capability 8.0"
    return ""


class TritonBackend(Backend):
    """Kernels in Triton, compiled at the first call of each kind."""

    name = "triton"

    def supports(self, desc: Desc) -> tuple[bool, str]:
        """Every op on NVIDIA GPUs since Ampere."""
        refusal = refused_off_gpu(desc, _refusal)
        if refusal:
            return False, refusal
        if desc.op == "tiles" and desc.layout in ("n16k64", "n128k128"):
            return False, f"{desc.layout} is the layout of another backend's kernels"
        answer = f"Triton {importlib.metadata.version('triton')}, compiled at the first call of each kind"
        if desc.op in ("linear", "matmul", "gated_mlp"):
            if self._is_native(desc.activations):
                answer += _NATIVE
            else:
                answer += f"; exact 16-bit operands{note(tuned.measured(torch.cuda.current_device()))}"
            if desc.layout != self.weight_layout(desc.activations):
                answer += f"; repacks the {desc.layout} weight at every call, nvfp4.prepare(module) does it once"
        elif desc.op == "dequantize" and desc.layout in layouts.TILED_LAYOUTS:
            answer += "; tiles become plain bytes first"
        elif desc.op == "swizzle_scales":
            return True, "torch's own permutation of bytes"
        return True, answer + unproven(torch.cuda.get_device_capability(), importlib.metadata.version("triton"))

    def weight_layout(self, activations: str = "row") -> str:
        """The order of a 16-bit MMA's operand; plain bytes for an FP4 one."""
        return "plain" if self._is_native(activations) else _TILES

    @staticmethod
    def _is_native(activations: str, device: torch.device | None = None) -> bool:
        """Whether products of quantised activations are the GPU's own FP4 instruction; of the current GPU, if any."""
        if activations == "none" or not torch.cuda.is_available():
            return False
        return not native_refusal(torch.cuda.get_device_capability(device), importlib.metadata.version("triton"))

    def quantize(
        self, x: Tensor, global_scale: Tensor | None, granularity: str, scheme: str, layout: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pass; a long row's scale takes another over the row, the tensor's one over the tensor.

        A given global scale cannot be looked at without waiting for the GPU. One that is not positive and finite makes
        every block scale NaN.
        """
        from nvfp4.backends.triton import quantize

        record("triton/quantize")
        mode, out = quantized_outputs(x, global_scale, granularity, layout)
        x, rows, stride = as_rows(x)
        groups = x.shape[-1] // GROUP_SIZE
        if rows == 0 or groups == 0:
            if global_scale is None:
                out.global_scale.fill_(1.0)
            return out
        if layout == "128x4":
            out.scale.zero_()  # padding has to be
        is_ct, words = scheme == "compressed-tensors", out.packed.view(torch.int32)
        with on_device(x):
            if mode == COMPUTE_ROW:
                quantize.quantize_rows[(rows,)](
                    x, words, out.scale, out.global_scale, stride, GROUPS=groups, SWIZZLED=layout == "128x4",
                    **quantize.tile_of_row(groups, x.element_size()), enable_fp_fusion=False,
                )  # fmt: skip
                return out
            if mode == COMPUTE_TENSOR:
                quantize.tensor_scale(x, out.global_scale, rows, groups, stride, is_ct)
            per_row = out.global_scale.dim() > 1
            if layout == "plain" and not per_row:
                rows, groups = quantize.flattened(rows, groups, stride)
            quantize.quantize_blocks[(-(-rows * groups // _BLOCKS),)](
                x, words, out.scale, out.global_scale, rows, groups, stride,
                PER_ROW=per_row, SWIZZLED=layout == "128x4", EXACT_CT=is_ct,
                ENDS=quantize.ends_of(rows, groups, _BLOCKS), B=_BLOCKS, **_COMMON,
            )  # fmt: skip
        return out

    def dequantize(
        self, packed: Tensor, scale: Tensor, global_scale: Tensor, shape: list[int], layout: str, dtype: torch.dtype
    ) -> Tensor:
        """One pass; tiles become plain bytes first."""
        from nvfp4.backends.triton import dequantize, quantize

        record("triton/dequantize")
        if layout in layouts.TILED_LAYOUTS:
            packed, scale = self.from_tiles(packed, shape[0], shape[1], layout)
            layout = "plain"
        out = torch.empty(shape, dtype=dtype, device=packed.device)
        rows, groups = torch.Size(shape[:-1]).numel(), shape[-1] // GROUP_SIZE
        if out.numel() == 0:
            return out
        with on_device(packed):
            dequantize.dequantize_blocks[(-(-rows * groups // _BLOCKS),)](
                packed.contiguous(), scale.contiguous(), global_scale.contiguous(), out, rows, groups,
                PER_ROW=global_scale.dim() > 1, SWIZZLED=layout == "128x4",
                ENDS=quantize.ends_of(rows, groups, _BLOCKS), B=_BLOCKS, **_COMMON,
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
        """The tokens' codes become 16-bit numbers, then the product."""
        from nvfp4.backends.triton import products

        out = torch.empty((*a_packed.shape[:-1], n), dtype=out_dtype, device=a_packed.device)
        if out.numel() == 0 or a_packed.shape[-1] == 0:
            return without_columns(out, bias)
        if b_global_scale.dim() == 1 and self._is_native("row", out.device):
            a = (a_packed, a_scale, a_global_scale)
            return self._native(a, b_packed, b_scale, b_global_scale, bias, layout, out)
        record("triton/matmul")
        with on_device(a_packed):
            weight = products.Weight(self._tiles(b_packed, b_scale, n, layout), n, b_global_scale.contiguous(), bias)
            tokens = products.decoded_tokens(a_packed, a_scale, a_global_scale, weight)
            products.product(tokens, weight, out.view(-1, n))
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
        """The tokens as 16-bit numbers, quantised or as they are, then the product."""
        from nvfp4.backends.triton import products

        out = x.new_empty(*x.shape[:-1], out_features)
        if out.numel() == 0 or x.shape[-1] == 0:
            return without_columns(out, bias)
        if weight_global_scale.dim() == 1 and self._is_native(activations, out.device):
            a = self.quantize(x, input_global_scale, "row" if activations == "row" else "tensor", "nvfp4", "plain")
            return self._native(a, weight, weight_scale, weight_global_scale, bias, layout, out)
        record(f"triton/linear/{'w4a16' if activations == 'none' else 'w4a4'}")
        with on_device(x):
            tiles = self._tiles(weight, weight_scale, out_features, layout)
            operand = products.Weight(tiles, out_features, weight_global_scale.contiguous(), bias)
            products.linear(x, operand, input_global_scale, activations, out.view(-1, out_features))
        return out

    def _native(
        self,
        a: tuple[Tensor, Tensor, Tensor],
        packed: Tensor,
        scale: Tensor,
        global_scale: Tensor,
        bias: Tensor | None,
        layout: str,
        out: Tensor,
    ) -> Tensor:
        """out [..., N] of quantised tokens and a weight, by the GPU's own FP4 instruction."""
        from nvfp4.backends.triton import native

        record("triton/native")
        n, k = out.shape[-1], a[0].shape[-1] * 2
        packed, scale = self._plain(packed, scale, n, k, layout)
        alpha = reference.alpha(a[2], global_scale).flatten()
        with on_device(out):
            native.product(
                a[0].reshape(-1, k // 2).contiguous(), a[1].reshape(-1, k // GROUP_SIZE).contiguous(),
                packed.contiguous(), scale.contiguous(), alpha, bias, out.view(-1, n),
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
        """One kernel, a row a program."""
        from nvfp4.backends.triton import fused

        record("triton/rms_norm_quantize")
        with on_device(x):
            return fused.rms_norm_quantize(x, weight, eps, unit_offset, residual, global_scale, layout)

    def gated_quantize(
        self, x: Tensor, activation: str, interleaved: bool, global_scale: Tensor | None, layout: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One kernel."""
        from nvfp4.backends.triton import fused

        record("triton/gated_quantize")
        with on_device(x):
            return fused.gated_quantize(x, activation, interleaved, global_scale, layout)

    def gated_mlp(
        self,
        x: Tensor,
        weights: GatedWeights,
        input_global_scale: Tensor | None,
        down_input_global_scale: Tensor | None,
        activation: Activation,
        activations: str,
    ) -> Tensor:
        """gate_up, then its activation and what down wants of it in one kernel, then down."""
        from nvfp4.backends.triton import products

        w = weights
        if (
            min(x.numel(), w.intermediate, w.out_features) == 0
            or activations == "tensor"
            or (activations == "none" and x.dtype == torch.float32)
            or self._is_native(activations, x.device)
        ):
            return unfused(self, x, w, input_global_scale, down_input_global_scale, activation, activations)
        record(f"triton/gated_mlp/{'w4a16' if activations == 'none' else 'w4a4'}")
        out = x.new_empty(*x.shape[:-1], w.out_features)
        with on_device(x):
            gate_up = products.Weight(
                self._tiles(w.gate_up, w.gate_up_scale, 2 * w.intermediate, w.layout), 2 * w.intermediate,
                w.gate_global_scale, w.gate_up_bias, w.up_global_scale,
            )  # fmt: skip
            down = products.Weight(
                self._tiles(w.down, w.down_scale, w.out_features, w.layout), w.out_features, w.down_global_scale,
                w.down_bias,
            )  # fmt: skip
            both = x.new_empty(out.numel() // w.out_features, 2 * w.intermediate)
            products.linear(x, gate_up, input_global_scale, activations, both)
            tokens = products.gated_tokens(both, down_input_global_scale, activation, activations, down)
            products.product(tokens, down, out.view(-1, w.out_features))
        return out

    def swizzle_scales(self, scale: Tensor) -> Tensor:
        """`layout.swizzle_scales`."""
        return layouts.swizzle_scales(scale)

    def unswizzle_scales(self, scale: Tensor, rows: int, groups: int) -> Tensor:
        """`layout.unswizzle_scales`."""
        return layouts.unswizzle_scales(scale, rows, groups)

    def to_tiles(self, packed: Tensor, scale: Tensor, layout: str) -> Tensor:
        """The operand of the products. Waits for the GPU, to know that no scale is negative."""
        if bool((scale > 0x7F).any()):
            raise ValueError(NEGATIVE_SCALE)
        return self._to_tiles(packed, scale)

    def _to_tiles(self, packed: Tensor, scale: Tensor) -> Tensor:
        from nvfp4.backends.triton import tiles

        n, k = packed.shape[0], packed.shape[1] * 2
        out = torch.empty(layouts.tiles_shape(n, k, _TILES), dtype=torch.uint8, device=packed.device)
        if out.numel():
            with on_device(packed):
                tiles.pack_tiles[out.shape[:2].numel(),](
                    packed.contiguous(), scale.contiguous(), out.view(torch.int16), out, n, k // GROUP_SIZE,
                    out.shape[1], num_warps=8,
                )  # fmt: skip
        return out

    def from_tiles(self, tiles: Tensor, n: int, k: int, layout: str) -> tuple[Tensor, Tensor]:
        """The plain bytes of tiles."""
        from nvfp4.backends.triton import tiles as kernels

        if layout != _TILES:
            return layouts.from_tiles(tiles, n, k, layout)
        packed = torch.empty((n, k // 2), dtype=torch.uint8, device=tiles.device)
        scale = torch.empty((n, k // GROUP_SIZE), dtype=torch.uint8, device=tiles.device)
        if packed.numel():
            tiles = tiles.contiguous() if tiles.data_ptr() % 16 == 0 else tiles.clone()
            with on_device(tiles):
                kernels.unpack_tiles[tiles.shape[:2].numel(),](
                    tiles.view(torch.int16), tiles, packed, scale, n, k // GROUP_SIZE, tiles.shape[1], num_warps=8
                )
        return packed, scale

    def _plain(self, packed: Tensor, scale: Tensor, n: int, k: int, layout: str) -> tuple[Tensor, Tensor]:
        if layout in layouts.TILED_LAYOUTS:
            return self.from_tiles(packed, n, k, layout)
        return packed, layouts.unswizzle_scales(scale, n, k // GROUP_SIZE) if layout == "128x4" else scale

    def _tiles(self, packed: Tensor, scale: Tensor, n: int, layout: str) -> Tensor:
        if layout == _TILES:
            return packed if packed.data_ptr() % 16 == 0 else packed.clone()
        k = scale.shape[1] * GROUP_SIZE if layout in layouts.TILED_LAYOUTS else packed.shape[1] * 2
        return self._to_tiles(*self._plain(packed, scale, n, k, layout))


def on_device(x: Tensor) -> torch.cuda.device:
    """A guard for x's GPU; of a tensor on the CPU, which only the interpreter is given, none."""
    return torch.cuda.device(x.device if x.is_cuda else -1)
