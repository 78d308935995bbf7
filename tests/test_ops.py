"""The torch ops: schemas, fake kernels, autograd, autocast, compile and export."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.library import opcheck

import nvfp4
from helpers import outliers, quantized, same_bits
from nvfp4 import _C, ops

nvfp4_ops = torch.ops.nvfp4


def samples() -> list[tuple[str, tuple[object, ...]]]:
    x = outliers(5, 64, torch.bfloat16)
    w, tiles = quantized(48, 64), nvfp4.to_layout(quantized(48, 64), "n16k64")
    a, swizzled = quantized(5, 64, granularity="row"), nvfp4.quantize(x, layout="128x4")
    empty = torch.empty((0, 4), dtype=torch.uint8)

    def u(t: nvfp4.NVFP4Tensor) -> Tensor:
        return t.scale.view(torch.uint8)

    bias, one, gates, w2 = torch.randn(48), torch.ones(1), quantized(96, 64), quantized(48, 48)
    return [
        ("quantize", (x, None, "row", "nvfp4", "128x4")),
        ("quantize", (x.view(1, 5, 64).expand(2, 5, 64), None, "row", "nvfp4", "plain")),
        ("quantize", (torch.randn(64, 5).T, torch.tensor([3.0]), "tensor", "compressed-tensors", "plain")),
        ("dequantize", (a.packed, u(a), a.global_scale, [5, 64], "plain", torch.float32)),
        ("dequantize", (swizzled.packed, u(swizzled), swizzled.global_scale, [5, 64], "128x4", torch.bfloat16)),
        ("dequantize", (tiles.packed, empty, tiles.global_scale, [48, 64], "n16k64", torch.float16)),
        ("matmul", (a.packed, u(a), a.global_scale, w.packed, u(w), w.global_scale, bias, 48, "plain", torch.float32)),
        ("linear", (x, w.packed, u(w), w.global_scale, None, None, 48, "plain", "row")),
        ("linear", (x[:0], tiles.packed, empty, tiles.global_scale, torch.ones(1), bias, 48, "n16k64", "static")),
        (
            "linear",
            (
                torch.randn(2, 3, 64, requires_grad=True), tiles.packed, empty, tiles.global_scale, None,
                bias.clone().requires_grad_(), 48, "n16k64", "none",
            ),
        ),
        (
            "gated_mlp",
            (
                x, gates.packed, u(gates), gates.global_scale, w.global_scale, None, w2.packed, u(w2), w2.global_scale,
                bias, 48, 48, "plain", None, torch.ones(1), "silu", "row",
            ),
        ),
        ("rms_norm_quantize", (x, x[0].clone(), 1e-6, True, x.flip(0), None, "row", "128x4")),
        ("rms_norm_quantize", (x.float().expand(2, 5, 64), torch.ones(64), 1e-5, False, None, one, "row", "plain")),
        ("gated_quantize", (x, "gelu_tanh", True, torch.full((5, 1), 7.0), "tensor", "plain")),
        ("gated_quantize", (torch.randn(64, 5).T, "silu", False, None, "row", "128x4")),
        ("quantize_dequantize", (x[:, 16:48], None, "tensor", "compressed-tensors", torch.float32)),
        ("quantize_dequantize", (torch.randn(64, 5).T, one, "row", "nvfp4", torch.float16)),
        ("pack", (torch.randint(0, 16, (3, 8), dtype=torch.uint8),)),
        ("unpack", (torch.randint(0, 256, (3, 8), dtype=torch.uint8),)),
        ("swizzle_scales", (u(a),)),
        ("unswizzle_scales", (u(swizzled), 5, 4)),
        ("to_tiles", (w.packed, u(w), "n16k64")),
        ("from_tiles", (tiles.packed, 48, 64, "n16k64")),
    ]  # fmt: skip


def test_every_op_has_a_sample() -> None:
    assert {name for name, _ in samples()} == set(ops.OP_NAMES)


@pytest.mark.parametrize("index", range(23))
def test_opcheck(index: int, backend: str) -> None:
    name, args = samples()[index]
    opcheck(getattr(nvfp4_ops, name).default, args)


@pytest.mark.parametrize("activations", ["nvfp4", None])
def test_gradients(activations: str | None, backend: str) -> None:
    w = nvfp4.to_layout(quantized(48, 64), "n16k64")
    x = torch.randn(2, 3, 64, requires_grad=True)
    bias = torch.randn(48, requires_grad=True)
    grad = torch.randn(2, 3, 48)
    nvfp4.linear(x, w, bias, activations=activations).backward(grad)
    assert same_bits(x.grad, grad @ w.dequantize(torch.float32))
    torch.testing.assert_close(bias.grad, grad.sum(dim=(0, 1)))
    one = torch.randn(64, requires_grad=True)
    nvfp4.linear(one, w, bias, activations=activations).sum().backward()
    assert one.grad.shape == (64,)


def test_backward_saves_no_activation() -> None:
    w = quantized(48, 64)
    x = torch.randn(100, 64, requires_grad=True)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        nvfp4.linear(x, w)
    assert all(t.shape != x.shape for t in saved)
    assert sum(t.nbytes for t in saved) == w.nbytes


def test_codes_are_not_differentiable() -> None:
    x = torch.randn(4, 32, requires_grad=True)
    t = nvfp4.quantize(x)
    assert not t.global_scale.requires_grad
    assert not t.dequantize().requires_grad
    assert not nvfp4.matmul(t, t).requires_grad


def test_no_grad_and_inference_mode() -> None:
    w, x = quantized(48, 64), torch.randn(3, 64, requires_grad=True)
    with torch.no_grad():
        assert not nvfp4.linear(x, w).requires_grad
    with torch.inference_mode():
        assert same_bits(nvfp4.linear(x, w), nvfp4.linear(x.detach(), w))


def test_autocast_casts_x_only() -> None:
    w, x, bias = quantized(48, 64), torch.randn(3, 64), torch.randn(48)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = nvfp4.linear(x, w, bias)
    assert y.dtype == torch.bfloat16
    assert same_bits(y, nvfp4.linear(x.to(torch.bfloat16), w, bias))
    with torch.autocast("cpu", dtype=torch.float16):
        assert nvfp4.linear(x, w).dtype == torch.float16
        assert nvfp4.linear(x.to(torch.bfloat16), w).dtype == torch.float16, "as F.linear does"
    x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nvfp4.linear(x, w).sum().backward()
    assert x.grad.dtype == torch.float32


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_fullgraph(dynamic: bool) -> None:
    w, bias = nvfp4.to_layout(quantized(48, 64), "n16k64"), torch.randn(48)

    def run(x: Tensor) -> Tensor:
        t = nvfp4.quantize(nvfp4.linear(x, w, bias), granularity="row")
        return (
            nvfp4.matmul(t, w.__class__(t.packed, t.scale, t.global_scale[:1, 0], t.shape))
            + t.dequantize(x.dtype).sum()
        )

    compiled = torch.compile(run, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for m in (3, 7):
        x = torch.randn(m, 64)
        assert same_bits(compiled(x), run(x))


def test_export_with_a_dynamic_batch() -> None:
    class Linear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            w = nvfp4.to_layout(quantized(48, 64), "n16k64")
            self.register_buffer("packed", w.packed)
            self.register_buffer("global_scale", w.global_scale)

        def forward(self, x: Tensor) -> Tensor:
            scale = torch.empty((0, 4), dtype=torch.uint8)
            return nvfp4_ops.linear.default(x, self.packed, scale, self.global_scale, None, None, 48, "n16k64", "row")

    module = Linear()
    program = torch.export.export(module, (torch.randn(3, 64),), dynamic_shapes=({0: torch.export.Dim("m")},))
    for m in (1, 9):
        x = torch.randn(m, 64)
        assert same_bits(program.module()(x), module(x))


def test_torch_func_transforms() -> None:
    w = nvfp4.to_layout(quantized(48, 64), "n16k64")
    x, v = torch.randn(3, 64), torch.randn(3, 64)
    dense = w.dequantize(torch.float32)

    def loss(x: Tensor) -> Tensor:
        return nvfp4.linear(x, w).sum()

    assert same_bits(torch.func.grad(loss)(x), torch.ones(3, 48) @ dense)
    value, tangent = torch.func.jvp(lambda x: nvfp4.linear(x, w), (x,), (v,))
    assert same_bits(value, nvfp4.linear(x, w))
    assert same_bits(tangent, v @ dense.T)
    rows = torch.func.vmap(lambda x: nvfp4.linear(x, w))(x)
    assert same_bits(rows, nvfp4.linear(x, w))


def test_forward_mode() -> None:
    w, x, v = quantized(48, 64), torch.randn(3, 64), torch.randn(3, 64)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, v)
        tangent = torch.autograd.forward_ad.unpack_dual(nvfp4.linear(dual, w)).tangent
    assert same_bits(tangent, v @ w.dequantize(torch.float32).T)


def test_gradient_without_outputs() -> None:
    w, bias = nvfp4.quantize(torch.randn(0, 64)), torch.zeros(0, requires_grad=True)
    nvfp4.linear(torch.randn(3, 64), w, bias).sum().backward()
    assert bias.grad.shape == (0,)


def test_matmul_refuses_a_trainable_bias() -> None:
    w = quantized(48, 64)
    with pytest.raises(ValueError, match="no gradient"):
        nvfp4.matmul(w, w, torch.zeros(48, requires_grad=True))
    with torch.no_grad():
        assert nvfp4.matmul(w, w, torch.zeros(48, requires_grad=True)).shape == (48, 48)


class Wrapped(torch.Tensor):
    """A tensor without memory of its own: only its dispatch knows the values."""

    @classmethod
    def of(cls, inner: Tensor) -> Wrapped:
        outer = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        outer.inner = inner
        return outer

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return func(*(arg.inner if isinstance(arg, Wrapped) else arg for arg in args), **(kwargs or {}))


def linear_arguments(layout: str) -> dict[str, Any]:
    w = nvfp4.to_layout(quantized(48, 64), layout)
    return {
        "x": torch.randn(3, 64),
        "weight": w.packed,
        "weight_scale": w.scale.view(torch.uint8),
        "weight_global_scale": w.global_scale,
        "input_global_scale": torch.tensor([700.0]),
        "bias": torch.randn(48),
        "out_features": 48,
        "layout": layout,
        "activations": "static",
    }


@pytest.mark.parametrize("call", [ops.linear, torch.ops.nvfp4.linear.default])
@pytest.mark.parametrize("name", ["x", "bias", "weight_global_scale", "input_global_scale"])
def test_lazy_negation(call: Any, name: str) -> None:
    given = linear_arguments("n16k64")
    wanted = call(*given.values())
    given[name] = torch._neg_view(-given[name])
    assert given[name].is_neg()
    assert same_bits(call(*given.values()), wanted)


@pytest.mark.parametrize("call", [ops.linear, torch.ops.nvfp4.linear.default])
@pytest.mark.parametrize("layout", ["n16k64", "plain"])
@pytest.mark.parametrize("name", ["x", "weight", "weight_scale", "weight_global_scale", "input_global_scale", "bias"])
def test_a_subclass_sees_the_call(call: Any, layout: str, name: str) -> None:
    given = linear_arguments(layout)
    wanted = call(*given.values())
    given[name] = Wrapped.of(given[name])
    assert same_bits(call(*given.values()), wanted)


def test_a_fake_bias_gives_a_fake_result() -> None:
    given = linear_arguments("n16k64")
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    given["bias"] = mode.from_tensor(given["bias"])
    assert isinstance(ops.linear(*given.values()), FakeTensor)


def test_a_bias_without_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="a bias without memory"):
        _C.cpu.gemm_w4a16(1, 16, 0, 0, 0, 0, 0, 1, False, 0, 0, 0, 0, 1)


def test_zero_tensors() -> None:
    w = quantized(48, 64)
    assert not nvfp4.linear(torch._efficientzerotensor(3, 64), w).any()


def test_a_default_device_or_dtype_changes_nothing(backend: str) -> None:
    """Kernels get pointers; an allocation on the user's default device would hand them another device's."""
    w, x = nvfp4.to_layout(quantized(48, 64), "n16k64"), torch.randn(3, 64)
    wanted, coded = nvfp4.linear(x, w), nvfp4.quantize(x, granularity="row")
    with torch.device("meta"):
        assert same_bits(nvfp4.linear(x, w), wanted)
        assert nvfp4.quantize(x, granularity="row") == coded
        assert same_bits(nvfp4.matmul(coded, w, out_dtype=torch.float32), wanted)
        assert coded.dequantize().device.type == "cpu"
        assert nvfp4.to_layout(nvfp4.to_layout(w, "128x4"), "n16k64") == w
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert same_bits(nvfp4.matmul(coded, w, out_dtype=torch.float32), wanted)
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert same_bits(nvfp4.matmul(coded, w, out_dtype=torch.float32), wanted)


def test_modes_and_the_profiler_see_the_op() -> None:
    w, x, seen = quantized(48, 64), torch.randn(3, 64), []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: object, types: object, args: tuple = (), kwargs: dict | None = None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Watch():
        nvfp4.linear(x, w)
    assert any("nvfp4.linear" in name for name in seen)
    with torch.profiler.profile() as profile:
        nvfp4.linear(x, w)
    assert any(event.key == "nvfp4::linear" for event in profile.key_averages())


def test_the_input_scale_must_be_on_the_device() -> None:
    w = nvfp4.to_layout(quantized(48, 64), "n16k64")
    with pytest.raises(ValueError, match="is on meta"):
        nvfp4.linear(torch.randn(3, 64), w, input_global_scale=torch.ones(1, device="meta"))
