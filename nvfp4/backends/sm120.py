"""The matrix product of SM120: plans, the memory a product needs, and the calls, in the order they are launched.

The tokens are quantised (or, when they come quantised, re-laid) by one kernel, which also writes what the product reads
beside them: alpha = 1 / (G_x * G_w) and zeroed counters. The product is the second kernel, and nothing else runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nvfp4 import _C, reference
from nvfp4.backends import sm120_tuning
from nvfp4.backends.arguments import COMPUTE_ROW, COMPUTE_TENSOR, DTYPE_CODES, GIVEN_TENSOR, as_rows, without_columns
from nvfp4.formats import GROUP_SIZE
from nvfp4.tuning import Problem

__all__ = [
    "Epilogue",
    "Places",
    "Product",
    "Registers",
    "candidates",
    "force_plan",
    "gemm_refusal",
    "instruction",
    "instruction_refusal",
    "is_emulated",
    "kernel_names",
    "linear",
    "matmul",
    "model",
    "multiply",
    "pitch_of",
    "plan",
    "product",
    "scale_mode",
    "token_scale_bytes",
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


_forced: list[Any] = []


def kernel_names() -> list[str]:
    """Of every kernel of products."""
    names: list[str] = _dispatch.sm120_shapes()
    return names


def candidates(m: int, n: int, k: int, index: int) -> list[Any]:
    """Every plan worth timing on the GPU of this index."""
    return list(sm120_tuning.candidates(Problem(m, n, k), _gpu(index)).values())


@contextmanager
def force_plan(how: Any) -> Iterator[None]:
    """Run every product in this block by one plan, as `nvfp4 selftest` does with each."""
    caches = (plan, product, _places)
    _forced.append(how)
    for cached in caches:
        cached.cache_clear()
    try:
        yield
    finally:
        _forced.pop()
        for cached in caches:
            cached.cache_clear()


@lru_cache(maxsize=4096)
def plan(m: int, n: int, k: int, index: int) -> Any:
    """How a product runs on the GPU of this index: `nvfp4._C.dispatch.Sm120Plan`, which prints itself."""
    if _forced:
        return _forced[-1]
    return sm120_tuning.choose(Problem(m, n, k), _gpu(index), sm120_tuning.measured(index))


class Places(NamedTuple):
    """Where the parts of a workspace lie, in bytes from its beginning, and its size."""

    offsets: dict[str, int]
    total: int

    @classmethod
    def of(cls, **sizes: int) -> Places:
        """Parts of these sizes, each aligned."""
        offsets, total = {}, 0
        for name, size in sizes.items():
            offsets[name] = total
            total += -(-size // _ALIGNMENT) * _ALIGNMENT
        return cls(offsets, total)

    def allocate(self, device: torch.device) -> tuple[Tensor, dict[str, int]]:
        """The memory, and the addresses of the parts."""
        memory = torch.empty(self.total, dtype=torch.uint8, device=device)
        base = memory.data_ptr()
        return memory, {name: base + offset for name, offset in self.offsets.items()}


def pitch_of(k: int) -> int:
    """Bytes from token to token of codes: whole 16 bytes, which the copy engine wants."""
    return -(-k // 32) * 16


def token_scale_bytes(m: int, k: int) -> int:
    """Bytes of tokens' scales in the kernels' order."""
    size: int = _C.swizzled_bytes(m, k // GROUP_SIZE, _TOKENS_ATOM)
    return size


class Product(NamedTuple):
    """A product's plan and the sizes of what it needs beside its operands.

    Attributes:
        plan: how it runs.
        arrivals: number of counters, 32 bits each, zero before and after.
        partial_bytes: of partial sums.
    """

    plan: Any
    arrivals: int
    partial_bytes: int


@lru_cache(maxsize=4096)
def product(m: int, n: int, k: int, index: int) -> Product:
    """A product of m tokens on the GPU of this index."""
    how = plan(m, n, k, index)
    return Product(how, _dispatch.sm120_arrivals(how, m, n, k), _dispatch.sm120_partial_bytes(how, m, n, k))


@lru_cache(maxsize=4096)
def _places(m: int, n: int, k: int, index: int) -> Places:
    """What the two kernels of a linear share."""
    p = product(m, n, k, index)
    return Places.of(
        codes=m * pitch_of(k), scales=token_scale_bytes(m, k), global_scale=m * 4, alpha=m * 4,
        amax=_kernels.WORKSPACE_BYTES, arrivals=p.arrivals * 4, partials=p.partial_bytes,
    )  # fmt: skip


class Epilogue(NamedTuple):
    """What follows the sums; addresses, and codes of the core's enumerations."""

    bias: Tensor | None = None
    activation: int = 0
    up_alpha: int = 0
    packed: int = 0
    packed_pitch: int = 0
    scale: int = 0
    global_scale: int = 0


def multiply(
    p: Product, m: int, n: int, k: int, codes: int, pitch: int, at: dict[str, int], units: Tensor, alpha: int,
    per_row: bool, out: int, out_dtype: torch.dtype, epilogue: Epilogue, stream: int,
) -> None:  # fmt: skip
    """Launch a product. `at` names the scales of its tokens, its arrivals and its partials."""
    bias = epilogue.bias
    _kernels.gemm(
        p.plan, m, n, k, codes, pitch, at["scales"], units.data_ptr(), alpha, epilogue.up_alpha, per_row,
        0 if bias is None else bias.data_ptr(), 0 if bias is None else DTYPE_CODES[bias.dtype], epilogue.activation, 0,
        out, DTYPE_CODES[out_dtype], epilogue.packed, epilogue.packed_pitch, epilogue.scale, epilogue.global_scale,
        at["partials"], at["arrivals"], True, stream,
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
        return without_columns(out, bias)
    if weight_global_scale.dim() > 1:
        g_x = _global_scale_of(x, input_global_scale, activations)
        a = torch.ops.nvfp4.quantize.default(x.reshape(m, k), g_x, "row", "nvfp4", "plain")
        packed, scale, global_scale = a
        y = matmul(packed, scale, global_scale, units, weight_global_scale, bias, out_features, x.dtype)
        return y.view(out.shape)
    index = x.device.index
    p = product(m, out_features, k, index)
    _memory, at = _places(m, out_features, k, index).allocate(x.device)
    per_row, pitch = activations == "row", pitch_of(k)
    mode, scale = scale_mode(input_global_scale, activations, at["global_scale"])
    with torch.cuda.device(x.device):
        stream = torch.cuda.current_stream().cuda_stream
        _kernels.quantize_tokens(
            x.data_ptr(), DTYPE_CODES[x.dtype], m, k, stride, mode, scale, at["codes"], pitch, at["scales"],
            at["amax"], weight_global_scale.data_ptr(), at["alpha"], at["arrivals"], p.arrivals, stream,
        )  # fmt: skip
        multiply(
            p, m, out_features, k, at["codes"], pitch, at, units, at["alpha"], per_row, out.data_ptr(), out.dtype,
            Epilogue(bias), stream,
        )  # fmt: skip
    return out


def scale_mode(given: Tensor | None, activations: str, computed: int) -> tuple[int, int]:
    """The mode of a quantize_tokens call, and the address of the global scale that it reads or writes."""
    if given is not None:
        return GIVEN_TENSOR, given.data_ptr()
    return COMPUTE_ROW if activations == "row" else COMPUTE_TENSOR, computed


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
        return without_columns(out, bias).to(out_dtype)
    p = product(m, n, k, device.index)
    memory, at = _places(m, n, k, device.index).allocate(device)
    a_packed, a_scale = a_packed.reshape(m, k // 2).contiguous(), a_scale.contiguous()
    codes, pitch = a_packed.data_ptr(), k // 2
    if pitch % 16 or codes % 16:
        # The copy engine reads rows that begin at multiples of 16 bytes.
        codes, pitch = at["codes"], pitch_of(k)
        memory[: m * pitch].view(m, pitch)[:, : k // 2] = a_packed
    per_row = a_global_scale.dim() > 1 and not scaled_here
    g_a, g_b = (_ones(device), _ones(device)) if scaled_here else (a_global_scale.contiguous(), b_global_scale)
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        _kernels.prepare_tokens(
            a_scale.data_ptr(), m, k // GROUP_SIZE, g_a.data_ptr(), per_row, at["scales"], g_b.data_ptr(), at["alpha"],
            at["arrivals"], p.arrivals, stream,
        )  # fmt: skip
        multiply(
            p, m, n, k, codes, pitch, at, units, at["alpha"], per_row, out.data_ptr(), out.dtype,
            Epilogue(None if scaled_here else bias), stream,
        )  # fmt: skip
    if not scaled_here:
        return out
    factors = reference.alpha(a_global_scale, b_global_scale.flatten())
    y = out * factors
    return (y if bias is None else y + bias.float()).to(out_dtype)
