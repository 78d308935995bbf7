"""Calls of the SM120 matrix product with everything said: the plan, the operands' layouts, the epilogue."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nvfp4 import _C, NVFP4Tensor

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
ACTIVATIONS = {"none": 0, "gelu_tanh": 1, "gelu": 2, "silu": 3}

kernels: Any = getattr(_C, "cuda", None)
dispatch: Any = _C.dispatch


def served() -> bool:
    """Whether the products give right numbers on the GPU here: an SM120, or a Hopper GPU with the model build."""
    return (
        kernels is not None
        and torch.cuda.is_available()
        and kernels.gemm_runs_on(*torch.cuda.get_device_capability())
        and kernels.emulation() in ("", "model")
    )


def tokens_of(name: str) -> int:
    return int(name.removeprefix("stream-").split("x")[0])


def every_plan(m: int, n: int, k: int, blocks: tuple[int, ...] = (188, 170, 36, 5, 1)) -> Iterator[Any]:
    """All valid plans: every instance, several grids, tiles whole and in pieces."""
    for shape, name in enumerate(dispatch.sm120_shapes()):
        tiles = -(-n // 128) * -(-m // tokens_of(name))
        for count in blocks:
            for whole in sorted({0, tiles // count * count}):
                for group in (1, 3):
                    how = dispatch.Sm120Plan(shape, count, whole, group)
                    if not dispatch.sm120_refusal(how, m, n, k):
                        yield how


def _address(t: Tensor | None) -> int:
    return 0 if t is None else t.data_ptr()


def product(
    how: Any,
    a: NVFP4Tensor,
    b: NVFP4Tensor,
    out_dtype: torch.dtype = torch.float32,
    *,
    bias: Tensor | None = None,
    activation: str = "none",
    residual: Tensor | None = None,
    up_global_scale: Tensor | None = None,
    out_global_scale: Tensor | None = None,
) -> Any:
    """One call, all memory poisoned before it; the output, or codes and scales when it is quantised again."""
    (m, k), n = a.shape, b.shape[0]
    stream = torch.cuda.current_stream().cuda_stream

    def poisoned(size: int, dtype: torch.dtype = torch.uint8) -> Tensor:
        return torch.full((max(size, 1),), 0x7F, dtype=torch.uint8, device="cuda").repeat(dtype.itemsize).view(dtype)

    units = poisoned(_C.dispatch.units_bytes(n, k))
    kernels.to_units(b.packed.data_ptr(), b.scale.data_ptr(), n, k, units.data_ptr(), stream)
    pitch = -(-k // 32) * 16
    codes = poisoned(m * pitch).view(m, pitch)
    codes[:, : k // 2] = a.packed
    scales = poisoned(_C.swizzled_bytes(m, k // 16, 32))
    arrivals = poisoned(dispatch.sm120_arrivals(how, m, n, k), torch.int32)
    partials = poisoned(dispatch.sm120_partial_bytes(how, m, n, k))
    per_token = a.global_scale.dim() > 1
    alphas = [poisoned(m, torch.float32) for _ in range(2)]
    for alpha, weight_scale in zip(alphas, (b.global_scale, up_global_scale), strict=True):
        if weight_scale is not None:
            kernels.prepare_tokens(
                a.scale.data_ptr(), m, k // 16, a.global_scale.data_ptr(), per_token, scales.data_ptr(),
                weight_scale.data_ptr(), alpha.data_ptr(), arrivals.data_ptr(), arrivals.numel(), stream,
            )  # fmt: skip
    outputs = n if activation == "none" else n // 2
    behind = 7.0  # a row that nobody may write
    rows = torch.full((m + 1, outputs), float("nan"), dtype=out_dtype, device="cuda")
    rows[m] = behind
    out = rows[:m]
    packed = torch.full((m, outputs // 2), 0xAA, dtype=torch.uint8, device="cuda")
    out_scale = poisoned(_C.swizzled_bytes(m, outputs // 16, 32))
    kernels.gemm(
        how, m, n, k, codes.data_ptr(), pitch, scales.data_ptr(), units.data_ptr(), alphas[0].data_ptr(),
        0 if up_global_scale is None else alphas[1].data_ptr(), per_token, _address(bias),
        0 if bias is None else DTYPES[bias.dtype], ACTIVATIONS[activation], _address(residual), out.data_ptr(),
        DTYPES[out_dtype], 0 if out_global_scale is None else packed.data_ptr(), outputs // 2, out_scale.data_ptr(),
        _address(out_global_scale), partials.data_ptr(), arrivals.data_ptr(), True, stream,
    )  # fmt: skip
    torch.cuda.synchronize()
    assert bool((rows[m] == behind).all()), f"{how}: wrote behind the output"
    if out_global_scale is None:
        return out
    groups = outputs // 16
    padded = from_32x4(out_scale, m, -(-groups // 4) * 4)
    assert not padded[:, groups:].any(), f"{how}: the padding of the output's scales is not zero"
    return packed, padded[:, :groups]


def from_32x4(scales: Tensor, rows: int, groups: int) -> Tensor:
    """Plain [rows, groups] of scales in atoms of 32 rows by four groups, padding included where asked for."""
    atoms = scales.view(-(-rows // 32), -(-groups // 4), 8, 4, 4)
    return atoms.permute(0, 3, 2, 1, 4).reshape(-(-rows // 32) * 32, -1)[:rows, :groups]


def on_gpu(t: NVFP4Tensor) -> NVFP4Tensor:
    return NVFP4Tensor(t.packed.cuda(), t.scale.cuda(), t.global_scale.cuda(), t.shape)
