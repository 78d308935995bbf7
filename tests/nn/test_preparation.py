"""`prepare`: every NVFP4Linear in its backend's layout, or a clear error and nothing changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import nvfp4
from nvfp4 import NVFP4Linear, backends, prepare


@pytest.fixture(autouse=True)
def _cpu(both) -> None:
    """These tests look at the CPU's layout."""


def quantized(n: int = 32, k: int = 64) -> NVFP4Linear:
    return NVFP4Linear.from_linear(nn.Linear(k, n))


def test_prepares_every_module_and_returns_the_model() -> None:
    model = nn.Sequential(quantized(), nn.GELU(), nn.Sequential(quantized(16, 32), nn.Linear(16, 4)))
    x = torch.randn(3, 64)
    wanted = model(x)
    assert prepare(model) is model
    assert model[0].layout == model[2][0].layout == "n16k64"
    assert torch.equal(model(x), wanted)


def test_twice_changes_nothing() -> None:
    module = prepare(quantized())
    tiles = module.weight_prepared
    assert prepare(module).weight_prepared is tiles


def test_each_backend_has_its_layout_and_the_way_back() -> None:
    module = quantized()
    plain = module.quantized_weight()
    with backends.force("reference"):
        assert prepare(module).layout == "plain"
    assert prepare(module).layout == "n16k64"
    assert prepare(module, backend="reference").layout == "plain"
    assert module.quantized_weight() == plain
    assert prepare(module, backend="cpu").layout == "n16k64"


def test_the_plain_bytes_are_not_kept_beside() -> None:
    module = quantized()
    prepare(module)
    assert {name for name, _ in module.named_parameters()} == {
        "weight_prepared", "weight_prepared_scale", "weight_global_scale", "bias",
    }  # fmt: skip


def test_shared_parameters_stay_shared() -> None:
    a, b, c = quantized(), quantized(), quantized()
    b.set_quantized_weight(a.quantized_weight())
    b.weight_packed, b.weight_scale, b.bias = a.weight_packed, a.weight_scale, a.bias
    model = nn.ModuleList([a, b, c])
    prepare(model)
    assert a.weight_prepared is b.weight_prepared
    assert a.weight_prepared is not c.weight_prepared
    x = torch.randn(2, 64)
    assert torch.equal(a(x), b(x))


def test_a_model_without_any_is_left_alone() -> None:
    model = nn.Linear(4, 4)
    assert prepare(model) is model


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("weight_scale", lambda m: m.weight_scale.view(torch.uint8)[0, 0].fill_(0x7F), "1 NaN and 0 negative"),
        ("weight_scale", lambda m: m.weight_scale.view(torch.uint8)[0, :2].fill_(0x90), "0 NaN and 2 negative"),
        ("weight_global_scale", lambda m: m.weight_global_scale.fill_(-1), "positive finite"),
        ("weight_global_scale", lambda m: m.weight_global_scale.fill_(torch.nan), "positive finite"),
        ("input_global_scale", lambda m: m.input_global_scale.fill_(0), "input_global_scale: got"),
    ],
)
def test_bad_values_are_named_and_nothing_changes(name, spoil, message) -> None:
    bad = NVFP4Linear.from_linear(nn.Linear(64, 32), input_global_scale=10.0)
    with torch.no_grad():
        spoil(bad)
    model = nn.ModuleDict({"good": quantized(), "layers": nn.ModuleList([bad])})
    with pytest.raises(ValueError, match=f"module 'layers.0'.*{message}"):
        prepare(model)
    assert model["good"].layout == "plain"


def test_meta_modules_are_refused() -> None:
    with pytest.raises(ValueError, match=r"module 'a'.*meta device"):
        prepare(nn.ModuleDict({"a": NVFP4Linear(32, 16, device="meta")}))


def test_backends_that_cannot_serve_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted one of cuda, triton, cpu, reference"):
        prepare(quantized(), backend="tpu")
    with pytest.raises(ValueError, match=r"module 'a'.*'cuda' does not serve linear cpu"):
        prepare(nn.ModuleDict({"a": quantized()}), backend="cuda")
    with backends.force("cuda"), pytest.raises(RuntimeError, match="not served by the forced backend 'cuda'"):
        prepare(quantized())


def test_forward_never_prepares() -> None:
    module = quantized()
    module(torch.zeros(1, 64))
    assert module.layout == "plain"
    assert nvfp4.backends.select("linear").name == "cpu"
