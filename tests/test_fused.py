"""A norm or a gated activation and quantise, and quantise and dequantise: each is its two steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import nvfp4
from fused import ulps
from helpers import FLOATS, outliers, same_bits
from nvfp4 import _C, backends, reference

NAN, INF = float("nan"), float("inf")
SHAPES = [(1, 16), (3, 48), (17, 80), (2, 3, 144), (129, 64), (0, 32), (4, 0), (320,)]


def made(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    if len(shape) == 2 and all(shape):
        return outliers(*shape, dtype)
    return torch.randn(shape).to(dtype)


# --- the definitions ------------------------------------------------------------------------------------------------


def test_the_norm_is_torchs() -> None:
    x, weight = torch.randn(5, 64), torch.randn(64)
    y, s = reference.rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(y, F.rms_norm(x, (64,), weight, 1e-5))
    assert s is x
    torch.testing.assert_close(reference.rms_norm(x, weight - 1, 1e-5, unit_offset=True)[0], y)


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_residual_is_added_as_torch_adds(dtype: torch.dtype) -> None:
    x, residual, weight = made((7, 64), dtype), made((7, 64), dtype).flip(0), made((64,), dtype)
    y, s = reference.rms_norm(x, weight, 1e-6, False, residual)
    assert same_bits(s, x + residual)
    assert same_bits(y, reference.rms_norm(s, weight, 1e-6)[0])


def test_rows_of_a_norm_may_be_zero_huge_or_none() -> None:
    x = torch.ones(4, 32)
    x[0], x[1], x[2, 3], x[3, 4] = 0.0, 3e38, NAN, INF
    y, _ = reference.rms_norm(x, torch.ones(32))
    assert not y[0].any()
    assert torch.equal(y[1], torch.ones(32))
    assert y[2].isnan().all()
    assert y[3].isnan().tolist() == [column == 4 for column in range(32)]


def test_halves() -> None:
    x = torch.arange(64).view(2, 32)
    gate, up = reference.gated_halves(x)
    assert torch.equal(gate, x[:, :16])
    assert torch.equal(up, x[:, 16:])
    gate, up = reference.gated_halves(x, interleaved=True)
    assert torch.equal(gate, torch.cat((x[:, :8], x[:, 16:24]), 1))
    assert torch.equal(up, torch.cat((x[:, 8:16], x[:, 24:]), 1))


# --- the ops --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm_quantize(shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> None:
    x, residual, weight = made(shape, dtype), made(shape, dtype).flip(0), made(shape[-1:], dtype)
    for given in (None, torch.tensor([700.0])):
        for unit_offset in (False, True):
            kwargs: dict[str, Any] = {"unit_offset": unit_offset, "global_scale": given, "layout": "128x4"}
            y, _ = reference.rms_norm(x, weight, 1e-5, unit_offset)
            wanted = nvfp4.quantize(y, given, "row", layout="128x4")
            assert nvfp4.rms_norm_quantize(x, weight, 1e-5, **kwargs) == wanted
            y, s = reference.rms_norm(x, weight, 1e-5, unit_offset, residual)
            got, total = nvfp4.rms_norm_quantize(x, weight, 1e-5, residual=residual, **kwargs)
            assert got == nvfp4.quantize(y, given, "row", layout="128x4")
            assert same_bits(total, s)
            assert total.is_contiguous()


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gated_quantize(
    shape: tuple[int, ...], interleaved: bool, activation: reference.Activation, backend: str
) -> None:
    x = made((*shape[:-1], 2 * shape[-1]), torch.bfloat16)
    y = reference.gated_activation(*reference.gated_halves(x, interleaved), activation)
    for given in (None, torch.tensor([700.0]), torch.full((*shape[:-1], 1), 33.0) if len(shape) > 1 else None):
        got = nvfp4.gated_quantize(x, activation, interleaved=interleaved, global_scale=given)
        assert got == nvfp4.quantize(y, given, "row")
        assert got.shape == shape


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES)
def test_quantize_dequantize(shape: tuple[int, ...], dtype: torch.dtype, backend: str) -> None:
    x = made(shape, dtype)
    for out_dtype in FLOATS:
        for granularity in ("tensor", "row"):
            wanted = nvfp4.quantize(x, granularity=granularity).dequantize(out_dtype)  # type: ignore[arg-type]
            got = nvfp4.quantize_dequantize(x, granularity=granularity, dtype=out_dtype)  # type: ignore[arg-type]
            assert same_bits(got, wanted)
    wanted = nvfp4.quantize(x, scheme="compressed-tensors").dequantize(dtype)
    assert same_bits(nvfp4.quantize_dequantize(x, scheme="compressed-tensors"), wanted)
    given = torch.tensor([700.0])
    assert same_bits(nvfp4.quantize_dequantize(x, given), nvfp4.quantize(x, given).dequantize(dtype))


def test_strided_inputs(backend: str) -> None:
    x, weight = torch.randn(24, 128), torch.randn(64)
    for cut in (
        x[:, 32:96],
        x[::3, :64],
        x[:, :64].T.contiguous().T,
        x[:1, :64].expand(5, 64),
        x[:, :64].view(2, 12, 64),
    ):
        copy = cut.contiguous().clone()
        got, total = nvfp4.rms_norm_quantize(cut, weight, residual=cut.flip(0))
        wanted, same = nvfp4.rms_norm_quantize(copy, weight, residual=copy.flip(0))
        assert got == wanted
        assert torch.equal(total, same)
        assert nvfp4.gated_quantize(cut) == nvfp4.gated_quantize(copy)
        assert torch.equal(nvfp4.quantize_dequantize(cut), nvfp4.quantize_dequantize(copy))


def test_nan_and_infinity_stay_in_sight(backend: str) -> None:
    x = torch.randn(3, 64)
    x[0, 5], x[1, 6] = NAN, INF
    assert nvfp4.rms_norm_quantize(x, torch.ones(64)).dequantize().isnan().any(dim=1).tolist() == [True, True, False]
    blocks = nvfp4.rms_norm_quantize(x, torch.ones(64)).dequantize().view(3, 4, 16)
    assert blocks[0].isnan().all()
    assert blocks[1, 0].isnan().all()
    assert not blocks[1, 1:].any()
    assert nvfp4.gated_quantize(x).dequantize().isnan().any(dim=1).tolist() == [True, False, False]
    assert nvfp4.quantize_dequantize(x).isnan().any(dim=1).tolist() == [True, False, False]


def test_a_row_does_not_depend_on_its_neighbours(backend: str) -> None:
    x, weight = outliers(33, 96), torch.randn(96)
    t, u = nvfp4.rms_norm_quantize(x, weight), nvfp4.gated_quantize(x)
    for row in (0, 7, 32):
        one = nvfp4.rms_norm_quantize(x[row : row + 1], weight)
        assert torch.equal(one.packed[0], t.packed[row])
        assert torch.equal(nvfp4.gated_quantize(x[row : row + 1]).packed[0], u.packed[row])


def test_gradients_are_refused() -> None:
    x, weight = torch.randn(4, 64), torch.ones(64, requires_grad=True)
    with pytest.raises(ValueError, match=r"rms_norm_quantize: got weight that requires grad.*torch.no_grad"):
        nvfp4.rms_norm_quantize(x, weight)
    with pytest.raises(ValueError, match=r"got residual that requires grad.*residual.detach"):
        nvfp4.rms_norm_quantize(x, weight.detach(), residual=torch.randn(4, 64, requires_grad=True))
    for call in (nvfp4.gated_quantize, nvfp4.quantize_dequantize):
        with pytest.raises(ValueError, match="got x that requires grad"):
            call(x.clone().requires_grad_())
    with torch.no_grad():
        assert nvfp4.rms_norm_quantize(x, weight) == nvfp4.rms_norm_quantize(x, weight.detach())


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic: bool) -> None:
    weight = torch.randn(64)

    def run(x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        t, total = nvfp4.rms_norm_quantize(x, weight, residual=residual, layout="128x4")
        return t.dequantize(), total, nvfp4.gated_quantize(x).dequantize(), nvfp4.quantize_dequantize(x)

    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for m in (3, 7):
        x, residual = torch.randn(m, 64), torch.randn(m, 64)
        assert all(map(torch.equal, compiled(x, residual), run(x, residual)))


X, W = torch.zeros(4, 32), torch.ones(32)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: nvfp4.rms_norm_quantize(torch.zeros(4, 17), W), ValueError, "nearest legal K is 16"),
        (lambda: nvfp4.rms_norm_quantize(X.double(), W), TypeError, "x: got torch.float64"),
        (lambda: nvfp4.rms_norm_quantize(X.half(), W), TypeError, "weight: got torch.float32, wanted torch.float16"),
        (lambda: nvfp4.rms_norm_quantize(X, W[:16]), ValueError, r"weight: got shape \(16,\), wanted \(32,\)"),
        (lambda: nvfp4.rms_norm_quantize(X, torch.ones(64)[::2]), ValueError, "weight: got strides"),
        (lambda: nvfp4.rms_norm_quantize(X, W.to("meta")), ValueError, "weight: is on meta"),
        (lambda: nvfp4.rms_norm_quantize(X, W, 0.0), ValueError, "eps: got 0.0, wanted a number from 1e-30"),
        (lambda: nvfp4.rms_norm_quantize(X, W, NAN), ValueError, "eps: got nan"),
        (lambda: nvfp4.rms_norm_quantize(X, W, residual=X[:3]), ValueError, r"residual: got shape \(3, 32\)"),
        (lambda: nvfp4.rms_norm_quantize(X, W, residual=X.half()), TypeError, "residual: got torch.float16"),
        (lambda: nvfp4.rms_norm_quantize(X, W, granularity="tensor"), ValueError, "'tensor' without a global_scale"),
        (lambda: nvfp4.rms_norm_quantize(X, W, layout="n16k64"), ValueError, "layout: got 'n16k64'"),
        (lambda: nvfp4.rms_norm_quantize(X, W, global_scale=W), ValueError, r"global_scale: got shape \(32,\)"),
        (lambda: nvfp4.rms_norm_quantize(None, W), TypeError, "x: got NoneType"),
        (lambda: nvfp4.gated_quantize(torch.zeros(4, 16)), ValueError, "got 16 columns, wanted gate and up"),
        (lambda: nvfp4.gated_quantize(X.int()), TypeError, "x: got torch.int32"),
        (lambda: nvfp4.gated_quantize(X, "relu"), ValueError, "activation: got 'relu', wanted one of gelu_tanh"),
        (lambda: nvfp4.gated_quantize(X, granularity="tensor"), ValueError, "'tensor' without a global_scale"),
        (lambda: nvfp4.gated_quantize(X, granularity="column"), ValueError, "granularity: got 'column'"),
        (lambda: nvfp4.quantize_dequantize(X, dtype=torch.float64), TypeError, "dtype: got torch.float64"),
        (lambda: nvfp4.quantize_dequantize(torch.zeros(4, 17)), ValueError, "quantize_dequantize: x: .*nearest legal"),
        (
            lambda: nvfp4.quantize_dequantize(X, None, "row", scheme="compressed-tensors"),
            ValueError,
            "quantize_dequantize: the scheme compressed-tensors",
        ),
    ],
)
def test_malformed_calls(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("value", [0.0, -1.0, NAN, INF])
def test_a_bad_global_scale_is_refused_in_the_name_of_the_op_that_was_called(value: float, backend: str) -> None:
    scale = torch.tensor([value])
    with pytest.raises(ValueError, match=r"^rms_norm_quantize: global scale: got \["):
        nvfp4.rms_norm_quantize(X, W, global_scale=scale)
    with pytest.raises(ValueError, match=r"^gated_quantize: global scale: got \["):
        nvfp4.gated_quantize(X, global_scale=scale.expand(4, 1))
    with pytest.raises(ValueError, match=r"^quantize_dequantize: global scale: got \["):
        nvfp4.quantize_dequantize(X, scale)


def test_a_scale_beside_granularity_tensor_is_no_contradiction() -> None:
    given = torch.tensor([7.0])
    got = nvfp4.gated_quantize(X, global_scale=given, granularity="tensor")
    assert got == nvfp4.gated_quantize(X, global_scale=given)


def test_nobody_serves_a_scale_of_values_that_are_nowhere() -> None:
    explanation = backends.explain(backends.Desc("gated_quantize", activations="tensor"))
    assert explanation.choice is None
    assert backends.explain(backends.Desc("gated_quantize", activations="static")).choice == "cpu"
    assert "by their definition" in str(backends.explain(backends.Desc("rms_norm_quantize")))


@pytest.mark.skipif(not hasattr(_C, "cuda"), reason="this build has no CUDA part")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": 8}, "x: wanted rows that begin at multiples of 16 bytes"),
        ({"row_stride": 68}, "x: wanted rows"),
        ({"weight": 8}, "norm: weight: wanted"),
        ({"weight": 0}, "the weight is null"),
        ({"residual": 256, "residual_stride": 65}, "norm: residual: wanted"),
        ({"eps": 0.0}, "got eps = 0, wanted a number from 1e-30 to 1e30"),
        ({"total": 16}, "memory of its own"),
        ({"mode": 2}, "no global scale computed per tensor"),
        ({"mode": 4}, "mode: got 4"),
        ({"scale_layout": 3}, "scale_layout: got 3, wanted 0 to 2"),
        ({"packed_pitch": 24}, "24 bytes from row to row"),
        ({"alpha": 16}, "the weight's global scale is null"),
        ({"values": 8}, "values: wanted"),
    ],
)
def test_what_the_core_refuses(changes: dict[str, Any], message: str) -> None:
    """Before any pointer is followed, so that no GPU is needed."""
    call: dict[str, Any] = {
        "x": 16, "dtype": 2, "rows": 4, "cols": 64, "row_stride": 64, "weight": 16, "eps": 1e-6, "unit_offset": False,
        "residual": 0, "residual_stride": 0, "total": 0, "mode": 3, "scale_layout": 0, "global_scale": 16, "packed": 16,
        "packed_pitch": 0, "scale": 16, "values": 0, "weight_global_scale": 0, "alpha": 0, "up_weight_global_scale": 0,
        "up_alpha": 0, "zeros": 0, "zero_count": 0, "stream": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        _C.cuda.rms_norm_quantize(**call | changes)  # type: ignore[attr-defined]


def test_distances_in_units() -> None:
    a = torch.tensor([1.0, -0.0, NAN, -2.0])
    assert ulps(a, torch.tensor([1.0, 0.0, NAN, -2.0])) == 0
    assert ulps(a.bfloat16(), torch.tensor([1.0, 0.0, NAN, -1.9921875]).bfloat16()) == 1
    assert ulps(a, a.nan_to_num()) > 1 << 32
