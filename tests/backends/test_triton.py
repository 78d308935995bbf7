"""Triton's quantise and dequantise against the definition, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import nvfp4
from helpers import assert_same, uneven
from nvfp4 import NVFP4Tensor, backends, layout, reference
from triton_interpreter import DEVICE, MARKS, numbers_as_bounds

__all__ = ["numbers_as_bounds"]

TRITON = backends.BACKENDS["triton"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 16), (2, 48), (3, 640), (7, 2048), (129, 80), (3, 12304)]
if DEVICE == "cuda":
    SHAPES += [(300, 5376), (5, 21504), (2, 40960), (8192, 5376)]

pytestmark = MARKS


def values(rows: int, k: int, dtype: torch.dtype) -> Tensor:
    """Rows of very different size, with zeros of either sign, NaN and infinities."""
    x = uneven(rows, k, dtype, device=DEVICE)
    x[:, 1::11] *= -0.0
    if rows > 2:
        x[0, 3], x[1, 5], x[1, -1], x[2, 15] = float("nan"), float("inf"), float("nan"), -float("inf")
    return x


def assert_equal(got: tuple[Tensor, Tensor, Tensor], wanted: NVFP4Tensor) -> None:
    packed, scale, global_scale = got
    assert_same(NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), global_scale, wanted.shape), wanted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_quantize_equals_the_definition(shape: tuple[int, int], dtype: torch.dtype) -> None:
    x = values(*shape, dtype)
    for granularity in ("tensor", "row"):
        assert_equal(TRITON.quantize(x, None, granularity, "nvfp4", "plain"), reference.quantize(x, None, granularity))
    for given in (torch.tensor([317.25], device=DEVICE), torch.rand(shape[0], 1, device=DEVICE) * 1000 + 1):
        assert_equal(TRITON.quantize(x, given, "tensor", "nvfp4", "plain"), reference.quantize(x, given))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_scheme_of_compressed_tensors(dtype: torch.dtype) -> None:
    x = values(16, 1040, dtype)
    for given in (None, torch.tensor([40.0], device=DEVICE)):
        got = TRITON.quantize(x, given, "tensor", "compressed-tensors", "plain")
        assert_equal(got, reference.quantize(x, given, "tensor", "compressed-tensors"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("global_scale", [1.0, 317.25, 3.4e4])
def test_every_number_of_16_bits(dtype: torch.dtype, global_scale: float) -> None:
    everything = torch.arange(-32768, 32768, dtype=torch.int32, device=DEVICE).to(torch.int16).view(dtype)
    given = torch.tensor([global_scale], device=DEVICE)
    x = everything.view(64, 1024)
    assert_equal(TRITON.quantize(x, given, "tensor", "nvfp4", "plain"), reference.quantize(x, given))


def test_quotients_beside_every_tie() -> None:
    """Float32 inputs within two units of a tie times the block's step: where a wrong last bit of a division shows."""
    given = torch.tensor([77.7], device=DEVICE)
    amax = torch.rand(1 << 12, 1, device=DEVICE) * 30 + 1e-3
    scale = reference.quantize(amax.repeat(1, 16), given).scale.float()
    ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], device=DEVICE)
    near = (ties * (scale / given)).view(torch.int32)
    for offsets in ((-1, 0), (1, 2)):
        x = torch.cat([(near + offset).view(torch.float32) for offset in offsets] + [amax, -amax], 1)
        x = torch.maximum(torch.minimum(x, amax), -amax)
        assert_equal(TRITON.quantize(x, given, "tensor", "nvfp4", "plain"), reference.quantize(x, given))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("global_scale", [2.0**-60, 77.7, 2688.0, 2.0**60, 2.0**61])
def test_scales_beside_every_tie(global_scale: float, dtype: torch.dtype) -> None:
    """Blocks whose scale, before rounding, is beside each e4m3 number and each tie, and beside what is usual or not.

    Like ones are together, so that whole programs have only usual blocks, or only others.
    """
    numbers = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    beside = torch.cat([numbers, (numbers[1:] + numbers[:-1]) / 2, torch.tensor([464.0, 480.0, 700.0])]).sort().values
    size = (beside * 6 / global_scale).to(dtype).to(DEVICE)
    size = torch.stack([size * (1 - 2.0**-7), size, size * (1 + 2.0**-7)], 1).flatten()
    size = size if DEVICE == "cuda" else size[::25]  # the interpreter, which is slow, has no usual blocks
    given = torch.tensor([global_scale], device=DEVICE)
    part = torch.cat([torch.linspace(0, 1, 64 * 16 - 16), torch.ones(16)]).reshape(64, 16).flip(0)
    x = (size[:, None, None] * part.to(DEVICE)).to(dtype)
    x[:, 1:, 0], x[:, :, 1] = size[:, None], -size[:, None]
    x = x.reshape(len(size), 1024)
    assert_equal(TRITON.quantize(x, given, "tensor", "nvfp4", "plain"), reference.quantize(x, given))


@pytest.mark.parametrize("shape", [(1, 16), (31, 48), (127, 80), (128, 64), (130, 80)])
def test_swizzled_scales_are_whole(shape: tuple[int, int]) -> None:
    x = values(*shape, torch.bfloat16)
    for given, granularity in ((None, "row"), (None, "tensor"), (torch.tensor([3.0], device=DEVICE), "tensor")):
        _, scale, _ = TRITON.quantize(x, given, granularity, "nvfp4", "128x4")
        plain = reference.quantize(x, given, granularity)  # type: ignore[arg-type]
        assert torch.equal(scale, layout.swizzle_scales(plain.scale.view(torch.uint8)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_dequantize_equals_the_definition(granularity: str, dtype: torch.dtype) -> None:
    t = reference.quantize(values(37, 336, torch.float32), None, granularity)  # type: ignore[arg-type]
    wanted = reference.dequantize(t, dtype)
    swizzled = layout.swizzle_scales(t.scale.view(torch.uint8))
    for scale, name in ((t.scale.view(torch.uint8), "plain"), (swizzled, "128x4")):
        got = TRITON.dequantize(t.packed, scale, t.global_scale, [37, 336], name, dtype)
        assert torch.equal(got.isnan(), wanted.isnan())
        assert torch.equal(got.nan_to_num(), wanted.nan_to_num())


def test_every_code_under_every_scale() -> None:
    codes = torch.arange(256, dtype=torch.uint8, device=DEVICE).repeat(127, 1)
    scale = torch.arange(127, dtype=torch.uint8, device=DEVICE).reshape(127, 1).repeat(1, 32)
    t = NVFP4Tensor(codes, scale.view(torch.float8_e4m3fn), torch.tensor([3.7], device=DEVICE), (127, 512))
    for dtype in DTYPES:
        got = TRITON.dequantize(codes, scale, t.global_scale, [127, 512], "plain", dtype)
        assert torch.equal(got, reference.dequantize(t, dtype))


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e30, 3e38])
def test_tiny_and_huge(size: float) -> None:
    x = torch.linspace(-1, 1, 640, device=DEVICE).repeat(3, 1) * size
    for granularity in ("tensor", "row"):
        assert_equal(TRITON.quantize(x, None, granularity, "nvfp4", "plain"), reference.quantize(x, None, granularity))


@pytest.mark.parametrize("bad", [float("nan"), -1.0, 0.0, float("inf")])
def test_a_global_scale_that_is_none_makes_every_scale_nan(bad: float) -> None:
    _, scale, _ = TRITON.quantize(
        values(2, 64, torch.bfloat16), torch.tensor([bad], device=DEVICE), "tensor", "nvfp4", "plain"
    )
    assert torch.equal(scale, torch.full_like(scale, 0x7F))


def test_strided_empty_and_batched() -> None:
    base = values(40, 700, torch.float16)
    for x in (
        base[:, 3:643],
        base[::2, :640],
        base.T[:640].T,
        base[:0, :32],
        base[:, :0],
        base[:, :16],
        base[:, 5:21],
        base[:6, :96].reshape(2, 3, 96),
    ):
        for granularity in ("tensor", "row"):
            got = TRITON.quantize(x, None, granularity, "nvfp4", "plain")
            assert_equal(got, reference.quantize(x, None, granularity))


def test_without_a_gpu_it_says_so() -> None:
    answer = {a.backend: a for a in backends.explain(backends.Desc("quantize", "cuda")).answers}["triton"]
    assert answer.supported == (DEVICE == "cuda"), answer.reason
    assert not TRITON.supports(backends.Desc("quantize", "cpu"))[0]


@pytest.mark.skipif(DEVICE == "cpu", reason="no GPU")
def test_the_ops_by_force() -> None:
    x = uneven(33, 1040, torch.bfloat16)
    backends.reset_kernel_calls()
    with backends.force("triton"):
        t = nvfp4.quantize(x, granularity="row")
        y = t.dequantize(torch.float32)
    assert backends.kernel_calls() == {"triton/quantize": 1, "triton/dequantize": 1}
    assert t == reference.quantize(x, None, "row")
    assert torch.equal(y, reference.dequantize(t, torch.float32))
