"""`NVFP4Linear`: numbers, gradients, conversions to and from `nn.Linear`, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import nvfp4
from nvfp4 import NVFP4Linear, backends, prepare

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def make(n=48, k=96, bias=True, dtype=torch.bfloat16, **options) -> tuple[nn.Linear, NVFP4Linear]:
    linear = nn.Linear(k, n, bias=bias, dtype=dtype)
    return linear, NVFP4Linear.from_linear(linear, **options)


def names(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_parameters()}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_from_linear_holds_what_quantize_gives(backend, dtype, bias) -> None:
    linear, module = make(bias=bias, dtype=dtype)
    wanted = nvfp4.quantize(linear.weight.detach(), scheme="compressed-tensors")
    assert module.quantized_weight() == wanted
    assert module.weight_packed.dtype == torch.uint8
    assert module.weight_packed.shape == (48, 48)
    assert module.weight_scale.dtype == torch.float8_e4m3fn
    assert module.weight_scale.shape == (48, 6)
    assert module.weight_global_scale.shape == (1,)
    assert module.input_global_scale is None
    assert not any(p.requires_grad for p in module.parameters())
    assert module.dtype == module.weight.dtype == dtype
    assert isinstance(module, nn.Linear)
    expected = {"weight_packed", "weight_scale", "weight_global_scale"} | ({"bias"} if bias else set())
    assert names(module) == expected


@pytest.mark.parametrize("scheme", ["nvfp4", "compressed-tensors"])
def test_scheme(scheme) -> None:
    linear, module = make(scheme=scheme)
    assert module.quantized_weight() == nvfp4.quantize(linear.weight.detach(), scheme=scheme)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mode", ["row", "static", "none"])
@pytest.mark.parametrize("state", ["plain", "prepared"])
def test_forward_is_the_functional_linear(backend, dtype, mode, state) -> None:
    igs = torch.tensor([300.0]) if mode == "static" else None
    activations = None if mode == "none" else "nvfp4"
    linear, module = make(dtype=dtype, activations=activations, input_global_scale=igs)
    weight = module.quantized_weight()
    if state == "prepared":
        prepare(module)
    x = torch.randn(2, 5, 96, dtype=dtype)
    wanted = nvfp4.linear(x, weight, linear.bias.detach(), activations=activations, input_global_scale=igs)
    got = module(x)
    assert got.dtype == dtype
    assert got.shape == (2, 5, 48)
    assert torch.equal(got, wanted)
    assert module.mode == mode


@pytest.mark.parametrize("rows", [0, 1, 7])
def test_rows(backend, rows) -> None:
    _, module = make()
    x = torch.randn(rows, 96, dtype=torch.bfloat16)
    assert prepare(module)(x).shape == (rows, 48)


def test_a_token_does_not_depend_on_its_neighbours(backend) -> None:
    module = prepare(make()[1])
    x = torch.randn(33, 96, dtype=torch.bfloat16) * torch.logspace(-3, 3, 33).unsqueeze(1).bfloat16()
    whole = module(x)
    assert all(torch.equal(module(x[i : i + 1])[0], whole[i]) for i in range(33))


def test_quantisation_error_is_small() -> None:
    linear, module = make(256, 512, dtype=torch.float32)
    x = torch.randn(64, 512)
    error = (module(x) - linear(x)).norm() / linear(x).norm()
    assert error < 0.2
    w4a16 = NVFP4Linear.from_linear(linear, activations=None)
    assert (w4a16(x) - linear(x)).norm() / linear(x).norm() < error


def test_new_module_is_zero() -> None:
    module = NVFP4Linear(64, 16)
    assert torch.equal(module(torch.randn(3, 64)), torch.zeros(3, 16))
    prepare(module)
    assert torch.equal(module(torch.randn(3, 64)), torch.zeros(3, 16))
    filled = prepare(make()[1])
    filled.reset_parameters()
    assert torch.equal(filled(torch.randn(3, 96)), torch.zeros(3, 48))


def test_default_dtype_and_flags() -> None:
    module = NVFP4Linear(64, 16)
    assert module.dtype == torch.get_default_dtype()
    assert module.bias is not None
    assert NVFP4Linear(64, 16, False).bias is None
    assert NVFP4Linear(64, 16, static=True).mode == "static"
    assert not NVFP4Linear.from_linear(nn.Linear(64, 16).eval()).training


def test_input_is_not_changed_and_bias_is_shared() -> None:
    linear = nn.Linear(64, 16)
    before = linear.weight.detach().clone()
    module = NVFP4Linear.from_linear(linear)
    assert torch.equal(linear.weight, before)
    assert linear.weight.requires_grad
    assert linear.bias.requires_grad
    assert module.bias.data_ptr() == linear.bias.data_ptr()
    assert not module.bias.requires_grad


def test_non_contiguous_weight() -> None:
    linear = nn.Linear(96, 48)
    wanted = NVFP4Linear.from_linear(linear).quantized_weight()
    linear.weight = nn.Parameter(linear.weight.detach().T.contiguous().T)
    assert not linear.weight.is_contiguous()
    assert NVFP4Linear.from_linear(linear).quantized_weight() == wanted


@pytest.mark.parametrize("state", ["plain", "prepared"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dequantize(backend, state, dtype) -> None:
    _, module = make(dtype=dtype)
    if state == "prepared":
        prepare(module)
    linear = module.dequantize()
    assert type(linear) is nn.Linear
    assert torch.equal(linear.weight, module.quantized_weight().dequantize(dtype))
    assert linear.weight.dtype == dtype
    assert linear.weight.requires_grad
    assert torch.equal(linear.bias, module.bias)
    assert linear.bias.data_ptr() != module.bias.data_ptr()
    assert make(bias=False)[1].dequantize().bias is None


@pytest.mark.parametrize("state", ["plain", "prepared"])
@pytest.mark.parametrize("activations", ["nvfp4", None])
def test_gradients_are_those_of_the_dequantised_linear(backend, state, activations) -> None:
    _, module = make(dtype=torch.float32, activations=activations)
    module.bias.requires_grad_(True)
    if state == "prepared":
        prepare(module)
    reference = module.dequantize()
    x = torch.randn(4, 7, 96, requires_grad=True)
    y = x.detach().clone().requires_grad_(True)
    grad = torch.randn(4, 7, 48)
    module(x).backward(grad)
    reference(y).backward(grad)
    assert torch.equal(x.grad, y.grad)
    # Two orders of a sum of 28 addends: each is off by at most 27 roundings of the sum of magnitudes.
    bound = 2 * 27 * 2**-24 * grad.abs().sum((0, 1))
    assert ((module.bias.grad - reference.bias.grad).abs() <= bound).all()


def test_autocast_casts_the_input_alone(backend) -> None:
    _, module = make(dtype=torch.float32)
    prepare(module)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    x = torch.randn(3, 96)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = module(x)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, module(x.bfloat16()))
    for name, value in module.state_dict().items():
        assert torch.equal(value.view(torch.uint8), before[name].view(torch.uint8)), name


def test_repr_says_what_serves() -> None:
    _, module = make()
    with backends.force(None):
        assert "format=NVFP4 W4A4 per token, backend=cpu, layout=plain" in repr(module)
        prepare(module)
        assert "layout=n16k64" in repr(module)
        assert f"bytes={module.nbytes}" in repr(module)
    with backends.force("reference"):
        assert "backend=reference" in repr(module)
    assert "W4A16" in repr(make(activations=None)[1])
    assert "W4A4 static" in repr(make(input_global_scale=2.0)[1])


def test_bytes() -> None:
    _, module = make(64, 128, bias=False)
    wanted = 64 * 128 // 2 + 64 * 128 // 16 + 4
    assert module.nbytes == wanted
    assert prepare(module).nbytes == wanted


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"in_features": 17}, ValueError, "nearest legal K is 16"),
        ({"in_features": 60}, ValueError, "nearest legal K is 64"),
        ({"out_features": -1}, ValueError, "sizes >= 0"),
        ({"dtype": torch.float64}, TypeError, "got torch.float64, wanted torch.float32"),
        ({"dtype": torch.int8}, TypeError, "got torch.int8"),
        ({"activations": "fp8"}, ValueError, "got 'fp8', wanted 'nvfp4'"),
        ({"activations": None, "static": True}, ValueError, "static"),
    ],
)
def test_malformed_modules(arguments, error, message) -> None:
    with pytest.raises(error, match=message):
        NVFP4Linear(**{"in_features": 64, "out_features": 8, **arguments})


def spoilt(*values: float) -> nn.Linear:
    linear = nn.Linear(64, 8)
    with torch.no_grad():
        linear.weight.view(-1)[: len(values)] = torch.tensor(values)
    return linear


@pytest.mark.parametrize(
    ("linear", "options", "error", "message"),
    [
        (spoilt(math.nan, math.nan, math.inf), {}, ValueError, "got 2 NaN and 1 infinite values among 512"),
        (nn.Linear(40, 8), {}, ValueError, "nearest legal K"),
        (nn.Linear(64, 8, dtype=torch.float64), {}, TypeError, "got torch.float64"),
        (nn.Linear(64, 8, device="meta"), {}, ValueError, "meta device"),
        (nn.Conv1d(16, 8, 1), {}, TypeError, "got Conv1d, wanted an nn.Linear"),
        (NVFP4Linear(64, 8), {}, TypeError, "not quantised yet"),
        (nn.Linear(64, 8), {"weight_global_scale": -1.0}, ValueError, "weight_global_scale: got -1.0"),
        (nn.Linear(64, 8), {"weight_global_scale": math.nan}, ValueError, "positive finite"),
        (nn.Linear(64, 8), {"weight_global_scale": torch.ones(8, 1)}, ValueError, "one positive finite"),
        (nn.Linear(64, 8), {"input_global_scale": 0.0}, ValueError, "input_global_scale: got 0.0"),
        (nn.Linear(64, 8), {"input_global_scale": math.inf}, ValueError, "positive finite"),
        (nn.Linear(64, 8), {"input_global_scale": 1.0, "activations": None}, ValueError, "static"),
        (nn.Linear(64, 8), {"scheme": "mxfp4"}, ValueError, "scheme: got 'mxfp4'"),
    ],
)
def test_malformed_linears(linear, options, error, message) -> None:
    with pytest.raises(error, match=message):
        NVFP4Linear.from_linear(linear, **options)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 80), ValueError, r"got x of shape \(3, 80\), wanted \[..., 96\]"),
        (torch.zeros(3, 97), ValueError, "got x of shape"),
        (torch.zeros(()), ValueError, "got x of shape"),
        (torch.zeros(0), ValueError, "got x of shape"),
        (torch.zeros(3, 96, device="meta"), ValueError, "is on"),
        (torch.zeros(3, 96, dtype=torch.float64), TypeError, "got torch.float64"),
        (torch.zeros(3, 96, dtype=torch.int64), TypeError, "cast it first"),
    ],
)
@pytest.mark.parametrize("state", ["plain", "prepared"])
def test_malformed_inputs(backend, x, error, message, state) -> None:
    _, module = make()
    if state == "prepared":
        prepare(module)
    with pytest.raises(error, match=message):
        module(x)


def test_malformed_weights() -> None:
    _, module = make()
    with pytest.raises(ValueError, match="got a weight of shape"):
        module.set_quantized_weight(nvfp4.quantize(torch.randn(8, 96)))
    with pytest.raises(ValueError, match="48 global scales"):
        module.set_quantized_weight(nvfp4.quantize(torch.randn(48, 96), granularity="row"))


def test_zero_weight() -> None:
    linear = nn.Linear(32, 4, bias=False)
    nn.init.zeros_(linear.weight)
    module = NVFP4Linear.from_linear(linear)
    assert module.weight_global_scale.item() == 1.0
    assert torch.equal(module.dequantize().weight, linear.weight)
    assert not F.linear(torch.ones(2, 32), module.dequantize().weight).any()


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize(("n", "k"), [(0, 32), (5, 0), (1, 16), (17, 80)])
def test_odd_sizes(backend, n, k) -> None:
    _, module = make(n, k)
    wanted = module(torch.ones(3, k, dtype=torch.bfloat16))
    assert wanted.shape == (3, n)
    plain = module.quantized_weight()
    prepare(module)
    assert torch.equal(module(torch.ones(3, k, dtype=torch.bfloat16)), wanted)
    assert nvfp4.to_layout(module.quantized_weight(), "plain") == plain
