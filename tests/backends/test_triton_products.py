"""Triton's matrix products: exact where sums are, within a bound elsewhere, by every route and tile."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

import nvfp4
from helpers import exact_operand, outliers, quantized
from nvfp4 import NVFP4Linear, NVFP4Tensor, backends, layout, reference
from nvfp4.backends.triton import plan, products, tuned
from nvfp4.backends.triton.plan import Plan, Tile
from nvfp4.gated import GatedWeights, apart, gate_and_up_scales
from triton_interpreter import DEVICE, MARKS, numbers_as_bounds

__all__ = ["numbers_as_bounds"]

pytestmark = MARKS

TRITON = backends.BACKENDS["triton"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
GPU = DEVICE == "cuda"

SHAPES = [(1, 16, 16), (3, 70, 272), (17, 64, 528)]
PLANS: list[Plan | None] = [None, Plan(Tile(1, 16, 2, 4), 2), Plan(Tile(1, 256, 2, 8), 1)]
if GPU:
    SHAPES += [
        (1, 128, 128), (8, 256, 512), (31, 264, 1024), (33, 1000, 1040), (65, 136, 5376), (129, 520, 2048),
        (257, 264, 768), (300, 640, 4096), (1025, 256, 512), (2, 4096, 8192), (1025, 4352, 8192),
    ]  # fmt: skip
    PLANS += [
        *(Plan(tile, 1) for tile in plan._TILES),
        *(Plan(tile, 3) for tile in plan._TILES[1::3]),
        Plan(plan._TILES[0], 1, "library"),
    ]

needs_gpu = pytest.mark.skipif(not GPU, reason="no GPU")


def here(t: NVFP4Tensor) -> NVFP4Tensor:
    return NVFP4Tensor(t.packed.to(DEVICE), t.scale.to(DEVICE), t.global_scale.to(DEVICE), t.shape)


def tiled(t: NVFP4Tensor) -> Tensor:
    tiles = TRITON.to_tiles(t.packed, t.scale.view(torch.uint8), "n64k256")
    assert torch.equal(tiles, layout.to_tiles(t.packed, t.scale.view(torch.uint8), "n64k256"))
    return tiles


def multiply(a: NVFP4Tensor, b: NVFP4Tensor, bias: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    return TRITON.matmul(
        a.packed, a.scale.view(torch.uint8), a.global_scale, tiled(b), b.scale.new_empty(0, b.shape[1] // 16),
        b.global_scale, bias, b.shape[0], "n64k256", dtype,
    )  # fmt: skip


def linear(
    x: Tensor, w: NVFP4Tensor, activations: str, given: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    scale = w.scale.view(torch.uint8).new_empty(0, w.shape[1] // 16)
    return TRITON.linear(x, tiled(w), scale, w.global_scale, given, bias, w.shape[0], "n64k256", activations)


def by(how: Plan | None):
    return nullcontext() if how is None else products.force_plan(how)


@pytest.mark.parametrize(("m", "n", "k"), SHAPES)
@pytest.mark.parametrize("granularity", ["tensor", "row"])
def test_products_are_exact_where_sums_are(m, n, k, granularity) -> None:
    a, b = here(exact_operand(m, k, granularity)), here(exact_operand(n, k))
    wanted = reference.matmul(a, b, out_dtype=torch.float32)
    for how in PLANS:
        with by(how):
            assert torch.equal(multiply(a, b), wanted), how


@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("bias_dtype", DTYPES)
def test_bias_and_output(out_dtype, bias_dtype) -> None:
    a, b = here(exact_operand(5, 272, "row")), here(exact_operand(70, 272))
    bias = torch.randn(70, device=DEVICE).to(bias_dtype)
    for how in PLANS:
        with by(how):
            got = multiply(a, b, bias, out_dtype)
        assert torch.equal(got, reference.matmul(a, b, bias, out_dtype)), how


def test_a_weight_with_a_global_scale_a_row() -> None:
    a, b = here(exact_operand(5, 272, "row")), here(exact_operand(70, 272, "row"))
    x = torch.randint(-7, 8, (5, 272), device=DEVICE).float()
    for how in PLANS:
        with by(how):
            assert torch.equal(multiply(a, b), reference.matmul(a, b, out_dtype=torch.float32)), how
            assert torch.equal(linear(x, b, "none"), reference.linear(x, b)), how


def test_misaligned_tiles() -> None:
    x, w = outliers(3, 256, torch.bfloat16).to(DEVICE), here(quantized(64, 256))
    tiles = tiled(w)
    odd = torch.empty(tiles.numel() + 1, dtype=torch.uint8, device=DEVICE)[1:].view_as(tiles).copy_(tiles)
    scale = w.scale.view(torch.uint8)[:0]
    got = TRITON.linear(x, odd, scale, w.global_scale, None, None, 64, "n64k256", "row")
    assert torch.equal(got, linear(x, w, "row"))
    packed, _ = TRITON.from_tiles(odd, 64, 256, "n64k256")
    assert torch.equal(packed, w.packed)


@pytest.mark.parametrize(("m", "n", "k"), [(1, 64, 528), (33, 64, 272), (300, 640, 2048)] if GPU else [(3, 64, 272)])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activations", ["none", "row", "tensor", "static"])
def test_random_products_stay_within_the_bound(m, n, k, dtype, activations) -> None:
    """Sums of at most K terms, in any order, each step wrong by at most a unit of what the magnitudes add up to."""
    x, w = (outliers(m, k) / 4096).to(DEVICE, dtype), here(quantized(n, k))  # float16 ends at 65504
    given = torch.tensor([300.0], device=DEVICE) if activations == "static" else None
    values = x
    if activations != "none":
        granularity = "row" if activations == "row" else "tensor"
        values = reference.dequantize(reference.quantize(x, given, granularity), torch.float32)  # type: ignore[arg-type]
    values, weight = values.double(), reference.dequantize(w, torch.float32).double()
    most = values.abs() @ weight.abs().T
    for how in PLANS if m > 1 else PLANS[:3]:
        with by(how):
            got = linear(x, w, activations, given)
        error = (got.double() - values @ weight.T).abs()
        rounding = torch.finfo(dtype).eps * (values @ weight.T).abs() + torch.finfo(dtype).smallest_normal
        assert bool((error <= (k + 8) * 2.0**-23 * most + rounding).all()), how


@pytest.mark.parametrize("activations", ["row", "tensor", "static"])
def test_linear_is_quantise_then_matmul(activations) -> None:
    w = here(quantized(70, 528))
    for dtype in DTYPES:
        x = outliers(5, 528, dtype).to(DEVICE)
        bias = torch.randn(70, device=DEVICE)
        given = torch.tensor([300.0], device=DEVICE) if activations == "static" else None
        a = reference.quantize(x, given, "row" if activations == "row" else "tensor")
        assert torch.equal(linear(x, w, activations, given, bias), multiply(a, w, bias, dtype))


@pytest.mark.parametrize("rows", [1, 2, 19, 24, 32, 37, 86, 128, 129, 1000])
@pytest.mark.parametrize("k", [16, 5376, 14336, 21504, 28672])
def test_programs_of_a_row_have_whole_pieces_of_it(rows: int, k: int) -> None:
    """One that had not would write zeros over what the next one begins with."""
    made = products.Tokens(torch.empty((rows, plan.units_of(k) * 256), device="meta"), rows, 1, None, None)  # type: ignore[arg-type]
    each = products._units_each(made, per_row=True)
    assert each % products._UNITS == 0
    assert products.triton.cdiv(made.units, each) * rows <= max(products.PROGRAMS, rows)


@needs_gpu
@pytest.mark.parametrize(("m", "k"), [(24, 21504), (32, 21504), (64, 21504), (128, 5376), (86, 5376), (40, 28672)])
def test_rows_that_several_programs_quantise(m: int, k: int) -> None:
    x, w = outliers(m, k, torch.bfloat16).to(DEVICE), here(quantized(64, k))
    assert torch.equal(linear(x, w, "row"), multiply(reference.quantize(x, None, "row"), w, dtype=torch.bfloat16))


def test_nan_stays_in_its_token() -> None:
    x, w = outliers(9, 272, torch.bfloat16).to(DEVICE), here(quantized(70, 272))
    for activations in ("row", "none"):
        x[4, 100] = 1.0
        wanted = linear(x, w, activations)
        x[4, 100] = float("nan")
        got = linear(x, w, activations)
        assert bool(got[4].isnan().all())
        others = torch.arange(9, device=DEVICE) != 4
        assert torch.equal(got[others], wanted[others])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_scale_makes_its_row_nan(dtype) -> None:
    w = here(exact_operand(70, 272))
    w.scale.view(torch.uint8)[7, 3] = 0x7F
    y = linear(torch.ones(3, 272, dtype=dtype, device=DEVICE), w, "none")
    assert bool(y[:, 7].isnan().all())
    assert not bool(y[:, torch.arange(70) != 7].isnan().any())


def test_every_code_under_every_scale() -> None:
    """W4A16 with one column at a time is dequantising: 16 codes by 127 scales in every place of a word."""
    codes = torch.arange(16, dtype=torch.uint8).repeat(127, 16).roll(5, 1)
    scale = torch.arange(127, dtype=torch.uint8).reshape(127, 1).repeat(1, 16)
    w = here(NVFP4Tensor(layout.pack(codes), scale.view(torch.float8_e4m3fn), torch.ones(1), (127, 256)))
    columns = range(0, 256, 1 if GPU else 37)
    for dtype in DTYPES:
        x = torch.zeros(len(columns), 256, device=DEVICE, dtype=dtype)
        x[torch.arange(len(columns)), list(columns)] = 1.0
        assert torch.equal(linear(x, w, "none"), reference.dequantize(w, dtype).T[list(columns)])


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("has_up", [False, True])
def test_the_last_tiles_are_shared(has_up, per_token) -> None:
    """With a bias, and with rows of gate and up that have scales of their own."""
    m, n, k = (1025, 4352, 8192) if GPU else (300, 144, 768)
    how = Plan(plan._TILES[-1] if GPU else Tile(1, 256, 2, 8), 1)
    tiles = -(-m // how.tile.tokens) * -(-n // (64 * how.tile.panels))
    assert 0 < plan.shared_tiles(tiles, k, tuned.gpu_of(0 if GPU else None)).tiles < tiles
    x, b = torch.randint(-2, 3, (m, k), device=DEVICE).bfloat16(), here(exact_operand(n, k))
    bias = torch.randint(-4, 5, (n,), device=DEVICE).float()
    up = b.global_scale * 4
    weight = products.Weight(tiled(b), n, b.global_scale, bias, up if has_up else None)
    if has_up:
        b = NVFP4Tensor(b.packed, b.scale, gate_and_up_scales(b.global_scale, up, n // 2), b.shape)
    out = torch.full((m, n), float("nan"), device=DEVICE)
    given = None if per_token else torch.tensor([600.0], device=DEVICE)
    with by(how):
        products.product(products.quantized_tokens(x, given, per_token, weight), weight, out)
    a = reference.quantize(x, given, "row" if per_token else "tensor")
    assert torch.equal(out, reference.matmul(a, b, bias, torch.float32))


@pytest.mark.parametrize("k", [8192, 8704])
def test_rows_by_one_program_or_by_several(k, monkeypatch) -> None:
    x, w = outliers(3, k, torch.bfloat16).to(DEVICE), here(quantized(64, k))
    x[1, -1] = float("nan")
    wanted = linear(x, w, "row")
    monkeypatch.setattr(products, "PROGRAMS", 1)
    assert torch.equal(linear(x, w, "row").nan_to_num(7.0), wanted.nan_to_num(7.0))
    assert bool(wanted[1].isnan().all())


@pytest.mark.parametrize(("n", "k"), [(1, 16), (64, 256), (130, 528)])
def test_tiles_are_a_bijection(n, k) -> None:
    w = here(exact_operand(n, k))
    w.scale.view(torch.uint8)[:] = torch.randint(0, 128, w.scale.shape, dtype=torch.uint8)
    packed, scale = TRITON.from_tiles(tiled(w), n, k, "n64k256")
    assert torch.equal(packed, w.packed)
    assert torch.equal(scale, w.scale.view(torch.uint8))


def test_a_negative_scale_is_refused() -> None:
    w = here(exact_operand(16, 32))
    w.scale.view(torch.uint8)[3, 1] = 0x81
    with pytest.raises(ValueError, match="sign bit set"):
        TRITON.to_tiles(w.packed, w.scale.view(torch.uint8), "n64k256")


def test_strided_empty_and_batched_inputs() -> None:
    w = here(quantized(64, 256))
    base = outliers(40 if GPU else 4, 600, torch.bfloat16).to(DEVICE)
    for x in (base[:, 3:259], base[::2, :256], base[:0, :256], base[:, :256].reshape(2, -1, 256)):
        for activations in ("row", "none"):
            wanted = linear(x.contiguous(), w, activations)
            assert torch.equal(linear(x, w, activations), wanted)
            assert wanted.shape == (*x.shape[:-1], 64)
    bias = torch.randn(16, device=DEVICE)
    nothing = here(exact_operand(16, 0))
    for activations in ("row", "none"):
        y = linear(torch.empty(3, 0, device=DEVICE), nothing, activations, bias=bias)
        assert torch.equal(y, bias.expand(3, 16))


def test_tokens_beside_others_give_the_same() -> None:
    """As long as they share a tile's kernel: the order of a sum depends on nothing else."""
    sizes = (1, 7, 8, 9, 16, 17, 31) if GPU else (1, 9)
    x, w = outliers(32, 528, torch.bfloat16).to(DEVICE), here(quantized(64, 528))
    for activations in ("row", "none"):
        with products.force_plan(Plan(Tile(1, 32, 2, 4), 2)):
            wanted = linear(x, w, activations)
            for m in sizes:
                assert torch.equal(linear(x[:m], w, activations), wanted[:m])


@pytest.mark.parametrize("activations", ["row", "static", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gated_mlp_is_its_parts(dtype, activations) -> None:
    """Two products and, between them, the activation of what the first gives in x's dtype, within one unit of it."""
    m, k, intermediate, n = (3, 64, 48, 16) if not GPU else (33, 272, 528, 136)
    x = (outliers(m, k) / 4096).to(DEVICE, dtype)  # float16 ends at 65504
    both = here(quantized(2 * intermediate, k))
    down = here(quantized(n, intermediate))
    scales = [torch.tensor([factor], device=DEVICE) for factor in (3000.0, 2000.0)]
    given = [torch.tensor([factor], device=DEVICE) if activations == "static" else None for factor in (300.0, 0.1)]
    weights = GatedWeights(
        tiled(both), both.scale.view(torch.uint8)[:0], *scales, torch.randn(2 * intermediate, device=DEVICE),
        tiled(down), down.scale.view(torch.uint8)[:0], down.global_scale, torch.randn(n, device=DEVICE), intermediate,
        n, "n64k256",
    )  # fmt: skip
    mode = "none" if activations == "none" else "row"
    got = TRITON.gated_mlp(x, weights, *given, "gelu_tanh", mode)
    rows = gate_and_up_scales(*scales, intermediate)
    first = NVFP4Tensor(both.packed, both.scale, rows, both.shape)
    h = reference.gated_activation(
        *apart(linear(x, first, activations, given[0], weights.gate_up_bias), -1), "gelu_tanh"
    )
    wanted = linear(h, down, activations, given[1], weights.down_bias)
    # A unit of h may move a block's scale, which is as much as a step of what it scales.
    most = h.double().abs() @ reference.dequantize(down, torch.float32).double().abs().T
    error = (got.double() - wanted.double()).abs()
    step = torch.finfo(dtype).eps if activations == "none" else 2.0**-3
    assert bool((error <= step * most + 2 * torch.finfo(dtype).eps * wanted.double().abs() + 1e-6).all())


@needs_gpu
def test_a_hundred_repeats_graphs_and_streams() -> None:
    for m in (3, 64, 300):
        x = outliers(m, 1024, torch.bfloat16).cuda()
        w = nvfp4.to_layout(here(quantized(264, 1024)), "n64k256")
        for how in PLANS[1:]:
            with backends.force("triton"), by(how):
                wanted = nvfp4.linear(x, w)
                still = x.clone()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph):
                    captured = nvfp4.linear(still, w)
                for i in range(3):
                    still.copy_(x.roll(i, 0))
                    graph.replay()
                    assert torch.equal(captured, wanted.roll(i, 0)), how
                streams = [torch.cuda.Stream() for _ in range(2)]
                torch.cuda.synchronize()
                results = []
                for i in range(100):
                    with torch.cuda.stream(streams[i % 2]):
                        results.append(nvfp4.linear(x, w))
                torch.cuda.synchronize()
                assert all(torch.equal(y, wanted) for y in results), how


@needs_gpu
@pytest.mark.parametrize("activations", ["nvfp4", None])
def test_a_module_is_prepared_and_gives_its_plain_bytes_back(activations) -> None:
    torch.manual_seed(0)
    module = NVFP4Linear.from_linear(
        torch.nn.Linear(272, 136, bias=True, device="cuda", dtype=torch.bfloat16), activations=activations
    )
    x = outliers(9, 272, torch.bfloat16).cuda()
    with backends.force("triton"):
        before, wanted = {name: t.clone() for name, t in module.state_dict().items()}, module(x)
        assert nvfp4.prepare(module).layout == "n64k256"
        assert torch.equal(module(x), wanted)
        after = module.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name].view(torch.uint8), after[name].view(torch.uint8)) for name in before)
    on_cpu = module.cpu()(x.cpu())
    torch.testing.assert_close(on_cpu, wanted.cpu(), rtol=2**-6, atol=1e-2)


@needs_gpu
def test_nothing_waits_for_the_gpu_and_compile_keeps_one_graph() -> None:
    x = outliers(9, 256, torch.bfloat16).cuda()
    w = nvfp4.to_layout(here(quantized(136, 256)), "n64k256")
    with backends.force("triton"):
        for activations in ("nvfp4", None):

            def run(x, activations=activations):
                return nvfp4.linear(x, w, activations=activations) * 2

            wanted = run(x)
            torch.cuda.set_sync_debug_mode("error")
            try:
                run(x)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert torch.equal(torch.compile(run, fullgraph=True, backend="aot_eager")(x), wanted)
        backends.reset_kernel_calls()
        nvfp4.linear(x, w)
        nvfp4.linear(x, w, activations=None)
        assert backends.kernel_calls() == {"triton/linear/w4a4": 1, "triton/linear/w4a16": 1}
