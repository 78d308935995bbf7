"""Arguments of the wrong kind: a TypeError of ours, never torch's dispatcher's error, and never a guess."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import nvfp4
from nvfp4 import backends, kinds, ops

X, W = torch.randn(4, 64), torch.ones(64)
T, B = nvfp4.quantize(X), nvfp4.quantize(torch.randn(32, 64))


def linear() -> nn.Linear:
    return nn.Linear(64, 32)


def model() -> nn.Module:
    return nn.Sequential(linear())


CALLS: list[tuple[Callable[[], Any], str]] = [
    (lambda: nvfp4.quantize([1.0]), r"^quantize: x: got list, wanted a torch\.Tensor$"),
    (lambda: nvfp4.quantize(X, "row"), "^quantize: global_scale: got str 'row', .*granularity='row'$"),
    (lambda: nvfp4.quantize(X, granularity=3), "^quantize: granularity: got int 3, .*'row' or 'tensor'$"),
    (lambda: nvfp4.quantize(X, scheme=None), "^quantize: scheme: got NoneType, wanted a str"),
    (lambda: nvfp4.quantize(X, layout=True), "^quantize: layout: got bool True, wanted a str"),
    (lambda: nvfp4.dequantize(T, "bfloat16"), r"^dequantize: dtype: got str 'bfloat16', .*torch\.bfloat16$"),
    (lambda: T.dequantize(5), "^dequantize: dtype: got int 5"),
    (lambda: nvfp4.quantize_dequantize(X, dtype=""), "^quantize_dequantize: dtype: got str ''"),
    (lambda: nvfp4.gated_quantize(X, nn.SiLU()), "^gated_quantize: activation: got SiLU, .*'silu'$"),
    (lambda: nvfp4.gated_quantize(X, interleaved="yes"), "^gated_quantize: interleaved: got str 'yes', wanted True or"),
    (lambda: nvfp4.rms_norm_quantize(X, 1.0), "^rms_norm_quantize: weight: got float 1.0, wanted a torch.Tensor$"),
    (lambda: nvfp4.rms_norm_quantize(X, W, "1e-6"), "^rms_norm_quantize: eps: got str '1e-6', wanted a float"),
    (lambda: nvfp4.rms_norm_quantize(X, W, W[0]), "^rms_norm_quantize: eps: got Tensor, wanted a float"),
    (lambda: nvfp4.rms_norm_quantize(X, W, residual=1), "^rms_norm_quantize: residual: got int 1, .* or None$"),
    (lambda: nvfp4.to_layout(T, None), "^to_layout: got NoneType, wanted one of 'plain'"),
    (lambda: nvfp4.pack([1]), "^pack: codes: got list"),
    (lambda: nvfp4.unpack(3), "^unpack: packed: got int 3"),
    (lambda: nvfp4.swizzle_scales("x"), "^swizzle_scales: scale: got str 'x'"),
    (lambda: nvfp4.unswizzle_scales(W, 4.0, 4), "^unswizzle_scales: rows: got float 4.0, wanted an int$"),
    (lambda: nvfp4.matmul(T, B, 1.0), "^matmul: bias: got float 1.0"),
    (lambda: nvfp4.matmul(T, B, out_dtype="float32"), "^matmul: out_dtype: got str 'float32'"),
    (lambda: nvfp4.matmul(T, X), "^matmul: b: got Tensor, wanted an NVFP4Tensor; make one with nvfp4.quantize$"),
    (lambda: nvfp4.linear(X, linear()), "^linear: weight: got Linear, wanted an NVFP4Tensor"),
    (lambda: nvfp4.linear(X, B, "bias"), "^linear: bias: got str 'bias'"),
    (lambda: nvfp4.linear(X, B, activations=False), "^linear: activations: got bool False, wanted 'nvfp4'"),
    (lambda: nvfp4.linear(X, B, input_global_scale=2.0), "^linear: input_global_scale: got float 2.0"),
    (lambda: nvfp4.linear(X, B, granularity=3), "^linear: granularity: got int 3, wanted one of 'row'"),
    (lambda: nvfp4.NVFP4Linear("64", 32), "^NVFP4Linear: in_features: got str '64', wanted an int$"),
    (lambda: nvfp4.NVFP4Linear(64, 32, "no"), "^NVFP4Linear: bias: got str 'no', wanted True or False$"),
    (lambda: nvfp4.NVFP4Linear(64, 32, static="yes"), "^NVFP4Linear: static: got str 'yes'"),
    (lambda: nvfp4.NVFP4Linear(64, 32, dtype="bfloat16"), "^NVFP4Linear: dtype: got str 'bfloat16'"),
    (lambda: nvfp4.NVFP4Linear(64, 32, activations=True), "^NVFP4Linear: activations: got bool True"),
    (lambda: nvfp4.NVFP4Linear(64, 32).set_quantized_weight(X), "^NVFP4Linear: weight: got Tensor"),
    (lambda: nvfp4.NVFP4Linear.from_linear(linear(), scheme=3), "scheme: got int 3"),
    (lambda: nvfp4.NVFP4Linear.from_linear(linear(), weight_global_scale="2"), "^weight_global_scale: got str '2'"),
    (lambda: nvfp4.GatedMLP(64, 32, nn.SiLU()), "^GatedMLP: activation: got SiLU, wanted one of 'gelu_tanh'"),
    (lambda: nvfp4.prepare(None), "^prepare: got NoneType, wanted a torch.nn.Module$"),
    (lambda: nvfp4.prepare(linear(), 3), "^prepare: backend: got int 3"),
    (lambda: nvfp4.quantize_model(model(), fuse="yes"), "^quantize_model: fuse: got str 'yes', wanted True or False$"),
    (lambda: nvfp4.quantize_model(model(), progress=0), "^quantize_model: progress: got int 0"),
    (lambda: nvfp4.quantize_model(model(), 3), "^recipe: got int 3"),
    (lambda: nvfp4.Recipe.preset(3), "^recipe: got int 3, wanted one of gemma-mlp"),
    (lambda: nvfp4.Recipe.from_yaml(3), "^recipe: got int 3, wanted the path"),
    (lambda: backends.force(3).__enter__(), "^force: got int 3, wanted one of cuda, .*, or None$"),
    (lambda: backends.explain("linear"), "^explain: got str 'linear', wanted an nvfp4.backends.Desc"),
    (lambda: backends.explain(backends.Desc("linear", torch.device("cpu"))), "^explain: device: got device"),
    (lambda: backends.explain(backends.Desc("linear", dtype="bfloat16")), "^explain: dtype: got str 'bfloat16'"),
]


@pytest.mark.parametrize(("call", "message"), CALLS, ids=[message for _, message in CALLS])
def test_a_wrong_kind_is_a_type_error(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()


def test_every_argument_of_every_op_has_a_kind() -> None:
    """But lists, which no user passes."""
    unknown = {
        (op, name)
        for op in ops.OP_NAMES
        for name, types, _ in zip(*kinds.kinds_of(getattr(torch.ops.nvfp4, op)), strict=True)
        if object in types
    }
    assert unknown == {("dequantize", "shape")}


def test_what_is_right_passes() -> None:
    kinds.check_kind("x", True, (bool,), "")
    kinds.check_kind("x", 1, (int,), "")
    nvfp4.rms_norm_quantize(X, W, np.float64(1e-6))
    nvfp4.rms_norm_quantize(X, nn.Parameter(W, requires_grad=False), 1)
    nvfp4.rms_norm_quantize(X, W, np.float32(1e-6))
    nvfp4.gated_quantize(X, interleaved=np.bool_(True))
    nvfp4.unswizzle_scales(nvfp4.swizzle_scales(torch.ones(5, 4, dtype=torch.uint8)), np.int64(5), np.int32(4))
    assert nvfp4.NVFP4Linear(np.int64(64), 32).in_features == 64


def _several(x: Tensor) -> tuple[Tensor, ...]:
    t = nvfp4.quantize(x, granularity="row")
    return (
        nvfp4.quantize_dequantize(x, dtype=torch.float32),
        nvfp4.rms_norm_quantize(x, x[0], 1e-5).packed,
        nvfp4.gated_quantize(x, "silu").packed,
        nvfp4.linear(x, nvfp4.quantize(x), activations=None),
        nvfp4.matmul(t, t, out_dtype=torch.float32),
        nvfp4.unswizzle_scales(nvfp4.swizzle_scales(t.scale), x.shape[0], x.shape[1] // 16).view(torch.uint8),
        t.dequantize(),
    )


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_checks_are_no_graph_break(dynamic: bool) -> None:
    compiled = torch.compile(_several, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for rows in (5, 7):
        x = torch.randn(rows, 64)
        for got, wanted in zip(compiled(x), _several(x), strict=True):
            assert torch.equal(got, wanted)


def test_fake_tensors_pass() -> None:
    with FakeTensorMode() as mode:
        assert [y.shape[0] for y in _several(mode.from_tensor(X))] == [4] * 7
