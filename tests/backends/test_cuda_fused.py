"""The fused CUDA kernels: values within a unit of the definition, and the bytes that quantising them gives."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import fused
import nvfp4
from fused import swizzled, ulps
from helpers import assert_same, uneven
from nvfp4 import backends, reference
from nvfp4.backends import Desc

pytestmark = pytest.mark.skipif(
    backends.explain(Desc("rms_norm_quantize", device="cuda")).choice != "cuda",
    reason="no GPU that the CUDA part serves",
)

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ACTIVATIONS = list(reference.ACTIVATIONS)
# Rows of a warp, of every shape of thread block, and so long that they are read again.
SHAPES = [
    (1, 16), (1, 5376), (1, 21504), (2, 48), (9, 512), (7, 1040), (3, 14336), (5, 16400), (33, 5376), (3, 21504),
    (3, 28672), (2, 40960),
]  # fmt: skip
NAN, INF = float("nan"), float("inf")


values = partial(uneven, powers=2, outliers=30)


def assert_quantised(out: fused.Outputs, given: torch.Tensor | None, scale_layout: str = "plain") -> None:
    """Codes and scales are those of the values, by the kernel that only quantises and by the definition."""
    wanted = nvfp4.quantize(out.values, given, "row")
    assert_same(wanted, reference.quantize(out.values, given, "row"))
    assert torch.equal(out.packed, wanted.packed)
    assert torch.equal(out.scale.flatten(), swizzled(wanted.scale.view(torch.uint8), scale_layout).flatten())
    if given is None:
        assert torch.equal(out.global_scale, wanted.global_scale)


def given_scales(rows: int) -> list[torch.Tensor | None]:
    random = torch.Generator("cuda").manual_seed(rows)
    per_row = torch.rand(rows, 1, generator=random, device="cuda") * 1000 + 1
    return [None, torch.tensor([317.25], device="cuda"), per_row]


# --- gated ----------------------------------------------------------------------------------------------------------


def gated_values(x: torch.Tensor, activation: str, interleaved: bool) -> torch.Tensor:
    return reference.gated_activation(*reference.gated_halves(x, interleaved), activation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gated(shape, interleaved, activation, dtype) -> None:
    rows, k = shape
    x = values(rows, 2 * k, dtype)
    wanted = gated_values(x, activation, interleaved)
    for given in given_scales(rows):
        out = fused.gated(x, activation, interleaved, given)
        assert ulps(out.values, wanted) <= 1
        assert_quantised(out, given)
        backends.reset_kernel_calls()
        t = nvfp4.gated_quantize(x, activation, interleaved=interleaved, global_scale=given)
        assert backends.kernel_calls() == {"cuda/gated_quantize": 1}
        assert_same(t, out.tensor())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_gate_of_16_bits(activation, dtype) -> None:
    """All 65,536, with ups that lift what an activation alone would lose below float32."""
    gate = torch.arange(-32768, 32768, dtype=torch.int32, device="cuda").to(torch.int16).view(dtype).view(64, 1024)
    ups = [1.0, -0.7, 3.14159, 1e-3, 1e3, 6e4, 0.0]
    if dtype is torch.bfloat16:
        ups += [1e20, -1e30, 3e38, 1e-30, 1e-38]
    for up in ups:
        x = torch.cat([gate, torch.full_like(gate, up)], 1)
        out = fused.gated(x, activation)
        assert ulps(out.values, gated_values(x, activation, False)) <= 1, up
        assert_quantised(out, None)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates_of_float32(activation) -> None:
    random = torch.Generator("cuda").manual_seed(3)
    size = torch.exp(torch.empty(512, 2048, device="cuda").uniform_(-90, 6, generator=random))
    gate = size * torch.randint(0, 2, size.shape, generator=random, device="cuda").mul(2).sub(1)
    gate[0] = torch.linspace(-110, 110, 2048, device="cuda")
    gate[1, :6] = torch.tensor([INF, NAN, 0.0, -0.0, 3e38, -3e38], device="cuda")
    up = torch.randn(512, 2048, generator=random, device="cuda")
    x = torch.cat([gate, up], 1)
    out = fused.gated(x, activation)
    assert ulps(out.values, gated_values(x, activation, False)) <= 1
    assert_quantised(out, None)


# --- norm -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("unit_offset", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_norm(shape, with_residual, unit_offset, dtype) -> None:
    x, weight = values(*shape, dtype), values(1, shape[1], dtype, 1)[0]
    residual = values(*shape, dtype, 2) if with_residual else None
    wanted, total = reference.rms_norm(x, weight, 1e-6, unit_offset, residual)
    for given in given_scales(shape[0]):
        out = fused.norm(x, weight, 1e-6, unit_offset, residual, given)
        assert ulps(out.values, wanted) <= 1
        assert_quantised(out, given)
        backends.reset_kernel_calls()
        t = nvfp4.rms_norm_quantize(x, weight, 1e-6, unit_offset=unit_offset, residual=residual, global_scale=given)
        assert backends.kernel_calls() == {"cuda/rms_norm_quantize": 1}
        if residual is not None:
            t, added = t
            assert torch.equal(added, x + residual)
            assert torch.equal(added, out.total)
            assert torch.equal(added, total)
        assert_same(t, out.tensor())


SIZES = [(dtype, size) for dtype in DTYPES for size in (0.0, 1e-38, 1e-20, 1e-7, 1e4, 1e19, 1e25, 3e38)]


@pytest.mark.parametrize(("dtype", "size"), [(d, s) for d, s in SIZES if s <= torch.finfo(d).max])
def test_norms_of_tiny_and_huge_rows(dtype, size) -> None:
    """Squares leave float32 long before numbers do."""
    x = (torch.linspace(-1, 1, 640, device="cuda").repeat(3, 1).double() * size).to(dtype)
    weight = values(1, 640, dtype, 1)[0]
    for eps in (1e-6, 1e-30, 1.0):
        out = fused.norm(x, weight, eps)
        assert ulps(out.values, reference.rms_norm(x, weight, eps)[0]) <= 1, eps
        assert_quantised(out, None)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_of_nan_and_infinity(dtype) -> None:
    x, weight = values(6, 2048, dtype), values(1, 2048, dtype, 1)[0]
    x[1, 5], x[2, 20], x[3, 40], x[4] = NAN, INF, -INF, NAN
    out = fused.norm(x, weight)
    assert ulps(out.values, reference.rms_norm(x, weight)[0]) <= 1
    assert_quantised(out, None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [512, 5376, 14336, 21504, 28672, 40960])
def test_a_row_of_a_norm_does_not_depend_on_the_others(k, dtype) -> None:
    x, weight, residual = values(300, k, dtype), values(1, k, dtype, 1)[0], values(300, k, dtype, 2)
    whole = fused.norm(x, weight, residual=residual)
    for rows in (slice(0, 1), slice(7, 8), slice(100, 117), slice(299, 300)):
        part = fused.norm(x[rows], weight, residual=residual[rows])
        for got, wanted in zip(part[:5], whole[:5], strict=True):
            assert torch.equal(got, wanted[rows])


# --- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale_layout", ["plain", "128x4", "32x4"])
@pytest.mark.parametrize(
    "shape", [(1, 16), (1, 5376), (31, 48), (33, 1040), (127, 80), (128, 64), (130, 80), (257, 1040), (130, 5376)]
)
def test_layouts_and_what_a_product_wants(shape, scale_layout) -> None:
    """Memory was poisoned, so that padding which nobody writes shows."""
    rows, k = shape
    x, weight = values(rows, 2 * k, torch.bfloat16), values(1, k, torch.bfloat16, 1)[0]
    scales = torch.tensor([77.7], device="cuda"), torch.tensor([1234.5], device="cuda")
    for given in given_scales(rows):
        for pitch in (0, k // 2 + 8):
            gated = fused.gated(
                x, "silu", True, given, scale_layout=scale_layout, pitch=pitch, weight_global_scale=scales[0], zeros=999
            )
            normed = fused.norm(
                x[:, :k], weight, global_scale=given, scale_layout=scale_layout, pitch=pitch,
                weight_global_scales=scales, zeros=7,
            )  # fmt: skip
            for out in (gated, normed):
                assert_quantised(out, given, scale_layout)
                assert torch.equal(out.alpha, reference.alpha(out.global_scale, scales[0]).view(out.alpha.shape))
                assert not out.zeros.any()
            wanted = reference.alpha(normed.global_scale, scales[1])
            assert torch.equal(normed.up_alpha, wanted.view(normed.up_alpha.shape))


@pytest.mark.parametrize("layout", ["plain", "128x4"])
def test_the_layouts_of_the_ops(layout) -> None:
    x, weight = values(37, 1280, torch.bfloat16), values(1, 1280, torch.bfloat16, 1)[0]
    for t, out in (
        (nvfp4.gated_quantize(x, "silu", layout=layout), fused.gated(x, "silu")),
        (nvfp4.rms_norm_quantize(x, weight, layout=layout), fused.norm(x, weight)),
    ):
        assert nvfp4.to_layout(t, "plain") == out.tensor()


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_and_misaligned_inputs(dtype) -> None:
    base, other = values(40, 1400, dtype), values(40, 1400, dtype, 1)
    weight = values(1, 1400, dtype, 2)[0]
    for cut in (
        lambda t: t[:, 3:643], lambda t: t[::2, :640], lambda t: t[:, 760:1400], lambda t: t[1:, 4:36],
        lambda t: t.T[:640].T, lambda t: t[:, :640].view(2, 20, 640), lambda t: t[3, :64],
    ):  # fmt: skip
        x, residual = cut(base), cut(other)
        w = weight[3 : 3 + x.shape[-1]]
        got, added = nvfp4.rms_norm_quantize(x, w.contiguous(), residual=residual)
        x2, w2, residual2 = (t.clone(memory_format=torch.contiguous_format) for t in (x, w, residual))
        wanted, total = nvfp4.rms_norm_quantize(x2, w2, residual=residual2)
        assert_same(got, wanted)
        assert torch.equal(added, total)
        assert_same(nvfp4.gated_quantize(x), nvfp4.gated_quantize(x2))
        for granularity in ("tensor", "row"):
            wanted = nvfp4.quantize(x, granularity=granularity).dequantize(dtype)
            assert torch.equal(nvfp4.quantize_dequantize(x, granularity=granularity), wanted)


@pytest.mark.parametrize("shape", [(0, 32), (3, 0), (2, 0, 32), (2, 3, 96)])
def test_empty_and_batched(shape) -> None:
    x = torch.ones(shape, device="cuda")
    weight = torch.ones(shape[-1], device="cuda")
    with backends.force("reference"):
        normed, added = nvfp4.rms_norm_quantize(x, weight, residual=x)
        gated, both = nvfp4.gated_quantize(x), nvfp4.quantize_dequantize(x)
    got, total = nvfp4.rms_norm_quantize(x, weight, residual=x)
    assert got == normed
    assert torch.equal(total, added)
    assert nvfp4.gated_quantize(x) == gated
    assert torch.equal(nvfp4.quantize_dequantize(x), both)


def test_many_rows() -> None:
    x, weight = values(70_001, 64, torch.bfloat16), values(1, 64, torch.bfloat16, 1)[0]
    normed, gated = fused.norm(x, weight), fused.gated(x)
    assert ulps(normed.values, reference.rms_norm(x, weight)[0]) <= 1
    assert ulps(gated.values, gated_values(x, "gelu_tanh", False)) <= 1
    for out in (normed, gated):
        assert_quantised(out, None)
    x, weight = values(70_001, 1040, torch.bfloat16), values(1, 1040, torch.bfloat16, 1)[0]
    assert_quantised(fused.norm(x, weight), None)


def test_more_rows_than_one_launch_takes() -> None:
    """2^28 rows of one block, each with three of padding, and 200 more; all of one row of x, by scales of their own."""
    rows, k = (1 << 28) + 200, 16
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("outputs and scales take 28 GiB of GPU memory; 40 GiB free are wanted")
    x, weight_scale = values(1, 2 * k, torch.bfloat16), torch.tensor([77.7], device="cuda")
    out = fused.gated(
        x.expand(rows, -1), "silu", global_scale=given_rows(torch.arange(rows, device="cuda")), scale_layout="128x4",
        weight_global_scale=weight_scale, zeros=9,
    )  # fmt: skip
    chosen = torch.cat([torch.arange(first, first + 300, device="cuda") for first in (0, (1 << 28) - 100, rows - 300)])
    wanted = fused.gated(x.repeat(900, 1), "silu", global_scale=given_rows(chosen), weight_global_scale=weight_scale)
    for got, right in ((out.packed, wanted.packed), (out.alpha, wanted.alpha)):
        assert torch.equal(got[chosen], right)
    at = chosen // 128 * 512 + chosen % 32 * 16 + chosen % 128 // 32 * 4
    assert torch.equal(out.scale.flatten()[at], wanted.scale.flatten())
    assert not out.scale.flatten()[at + 3].any()
    assert not out.zeros.any()


def given_rows(indices: torch.Tensor) -> torch.Tensor:
    return (1 + indices % 97 * 10).float()[:, None]


def test_streams_and_repeats() -> None:
    x, weight = values(512, 5376, torch.bfloat16), values(1, 5376, torch.bfloat16, 1)[0]
    residual = values(512, 5376, torch.bfloat16, 2)

    def call() -> tuple[torch.Tensor, ...]:
        t, total = nvfp4.rms_norm_quantize(x, weight, residual=residual)
        u = nvfp4.gated_quantize(x, global_scale=torch.full((1,), 50.0, device="cuda"))
        v = nvfp4.gated_quantize(x)
        both = nvfp4.quantize_dequantize(x)
        return t.packed, t.scale.view(torch.uint8), total, u.packed, u.scale.view(torch.uint8), v.packed, both

    wanted = call()
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    results = []
    for i in range(100):
        with torch.cuda.stream(streams[i % 2]):
            results.append(call())
        if i % 10 == 9:
            torch.cuda.synchronize()
            for result in results:
                assert all(map(torch.equal, result, wanted))
            results.clear()


def test_a_graph_repeats_the_bits() -> None:
    still, weight = values(130, 1280, torch.bfloat16), values(1, 1280, torch.bfloat16, 1)[0]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        t, u = nvfp4.rms_norm_quantize(still, weight, layout="128x4"), nvfp4.gated_quantize(still)
        both = nvfp4.quantize_dequantize(still)
    for seed in range(3):
        still.copy_(values(130, 1280, torch.bfloat16, seed))
        graph.replay()
        assert t == nvfp4.rms_norm_quantize(still, weight, layout="128x4")
        assert u == nvfp4.gated_quantize(still)
        assert torch.equal(both, nvfp4.quantize_dequantize(still))


# --- quantise and dequantise ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_quantize_dequantize(shape, out_dtype, dtype) -> None:
    x = values(*shape, dtype)
    x[-1, -1] = NAN
    calls = [(given, granularity) for given in given_scales(shape[0]) for granularity in ("row", "tensor")]
    for given, granularity in calls:
        wanted = nvfp4.quantize(x, given, granularity).dequantize(out_dtype)
        backends.reset_kernel_calls()
        got = nvfp4.quantize_dequantize(x, given, granularity, dtype=out_dtype)
        assert backends.kernel_calls() == {"cuda/quantize_dequantize": 1}
        assert ulps(got, wanted) == 0
    wanted = nvfp4.quantize(x, scheme="compressed-tensors").dequantize(out_dtype)
    assert ulps(nvfp4.quantize_dequantize(x, scheme="compressed-tensors", dtype=out_dtype), wanted) == 0


@pytest.mark.parametrize("bad", [NAN, -1.0, 0.0, INF])
def test_a_global_scale_that_is_none_gives_nan(bad) -> None:
    x = values(2, 64, torch.bfloat16)
    assert nvfp4.quantize_dequantize(x, torch.tensor([bad], device="cuda")).isnan().all()


@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-38, 1e30, 3e38])
def test_quantize_dequantize_tiny_and_huge(size) -> None:
    x = torch.linspace(-1, 1, 640, device="cuda").repeat(3, 1) * size
    for granularity in ("tensor", "row"):
        wanted = nvfp4.quantize(x, granularity=granularity).dequantize(torch.float32)
        assert ulps(nvfp4.quantize_dequantize(x, granularity=granularity), wanted) == 0
