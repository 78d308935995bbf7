"""Inputs that more than one test file needs."""

from __future__ import annotations

import torch
from torch import Tensor

import nvfp4
from nvfp4 import NVFP4Tensor, formats

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
M_VALUES = (0, 1, 2, 3, 7, 15, 16, 17, 33, 64, 100, 257)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality of the bytes, so that NaN equals NaN and -0.0 differs from 0.0."""
    as_integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32}[a.itemsize]
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.view(as_integer), b.view(as_integer))


def exact_operand(rows: int, k: int, granularity: str = "tensor") -> NVFP4Tensor:
    """A tensor on the exact grid: any codes, scales in {1, 2, 4}, power-of-two global scales.

    A product of two has terms that are multiples of 1/4 and at most 6 * 4 * 6 * 4, so every partial sum over K <=
    2^13 is below 2^24 quarters and exactly representable in float32, in any order of summation.
    """
    packed = torch.randint(0, 256, (rows, k // 2), dtype=torch.uint8)
    scale = formats.encode_e4m3(2.0 ** torch.randint(0, 3, (rows, k // 16)).float()).view(torch.float8_e4m3fn)
    shape = (rows, 1) if granularity == "row" else (1,)
    global_scale = 2.0 ** torch.randint(-2, 3, shape).float()
    return NVFP4Tensor(packed, scale, global_scale, (rows, k))


def outliers(rows: int, k: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Random values over many magnitudes: normal, a few rows tiny, a few huge, zero blocks, a few outlier columns."""
    x = torch.randn(rows, k)
    x[::5] *= 1e-3
    x[1::7] *= 100
    if rows > 2:
        x[2, : k // 2] = 0
    x[:, 3::37] *= 30
    return x.to(dtype)


def quantized(rows: int, k: int, **kwargs: object) -> NVFP4Tensor:
    """A quantised random matrix."""
    return nvfp4.quantize(outliers(rows, k), **kwargs)  # type: ignore[arg-type]


def uneven(
    rows: int,
    cols: int,
    dtype: torch.dtype,
    seed: int = 0,
    *,
    powers: int = 3,
    outliers: float = 100.0,
    device: str = "cuda",
) -> Tensor:
    """Rows of very different size (10^-powers and up), with zeros and, in the first block, outliers."""
    random = torch.Generator(device).manual_seed(seed)
    x = torch.randn(rows, cols, generator=random, device=device)
    x *= 10.0 ** torch.randint(-powers, powers, (rows, 1), generator=random, device=device)
    x[torch.rand(rows, cols, generator=random, device=device) < 0.05] = 0.0
    x[:, :16] *= outliers
    return x.to(dtype)


def assert_same(got: NVFP4Tensor, wanted: NVFP4Tensor) -> None:
    """Equality of every byte; NaN global scales are equal."""
    torch.testing.assert_close(got.global_scale, wanted.global_scale, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(got.scale.view(torch.uint8), wanted.scale.view(torch.uint8))
    assert torch.equal(got.packed, wanted.packed)
