"""The matrix product of SM120: plans, the memory a product needs, and the calls, in the order they are launched.

The tokens are quantised (or, when they come quantised, re-laid) by one kernel, which also writes what the product reads
beside them: alpha = 1 / (G_x * G_w) and zeroed counters. The product is the second kernel, and nothing else runs.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nvfp4 import _C, reference
from nvfp4.backends.arguments import COMPUTE_ROW, COMPUTE_TENSOR, DTYPE_CODES, GIVEN_TENSOR, as_rows
from nvfp4.formats import GROUP_SIZE

__all__ = [
    "Registers",
    "gemm_refusal",
    "instruction",
    "instruction_refusal",
    "is_emulated",
    "linear",
    "matmul",
    "model",
    "plan",
]

_kernels: Any = getattr(_C, "cuda", None)
_dispatch: Any = _C.dispatch

_ALIGNMENT = 256  # of every part of a workspace; the copy engine wants 16
_TOKENS_ATOM = 32  # of the scales of tokens


def gemm_refusal() -> str:
    """Why this library's matrix product runs on none of the GPUs here, or an empty string."""
    if _kernels.emulation() in ("surrogate", "disturbed"):
        return "a surrogate build (NVFP4_EMULATE_SM120) multiplies bytes as integers, to test the pipeline"
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        if not _kernels.gemm_runs_on(major, minor):
            built = ";".join(_kernels.built_archs())
            return f"the CUDA matrix products are for SM120 (built for {built}), cuda:{index} is {major}.{minor}"
    return ""


def is_emulated() -> bool:
    """Whether something stands in the place of SM120's FP4 instruction in this build."""
    return bool(_kernels.emulation())


def instruction_refusal() -> str:
    """Why the FP4 instruction does not run here, or an empty string."""
    if _kernels is None:
        return "this build has no CUDA part"
    if not torch.cuda.is_available():
        return "torch sees no GPU"
    return gemm_refusal()


class Registers(NamedTuple):
    """Operands of whole warps, as PTX lays them out.

    Attributes:
        a, b: uint32 [tiles, 32, 4] and [tiles, 32, 2].
        c: float32 [tiles, 32, 4].
        sfa, sfb: uint32 [tiles, 32].
    """

    a: NDArray[Any]
    b: NDArray[Any]
    c: NDArray[Any]
    sfa: NDArray[Any]
    sfb: NDArray[Any]


def model(registers: Registers, thread_id_a: int, thread_id_b: int) -> NDArray[Any]:
    """The instruction's published arithmetic, on the host: float32 [tiles, 32, 4]."""
    a, b, c, sfa, sfb = registers
    return _C.emulation.mma_m16n8k64(a, b, c, sfa, sfb, thread_id_a, thread_id_b)


def instruction(registers: Registers, thread_id_a: int, thread_id_b: int) -> NDArray[Any]:
    """The same by the GPU."""
    on_gpu = [torch.from_numpy(np.ascontiguousarray(r).view(np.int32)).cuda() for r in registers]
    tiles = len(registers.a)
    d = torch.empty(tiles, 32, 4, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    _kernels.instruction(tiles, *(t.data_ptr() for t in on_gpu), thread_id_a, thread_id_b, d.data_ptr(), stream)
    result: NDArray[Any] = d.cpu().numpy()
    return result


@cache
def _gpu(index: int) -> Any:
    return _kernels.gpu(index)


@lru_cache(maxsize=4096)
def plan(m: int, n: int, k: int, index: int) -> Any:
    """How a product runs on the GPU of this index: `nvfp4._C.dispatch.Sm120Plan`, which prints itself."""
    return _dispatch.sm120_choose(m, n, k, _gpu(index))


class _Workspace(NamedTuple):
    """What the two kernels of a product share: one allocation, by offsets."""

    memory: Tensor
    pitch: int  # bytes from token to token
    codes: int
    scales: int
    global_scale: int
    alpha: int
    amax: int
    arrivals: int
    arrival_count: int
    partials: int

    def address(self, offset: int) -> int:
        return self.memory.data_ptr() + offset


def _workspace(how: Any, m: int, n: int, k: int, device: torch.device) -> _Workspace:
    pitch = -(-k // 32) * 16
    arrivals = _dispatch.sm120_arrivals(how, m, n, k)
    sizes = (
        m * pitch,
        _C.swizzled_bytes(m, k // GROUP_SIZE, _TOKENS_ATOM),
        m * 4,
        m * 4,
        _kernels.WORKSPACE_BYTES,
        arrivals * 4,
        _dispatch.sm120_partial_bytes(how, m, n, k),
    )
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + -(-size // _ALIGNMENT) * _ALIGNMENT)
    codes, scales, global_scale, alpha, amax, counters, partials, total = offsets
    memory = torch.empty(total, dtype=torch.uint8, device=device)
    return _Workspace(memory, pitch, codes, scales, global_scale, alpha, amax, counters, arrivals, partials)


def _multiply(
    how: Any, w: _Workspace, codes: int, pitch: int, units: Tensor, out: Tensor, m: int, k: int, bias: Tensor | None,
    per_row: bool, stream: int,
) -> None:  # fmt: skip
    _kernels.gemm(
        how, m, out.shape[-1], k, codes, pitch, w.address(w.scales), units.data_ptr(), w.address(w.alpha), 0, per_row,
        0 if bias is None else bias.data_ptr(), 0 if bias is None else DTYPE_CODES[bias.dtype], 0, 0, out.data_ptr(),
        DTYPE_CODES[out.dtype], 0, 0, 0, 0, w.address(w.partials), w.address(w.arrivals), True, stream,
    )  # fmt: skip


_ROWS = 8  # of the weight, whose results a token's chunk of the output holds


def _padded_rows(n: int, bias: Tensor | None, global_scale: Tensor) -> tuple[int, Tensor | None, Tensor]:
    """N as a multiple of eight, and what has an element a row filled up to it. Units are padded further anyway."""
    extra = -n % _ROWS
    if bias is not None:
        bias = torch.nn.functional.pad(bias, (0, extra))
    if global_scale.dim() > 1:
        global_scale = torch.nn.functional.pad(global_scale, (0, 0, 0, extra), value=1.0)
    return n + extra, bias, global_scale


def _no_columns(out: Tensor, bias: Tensor | None) -> Tensor:
    """The product over no columns at all."""
    return out.zero_() if bias is None else out.copy_(bias.float().expand(out.shape))


def _ones(device: torch.device) -> Tensor:
    return torch.ones(1, dtype=torch.float32, device=device)


def linear(
    x: Tensor, units: Tensor, weight_global_scale: Tensor, input_global_scale: Tensor | None, bias: Tensor | None,
    out_features: int, activations: str,
) -> Tensor:  # fmt: skip
    """y [..., N] of x [..., K] and a weight in units: two kernels on the current stream.

    A weight with a global scale a row takes a third step: its products are scaled and rounded by torch.
    """
    if out_features % _ROWS:
        n, bias, weight_global_scale = _padded_rows(out_features, bias, weight_global_scale)
        y = linear(x, units, weight_global_scale, input_global_scale, bias, n, activations)
        return y[..., :out_features].contiguous()
    *lead, k = x.shape
    out = x.new_empty(*lead, out_features)
    x, m, stride = as_rows(x)
    if out.numel() == 0:
        return out
    if k == 0:
        return _no_columns(out, bias)
    if weight_global_scale.dim() > 1:
        g_x = _global_scale_of(x, input_global_scale, activations)
        a = torch.ops.nvfp4.quantize.default(x.reshape(m, k), g_x, "row", "nvfp4", "plain")
        packed, scale, global_scale = a
        y = matmul(packed, scale, global_scale, units, weight_global_scale, bias, out_features, x.dtype)
        return y.view(out.shape)
    how = plan(m, out_features, k, x.device.index)
    w = _workspace(how, m, out_features, k, x.device)
    per_row = activations == "row"
    if input_global_scale is None:
        mode, scale = COMPUTE_ROW if per_row else COMPUTE_TENSOR, w.address(w.global_scale)
    else:
        mode, scale = GIVEN_TENSOR, input_global_scale.data_ptr()
    with torch.cuda.device(x.device):
        stream = torch.cuda.current_stream().cuda_stream
        _kernels.quantize_tokens(
            x.data_ptr(), DTYPE_CODES[x.dtype], m, k, stride, mode, scale, w.address(w.codes), w.pitch,
            w.address(w.scales), w.address(w.amax), weight_global_scale.data_ptr(), w.address(w.alpha),
            w.address(w.arrivals), w.arrival_count, stream,
        )  # fmt: skip
        _multiply(how, w, w.address(w.codes), w.pitch, units, out, m, k, bias, per_row, stream)
    return out


def _global_scale_of(x: Tensor, given: Tensor | None, activations: str) -> Tensor:
    if given is not None:
        return given
    return reference.global_scale_of(x, "row" if activations == "row" else "tensor")


def matmul(
    a_packed: Tensor, a_scale: Tensor, a_global_scale: Tensor, units: Tensor, b_global_scale: Tensor,
    bias: Tensor | None, n: int, out_dtype: torch.dtype,
) -> Tensor:  # fmt: skip
    """y [..., N] of quantised a [..., K] (plain) and a weight in units."""
    if n % _ROWS:
        padded, bias, b_global_scale = _padded_rows(n, bias, b_global_scale)
        y = matmul(a_packed, a_scale, a_global_scale, units, b_global_scale, bias, padded, out_dtype)
        return y[..., :n].contiguous()
    lead, k = a_packed.shape[:-1], a_packed.shape[-1] * 2
    m = lead.numel()
    device = a_packed.device
    scaled_here = b_global_scale.dim() > 1  # a factor for every element: torch applies it to float32 sums
    out = torch.empty((*lead, n), dtype=torch.float32 if scaled_here else out_dtype, device=device)
    if out.numel() == 0:
        return out.to(out_dtype)
    if k == 0:
        return _no_columns(out, bias).to(out_dtype)
    how = plan(m, n, k, device.index)
    w = _workspace(how, m, n, k, device)
    a_packed, a_scale = a_packed.reshape(m, k // 2).contiguous(), a_scale.contiguous()
    codes, pitch = a_packed.data_ptr(), k // 2
    if pitch % 16 or codes % 16:
        # The copy engine reads rows that begin at multiples of 16 bytes.
        w.memory[: m * w.pitch].view(m, w.pitch)[:, : k // 2] = a_packed
        codes, pitch = w.address(w.codes), w.pitch
    per_row = a_global_scale.dim() > 1
    g_a, g_b = (_ones(device), _ones(device)) if scaled_here else (a_global_scale.contiguous(), b_global_scale)
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        _kernels.prepare_tokens(
            a_scale.data_ptr(), m, k // GROUP_SIZE, g_a.data_ptr(), per_row and not scaled_here, w.address(w.scales),
            g_b.data_ptr(), w.address(w.alpha), w.address(w.arrivals), w.arrival_count, stream,
        )  # fmt: skip
        _multiply(
            how, w, codes, pitch, units, out, m, k, None if scaled_here else bias, per_row and not scaled_here, stream
        )
    if not scaled_here:
        return out
    factors = reference.alpha(a_global_scale, b_global_scale.flatten())
    y = out * factors
    return (y if bias is None else y + bias.float()).to(out_dtype)
