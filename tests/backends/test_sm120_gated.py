"""The fused gated MLP of SM120 against its parts and against the CPU; runs where `test_sm120.py` runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import nvfp4
import sm120
from helpers import outliers, quantized
from nvfp4 import GatedMLP, NVFP4Linear, NVFP4Tensor, backends, gated, reference
from nvfp4.backends.sm120 import plan

pytestmark = pytest.mark.skipif(not sm120.served(), reason="no GPU that runs SM120's products")


def linear(n: int, k: int, bias: bool, static: float | None) -> NVFP4Linear:
    module = NVFP4Linear(k, n, bias, dtype=torch.bfloat16, static=static is not None)
    t = quantized(n, k)
    module.set_quantized_weight(NVFP4Tensor(t.packed, t.scale, t.global_scale * 40, t.shape))
    if bias:
        module.bias.data.copy_(torch.randn(n))
    if static is not None:
        module.input_global_scale.data.fill_(static)
    return module


def mlp_of(
    k: int, intermediate: int, n: int, activation: str = "gelu_tanh", bias: bool = False,
    static: tuple[float, float] | None = (30.0, 5.0),
) -> GatedMLP:  # fmt: skip
    first, second = static or (None, None)
    gate, up = (linear(intermediate, k, bias, first) for _ in range(2))
    up.weight_global_scale.data.mul_(1.5)
    down = linear(n, intermediate, bias, second)
    return nvfp4.prepare(GatedMLP.from_linears(gate, up, down, activation).cuda())


def parts(mlp: GatedMLP, x: Tensor, granularity: str = "row") -> tuple[Tensor, NVFP4Tensor, Tensor]:
    """The activation in 16 bits by the product's epilogue, its quantisation, and the output: three separate steps."""
    both, down = mlp.gate_up_proj, mlp.down_proj
    a = nvfp4.quantize(x, both.input_global_scale, granularity=granularity)
    w = nvfp4.to_layout(both.quantized_weight(), "plain")
    n, k = w.shape
    how = plan(len(x), n, k, 0)
    gates = NVFP4Tensor(w.packed, w.scale, both.weight_global_scale.detach(), w.shape)
    up_scale = both.up_global_scale.detach()
    h = sm120.product(
        how, a, gates, x.dtype, bias=both.bias, activation=mlp.activation, up_global_scale=up_scale
    )  # fmt: skip
    quantised = nvfp4.quantize(h, down.input_global_scale, granularity=granularity)
    return h, quantised, nvfp4.matmul(quantised, down.quantized_weight(), down.bias, out_dtype=x.dtype)


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("static", [(30.0, 5.0), None])
def test_fused_is_its_parts(activation, dtype, static) -> None:
    mlp = mlp_of(272, 208, 136, activation, bias=activation == "silu", static=static)
    for m in (1, 7, 64, 70, 300):
        x = outliers(m, 272).clamp(-50, 50).to(dtype).cuda()
        backends.reset_kernel_calls()
        got = mlp(x)
        assert backends.kernel_calls() == {"cuda/sm120/gated_mlp": 1}
        assert torch.equal(got, parts(mlp, x)[2]), m


@pytest.mark.parametrize("static", [(30.0, 5.0), None])
def test_fused_is_two_linears_around_the_activation(static) -> None:
    """Of the products without an activation: what is rounded between them is the same."""
    mlp = mlp_of(256, 128, 64, static=static)
    x = outliers(40, 256).clamp(-50, 50).bfloat16().cuda()
    gate, up = gated.apart(mlp.gate_up_proj(x), -1)
    wanted = reference.gated_activation(gate, up, "gelu_tanh")
    h = parts(mlp, x)[0]
    steps = h.view(torch.int16).int() - wanted.view(torch.int16).int()
    assert int(steps.abs().max()) <= 1


def test_float32_and_odd_sizes_are_two_linears() -> None:
    for mlp, dtype in ((mlp_of(64, 96, 48), torch.float32), (mlp_of(64, 96, 44), torch.bfloat16)):
        x = outliers(5, 64).to(dtype).cuda()
        backends.reset_kernel_calls()
        got = mlp(x)
        assert "cuda/sm120/gated_mlp" not in backends.kernel_calls()
        assert got.dtype == dtype
        gate, up = gated.apart(mlp.gate_up_proj(x), -1)
        assert torch.equal(got, mlp.down_proj(reference.gated_activation(gate, up, "gelu_tanh")))


def test_the_mlp_of_gemma_against_the_cpu() -> None:
    """Gemma-4-31B's sizes. The first quantisation is the same to the bit; the second differs where the sums before it
    round to another bf16, and the outputs by no more than that and the products' own rounding explains."""
    k, intermediate, m = 5376, 21504, 3
    mlp = mlp_of(k, intermediate, k, static=(20.0, 2.0))
    x = torch.randn(m, k).bfloat16().cuda()
    scale = mlp.gate_up_proj.input_global_scale
    assert nvfp4.quantize(x, scale).to("cpu") == nvfp4.quantize(x.cpu(), scale.cpu())
    h, quantised, y = parts(mlp, x)
    assert quantised.to("cpu") == nvfp4.quantize(h.cpu(), mlp.down_proj.input_global_scale.cpu())
    got = mlp(x)
    assert torch.equal(got, y)
    mlp.cpu()
    nvfp4.prepare(mlp)
    on_cpu = mlp(x.cpu())
    gate, up = gated.apart(mlp.gate_up_proj(x.cpu()), -1)
    h_cpu = nvfp4.quantize(reference.gated_activation(gate, up, "gelu_tanh"), mlp.down_proj.input_global_scale)
    w = mlp.down_proj.quantized_weight().dequantize(torch.float32).double().cuda()
    mine, theirs = (t.dequantize(torch.float32).double().cuda() for t in (quantised, h_cpu.to("cuda")))
    moved = (mine - theirs).abs() @ w.abs().T
    # As in test_sm120.py for this product's roundings; the CPU's sum is a float32 one over groups of sixteen.
    rounding = (intermediate // 16 + 36 + 8) * 2.0**-23 * (theirs.abs() @ w.abs().T)
    last = 2.0**-8 * (got.double().abs() + on_cpu.cuda().double().abs())
    assert bool(((got.double() - on_cpu.cuda().double()).abs() <= moved + 2 * rounding + last).all())
    # The bound says something: most of the second quantisation is the same.
    assert float((mine != theirs).double().mean()) < 0.01


def launches(run) -> list[str]:
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as p:
        run()
    names = [e.name for e in p.events()]
    assert not any("Synchronize" in name and name != "cudaDeviceSynchronize" for name in names)
    return [e.name for e in p.events() if e.device_type == torch.autograd.DeviceType.CUDA]


def test_three_launches_and_no_waiting() -> None:
    x = outliers(9, 256, torch.bfloat16).cuda()
    for static, count in (((30.0, 5.0), 3), (None, 4)):
        mlp = mlp_of(256, 128, 64, static=static)
        mlp(x)
        torch.cuda.set_sync_debug_mode("error")
        try:
            mlp(x)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert len(launches(lambda mlp=mlp: mlp(x))) == count


def test_graphs_streams_and_compile() -> None:
    mlp = mlp_of(1024, 512, 264)
    x = outliers(64, 1024, torch.bfloat16).cuda()
    with torch.no_grad():
        wanted = mlp(x)
        still = x.clone()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = mlp(still)
        for i in range(3):
            still.copy_(x.roll(i, 0))
            graph.replay()
            assert torch.equal(captured, wanted.roll(i, 0))
        streams, results = [torch.cuda.Stream() for _ in range(2)], []
        torch.cuda.synchronize()
        for i in range(100):
            with torch.cuda.stream(streams[i % 2]):
                results.append(mlp(x))
        torch.cuda.synchronize()
        assert all(torch.equal(y, wanted) for y in results)
        assert torch.equal(torch.compile(mlp, fullgraph=True)(x), wanted)


def test_a_token_does_not_depend_on_its_neighbours() -> None:
    for static in ((30.0, 5.0), None):
        mlp = mlp_of(400, 528, 136, static=static)
        x = outliers(256, 400, torch.bfloat16).cuda()
        wanted = mlp(x)
        for m in (1, 8, 33, 129):
            assert torch.equal(mlp(x[:m]), wanted[:m]), m


def test_nan_and_infinities_stay_in_their_tokens() -> None:
    mlp = mlp_of(256, 128, 64)
    x = outliers(40, 256, torch.bfloat16).cuda()
    wanted = mlp(x)
    x[17, 100], x[18, 5], x[19, 7] = float("nan"), float("inf"), -float("inf")
    got = mlp(x)
    others = (torch.arange(40, device="cuda") < 17) | (torch.arange(40, device="cuda") > 19)
    assert bool(got[17].isnan().all())
    assert torch.equal(got[18:20], parts(mlp, x)[2][18:20])
    assert torch.equal(got[others], wanted[others])


def test_a_gradient_takes_two_linears() -> None:
    mlp = mlp_of(256, 128, 64)
    x = outliers(9, 256, torch.bfloat16).cuda().requires_grad_()
    backends.reset_kernel_calls()
    y = mlp(x)
    y.float().sum().backward()
    assert "cuda/sm120/gated_mlp" not in backends.kernel_calls()
    again = x.detach().clone().requires_grad_()
    gate, up = gated.apart(mlp.gate_up_proj(again), -1)
    wanted = mlp.down_proj(reference.gated_activation(gate, up, "gelu_tanh"))
    wanted.float().sum().backward()
    assert torch.equal(y, wanted)
    assert torch.equal(x.grad, again.grad)
