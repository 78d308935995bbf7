"""Finding gated MLPs by what they compute."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn

import nvfp4
from nvfp4 import GatedMLP, NVFP4Linear
from nvfp4.nn.fusion import fuse_gated_mlps


class MLP(nn.Module):
    def __init__(self, act: nn.Module | None = None, hidden: int = 64, intermediate: int = 96) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(hidden, intermediate, False) for _ in range(2))
        self.down_proj = nn.Linear(intermediate, hidden, False)
        self.act_fn = nn.GELU("tanh") if act is None else act

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Swapped(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.up_proj(x)) * self.gate_proj(x))


class Residual(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Scaled(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(2 * x))


class Clamped(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x).clamp(-100, 100))


class ClampedGate(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=10)) * self.up_proj(x))


class Halved(MLP):
    def forward(self, x: Tensor) -> Tensor:
        h = self.act_fn(self.gate_proj(x)) * self.up_proj(x)
        return self.down_proj(h.clamp(-1e4, 1e4) if h.dtype == torch.float16 else h)


class NoDown(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.act_fn(self.gate_proj(x)) * self.up_proj(x)


class TwiceDown(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x)))


class Summed(MLP):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).cumsum(0)


class Training(MLP):
    def forward(self, x: Tensor) -> Tensor:
        h = nn.functional.dropout(self.act_fn(self.gate_proj(x)) * self.up_proj(x), 0.1, self.training)
        return self.down_proj(h)


class Raising(MLP):
    def forward(self, x: Tensor) -> Tensor:
        raise RuntimeError("never on a Tuesday")


class GeluNew(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def model_of(*mlps: nn.Module) -> nn.Module:
    model = nn.Sequential(*mlps)
    nvfp4.quantize_model(model, "all-linear", progress=False)
    return model


@pytest.mark.parametrize(
    ("act", "name"),
    [(nn.GELU("tanh"), "gelu_tanh"), (nn.GELU(), "gelu"), (nn.SiLU(), "silu"), (GeluNew(), "gelu_tanh")],
)
def test_activations_are_known_by_their_values(act, name) -> None:
    model = model_of(MLP(act))
    assert fuse_gated_mlps(model) == (["0"], {})
    assert isinstance(model[0], GatedMLP)
    assert model[0].activation == name


OTHERS = [Swapped, Residual, Scaled, Clamped, ClampedGate, Halved, NoDown, TwiceDown, Summed, Training, Raising]


@pytest.mark.parametrize("kind", OTHERS)
def test_other_forwards_are_left_alone(kind) -> None:
    model = model_of(kind()).eval()
    fused, refused = fuse_gated_mlps(model)
    assert fused == []
    assert f"the forward of {kind.__name__} is not" in refused["0"]
    assert type(model[0]) is kind


def test_other_activations_and_modules_are_left_alone() -> None:
    model = model_of(MLP(nn.ReLU()), nn.Linear(64, 64))
    assert list(fuse_gated_mlps(model)[1]) == ["0"]
    assert fuse_gated_mlps(nn.Linear(4, 4)) == ([], {})


def test_the_original_is_not_changed_by_the_probe() -> None:
    model = model_of(Swapped())
    before = dict(model[0]._modules)
    fuse_gated_mlps(model)
    assert model[0]._modules == before


def test_shared_mlps_stay_shared_and_hooks_go_on() -> None:
    mlp = MLP()
    model = model_of(mlp, nn.Identity())
    model[1].again = model[0]
    calls = []
    handle = model[0].register_forward_hook(lambda *args: calls.append(1))
    assert len(fuse_gated_mlps(model)[0]) == 1
    assert model[1].again is model[0]
    model[0](torch.randn(2, 64))
    handle.remove()
    model[0](torch.randn(2, 64))
    assert calls == [1]


def test_why_not() -> None:
    def reason(change) -> str:
        model = model_of(MLP(), MLP())
        change(model)
        return fuse_gated_mlps(model)[1]["0"]

    def hook(model) -> None:
        model[0].up_proj.register_forward_hook(lambda *args: None)

    def share(model) -> None:
        model[1].down_proj = model[0].down_proj

    def replace(model) -> None:
        model[0].forward = model[0].forward

    def parameter(model) -> None:
        model[0].gain = nn.Parameter(torch.ones(1))

    def dropout(model) -> None:
        model[0].drop = nn.Dropout(0.1)

    def adapter(model) -> None:
        model[0].lora = nn.Linear(2, 2)

    def listened(model) -> None:
        model[0].act_fn.register_forward_hook(lambda *args: None)

    def scales(model) -> None:
        for leaf, value in (("gate_proj", 1.0), ("up_proj", 2.0)):
            linear = nn.Linear(64, 96, False)
            setattr(model[0], leaf, NVFP4Linear.from_linear(linear, input_global_scale=value))

    assert "has hooks" in reason(hook)
    assert "has hooks" in reason(listened)
    assert "dropout" in reason(dropout)
    assert "parameters or buffers" in reason(adapter)
    assert "shared with another" in reason(share)
    assert "a forward was replaced" in reason(replace)
    assert "parameters or buffers" in reason(parameter)
    assert "other input_global_scales" in reason(scales)
    mlp = MLP()
    nvfp4.quantize_model(mlp, "all-linear", progress=False)
    assert "GatedMLP.from_linears" in fuse_gated_mlps(mlp)[1][""]


def test_the_mode_is_kept_and_the_default_dtype_does_not_matter() -> None:
    model = model_of(MLP(), MLP()).eval()
    model[0].gate_proj.train()
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert len(fuse_gated_mlps(model)[0]) == 2
    finally:
        torch.set_default_dtype(torch.float32)
    assert not model[0].training


def test_the_old_modules_are_freed() -> None:
    model = model_of(MLP(), MLP())
    alive = [weakref.ref(m) for m in model.modules() if isinstance(m, NVFP4Linear)]
    fuse_gated_mlps(model)
    assert sum(ref() is not None for ref in alive) == 2
