"""Backends whose kernels this version does not have; they answer truthfully in `explain`."""

from __future__ import annotations

import importlib.util
from typing import Any, NoReturn

import torch

from nvfp4 import _C
from nvfp4.backends.base import Backend, Desc

__all__ = ["CudaBackend", "TritonBackend"]


class _Absent(Backend):
    """A backend that serves nothing: every kernel entry is an error, which `select` never lets happen."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(f"the {self.name} backend has no kernels in this version")

    def weight_layout(self) -> str:
        """Plain: there is no kernel to prepare for."""
        return "plain"

    quantize = dequantize = matmul = linear = _refuse
    swizzle_scales = unswizzle_scales = to_tiles = from_tiles = _refuse


class CudaBackend(_Absent):
    """The compiled CUDA kernels (SM120, SM90)."""

    name = "cuda"

    def supports(self, desc: Desc) -> tuple[bool, str]:
        """No: says what is missing first, the kernels or the GPU."""
        if desc.device != "cuda":
            return False, f"tensors are on {desc.device}, the kernels need a CUDA device"
        if not torch.cuda.is_available():
            return False, "torch sees no CUDA device"
        return False, f"no CUDA kernels in this build (compiled for: {_C.build_info()['cuda'] or 'nothing'})"


class TritonBackend(_Absent):
    """The Triton kernels (every other GPU)."""

    name = "triton"

    def supports(self, desc: Desc) -> tuple[bool, str]:
        """No: says what is missing first."""
        if desc.device != "cuda":
            return False, f"tensors are on {desc.device}, Triton needs a GPU"
        if importlib.util.find_spec("triton") is None:
            return False, "Triton is not installed"
        return False, "this version of nvfp4 has no Triton kernels"
