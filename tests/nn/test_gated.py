"""`GatedMLP`: the numbers of its parts, the names of the model it came from, and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import nvfp4
from helpers import FLOATS, same_bits
from nvfp4 import GatedMLP, NVFP4Linear, gated, reference


def linears(k: int = 64, intermediate: int = 96, n: int = 48, *, bias: bool = False, **kwargs) -> list[NVFP4Linear]:
    shapes = ((intermediate, k), (intermediate, k), (n, intermediate))
    return [NVFP4Linear.from_linear(nn.Linear(i, o, bias), **kwargs) for o, i in shapes]


def by_parts(parts: list[NVFP4Linear], x: Tensor, activation: str) -> Tensor:
    gate, up, down = parts
    return down(reference.gated_activation(gate(x), up(x), activation))


@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["row", "static", "none"])
def test_it_is_its_three_linears(activation, bias, kind, backend) -> None:
    kwargs = {"row": {}, "static": {"input_global_scale": 100.0}, "none": {"activations": None}}[kind]
    parts = linears(bias=bias, **kwargs)
    mlp = GatedMLP.from_linears(*copy.deepcopy(parts), activation)
    for state in ("plain", "prepared"):
        if state == "prepared":
            nvfp4.prepare(mlp)
        for dtype in FLOATS:
            for shape in ((5, 64), (2, 3, 64), (0, 64), (64,)):
                x = torch.randn(shape).to(dtype)
                with torch.no_grad():
                    assert same_bits(mlp(x), by_parts(parts, x, activation)), (state, dtype, shape)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("state", ["plain", "prepared"])
def test_the_state_dict_is_that_of_three_linears(bias, state) -> None:
    parts = linears(bias=bias, input_global_scale=50.0)
    apart = nn.ModuleDict(dict(zip(("gate_proj", "up_proj", "down_proj"), parts, strict=True)))
    mlp = GatedMLP.from_linears(*copy.deepcopy(parts), "silu")
    if state == "prepared":
        nvfp4.prepare(mlp)
    model = nn.Sequential(nn.Identity(), mlp)
    wanted = {f"1.{name}": value for name, value in apart.state_dict().items()}
    got = model.state_dict()
    assert got.keys() == wanted.keys()
    assert all(same_bits(got[name].view(torch.uint8), value.view(torch.uint8)) for name, value in wanted.items())
    # safetensors refuses tensors that share memory.
    assert len({value.untyped_storage().data_ptr() for value in got.values()}) == len(got)
    fresh = nn.Sequential(nn.Identity(), GatedMLP(64, 96, "silu", bias, static=True))
    fresh[1].down_proj = NVFP4Linear(96, 48, bias, static=True)
    if state == "prepared":
        nvfp4.prepare(fresh)
    for assign in (False, True):
        result = fresh.load_state_dict(got, assign=assign)
        assert not result.missing_keys
        assert not result.unexpected_keys
        x = torch.randn(3, 64)
        assert same_bits(fresh(x), model(x))
    apart.load_state_dict({name.removeprefix("1."): value for name, value in got.items()})


def test_a_new_one_is_zero() -> None:
    mlp = GatedMLP(64, 96)
    assert not mlp(torch.randn(2, 64)).any()
    assert mlp.gate_up_proj.up_global_scale.tolist() == [1.0]


def test_gradients_are_those_of_the_linears(backend) -> None:
    parts = linears(bias=True)
    mlp = nvfp4.prepare(GatedMLP.from_linears(*copy.deepcopy(parts)))
    x = torch.randn(5, 64)
    results = []
    for run in (mlp, lambda t: by_parts(parts, t, "gelu_tanh")):
        t = x.clone().requires_grad_()
        y = run(t)
        y.square().sum().backward()
        results.append((y.detach(), t.grad))
    assert same_bits(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1])


def test_the_op_refuses_a_gradient() -> None:
    mlp = GatedMLP.from_linears(*linears())
    x = torch.randn(2, 64, requires_grad=True)
    both, down = mlp.gate_up_proj, mlp.down_proj
    weights = gated.GatedWeights(
        *both.operand(), both.weight_global_scale, both.up_global_scale, None, *down.operand(),
        down.weight_global_scale, None, 96, 48, "plain",
    )  # fmt: skip
    with pytest.raises(ValueError, match="requires grad"):
        torch.ops.nvfp4.gated_mlp(x, *weights, None, None, "silu", "row")
    with pytest.raises(ValueError, match="activation: got 'relu'"):
        torch.ops.nvfp4.gated_mlp(x.detach(), *weights, None, None, "relu", "row")
    with pytest.raises(ValueError, match="down: packed: got shape"):
        torch.ops.nvfp4.gated_mlp(x.detach(), *weights._replace(out_features=64), None, None, "silu", "row")
    with pytest.raises(ValueError, match="quantises no input"):
        torch.ops.nvfp4.gated_mlp(x.detach(), *weights, torch.ones(1), None, "silu", "none")


def test_compile_copy_cast_and_autocast(backend) -> None:
    mlp = nvfp4.prepare(GatedMLP.from_linears(*linears(bias=True)))
    x = torch.randn(5, 64)
    with torch.no_grad():
        wanted = mlp(x)
        assert same_bits(torch.compile(mlp, fullgraph=True, backend="aot_eager")(x), wanted)
        assert same_bits(copy.deepcopy(mlp)(x), wanted)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert mlp(x).dtype == torch.bfloat16
        mlp.to(torch.bfloat16)
        assert mlp.gate_up_proj.dtype == torch.bfloat16
        assert mlp(x.bfloat16()).dtype == torch.bfloat16


def test_what_does_not_fit_is_named() -> None:
    gate, up, down = linears()
    with pytest.raises(TypeError, match="up: got Linear"):
        GatedMLP.from_linears(gate, nn.Linear(64, 96), down)
    with pytest.raises(ValueError, match="wanted \\[I, K\\], \\[I, K\\] and \\[N, I\\]"):
        GatedMLP.from_linears(gate, up, linears(intermediate=80)[2])
    with pytest.raises(ValueError, match="differ in"):
        GatedMLP.from_linears(gate, linears(bias=True)[1], down)
    a, b = (linears(input_global_scale=s) for s in (1.0, 2.0))
    with pytest.raises(ValueError, match=r"other input_global_scales: 1\.0 and 2\.0"):
        GatedMLP.from_linears(a[0], b[1], down)
    with pytest.raises(ValueError, match="activation: got 'relu'"):
        GatedMLP.from_linears(gate, up, down, "relu")
    with pytest.raises(ValueError, match="multiple of 16"):
        GatedMLP(64, 90)


def test_a_damaged_state_dict_is_refused() -> None:
    mlp = nvfp4.prepare(GatedMLP.from_linears(*linears(input_global_scale=5.0)))
    before, x = mlp.state_dict(), torch.randn(3, 64)
    wanted = mlp(x)

    def changed(name: str, change) -> dict[str, Tensor]:
        return {**before, name: change(before[name].clone())}

    def with_nan(scale: Tensor) -> Tensor:
        scale.view(torch.uint8)[3, 1] = 0x7F
        return scale

    damaged = {
        'Missing key.*"up_proj.weight_scale"': {k: v for k, v in before.items() if k != "up_proj.weight_scale"},
        r"size mismatch for gate_proj.weight_packed: got shape \(88, 32\), wanted \(96, 32\)": changed(
            "gate_proj.weight_packed", lambda t: t[:-8]
        ),
        "up_proj.weight_packed: got torch.int32, wanted torch.uint8": changed("up_proj.weight_packed", Tensor.int),
        "gate_proj.weight_scale: got NoneType": {**before, "gate_proj.weight_scale": None},
        "gate_proj.weight: the state dict holds an unquantised weight": {
            "gate_proj.weight" if k == "gate_proj.weight_packed" else k: v for k, v in before.items()
        },
        "wanted one: both read": changed("up_proj.input_global_scale", lambda t: t * 2),
        "up_proj.weight_scale: got 1 NaN": changed("up_proj.weight_scale", with_nan),
        "up_proj.weight_global_scale: got .* positive finite": changed("up_proj.weight_global_scale", lambda t: -t),
    }
    for message, state in damaged.items():
        with pytest.raises(RuntimeError, match=message) as raised:
            mlp.load_state_dict(state)
        assert "gate_up_proj" not in str(raised.value)
        assert ("Missing" in str(raised.value)) == message.startswith("Missing")
        assert same_bits(mlp(x), wanted), message


@pytest.mark.parametrize("prepared", [False, True])
def test_what_is_missing_or_unexpected_has_the_names_of_the_state_dict(prepared: bool) -> None:
    mlp = GatedMLP(64, 96, bias=True, static=True)
    if prepared:
        nvfp4.prepare(mlp)
    model = nn.ModuleDict({"mlp": mlp})
    names = model.state_dict().keys()
    result = model.load_state_dict({}, strict=False)
    assert sorted(result.missing_keys) == sorted(names)
    more = {f"mlp.{leaf}_proj.{name}": torch.zeros(2) for leaf in ("gate", "up") for name in ("scale", "weight")}
    del more["mlp.up_proj.scale"]
    result = model.load_state_dict({**model.state_dict(), **more}, strict=False)
    assert result.missing_keys == []
    assert sorted(result.unexpected_keys) == sorted(more)
    part = dict(model.state_dict())
    del part["mlp.gate_proj.bias"], part["mlp.up_proj.weight_global_scale"]
    assert sorted(model.load_state_dict(part, strict=False).missing_keys) == sorted(names - part.keys())
    assert mlp.gate_up_proj.load_state_dict({}, strict=False).missing_keys[0] == "weight_packed"


def test_checkpoints_come_in_pieces() -> None:
    mlp, other = (nvfp4.prepare(GatedMLP.from_linears(*linears(bias=True))) for _ in range(2))
    before, x = mlp.state_dict(), torch.randn(3, 64)
    for leaf in ("up_proj.", "gate_proj.", "down_proj."):
        piece = {name: value for name, value in other.state_dict().items() if name.startswith(leaf)}
        result = mlp.load_state_dict(piece, strict=False)
        assert not result.unexpected_keys
        assert result.missing_keys
    assert same_bits(mlp(x), other(x))
    mlp.load_state_dict(before)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        mlp.load_state_dict({**before, "gate_proj.scale": torch.ones(1), "up_proj.scale": torch.ones(1)})


def test_by_position_and_by_prefix() -> None:
    mlp = GatedMLP.from_linears(*linears())
    found = {}
    mlp.state_dict(found, "p.")
    assert found.keys() == {f"p.{name}" for name in mlp.state_dict()}


def test_a_hook_or_another_down_is_called() -> None:
    mlp = nvfp4.prepare(GatedMLP.from_linears(*linears()))
    x, calls = torch.randn(3, 64), []
    with torch.no_grad():
        wanted = mlp(x)
        handle = mlp.down_proj.register_forward_hook(lambda *args: calls.append(1))
        assert same_bits(mlp(x), wanted)
        assert calls == [1]
        handle.remove()
        mlp.down_proj = mlp.down_proj.dequantize()
        assert mlp(x).shape == wanted.shape


def test_a_wrapped_product_is_called() -> None:
    """As adapters wrap Linears."""

    class Doubled(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.inner(x)

    mlp = nvfp4.prepare(GatedMLP.from_linears(*linears()))
    x = torch.randn(3, 64)
    with torch.no_grad():
        mlp.gate_up_proj = Doubled(mlp.gate_up_proj)
        gate, up = gated.apart(mlp.gate_up_proj(x), -1)
        assert same_bits(mlp(x), mlp.down_proj(reference.gated_activation(gate, up, mlp.activation)))


def test_a_wrong_input_is_named() -> None:
    mlp = GatedMLP(64, 96)
    for module in (mlp, mlp.gate_up_proj):
        with pytest.raises(ValueError, match=r"got x of shape \(2, 48\), wanted \[..., 64\]"):
            module(torch.randn(2, 48))
        with pytest.raises(TypeError, match=r"got str, wanted a torch.Tensor"):
            module("x")
    with pytest.raises(TypeError, match="holds two weights"):
        mlp.gate_up_proj.set_quantized_weight(mlp.gate_up_proj.quantized_weight())
    with pytest.raises(TypeError, match="holds two Linears"):
        type(mlp.gate_up_proj).from_linear(nn.Linear(64, 96))
