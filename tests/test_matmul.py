"""The products: exact where the contract says so, within a derived bound elsewhere, the same bits every time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import nvfp4
from helpers import FLOATS, M_VALUES, exact_operand, outliers, quantized, same_bits
from nvfp4 import NVFP4Tensor, backends, reference

NK = [(1, 16), (16, 64), (17, 80), (48, 320), (100, 1024), (33, 4112)]


def error_bound(a: Tensor, b: NVFP4Tensor, scale: Tensor, k_terms: int, out: Tensor) -> Tensor:
    """How far a float32 sum may lie from the exact one.

    Summing n float32 terms in any order errs by at most (n - 1) * u * sum|terms| to first order, u = 2^-24 (Higham,
    Accuracy and Stability of Numerical Algorithms, §4.2); a term itself carries at most two roundings where it is not
    exact (W4A16: the product with x), alpha one, the scaling one, the output dtype half an ulp. n is padded by 8 for
    all of these.
    """
    magnitude = (a.abs().double() @ reference.unscaled(b).abs().double().T) * scale.double()
    ulp = torch.finfo(out.dtype).eps
    return (k_terms + 8) * 2.0**-24 * magnitude + ulp * out.double().abs() + torch.finfo(out.dtype).tiny


@pytest.mark.parametrize("layout", ["plain", "n16k64"])
@pytest.mark.parametrize(("n", "k"), NK)
def test_w4a4_exact_grid(n: int, k: int, layout: str) -> None:
    """Partial sums are exactly representable, so the CPU equals the reference at atol = rtol = 0."""
    b = exact_operand(n, k)
    prepared = nvfp4.to_layout(b, layout)
    for m in M_VALUES:
        a = exact_operand(m, k, "row")
        for out_dtype in FLOATS:
            bias = torch.randint(-8, 8, (n,)).to(out_dtype) if m % 2 else None
            with backends.force("cpu"):
                got = nvfp4.matmul(a, prepared, bias, out_dtype=out_dtype)
            assert same_bits(got, reference.matmul(a, b, bias, out_dtype)), (m, n, k, out_dtype)


@pytest.mark.parametrize(("n", "k"), NK)
def test_w4a4_random_data_equals_the_definition_and_keeps_the_bound(n: int, k: int) -> None:
    b = quantized(n, k)
    for m in (1, 5, 16, 100):
        a = quantized(m, k, granularity="row")
        scale = reference.alpha(a.global_scale, b.global_scale)
        exact = (reference.unscaled(a).double() @ reference.unscaled(b).double().T) * scale.double()
        for out_dtype in FLOATS:
            got = nvfp4.matmul(a, b, out_dtype=out_dtype)
            assert same_bits(got, reference.matmul(a, b, None, out_dtype)), (
                "the definition fixes the order of summation"
            )
            limit = torch.finfo(out_dtype).max
            finite = exact.abs() < limit
            bound = error_bound(reference.unscaled(a), b, scale, k // 16, got)
            assert bool(((got.double() - exact).abs() <= bound)[finite].all())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("n", "k"), NK)
def test_w4a16_random_data_within_the_bound(dtype: torch.dtype, n: int, k: int) -> None:
    w = quantized(n, k)
    for m in M_VALUES:
        x = torch.randn(m, k).to(dtype)
        bias = torch.randn(n).to(dtype)
        with backends.force("reference"):
            wanted = nvfp4.linear(x.float(), w, bias, activations=None).double()
        for weight in (w, nvfp4.to_layout(w, "n16k64")):
            with backends.force("cpu"):
                got = nvfp4.linear(x, weight, bias, activations=None)
            bound = error_bound(x, w, reference.alpha(w.global_scale), k, got) + bias.abs().double() * 2.0**-23
            assert bool(((got.double() - wanted).abs() <= bound).all()), (m, n, k)


@pytest.mark.parametrize("dtype", FLOATS)
def test_w4a16_exact_grid(dtype: torch.dtype) -> None:
    for n, k in NK:
        w = exact_operand(n, k)
        for m in (1, 3, 16, 257):
            x = torch.randint(-4, 5, (m, k)).to(dtype)
            with backends.force("reference"):
                wanted = nvfp4.linear(x, w, activations=None)
            assert same_bits(nvfp4.linear(x, nvfp4.to_layout(w, "n16k64"), activations=None), wanted), (m, n, k)


@pytest.mark.parametrize("granularity", ["row", "tensor", "static"])
def test_linear_is_quantize_then_matmul(granularity: str, backend: str) -> None:
    w = nvfp4.to_layout(quantized(80, 192), "n16k64")
    given = torch.tensor([97.0]) if granularity == "static" else None
    for m in (0, 1, 3, 17, 100):
        x = outliers(m, 192, torch.bfloat16)
        mode = "row" if granularity == "static" else granularity
        a = nvfp4.quantize(x, given, mode)  # type: ignore[arg-type]
        wanted = nvfp4.matmul(a, w, out_dtype=torch.bfloat16)
        got = nvfp4.linear(x, w, input_global_scale=given, granularity=mode)  # type: ignore[arg-type]
        assert same_bits(got, wanted)


@pytest.mark.parametrize("activations", ["nvfp4", None])
def test_row_of_257_equals_the_row_alone(activations: str | None) -> None:
    """Batch invariance: a row's bits depend neither on M nor on the other rows."""
    for n, k in [(100, 1024), (33, 4112), (5, 16)]:
        w = nvfp4.to_layout(quantized(n, k), "n16k64")
        m = 257
        x = outliers(m, k, torch.bfloat16)
        together = nvfp4.linear(x, w, activations=activations)
        for i in {0, 1, 5, m // 2, m - 1}:
            assert same_bits(nvfp4.linear(x[i : i + 1], w, activations=activations), together[i : i + 1]), (n, k, i)


@pytest.mark.parametrize("activations", ["nvfp4", None])
def test_every_m_gives_the_same_rows(activations: str | None) -> None:
    w = nvfp4.to_layout(quantized(70, 528), "n16k64")
    x = outliers(257, 528, torch.bfloat16)
    together = nvfp4.linear(x, w, activations=activations)
    for m in (*M_VALUES, 8, 9, 12, 24):
        assert same_bits(nvfp4.linear(x[:m], w, activations=activations), together[:m])


def test_a_hundred_runs_and_three_thread_counts_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    w = nvfp4.to_layout(quantized(300, 640), "n16k64")
    for m, activations in [(1, "nvfp4"), (64, "nvfp4"), (2, None)]:
        x = outliers(m, 640, torch.bfloat16)
        first = nvfp4.linear(x, w, activations=activations)
        for repeat in range(100):
            monkeypatch.setattr(backends.cpu, "_THREADS", repeat % 3 + 1)
            assert same_bits(nvfp4.linear(x, w, activations=activations), first)


def test_nan_scales_give_nan_rows(backend: str) -> None:
    x = torch.randn(3, 64)
    x[1, 5] = float("nan")
    w = nvfp4.to_layout(quantized(20, 64), "n16k64")
    assert nvfp4.linear(x, w).isnan().all(dim=1).tolist() == [False, True, False]
    weight = torch.randn(20, 64)
    weight[7, 60] = float("nan")
    y = nvfp4.linear(torch.randn(3, 64), nvfp4.to_layout(nvfp4.quantize(weight), "n16k64"))
    assert y.isnan().any(dim=0).nonzero().flatten().tolist() == [7]


def test_subnormal_scales_count() -> None:
    """Block scales far below the largest are e4m3 subnormals, and some float tricks lose them."""
    x = torch.randn(64, 256) * 2.0 ** -torch.arange(16).repeat_interleave(16)
    a = nvfp4.quantize(x)
    assert bool((a.scale.float() < 2**-6).any())
    assert same_bits(nvfp4.matmul(a, a, out_dtype=torch.float32), reference.matmul(a, a, None, torch.float32))


def test_inputs_need_not_be_contiguous(backend: str) -> None:
    w = quantized(48, 64)
    x = torch.randn(6, 8, 128)
    expanded = x[0, :1, :64].expand(4, 64)
    for view in (x[..., 64:], x[:, ::2, :64], x[0, :, :64], x.transpose(0, 1)[..., :64], x[0, 0, :64], expanded):
        for activations in ("nvfp4", None):
            got = nvfp4.linear(view, w, activations=activations)
            assert got.shape == (*view.shape[:-1], 48)
            assert same_bits(got, nvfp4.linear(view.contiguous(), w, activations=activations))


def test_empty_sizes(backend: str) -> None:
    assert nvfp4.linear(torch.randn(3, 0), nvfp4.quantize(torch.randn(5, 0))).tolist() == [[0.0] * 5] * 3
    assert nvfp4.linear(torch.randn(3, 16), nvfp4.quantize(torch.randn(0, 16))).shape == (3, 0)
    assert nvfp4.linear(torch.randn(2, 0, 16), nvfp4.quantize(torch.randn(7, 16))).shape == (2, 0, 7)


def test_weight_quantised_by_row(backend: str) -> None:
    w = quantized(48, 64, granularity="row")
    a = quantized(5, 64, granularity="row")
    got = nvfp4.matmul(a, nvfp4.to_layout(w, "n16k64"), out_dtype=torch.float32)
    assert same_bits(got, reference.matmul(a, w, None, torch.float32))


W = {"x": (4, 64), "w": (48, 64)}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, w: nvfp4.linear(x[:, :48], w), ValueError, r"wanted \[..., K\] and \[N, K\]"),
        (lambda x, w: nvfp4.linear(x.double(), w), TypeError, "float64"),
        (lambda x, w: nvfp4.linear(x, w, torch.zeros(3)), ValueError, r"bias: got shape \(3,\), wanted \(48,\)"),
        (lambda x, w: nvfp4.linear(x, w, torch.zeros(48, dtype=torch.int32)), TypeError, "bias"),
        (lambda x, w: nvfp4.linear(x, w, torch.zeros(96)[::2]), ValueError, "contiguous"),
        (lambda x, w: nvfp4.linear(x, w, activations="fp8"), ValueError, "activations: got 'fp8'"),
        (lambda x, w: nvfp4.linear(x, w, granularity="block"), ValueError, "granularity"),
        (lambda x, w: nvfp4.linear(x, w, input_global_scale=torch.ones(4, 1)), ValueError, r"wanted \(1,\)"),
        (lambda x, w: nvfp4.linear(x, w, input_global_scale=torch.tensor([0.0])), ValueError, "global"),
        (lambda x, w: nvfp4.linear(x, w, activations=None, input_global_scale=torch.ones(1)), ValueError, "static"),
        (lambda x, w: nvfp4.linear(x, x), TypeError, "NVFP4Tensor"),
        (lambda x, w: nvfp4.linear(x.to("meta"), w), ValueError, "meta"),
        (lambda x, w: nvfp4.matmul(w, nvfp4.quantize(torch.zeros(4, 32))), ValueError, "wanted"),
        (lambda x, w: nvfp4.matmul(w, w, out_dtype=torch.int8), TypeError, "out_dtype"),
        (lambda x, w: nvfp4.to_layout(w, "marlin"), ValueError, "wanted one of"),
    ],
)
def test_malformed_calls(call: object, error: type[Exception], message: str, backend: str) -> None:
    with pytest.raises(error, match=message):
        call(torch.randn(4, 64), quantized(48, 64))  # type: ignore[operator]


def test_a_global_scale_that_is_no_number_is_refused(backend: str) -> None:
    w = quantized(16, 32)
    for bad in (0.0, -2.0, float("nan"), float("inf")):
        broken = NVFP4Tensor(w.packed, w.scale, torch.tensor([bad]), w.shape)
        with pytest.raises(ValueError, match="global"):
            nvfp4.linear(torch.randn(2, 32), broken)


def test_tiles_of_another_k_are_refused() -> None:
    """K = 80 and K = 96 fill the same two tiles; the empty scale tensor still tells them apart."""
    w = nvfp4.to_layout(quantized(48, 96), "n16k64")
    args = (w.packed, w.scale.view(torch.uint8), w.global_scale, None, None, 48, "n16k64", "row")
    assert torch.ops.nvfp4.linear.default(torch.randn(2, 96), *args).shape == (2, 48)
    with pytest.raises(ValueError, match=r"scale: got shape \(0, 6\), wanted \(0, 5\)"):
        torch.ops.nvfp4.linear.default(torch.randn(2, 80), *args)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
def test_gated_activations_are_torchs_in_float64(activation, dtype) -> None:
    gate, up = (torch.randn(2, 2000) * 4).to(dtype)
    gate[:4] = torch.tensor([0.0, -0.0, -60.0, 300.0])
    act = {
        "gelu_tanh": lambda x: torch.nn.functional.gelu(x, approximate="tanh"),
        "gelu": torch.nn.functional.gelu,
        "silu": torch.nn.functional.silu,
    }[activation]
    got = reference.gated_activation(gate, up, activation)
    assert got.dtype == dtype
    wanted = act(gate.double()) * up.double()
    # torch's forms cancel for negative gates, by at most an eps of the gate, which stands before the factor of up.
    error = (got.double() - wanted).abs()
    bound = torch.finfo(dtype).eps / 2 * wanted.abs() + 2.0**-50 * (gate * up).double().abs() + torch.finfo(dtype).tiny
    assert bool((error <= bound).all())
