"""`torch.compile(fullgraph=True)` and `torch.export` of an MLP equal eager to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nvfp4 import NVFP4Linear, prepare


class GatedMLP(nn.Module):
    """down(gelu(gate(x)) * up(x)): three NVFP4Linears."""

    def __init__(self, hidden: int = 64, inner: int = 96, **options) -> None:
        super().__init__()

        def make(k: int, n: int, bias: bool) -> NVFP4Linear:
            return NVFP4Linear.from_linear(nn.Linear(k, n, bias, dtype=torch.bfloat16), **options)

        self.gate, self.up, self.down = make(hidden, inner, False), make(hidden, inner, True), make(inner, hidden, True)
        self.activation = nn.GELU(approximate="tanh")

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.gate(x)) * self.up(x))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.compiler.reset()


@pytest.fixture(params=["row", "static", "none"])
def options(request: pytest.FixtureRequest) -> dict:
    return {"row": {}, "static": {"input_global_scale": 500.0}, "none": {"activations": None}}[request.param]


@pytest.fixture(params=["plain", "prepared"])
def mlp(request: pytest.FixtureRequest, both, options) -> GatedMLP:
    model = GatedMLP(**options)
    return prepare(model) if request.param == "prepared" else model


X = torch.randn(2, 9, 64, generator=torch.Generator().manual_seed(0)).bfloat16()


def test_compile_keeps_the_bits(mlp) -> None:
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    for x in (X, X[:1], X[:, :5]):
        assert torch.equal(compiled(x), mlp(x))


def test_compile_with_gradients(both) -> None:
    mlp = prepare(GatedMLP())
    compiled = torch.compile(mlp, fullgraph=True, backend="aot_eager")
    a, b = X.clone().requires_grad_(True), X.clone().requires_grad_(True)
    compiled(a).sum().backward()
    mlp(b).sum().backward()
    assert torch.equal(a.grad, b.grad)


def test_export_keeps_the_bits(mlp) -> None:
    tokens = torch.export.Dim("tokens", min=2, max=64)
    program = torch.export.export(mlp, (X,), dynamic_shapes={"x": {1: tokens}})
    calls = [n for n in program.graph.nodes if n.target == torch.ops.nvfp4.linear.default]
    assert len(calls) == 3
    for x in (X, X[:, :4]):
        assert torch.equal(program.module()(x), mlp(x))


def test_inductor_keeps_the_bits(both) -> None:
    """With an activation and a product that have one right answer. Inductor's own GELU is another approximation than
    eager's, on some CPUs, and it keeps fused bfloat16 values in float32; neither is for the ops to mend."""
    model = prepare(GatedMLP())
    model.activation = nn.ReLU()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True)
        assert torch.equal(compiled(X.float()), model(X.float()))
