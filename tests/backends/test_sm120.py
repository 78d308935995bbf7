"""The SM120 matrix products against the definition.

They run on an SM120, and on a Hopper GPU in a build with NVFP4_EMULATE_SM120=model; skipped elsewhere.
"""

from __future__ import annotations

import pytest
import torch

import nvfp4
import sm120
from emulation.host_product import host_product
from helpers import exact_operand, outliers, quantized
from nvfp4 import NVFP4Linear, NVFP4Tensor, backends, layout, reference
from nvfp4.backends.sm120 import plan

pytestmark = pytest.mark.skipif(not sm120.served(), reason="no GPU that runs SM120's products")

SHAPES = [(1, 128, 128), (3, 8, 16), (8, 256, 512), (17, 136, 272), (64, 384, 1024), (100, 264, 400), (300, 640, 768)]


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_every_plan_is_exact_where_sums_are(m, n, k, granularity) -> None:
    a, b = sm120.on_gpu(exact_operand(m, k, granularity)), sm120.on_gpu(exact_operand(n, k))
    wanted = reference.matmul(a, b, out_dtype=torch.float32)
    plans = list(sm120.every_plan(m, n, k))
    assert {how.name for how in plans} >= {"128x128x128", "256x128x128"}
    for how in plans:
        assert torch.equal(sm120.product(how, a, b), wanted), how


def test_sums_are_made_in_the_documented_order() -> None:
    """Bit for bit what the model gives on the host, for whole tiles and for K in pieces."""
    a, b = quantized(32, 1024), quantized(128, 1024)
    a, b = (NVFP4Tensor(t.packed, t.scale, torch.ones(1), t.shape) for t in (a, b))
    whole = host_product(a, b)
    cut = host_product(a, b, cuts=(384, 768))  # three pieces of 3, 3 and 2 stages of 128 columns
    assert not torch.equal(whole, cut)
    for shape, name in enumerate(sm120.dispatch.sm120_shapes()):
        if sm120.tokens_of(name) < 32:
            continue
        how = sm120.dispatch.Sm120Plan(shape, 1, 1, 1)
        assert torch.equal(sm120.product(how, sm120.on_gpu(a), sm120.on_gpu(b)).cpu(), whole), name
        if name != "128x128x256":
            how = sm120.dispatch.Sm120Plan(shape, 3, 0, 1)
            assert torch.equal(sm120.product(how, sm120.on_gpu(a), sm120.on_gpu(b)).cpu(), cut), name


@pytest.mark.parametrize(("m", "n", "k"), [(1, 384, 5376), (33, 384, 5376), (300, 640, 2048)])
def test_random_products_stay_within_the_bound(m, n, k) -> None:
    """Every step of 64 columns and every piece rounds once, by at most 2^-23 of what the magnitudes add up to."""
    a, b = sm120.on_gpu(quantized(m, k)), sm120.on_gpu(quantized(n, k))
    x, w = a.dequantize(torch.float32).double(), b.dequantize(torch.float32).double()
    for how in sm120.every_plan(m, n, k, (36,)):
        error = (sm120.product(how, a, b).double() - x @ w.T).abs()
        # Two roundings more: of alpha and of the scaled sum; dequantised values are rounded too.
        assert bool((error <= (k // 64 + 36 + 8) * 2.0**-23 * (x.abs() @ w.abs().T)).all()), how


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias_dtype", [None, torch.float32, torch.float16, torch.bfloat16])
def test_bias_and_residual(out_dtype, bias_dtype) -> None:
    m, n, k = 70, 264, 512
    a, b = sm120.on_gpu(exact_operand(m, k, "row")), sm120.on_gpu(exact_operand(n, k))
    bias = None if bias_dtype is None else torch.randn(n, device="cuda").to(bias_dtype)
    residual = torch.randn(m, n, device="cuda").to(out_dtype)
    wanted = reference.matmul(a, b, bias, out_dtype)
    for how in sm120.every_plan(m, n, k, (36, 2)):
        assert torch.equal(sm120.product(how, a, b, out_dtype, bias=bias), wanted), how
        got = sm120.product(how, a, b, out_dtype, bias=bias, residual=residual)
        assert torch.equal(got, wanted + residual), how


def ulp_distance(a: torch.Tensor, b: torch.Tensor) -> int:
    """The largest distance in units of the last place of a 16-bit format."""

    def order(t: torch.Tensor) -> torch.Tensor:
        bits = t.view(torch.int16).int()
        return torch.where(bits < 0, -32768 - bits, bits)

    return int((order(a) - order(b)).abs().max())


@pytest.mark.parametrize("activation", ["gelu_tanh", "gelu", "silu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("n", [512, 160])  # 160: five groups of outputs, padded to eight
def test_gated_activations(activation, dtype, n) -> None:
    """Within a unit of the last place of a float64 evaluation; and quantised again bit for bit."""
    m, k = 70, 256
    a, b = sm120.on_gpu(exact_operand(m, k, "row")), sm120.on_gpu(exact_operand(n, k))
    a = NVFP4Tensor(a.packed, a.scale, a.global_scale * 2.0**7, a.shape)
    up_scale = b.global_scale * 2
    rows = torch.arange(n, device="cuda").view(-1, 2, 8)
    gate = reference.matmul(a, b, out_dtype=dtype)[:, rows[:, 0].flatten()]
    b_up = NVFP4Tensor(b.packed, b.scale, up_scale, b.shape)
    up = reference.matmul(a, b_up, out_dtype=dtype)[:, rows[:, 1].flatten()]
    wanted = reference.gated_activation(gate, up, activation)
    given = torch.tensor([37.25], device="cuda")
    first = None
    for how in sm120.every_plan(m, n, k, (36, 2)):
        got = sm120.product(how, a, b, dtype, activation=activation, up_global_scale=up_scale)
        assert ulp_distance(got, wanted) <= 1, how
        first = got if first is None else first
        assert torch.equal(got, first), how
        packed, scale = sm120.product(
            how, a, b, dtype, activation=activation, up_global_scale=up_scale, out_global_scale=given
        )
        unfused = nvfp4.quantize(got, given)
        assert torch.equal(packed, unfused.packed), how
        assert torch.equal(scale, unfused.scale.view(torch.uint8)), how


def test_the_quantised_output_of_rare_blocks() -> None:
    """NaN, infinities and tiny numbers take another path than usual blocks."""
    a, b = sm120.on_gpu(exact_operand(40, 128)), sm120.on_gpu(exact_operand(128, 128))
    bias = torch.zeros(128, device="cuda")
    bias[3], bias[20], bias[40] = float("nan"), float("inf"), -float("inf")
    for given in (1.0, 3e37, 1e-37, float("nan")):
        scale = torch.tensor([given], device="cuda")
        for how in sm120.every_plan(40, 128, 128, (1,)):
            y = sm120.product(how, a, b, torch.bfloat16, bias=bias)
            packed, block_scale = sm120.product(how, a, b, torch.bfloat16, bias=bias, out_global_scale=scale)
            unfused = nvfp4.quantize(y, scale)
            assert torch.equal(packed, unfused.packed), (how, given)
            assert torch.equal(block_scale, unfused.scale.view(torch.uint8)), (how, given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activations", ["row", "tensor", "static"])
@pytest.mark.parametrize(("m", "k"), [(1, 128), (5, 80), (33, 400), (300, 1040)])
def test_linear_is_quantise_then_matmul(m, k, activations, dtype) -> None:
    x = outliers(m, k, dtype).cuda()
    w = sm120.on_gpu(quantized(136, k))
    bias = torch.randn(136, device="cuda", dtype=dtype)
    scale = torch.tensor([300.0], device="cuda") if activations == "static" else None
    granularity = "row" if activations == "row" else "tensor"
    quantised = nvfp4.quantize(x, scale, granularity=granularity)
    backends.reset_kernel_calls()
    got = nvfp4.linear(x, w, bias, input_global_scale=scale, granularity=granularity)
    assert backends.kernel_calls() == {"cuda/sm120/linear/w4a4": 1}
    wanted = nvfp4.matmul(quantised, w, bias, out_dtype=dtype)
    assert torch.equal(got, wanted)
    prepared = nvfp4.to_layout(w, "n128k128")
    assert torch.equal(nvfp4.linear(x, prepared, bias, input_global_scale=scale, granularity=granularity), wanted)


def test_strided_empty_and_batched_inputs() -> None:
    w = sm120.on_gpu(quantized(64, 256))
    base = outliers(40, 600, torch.bfloat16).cuda()
    for x in (base[:, 3:259], base[::2, :256], base[:, 340:596], base[:0, :256], base[:, :256].reshape(4, 10, 256)):
        wanted = nvfp4.linear(x.contiguous(), w)
        assert torch.equal(nvfp4.linear(x, w), wanted)
        assert wanted.shape == (*x.shape[:-1], 64)


def test_a_weight_with_a_global_scale_a_row() -> None:
    x = outliers(20, 256, torch.bfloat16).cuda()
    w = sm120.on_gpu(nvfp4.quantize(outliers(48, 256), granularity="row"))
    for granularity in ("row", "tensor"):
        a = nvfp4.quantize(x, granularity=granularity)
        one = NVFP4Tensor(w.packed, w.scale, torch.ones(1, device="cuda"), w.shape)
        unit = NVFP4Tensor(a.packed, a.scale, torch.ones(1, device="cuda"), a.shape)
        sums = nvfp4.matmul(unit, one, out_dtype=torch.float32)
        wanted = (sums * reference.alpha(a.global_scale, w.global_scale.flatten())).bfloat16()
        assert torch.equal(nvfp4.matmul(a, w), wanted)
        assert torch.equal(nvfp4.linear(x, w, granularity=granularity), wanted)


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    x = outliers(256, 1040, torch.bfloat16).cuda()
    w = sm120.on_gpu(quantized(520, 1040))
    wanted = nvfp4.linear(x, w, granularity="row")
    for m in (1, 7, 8, 9, 31, 64, 65, 128, 129):
        assert torch.equal(nvfp4.linear(x[:m], w, granularity="row"), wanted[:m]), m


@pytest.mark.parametrize("n", [1, 10, 131, 257])
def test_any_number_of_rows(n) -> None:
    """The kernels write chunks of eight."""
    x, bias = outliers(20, 256, torch.bfloat16).cuda(), torch.randn(n, device="cuda")
    w = sm120.on_gpu(exact_operand(n, 256))
    a = nvfp4.quantize(x, granularity="row")
    one = NVFP4Tensor(a.packed, (a.scale.float() * 0 + 1).to(torch.float8_e4m3fn), a.global_scale, a.shape)
    wanted = reference.matmul(one, w, bias)
    assert torch.equal(nvfp4.matmul(one, w, bias), wanted)
    assert torch.equal(nvfp4.linear(x, w, bias), nvfp4.matmul(a, w, bias))
    assert nvfp4.linear(x, w, bias).is_contiguous()


def test_no_columns_and_misaligned_bytes() -> None:
    bias = torch.randn(16, device="cuda")
    nothing = sm120.on_gpu(exact_operand(16, 0))
    assert torch.equal(nvfp4.linear(torch.empty(3, 0, device="cuda"), nothing, bias), bias.expand(3, 16))
    w = sm120.on_gpu(exact_operand(48, 256))
    buffer = torch.empty(w.packed.numel() + 1, dtype=torch.uint8, device="cuda")
    buffer[1:].view_as(w.packed).copy_(w.packed)
    odd = NVFP4Tensor(buffer[1:].view_as(w.packed), w.scale, w.global_scale, w.shape)
    x = outliers(5, 256, torch.bfloat16).cuda()
    assert torch.equal(nvfp4.linear(x, odd), nvfp4.linear(x, w))
    assert torch.equal(odd.dequantize(torch.float32), w.dequantize(torch.float32))


def test_nan_stays_in_its_token() -> None:
    x = outliers(40, 256, torch.bfloat16).cuda()
    w = sm120.on_gpu(quantized(136, 256))
    wanted = nvfp4.linear(x, w, granularity="row")
    x[17, 100] = float("nan")
    got = nvfp4.linear(x, w, granularity="row")
    assert bool(got[17].isnan().all())
    others = torch.arange(40, device="cuda") != 17
    assert torch.equal(got[others], wanted[others])


@pytest.mark.parametrize(("n", "k"), [(8, 16), (128, 128), (136, 272), (520, 1040), (5376, 256)])
def test_units_are_the_layout_of_the_definition(n, k) -> None:
    w = sm120.on_gpu(exact_operand(n, k))
    units = nvfp4.to_layout(w, "n128k128")
    assert torch.equal(units.packed.cpu(), layout.to_tiles(w.packed.cpu(), w.scale.cpu(), "n128k128"))
    back = nvfp4.to_layout(units, "plain")
    assert back == w
    assert torch.equal(units.dequantize(torch.float32), w.dequantize(torch.float32))
    assert torch.equal(units.packed.cpu(), nvfp4.to_layout(w, "n128k128").packed.cpu())


def test_a_negative_scale_is_refused() -> None:
    w = exact_operand(16, 32)
    w.scale.view(torch.uint8)[3, 1] = 0x81
    with pytest.raises(ValueError, match="sign bit set"):
        nvfp4.to_layout(sm120.on_gpu(w), "n128k128")


def test_a_module_is_prepared_and_gives_its_plain_bytes_back() -> None:
    module = NVFP4Linear.from_linear(torch.nn.Linear(272, 136, bias=True, device="cuda", dtype=torch.bfloat16))
    x = outliers(9, 272, torch.bfloat16).cuda()
    before, wanted = {name: t.clone() for name, t in module.state_dict().items()}, module(x)
    assert nvfp4.prepare(module).layout == "n128k128"
    assert torch.equal(module(x), wanted)
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8)) for name in before)
    on_cpu = module.cpu()(x.cpu())
    assert on_cpu.shape == wanted.shape


def test_two_kernels_and_no_waiting() -> None:
    x = outliers(9, 256, torch.bfloat16).cuda()
    w = nvfp4.to_layout(sm120.on_gpu(quantized(136, 256)), "n128k128")
    scale = torch.tensor([300.0], device="cuda")
    nvfp4.linear(x, w, input_global_scale=scale)
    torch.cuda.set_sync_debug_mode("error")
    try:
        nvfp4.linear(x, w, input_global_scale=scale)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as p:
        nvfp4.linear(x, w, input_global_scale=scale)
    names = [e.name for e in p.events()]
    assert sum(e.device_type == torch.autograd.DeviceType.CUDA for e in p.events()) == 2
    assert not any("Synchronize" in name and name != "cudaDeviceSynchronize" for name in names)


def test_graphs_streams_and_repeats() -> None:
    x = outliers(64, 1024, torch.bfloat16).cuda()
    w = nvfp4.to_layout(sm120.on_gpu(quantized(264, 1024)), "n128k128")
    still = x.clone()
    wanted = nvfp4.linear(x, w, granularity="row")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = nvfp4.linear(still, w, granularity="row")
    for i in range(3):
        still.copy_(x.roll(i, 0))
        graph.replay()
        assert torch.equal(captured, wanted.roll(i, 0))
    streams = [torch.cuda.Stream() for _ in range(2)]
    torch.cuda.synchronize()
    results = []
    for i in range(100):
        with torch.cuda.stream(streams[i % 2]):
            results.append(nvfp4.linear(x, w, granularity="row"))
    torch.cuda.synchronize()
    assert all(torch.equal(y, wanted) for y in results)


def test_compile_keeps_one_graph() -> None:
    w = nvfp4.to_layout(sm120.on_gpu(quantized(136, 256)), "n128k128")
    x = outliers(9, 256, torch.bfloat16).cuda()

    def run(x):
        return nvfp4.linear(x, w, granularity="row") * 2

    assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(x), run(x))


def test_the_choice_names_its_kernel() -> None:
    assert plan(1, 5376, 21504, 0).name == "stream-8"
    assert plan(2048, 43008, 5376, 0).name in ("256x128x128", "128x128x128", "128x128x256")
    assert "SM120 kernels" in str(backends.explain(backends.Desc("linear", "cuda", layout="n128k128")))


def test_bad_calls_are_named() -> None:
    a, b = sm120.on_gpu(exact_operand(8, 128)), sm120.on_gpu(exact_operand(128, 128))
    with pytest.raises(ValueError, match="wanted at most 8"):
        sm120.product(sm120.dispatch.Sm120Plan(0, 1, 0, 1), sm120.on_gpu(exact_operand(9, 128)), b)
    with pytest.raises(ValueError, match="an activation wants a 16-bit output"):
        sm120.product(sm120.dispatch.Sm120Plan(0, 1, 1, 1), a, b, torch.float32, activation="silu")
