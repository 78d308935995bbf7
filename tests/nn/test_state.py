"""The two states: whatever happens to a module, its state dict is the plain bytes, and no cast changes one of them."""

from __future__ import annotations

import copy
import io
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import nvfp4
from nvfp4 import NVFP4Linear, backends, prepare

STATES = ("plain", "prepared")
CASTS = {
    "half": lambda m: m.half(),
    "float": lambda m: m.float(),
    "bfloat16": lambda m: m.bfloat16(),
    "to": lambda m: m.to(torch.float16),
    "to-both": lambda m: m.to("cpu", torch.float32),
    "type": lambda m: m.type(torch.float16),
    "double-and-back": lambda m: m.double().bfloat16(),
    "share": lambda m: m.share_memory(),
    "cpu": lambda m: m.cpu(),
}


@pytest.fixture(autouse=True)
def _cpu(both) -> None:
    """These tests look at the CPU's layout."""


@pytest.fixture(params=STATES)
def state(request: pytest.FixtureRequest) -> str:
    return request.param


def make(state: str, n: int = 24, k: int = 80, static: bool = True, bias: bool = True) -> NVFP4Linear:
    scale = 700.0 if static else None
    module = NVFP4Linear.from_linear(nn.Linear(k, n, bias, dtype=torch.bfloat16), input_global_scale=scale)
    return prepare(module) if state == "prepared" else module


def raw(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone().view(torch.uint8) if v.dtype != torch.bool else v for k, v in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor], without: str = "\0") -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a if not k.endswith(without))


def test_state_dict_is_plain(state) -> None:
    plain = make("plain")
    module = copy.deepcopy(plain)
    if state == "prepared":
        prepare(module)
        assert module.layout == "n16k64"
        assert module.weight_prepared.shape == (2, 2, 576)
        with pytest.raises(AttributeError, match=r"prepared.*state_dict"):
            _ = module.weight_packed
    got = module.state_dict(prefix="a.")
    assert {k: (v.dtype, tuple(v.shape)) for k, v in got.items()} == {
        "a.weight_packed": (torch.uint8, (24, 40)),
        "a.weight_scale": (torch.float8_e4m3fn, (24, 5)),
        "a.weight_global_scale": (torch.float32, (1,)),
        "a.input_global_scale": (torch.float32, (1,)),
        "a.bias": (torch.bfloat16, (24,)),
    }
    assert same(raw(module), raw(plain))
    assert all(isinstance(v, nn.Parameter) for v in module.state_dict(keep_vars=True).values())


def test_load_into_either_state(state) -> None:
    source, target = make("plain"), make(state)
    assert not same(raw(source), raw(target))
    layout = target.layout
    result = target.load_state_dict(source.state_dict())
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert target.layout == layout
    assert same(raw(source), raw(target))
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    assert torch.equal(target(x), source(x))


def test_load_by_assignment_from_meta(state) -> None:
    source = make("plain")
    target = make(state).to("meta")
    assert target.weight.is_meta
    assert all(p.is_meta for p in target.parameters())
    target.load_state_dict(source.state_dict(), assign=True)
    assert not any(p.is_meta for p in target.parameters())
    assert not any(p.requires_grad for p in target.parameters())
    assert same(raw(source), raw(target))
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    assert torch.equal(prepare(target)(x), source(x))


def test_built_on_meta_then_loaded() -> None:
    source = make("prepared")
    with torch.device("meta"):
        target = NVFP4Linear(80, 24, dtype=torch.bfloat16, static=True)
    assert all(p.is_meta for p in target.parameters())
    target.load_state_dict(source.state_dict(), assign=True)
    assert same(raw(source), raw(target))


def test_meta_and_to_empty(state) -> None:
    source = make(state)
    target = copy.deepcopy(source).to("meta").to_empty(device="cpu")
    assert target.layout == source.layout
    target.load_state_dict(source.state_dict())
    assert same(raw(source), raw(target))
    x = torch.randn(3, 80, dtype=torch.bfloat16)
    assert torch.equal(target(x), source(x))


def test_loading_into_meta_without_assign_leaves_meta(state) -> None:
    target = make(state).to("meta")
    with pytest.warns(UserWarning, match="no-op"):
        target.load_state_dict(make("plain").state_dict())
    assert target.weight.is_meta


@pytest.mark.parametrize("cast", CASTS)
def test_casts_never_change_bytes(state, cast) -> None:
    module = make(state)
    before, layout, shapes = raw(module), module.layout, {n: p.shape for n, p in module.named_parameters()}
    assert CASTS[cast](module) is module
    assert module.layout == layout
    assert {n: p.shape for n, p in module.named_parameters()} == shapes
    assert same(raw(module), before, without="bias")
    assert module.bias.dtype == module.weight.dtype == module.dtype
    for name, p in module.named_parameters():
        wanted = {"weight_scale": torch.float8_e4m3fn, "bias": module.dtype}
        default = torch.float32 if name.endswith("global_scale") else torch.uint8
        assert p.dtype == wanted.get(name, default), name
    x = torch.randn(3, 80, dtype=module.dtype)
    assert module(x).dtype == module.dtype


@pytest.fixture
def _swapping() -> Iterator[None]:
    """Torch's other way to convert modules."""
    torch.__future__.set_swap_module_params_on_conversion(True)
    yield
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.usefixtures("_swapping")
def test_casts_and_loads_by_swapping(state) -> None:
    module = make(state)
    before = raw(module)
    module.half().bfloat16()
    assert same(raw(module), before, without="bias")
    before = module.state_dict()
    module.to("meta").to_empty(device="cpu").load_state_dict({k: v.clone() for k, v in before.items()})
    assert same(raw(module), {k: v.view(torch.uint8) for k, v in before.items()})


def test_casts_from_the_parent() -> None:
    model = nn.Sequential(make("plain"), nn.GELU(), make("prepared", 16, 32))
    before = raw(model)
    for cast in (model.half, model.float, model.bfloat16):
        cast()
        assert same(raw(model), before, without="bias")


def test_deepcopy(state) -> None:
    module = make(state)
    other = copy.deepcopy(module)
    assert same(raw(module), raw(other))
    assert other.layout == module.layout
    x = torch.randn(2, 80, dtype=torch.bfloat16)
    assert torch.equal(other(x), module(x))
    other.reset_parameters()
    assert not same(raw(module), raw(other))


def test_pickle(state) -> None:
    module, file = make(state), io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    assert same(raw(module), raw(other))
    assert other.layout == module.layout


def test_state_dict_survives_a_file(state, tmp_path) -> None:
    module = make(state)
    torch.save(module.state_dict(), tmp_path / "weights.pt")
    target = make(state)
    target.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert same(raw(module), raw(target))


def test_safetensors(state, tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    model = nn.Sequential(make(state), make(state, 16, 32, bias=False))
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    target = nn.Sequential(make(state), make(state, 16, 32, bias=False))
    target.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert same(raw(model), raw(target))


def test_missing_and_unexpected_keys_have_plain_names(state) -> None:
    model = nn.Sequential(make(state), make(state))
    given = {k: v for k, v in model.state_dict().items() if k.startswith("0.")}
    layout, before = model[1].layout, raw(model)
    result = model.load_state_dict({**given, "0.zero_point": torch.zeros(1)}, strict=False)
    wanted = ("weight_packed", "weight_scale", "weight_global_scale", "input_global_scale", "bias")
    assert sorted(result.missing_keys) == sorted(f"1.{name}" for name in wanted)
    assert result.unexpected_keys == ["0.zero_point"]
    assert model[1].layout == layout
    assert same(raw(model), before)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("weight_packed", torch.zeros(24, 40), "weight_packed: got torch.float32, wanted torch.uint8"),
        ("weight_scale", torch.zeros(24, 5, dtype=torch.uint8), "weight_scale: got torch.uint8, wanted torch.float8"),
        ("weight_scale", torch.zeros(24, 5), "bytes and scales are never cast"),
        ("weight_global_scale", torch.ones(1, dtype=torch.bfloat16), "weight_global_scale: got torch.bfloat16"),
        ("input_global_scale", torch.ones(1, dtype=torch.float64), "input_global_scale: got torch.float64"),
        ("weight_packed", torch.zeros(24, 41, dtype=torch.uint8), "size mismatch for weight_packed"),
        ("weight_scale", torch.zeros(5, 24, dtype=torch.float8_e4m3fn), "size mismatch for weight_scale"),
    ],
)
@pytest.mark.parametrize("assign", [False, True])
def test_malformed_state_dicts(state, name, value, message, assign) -> None:
    module = make(state)
    layout, others = module.layout, {**make("plain").state_dict(), name: value}
    with pytest.raises(RuntimeError, match=message):
        module.load_state_dict(others, assign=assign)
    assert module.layout == layout
    assert module(torch.zeros(1, 80, dtype=torch.bfloat16)).shape == (1, 24)


@pytest.mark.parametrize("byte", [0x7F, 0xFF, 0x81], ids=["nan", "-nan", "negative"])
def test_bad_scales_leave_a_prepared_module_as_it_was(byte) -> None:
    module = make("prepared")
    before, bad = raw(module), make("plain").state_dict()
    bad["weight_scale"].view(torch.uint8)[3, 2] = byte
    with pytest.raises(RuntimeError, match="block scales"):
        module.load_state_dict(bad)
    assert module.layout == "n16k64"
    assert same(raw(module), before)


def test_an_unquantised_state_dict_says_what_to_do(state) -> None:
    with pytest.raises(RuntimeError, match=r"unquantised weight.*quantize_model"):
        make(state, static=False).load_state_dict(nn.Linear(80, 24).state_dict())


def test_partly_meta_is_an_error() -> None:
    module = make("prepared").to("meta")
    with pytest.raises(RuntimeError, match="parts lie on"):
        module.load_state_dict(
            {k: v for k, v in make("plain").state_dict().items() if k != "weight_scale"}, strict=False, assign=True
        )


def test_tied_modules(state) -> None:
    shared = make(state, 80, 80)
    model = nn.ModuleDict({"a": shared, "b": shared})
    assert same(raw(model["a"]), raw(model["b"]))
    other = copy.deepcopy(model)
    assert other["a"] is other["b"]
    new = make("plain", 80, 80)
    model.load_state_dict({f"{p}.{k}": v for p in "ab" for k, v in new.state_dict().items()})
    assert same(raw(model["b"]), raw(new))
    prepare(model)
    assert model["a"] is model["b"]
    assert model["a"].layout == "n16k64"


def test_state_dict_under_the_reference_backend() -> None:
    module = make("prepared")
    before = raw(module)
    with backends.force("reference"):
        assert same(raw(module), before)
        module.load_state_dict(module.state_dict())
    assert same(raw(module), before)
    assert nvfp4.to_layout(module.quantized_weight(), "plain").packed.shape == (24, 40)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("weight_scale", lambda t: t.view(torch.uint8)[1].fill_(0x7F), "got 5 NaN and 0 negative block scales"),
        ("weight_scale", lambda t: t.view(torch.uint8)[1].fill_(0x81), "got 0 NaN and 5 negative block scales"),
        ("weight_global_scale", lambda t: t.fill_(-3), "wanted a positive finite number"),
        ("weight_global_scale", lambda t: t.fill_(torch.nan), "wanted a positive finite number"),
        ("input_global_scale", lambda t: t.fill_(0), "wanted a positive finite number"),
        ("input_global_scale", lambda t: t.fill_(torch.nan), "wanted a positive finite number"),
    ],
)
@pytest.mark.parametrize("assign", [False, True])
def test_unsound_scales_are_refused_by_name(state, name, spoil, message, assign) -> None:
    model = nn.ModuleDict({"fc": make(state)})
    before, bad = raw(model), {f"fc.{k}": v.clone() for k, v in make("plain").state_dict().items()}
    spoil(bad[f"fc.{name}"])
    with pytest.raises(RuntimeError, match=rf"fc\.{name}: .*{message}"):
        model.load_state_dict(bad, assign=assign)
    assert same(raw(model), before)


def test_tied_parameters_stay_tied(state) -> None:
    a, b, new = make("plain", 80, 80), make("plain", 80, 80), make("plain", 80, 80)
    for name in ("weight_packed", "weight_scale", "weight_global_scale"):
        setattr(b, name, getattr(a, name))
    model = nn.ModuleList([a, b])
    if state == "prepared":
        prepare(model)
    held = "weight_prepared" if state == "prepared" else "weight_packed"
    before = getattr(a, held)
    model.load_state_dict({f"{i}.{k}": v for i in range(2) for k, v in new.state_dict().items()})
    assert getattr(a, held) is getattr(b, held) is before
    assert same(raw(a), raw(new))
    assert same(raw(b), raw(new))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8], ids=str)
def test_dtypes_that_no_kernel_serves_are_not_taken(state, dtype) -> None:
    module = make(state)
    before = raw(module)
    module.type(dtype)
    assert module.dtype == module.weight.dtype == module.bias.dtype == torch.bfloat16
    assert same(raw(module), before)
    assert module.dequantize().weight.dtype == torch.bfloat16
    assert "format=NVFP4" in repr(prepare(module))


def test_requires_grad_is_for_the_bias(state) -> None:
    module = make(state)
    assert module.requires_grad_(True) is module
    assert [name for name, p in module.named_parameters() if p.requires_grad] == ["bias"]
    module.requires_grad_(False)
    assert not any(p.requires_grad for p in module.parameters())
    make(state, bias=False).requires_grad_(True)


def test_a_strided_scale_can_be_assigned_and_cast() -> None:
    module, given = make("plain"), dict(make("plain").state_dict())
    given["weight_global_scale"] = given["weight_global_scale"].repeat(4)[::2][:1]
    module.load_state_dict(given, assign=True)
    before = raw(make("plain")).keys()
    assert module.half().state_dict().keys() == before
    assert torch.equal(module.weight_global_scale, given["weight_global_scale"])


@pytest.mark.parametrize("assign", [False, True])
def test_a_calibrated_scale_makes_a_module_static(assign: bool) -> None:
    linear = nn.Linear(64, 32)
    static, dynamic = NVFP4Linear.from_linear(linear, input_global_scale=100.0), NVFP4Linear(64, 32)
    dynamic.load_state_dict(static.state_dict(), assign=assign)
    x = torch.randn(5, 64)
    assert dynamic.mode == "static"
    assert torch.equal(dynamic(x), static(x))
    assert dynamic.state_dict().keys() == static.state_dict().keys()
    # Not one for 16-bit activations, and not where anything is refused.
    weight_only, other = NVFP4Linear(64, 32, activations=None), NVFP4Linear(64, 32)
    for module, changed in ((weight_only, {}), (other, {"weight_global_scale": torch.full((1,), -1.0)})):
        with pytest.raises(RuntimeError):
            module.load_state_dict({**static.state_dict(), **changed})
        assert module.input_global_scale is None


def test_a_calibrated_gated_mlp_loads_into_a_fresh_one() -> None:
    parts = [
        NVFP4Linear.from_linear(nn.Linear(i, o), input_global_scale=s)
        for i, o, s in ((64, 96, 50.0), (64, 96, 50.0), (96, 64, 9.0))
    ]
    mlp, fresh = nvfp4.GatedMLP.from_linears(*parts, "silu"), nvfp4.GatedMLP(64, 96, "silu", bias=True)
    fresh.load_state_dict(mlp.state_dict())
    assert torch.equal(fresh(torch.ones(3, 64)), mlp(torch.ones(3, 64)))
    with pytest.raises(RuntimeError, match="input_global_scale"):
        nvfp4.GatedMLP(64, 96, bias=True).load_state_dict(
            {k: v for k, v in mlp.state_dict().items() if k != "up_proj.input_global_scale"}
        )
