"""What every backend answers, and the question it is asked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from nvfp4 import reference
from nvfp4.backends.gated import unfused
from nvfp4.checks import FLOATS
from nvfp4.gated import GatedWeights

__all__ = [
    "FUSED_OPS",
    "NEGATIVE_SCALE",
    "OPS",
    "Backend",
    "Desc",
    "check_positive",
    "refused_by_contract",
    "refused_off_gpu",
]

NEGATIVE_SCALE = "to_tiles: got a block scale with its sign bit set, wanted scales >= 0; the bytes are damaged"

FUSED_OPS = ("rms_norm_quantize", "gated_quantize", "quantize_dequantize")
"""Two steps in one call; a backend without a kernel for both takes them one after the other."""

OPS = ("quantize", "dequantize", "matmul", "linear", "gated_mlp", "swizzle_scales", "tiles", *FUSED_OPS)


_WITH_SCHEME = ("quantize", "quantize_dequantize")


class Desc(NamedTuple):
    """One problem, as far as the choice of a backend depends on it.

    Attributes:
        op: one of `OPS`; ``tiles`` is the conversion between plain weights and tiles.
        device: a device type, such as ``cpu`` or ``cuda``.
        dtype: dtype of the floating-point side: the output of dequantize and matmul, the input of every other op.
        layout: layout of the NVFP4 operand (the weights, for products; the result, for quantize).
        activations: ``row``, ``tensor`` or ``static`` (W4A4: how their global scale comes about), or ``none`` (W4A16).
        scheme: of quantize and quantize_dequantize.
    """

    op: str
    device: str = "cpu"
    dtype: torch.dtype = torch.bfloat16
    layout: str = "plain"
    activations: str = "row"
    scheme: str = "nvfp4"

    def __str__(self) -> str:
        """The fields that matter to this op."""
        parts = [self.op, self.device, str(self.dtype).removeprefix("torch."), self.layout]
        if self.op in ("linear", "matmul", "gated_mlp"):
            parts.append("W4A16" if self.activations == "none" else f"W4A4 ({self.activations})")
        if self.op in _WITH_SCHEME and self.scheme != "nvfp4":
            parts.append(self.scheme)
        return " ".join(parts)


def refused_by_contract(desc: Desc) -> str:
    """Why no backend serves a problem, whatever its kernels: the ops refuse it. Empty when they do not."""
    if desc.op != "tiles" and desc.dtype not in FLOATS:
        return f"{desc.dtype} is none of float32, float16, bfloat16"
    if desc.op in _WITH_SCHEME and desc.scheme == "compressed-tensors" and desc.activations == "row":
        return "the scheme compressed-tensors has one global scale a tensor"
    if desc.op in ("rms_norm_quantize", "gated_quantize") and desc.activations == "tensor":
        return "values that are never in memory have no global scale computed per tensor"
    return ""


def refused_off_gpu(desc: Desc, refusal: Callable[[], str]) -> str:
    """Why kernels for the GPU serve no problem of this kind, or an empty string; `refusal` says it of the machine."""
    if desc.device != "cuda":
        # Said first: asking torch for its GPUs would initialise CUDA in a process that only uses the CPU.
        return f"tensors are on {desc.device}, the kernels need the GPU"
    return refusal() or refused_by_contract(desc)


def check_positive(what: str, *global_scales: Tensor | None) -> None:
    """The check of values that is made wherever it does not have to wait for a GPU, before a global scale divides."""
    for scale in global_scales:
        if scale is not None and not bool((scale.isfinite() & (scale > 0)).all()):
            raise ValueError(
                f"{what}: global scale: got {scale.flatten()[:4].tolist()}, wanted positive finite numbers, 2688 / amax"
            )


class Backend(ABC):
    """Kernels for one kind of device. Methods take and return what the ops of the same names do (`nvfp4/ops.py`)."""

    name: str

    @abstractmethod
    def supports(self, desc: Desc) -> tuple[bool, str]:
        """Whether this backend serves the problem, and the reason: the kernel that would run, or what is missing."""

    @abstractmethod
    def weight_layout(self, activations: str = "row") -> str:
        """The layout a weight should be prepared in for `linear`; ``plain`` when no other is faster.

        `activations` is that of a `Desc`.
        """

    @abstractmethod
    def quantize(
        self, x: Tensor, global_scale: Tensor | None, granularity: str, scheme: str, layout: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Packed codes, scale bytes and global scale of x [..., K]."""

    @abstractmethod
    def dequantize(
        self, packed: Tensor, scale: Tensor, global_scale: Tensor, shape: list[int], layout: str, dtype: torch.dtype
    ) -> Tensor:
        """The values, of the given logical shape."""

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
        """Codes, scales and global scale of the RMS norm of x + residual; and x + residual, empty without a residual.

        Here by the definition, then `quantize`.
        """
        check_positive("rms_norm_quantize", global_scale)
        values, total = reference.rms_norm(x, weight, eps, unit_offset, residual)
        packed, scale, out_scale = self.quantize(values, global_scale, "row", "nvfp4", layout)
        return packed, scale, out_scale, x.new_empty(0) if residual is None else total.contiguous()

    def gated_quantize(
        self, x: Tensor, activation: str, interleaved: bool, global_scale: Tensor | None, layout: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Codes, scales and global scale of act(gate) * up, x [..., 2 * K]; here by the definition, then `quantize`."""
        check_positive("gated_quantize", global_scale)
        gate, up = reference.gated_halves(x, interleaved)
        values = reference.gated_activation(gate, up, activation)  # type: ignore[arg-type]
        return self.quantize(values, global_scale, "row", "nvfp4", layout)

    def quantize_dequantize(
        self, x: Tensor, global_scale: Tensor | None, granularity: str, scheme: str, dtype: torch.dtype
    ) -> Tensor:
        """The values that `quantize` makes of x; here by way of the codes."""
        check_positive("quantize_dequantize", global_scale)
        parts = self.quantize(x, global_scale, granularity, scheme, "plain")
        return self.dequantize(*parts, list(x.shape), "plain", dtype)

    @abstractmethod
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
        """a [..., K] (plain) times b [n, K] (in `layout`) transposed."""

    @abstractmethod
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
        """x [..., K] times the weight transposed, quantising x first unless `activations` is ``none``."""

    def gated_mlp(
        self,
        x: Tensor,
        weights: GatedWeights,
        input_global_scale: Tensor | None,
        down_input_global_scale: Tensor | None,
        activation: reference.Activation,
        activations: str,
    ) -> Tensor:
        """down(act(gate x) * up x), by two linears where the backend has nothing better."""
        return unfused(self, x, weights, input_global_scale, down_input_global_scale, activation, activations)

    @abstractmethod
    def swizzle_scales(self, scale: Tensor) -> Tensor:
        """Plain [rows, groups] scale bytes in the 128x4 order."""

    @abstractmethod
    def unswizzle_scales(self, scale: Tensor, rows: int, groups: int) -> Tensor:
        """The inverse of `swizzle_scales`."""

    @abstractmethod
    def to_tiles(self, packed: Tensor, scale: Tensor, layout: str) -> Tensor:
        """Plain weight bytes as tiles of a layout; a block scale with its sign bit set is a ValueError."""

    @abstractmethod
    def from_tiles(self, tiles: Tensor, n: int, k: int, layout: str) -> tuple[Tensor, Tensor]:
        """The inverse of `to_tiles`."""
