"""The CUDA kernels against the definition, bit for bit. Skipped where no GPU is served."""

from __future__ import annotations

import pytest
import torch

import nvfp4
from helpers import assert_same
from helpers import uneven as values
from nvfp4 import backends, reference
from nvfp4.backends import Desc

pytestmark = pytest.mark.skipif(
    backends.explain(Desc("quantize", device="cuda")).choice != "cuda", reason="no GPU that the CUDA part serves"
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# Rows of a warp, and of every shape of thread block; and so long that they are read again.
SHAPES = [
    (1, 16), (1, 5376), (2, 48), (3, 640), (7, 2048), (33, 1040), (129, 320), (300, 5376), (3, 14336), (5, 21504),
    (3, 28672), (2, 40960),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_quantize_equals_the_definition(shape, dtype, granularity) -> None:
    x = values(*shape, dtype)
    backends.reset_kernel_calls()
    assert_same(nvfp4.quantize(x, granularity=granularity), reference.quantize(x, None, granularity))
    assert backends.kernel_calls() == {"cuda/quantize": 1}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_scheme_of_compressed_tensors(dtype) -> None:
    x = values(64, 5376, dtype)
    x[3] = -0.0
    got = nvfp4.quantize(x, scheme="compressed-tensors")
    assert_same(got, reference.quantize(x, None, "tensor", "compressed-tensors"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("global_scale", [1.0, 448.0, 317.25, 1e-3, 3.4e4])
def test_every_number_of_16_bits(dtype, global_scale) -> None:
    """All 65,536 patterns, NaN and infinities among them, beside block maxima of 24 sizes."""
    everything = torch.arange(-32768, 32768, dtype=torch.int32, device="cuda").to(torch.int16).view(dtype)
    rows = []
    for power in range(-16, 8):
        row = everything.reshape(-1, 8).float()
        bound = torch.full_like(row, 1.25 * 2.0**power)
        rows.append(torch.cat([row.clamp(-bound, bound), bound], 1).to(dtype).reshape(-1))
    rows.append(everything.repeat(2))
    x = torch.stack(rows)
    given = torch.tensor([global_scale], device="cuda")
    assert_same(nvfp4.quantize(x, given), reference.quantize(x, given))


def test_quotients_beside_every_tie() -> None:
    """Float32 inputs within two units of a tie times the block's step: where a wrong last bit of a division shows."""
    random = torch.Generator("cuda").manual_seed(1)
    for global_scale in (1.0, 1.3, 77.7, 2688.0, 5e4):
        given = torch.tensor([global_scale], device="cuda")
        amax = torch.rand(1 << 20, 1, generator=random, device="cuda") * (2600 / global_scale) + 1e-3 / global_scale
        scale = reference.quantize(amax.repeat(1, 16), given).scale.float()
        ties = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0], device="cuda")
        near = (ties * (scale / given)).view(torch.int32)
        x = torch.cat([(near + offset).view(torch.float32) for offset in (-1, 0)], 1)
        x = torch.minimum(torch.cat([x, x[:, :1]], 1), amax.expand(-1, 15))
        x = torch.cat([x, amax], 1)
        assert_same(nvfp4.quantize(x, given), reference.quantize(x, given))
        x = torch.cat([(near + offset).view(torch.float32) for offset in (1, 2)], 1)
        x = torch.cat([torch.minimum(torch.cat([-x, x[:, :1]], 1), amax.expand(-1, 15)), amax], 1)
        assert_same(nvfp4.quantize(x, given), reference.quantize(x, given))


@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_nan_and_infinity(granularity) -> None:
    x = values(6, 64, torch.bfloat16)
    x[1, 5], x[2, 20], x[3, 40], x[4] = float("nan"), float("inf"), -float("inf"), float("nan")
    assert_same(nvfp4.quantize(x, granularity=granularity), reference.quantize(x, None, granularity))
    everywhere = torch.full((2, 32), float("nan"), device="cuda")
    assert_same(nvfp4.quantize(everywhere, granularity=granularity), reference.quantize(everywhere, None, granularity))


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e30, 3e38])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_tiny_and_huge(size, granularity) -> None:
    x = torch.linspace(-1, 1, 640, device="cuda").repeat(3, 1) * size
    assert_same(nvfp4.quantize(x, granularity=granularity), reference.quantize(x, None, granularity))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("power", [-100, -60, -20, 0, 10, 20, 60, 100])
def test_given_scales_beside_every_bound(power, dtype) -> None:
    """What one test of a block lets pass for usual: global scales to 2^±60, maxima to 2^76, and steps of float16."""
    sizes = torch.tensor([2.0**e for e in range(-149, 128)] + [3e38, 6e4, 2**-9, 0.0], device="cuda")
    signs = torch.tensor([1, -1], device="cuda").repeat(8)
    x = sizes[:, None] * torch.linspace(0.05, 1, 16, device="cuda") * signs
    x = torch.where(x.isinf(), 0.0, x).to(dtype)
    x = torch.where(x.isfinite(), x, 0).repeat(1, 3)
    exact = torch.tensor([2.0**power], device="cuda")
    for given in (exact, exact.nextafter(exact * 2), exact.nextafter(exact / 2)):
        assert_same(nvfp4.quantize(x, given), reference.quantize(x, given))
        got = nvfp4.quantize_dequantize(x, given, dtype=torch.float32)
        assert torch.equal(got, reference.dequantize(reference.quantize(x, given), torch.float32))


@pytest.mark.parametrize("given", [1e3, 1e6, 2.0**60])
def test_quotients_that_overflow_saturate_with_their_sign(given) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.tensor([3e38, -3e38, 1e38, -1e37] * 4, device="cuda", dtype=dtype)[None]
        t = nvfp4.quantize(x, torch.tensor([given], device="cuda"))
        assert t.packed.tolist() == [[0xF7] * 8]


def test_a_global_scale_a_row() -> None:
    x = values(9, 320, torch.float16)
    given = torch.rand(9, 1, device="cuda") * 1000 + 1
    assert_same(nvfp4.quantize(x, given), reference.quantize(x, given))


@pytest.mark.parametrize("bad", [float("nan"), -1.0, 0.0, float("inf")])
def test_a_global_scale_that_is_none_makes_every_scale_nan(bad) -> None:
    t = nvfp4.quantize(values(2, 64, torch.bfloat16), torch.tensor([bad], device="cuda"))
    assert torch.equal(t.scale.view(torch.uint8), torch.full_like(t.scale.view(torch.uint8), 0x7F))


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_and_misaligned_inputs(dtype) -> None:
    base = values(40, 700, dtype)
    for x in (base[:, 3:643], base[::2, :640], base[:, 60:700], base[1:, 4:20], base.T[:640].T):
        for granularity in ("tensor", "row"):
            assert_same(nvfp4.quantize(x, granularity=granularity), reference.quantize(x, None, granularity))


@pytest.mark.parametrize("shape", [(0, 32), (3, 0), (2, 0, 16), (2, 3, 48)])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_empty_and_batched(shape, granularity) -> None:
    x = torch.ones(shape, device="cuda")
    assert_same(nvfp4.quantize(x, granularity=granularity), reference.quantize(x, None, granularity))


@pytest.mark.parametrize(
    "shape", [(1, 16), (1, 5376), (31, 48), (127, 80), (128, 64), (130, 80), (257, 1040), (130, 5376)]
)
def test_swizzled_scales_are_whole(shape) -> None:
    """Memory is poisoned first, so that padding which nobody writes shows."""
    x = values(*shape, torch.bfloat16)
    plain = nvfp4.quantize(x, granularity="row")
    wanted = nvfp4.swizzle_scales(plain.scale.cpu().view(torch.uint8)).flatten()
    poison = [torch.full((wanted.numel(),), 0xAA, dtype=torch.uint8, device="cuda") for _ in range(4)]
    del poison
    for given, granularity in ((None, "row"), (None, "tensor"), (torch.tensor([30.0], device="cuda"), "tensor")):
        t = nvfp4.quantize(x, given, granularity, layout="128x4")
        plain = nvfp4.quantize(x, given, granularity)
        wanted = nvfp4.swizzle_scales(plain.scale.cpu().view(torch.uint8)).flatten()
        assert torch.equal(t.scale.view(torch.uint8).flatten().cpu(), wanted)
        assert torch.equal(nvfp4.swizzle_scales(plain.scale.view(torch.uint8)).flatten().cpu(), wanted)
        back = nvfp4.unswizzle_scales(t.scale.view(torch.uint8), shape[0], shape[1] // 16)
        assert torch.equal(back, plain.scale.view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["plain", "128x4"])
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_dequantize_equals_the_definition(dtype, layout, granularity) -> None:
    t = nvfp4.quantize(values(37, 336, torch.float32), granularity=granularity, layout=layout)
    on_cpu = nvfp4.quantize(values(37, 336, torch.float32).cpu(), granularity=granularity)
    assert torch.equal(t.dequantize(dtype).cpu(), reference.dequantize(on_cpu, dtype))


def test_every_code_under_every_scale() -> None:
    codes = torch.arange(256, dtype=torch.uint8, device="cuda").repeat(127, 1)
    scale = torch.arange(127, dtype=torch.uint8, device="cuda").reshape(127, 1).repeat(1, 32)
    t = nvfp4.NVFP4Tensor(codes, scale.view(torch.float8_e4m3fn), torch.tensor([3.7], device="cuda"), (127, 512))
    for dtype in DTYPES:
        assert torch.equal(t.dequantize(dtype), reference.dequantize(t, dtype))


def test_a_graph_repeats_the_bits() -> None:
    x = values(130, 640, torch.bfloat16)
    still = x.clone()
    for granularity in ("tensor", "row"):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            t = nvfp4.quantize(still, granularity=granularity, layout="128x4")
        for seed in range(3):
            still.copy_(values(130, 640, torch.bfloat16, seed))
            graph.replay()
            wanted = nvfp4.quantize(still, granularity=granularity, layout="128x4")
            assert torch.equal(t.packed, wanted.packed)
            assert torch.equal(t.scale.view(torch.uint8), wanted.scale.view(torch.uint8))


def test_streams_and_repeats() -> None:
    x = values(512, 5376, torch.bfloat16)
    wanted = nvfp4.quantize(x)
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    results = []
    for i in range(100):
        with torch.cuda.stream(streams[i % 2]):
            results.append(nvfp4.quantize(x))
    torch.cuda.synchronize()
    for t in results:
        assert_same(t, wanted)


def test_offsets_beyond_32_bits() -> None:
    if torch.cuda.mem_get_info()[0] < 8 << 30:
        pytest.skip("x and its codes take 6 GiB of GPU memory; 8 GiB free are wanted")
    x = torch.zeros(140_000, 16_384, dtype=torch.bfloat16, device="cuda")  # 2.29e9 elements
    x[-1] = values(1, 16_384, torch.bfloat16)[0]
    for granularity in ("row", "tensor"):
        t = nvfp4.quantize(x, granularity=granularity)
        given = t.global_scale[-1:] if granularity == "row" else t.global_scale
        wanted = reference.quantize(x[-1:], given)
        assert torch.equal(t.packed[-1:], wanted.packed)
        assert torch.equal(t.scale.view(torch.uint8)[-1:], wanted.scale.view(torch.uint8))
        assert int(t.packed[:-1].max()) == 0
