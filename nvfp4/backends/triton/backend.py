"""What Triton serves, and the launches. Triton itself is imported by the first call that needs it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import lru_cache
from typing import Any, NoReturn

import torch
from torch import Tensor

from nvfp4.backends.arguments import COMPUTE_ROW, COMPUTE_TENSOR, as_rows, quantized_outputs
from nvfp4.backends.base import Backend, Desc, refused_off_gpu
from nvfp4.backends.calls import record
from nvfp4.formats import GROUP_SIZE

__all__ = ["TritonBackend"]

_OLDEST = (3, 5)
"""Comes with torch 2.9; older ones have not been tried."""

_CAPABILITY = (8, 0)
_SERVED = ("quantize", "dequantize", "quantize_dequantize")
_BLOCKS = 128  # of sixteen, a program
_WARPS = 4


@lru_cache(maxsize=1)
def _refusal() -> str:
    """Why no GPU here is served, or an empty string. Neither GPUs nor installed packages change in a process."""
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    if torch.version.hip:
        return "torch is built for ROCm, which was never tried"
    if importlib.util.find_spec("triton") is None:
        return f"Triton is not installed: pip install 'triton>={_OLDEST[0]}.{_OLDEST[1]}'"
    version = importlib.metadata.version("triton")
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        return f"Triton {version} is too old: pip install 'triton>={_OLDEST[0]}.{_OLDEST[1]}'"
    for index in range(torch.cuda.device_count()):
        if torch.cuda.get_device_capability(index) < _CAPABILITY:
            return f"cuda:{index} ({torch.cuda.get_device_name(index)}) is older than compute capability 8.0"
    return ""


class TritonBackend(Backend):
    """Kernels in Triton; what they do not do yet, another backend does."""

    name = "triton"

    def supports(self, desc: Desc) -> tuple[bool, str]:
        """Quantising and dequantising on NVIDIA GPUs since Ampere."""
        refusal = refused_off_gpu(desc, _refusal)
        if refusal:
            return False, refusal
        if desc.op not in _SERVED:
            return False, "this version of nvfp4 has no Triton kernels for it"
        if desc.layout not in ("plain", "128x4"):
            return False, f"{desc.layout} is the layout of another backend's kernels"
        return True, f"Triton {importlib.metadata.version('triton')}, compiled at the first call of each kind"

    def weight_layout(self) -> str:
        """Plain: there is no product to prepare for."""
        return "plain"

    def quantize(
        self, x: Tensor, global_scale: Tensor | None, granularity: str, scheme: str, layout: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pass; with a computed scale two of every row, or one of the tensor before.

        A given global scale cannot be looked at without waiting for the GPU. One that is not positive and finite makes
        every block scale NaN.
        """
        from nvfp4.backends.triton import kernels

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
        grid, is_ct = (-(-rows * groups // _BLOCKS),), scheme == "compressed-tensors"
        common: dict[str, Any] = {"num_warps": _WARPS, "enable_fp_fusion": False}
        with _device(x):
            if mode == COMPUTE_ROW:
                kernels.quantize_rows[(rows,)](
                    x, out.packed, out.scale, out.global_scale, stride, GROUPS=groups, SWIZZLED=layout == "128x4",
                    B=_BLOCKS, **common,
                )  # fmt: skip
                return out
            if mode == COMPUTE_TENSOR:
                amax = torch.zeros(1, dtype=torch.int32, device=x.device)
                kernels.tensor_amax[grid](x, amax, rows, groups, stride, B=_BLOCKS, **common)
                raw = kernels.DTYPES[x.dtype]
                kernels.global_scale_of_tensor[(1,)](amax, out.global_scale, RAW=raw, EXACT_CT=is_ct, **common)
            kernels.quantize_blocks[grid](
                x, out.packed, out.scale, out.global_scale, rows, groups, stride,
                PER_ROW=out.global_scale.dim() > 1, SWIZZLED=layout == "128x4", EXACT_CT=is_ct, B=_BLOCKS, **common,
            )  # fmt: skip
        return out

    def dequantize(
        self, packed: Tensor, scale: Tensor, global_scale: Tensor, shape: list[int], layout: str, dtype: torch.dtype
    ) -> Tensor:
        """One pass."""
        from nvfp4.backends.triton import kernels

        record("triton/dequantize")
        out = torch.empty(shape, dtype=dtype, device=packed.device)
        rows, groups = torch.Size(shape[:-1]).numel(), shape[-1] // GROUP_SIZE
        if out.numel() == 0:
            return out
        with _device(packed):
            kernels.dequantize_blocks[(-(-rows * groups // _BLOCKS),)](
                packed.contiguous(), scale.contiguous(), global_scale.contiguous(), out, rows, groups,
                PER_ROW=global_scale.dim() > 1, SWIZZLED=layout == "128x4", B=_BLOCKS, num_warps=_WARPS,
                enable_fp_fusion=False,
            )  # fmt: skip
        return out

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError("the triton backend has no such kernel in this version")

    matmul = linear = swizzle_scales = unswizzle_scales = to_tiles = from_tiles = _refuse


def _device(x: Tensor) -> torch.cuda.device:
    """A guard for x's GPU; of a tensor on the CPU, which only the interpreter is given, none."""
    return torch.cuda.device(x.device if x.is_cuda else -1)
