"""The reference backend: `nvfp4.reference` behind the backend interface. Any device, any dtype, no speed."""

from __future__ import annotations

import torch
from torch import Tensor

from nvfp4 import layout as layouts
from nvfp4 import reference
from nvfp4.backends.base import NEGATIVE_SCALE, Backend, Desc, check_positive, refused_by_contract
from nvfp4.backends.calls import record
from nvfp4.tensor import NVFP4Tensor

__all__ = ["ReferenceBackend"]


def _tensor(packed: Tensor, scale: Tensor, global_scale: Tensor, shape: list[int], layout: str) -> NVFP4Tensor:
    return NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), global_scale, tuple(shape), layout)


class ReferenceBackend(Backend):
    """Plain torch on the tensor's own device: the definition every kernel is compared with."""

    name = "reference"

    def supports(self, desc: Desc) -> tuple[bool, str]:
        """All that the ops take: plain torch."""
        refusal = refused_by_contract(desc)
        if refusal:
            return False, refusal
        return True, f"plain torch, {desc.op} by its definition (slow)"

    def weight_layout(self, activations: str = "row") -> str:
        """The plain layout: the definition reads it directly."""
        return "plain"

    def quantize(
        self, x: Tensor, global_scale: Tensor | None, granularity: str, scheme: str, layout: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`reference.quantize`."""
        record("reference/quantize")
        check_positive("quantize", global_scale)
        t = reference.quantize(x, global_scale, granularity, scheme)  # type: ignore[arg-type]
        scale = t.scale.view(torch.uint8)
        if layout == "128x4":
            scale = layouts.swizzle_scales(scale.reshape(t.rows, x.shape[-1] // 16))
        return t.packed.contiguous(), scale.contiguous(), t.global_scale.clone(memory_format=torch.contiguous_format)

    def dequantize(
        self, packed: Tensor, scale: Tensor, global_scale: Tensor, shape: list[int], layout: str, dtype: torch.dtype
    ) -> Tensor:
        """`reference.dequantize`."""
        record("reference/dequantize")
        return reference.dequantize(_tensor(packed, scale, global_scale, shape, layout), dtype)

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
        """`reference.matmul`."""
        record("reference/matmul")
        check_positive("matmul", a_global_scale, b_global_scale)
        lead, k = a_packed.shape[:-1], a_packed.shape[-1] * 2
        a = _tensor(a_packed, a_scale, a_global_scale, [*lead, k], "plain")
        b = _tensor(b_packed, b_scale, b_global_scale, [n, k], layout)
        return reference.matmul(a, b, bias, out_dtype)

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
        """`reference.quantize` and `reference.matmul`, or `reference.linear` for W4A16."""
        record(f"reference/linear/{'w4a16' if activations == 'none' else 'w4a4'}")
        check_positive("linear", weight_global_scale, input_global_scale)
        w = _tensor(weight, weight_scale, weight_global_scale, [out_features, x.shape[-1]], layout)
        if activations == "none":
            return reference.linear(x, w, bias)
        granularity: reference.Granularity = "row" if activations == "row" else "tensor"
        return reference.matmul(reference.quantize(x, input_global_scale, granularity), w, bias, x.dtype)

    def swizzle_scales(self, scale: Tensor) -> Tensor:
        """`layout.swizzle_scales`."""
        return layouts.swizzle_scales(scale)

    def unswizzle_scales(self, scale: Tensor, rows: int, groups: int) -> Tensor:
        """`layout.unswizzle_scales`."""
        return layouts.unswizzle_scales(scale, rows, groups)

    def to_tiles(self, packed: Tensor, scale: Tensor, layout: str) -> Tensor:
        """`layout.to_tiles`, after the check that every backend makes."""
        if bool((scale >= 0x80).any()):
            raise ValueError(NEGATIVE_SCALE)
        return layouts.to_tiles(packed, scale, layout)

    def from_tiles(self, tiles: Tensor, n: int, k: int, layout: str) -> tuple[Tensor, Tensor]:
        """`layout.from_tiles`."""
        return layouts.from_tiles(tiles, n, k, layout)
