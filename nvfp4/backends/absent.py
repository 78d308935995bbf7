"""The backend whose kernels this version does not have; it answers truthfully in `explain`."""

from __future__ import annotations

from typing import Any, NoReturn

from nvfp4.backends.base import Backend, Desc

__all__ = ["TritonBackend"]


class _Absent(Backend):
    """A backend that serves nothing: every kernel entry is an error, which `select` never lets happen."""

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError(f"the {self.name} backend has no kernels in this version")

    def weight_layout(self) -> str:
        """Plain: there is no kernel to prepare for."""
        return "plain"

    quantize = dequantize = matmul = linear = _refuse
    rms_norm_quantize = gated_quantize = quantize_dequantize = _refuse
    swizzle_scales = unswizzle_scales = to_tiles = from_tiles = _refuse


class TritonBackend(_Absent):
    """The Triton kernels (every other GPU)."""

    name = "triton"

    def supports(self, desc: Desc) -> tuple[bool, str]:
        """No, on every machine."""
        return False, "this version of nvfp4 has no Triton kernels"
