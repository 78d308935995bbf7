"""The CUDA backend: the compiled kernels through `nvfp4._C.cuda`, on torch's current stream, without synchronising.

What quantising and converting scales need is here for every GPU whose architecture was compiled in. Matrix products are
not in this version: `matmul` and `linear` on a GPU are served by the reference.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NoReturn

import torch
from torch import Tensor

from nvfp4 import _C
from nvfp4 import layout as layouts
from nvfp4.backends.arguments import (
    COMPUTE_TENSOR,
    DTYPE_CODES,
    SCALE_LAYOUT_CODES,
    SCHEME_CODES,
    as_rows,
    quantized_outputs,
)
from nvfp4.backends.base import Backend, Desc, refused_by_contract
from nvfp4.backends.calls import record

__all__ = ["CudaBackend"]

_kernels: Any = getattr(_C, "cuda", None)
_OPS = ("quantize", "dequantize", "swizzle_scales")


@lru_cache(maxsize=1)
def _refusal() -> str:
    """Why no GPU here is served, or an empty string. The GPUs of a process do not change."""
    if _kernels is None:
        return "this build has no CUDA part (no nvcc was found or NVFP4_CUDA=OFF when it was built)"
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    built = ";".join(_kernels.built_archs())
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        if not _kernels.runs_on(major, minor):
            name = torch.cuda.get_device_name(index)
            return f"built for {built}, but cuda:{index} ({name}) is {major}.{minor}; set NVFP4_CUDA_ARCHS and build"
    return ""


class CudaBackend(Backend):
    """Compiled kernels for Hopper (SM90) and the SM120 family."""

    name = "cuda"

    def supports(self, desc: Desc) -> tuple[bool, str]:
        """Quantising, dequantising and the scales' layouts."""
        if desc.op not in _OPS:
            return False, f"this version of nvfp4 has no CUDA kernels for {desc.op}"
        refusal = _refusal() or refused_by_contract(desc)
        if refusal:
            return False, refusal
        if desc.device != "cuda":
            return False, f"tensors are on {desc.device}, the kernels need the GPU"
        if desc.layout == "n16k64":
            return False, "n16k64 is the layout of the CPU's kernels"
        return True, f"CUDA kernels for {';'.join(_kernels.built_archs())}"

    def weight_layout(self) -> str:
        """Plain: there is no matrix product to prepare for."""
        return "plain"

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

    def dequantize(
        self, packed: Tensor, scale: Tensor, global_scale: Tensor, shape: list[int], layout: str, dtype: torch.dtype
    ) -> Tensor:
        """One pass."""
        record("cuda/dequantize")
        out = torch.empty(shape, dtype=dtype, device=packed.device)
        packed, scale, global_scale = packed.contiguous(), scale.contiguous(), global_scale.contiguous()
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

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError("the cuda backend has no kernels for this op in this version")

    matmul = linear = to_tiles = from_tiles = _refuse
