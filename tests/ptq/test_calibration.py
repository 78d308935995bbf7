"""Calibration: the running maximum over tokens of the unquantised model, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nvfp4.ptq.calibration import check_tokens, observe_inputs
from ptq.models import VOCABULARY, Toy, gemma3, tokens


def linears(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}


def test_maximum_over_all_tokens() -> None:
    model, texts = Toy(), [tokens(9, seed=i) for i in range(4)]
    got = observe_inputs(model, linears(model), texts, progress=False)
    with torch.no_grad():
        x = torch.cat([model.embedding(t)[0] for t in texts])
        hidden = torch.relu(model.first(x))
        out = x + model.second(hidden)
    assert torch.equal(got["first"], x.abs().amax())
    assert torch.allclose(got["second"], hidden.abs().amax(), rtol=1e-5)
    assert torch.allclose(got["head"], out.abs().amax(), rtol=1e-5)


def test_one_or_two_dimensions_and_both_integer_types() -> None:
    model, ids = Toy(), tokens(7)
    a = observe_inputs(model, linears(model), [ids], progress=False)
    b = observe_inputs(model, linears(model), [ids[0].int()], progress=False)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_activation_dtype_is_kept() -> None:
    model = gemma3()
    got = observe_inputs(model, linears(model), [tokens()], progress=False)
    assert {v.dtype for v in got.values()} == {torch.bfloat16}
    assert got["model.layers.0.mlp.gate_proj"] == got["model.layers.0.mlp.up_proj"]


def test_the_head_sees_every_token_when_it_is_observed() -> None:
    model, seen = gemma3(), []
    handle = model.lm_head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    observe_inputs(model, {"lm_head": model.lm_head}, [tokens(20)], progress=False)
    observe_inputs(model, {"x": model.model.layers[0].mlp.up_proj}, [tokens(20)], progress=False)
    handle.remove()
    assert seen == [20, 1]


def test_flags_hooks_and_gradients_are_as_before() -> None:
    model = Toy()
    model.first.eval()
    observe_inputs(model, linears(model), [tokens()], progress=False)
    assert model.training
    assert not model.first.training
    assert model.second.training
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())


def test_a_failing_model_is_left_clean() -> None:
    model = Toy()
    model.second = nn.Linear(48, 32)
    with pytest.raises(RuntimeError, match="shape"):
        observe_inputs(model, linears(model), [tokens()], progress=False)
    assert model.training
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_unreached_modules_are_missing() -> None:
    model = Toy()
    model.idle = nn.Linear(16, 16)
    assert "idle" not in observe_inputs(model, linears(model), [tokens()], progress=False)


def test_keyword_inputs_and_empty_batches() -> None:
    class Keyword(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            self.b(torch.zeros(0, 16))
            return self.a(input=ids.float().expand(16, -1)[:, :16])

    model = Keyword()
    got = observe_inputs(model, linears(model), [torch.arange(16)], progress=False)
    assert got.keys() == {"a"}
    assert got["a"] == 15


@pytest.mark.parametrize(
    ("calibration", "error", "message"),
    [
        ([], ValueError, "empty list"),
        (torch.zeros(1, 4, dtype=torch.int64), TypeError, "got Tensor, wanted a list"),
        ("text", TypeError, "got str"),
        (3, TypeError, "got int"),
        (["text"], TypeError, r"calibration\[0\]: got str"),
        ([tokens(), torch.zeros(1, 4)], TypeError, r"calibration\[1\]: got torch.float32"),
        ([torch.zeros(0, dtype=torch.int64)], ValueError, r"got shape \(0,\)"),
        ([torch.zeros(1, 2, 3, dtype=torch.int64)], ValueError, r"got shape \(1, 2, 3\)"),
        ([torch.tensor(3)], ValueError, r"got shape \(\)"),
    ],
)
def test_malformed_tokens(calibration, error, message) -> None:
    with pytest.raises(error, match=message):
        check_tokens(calibration)


@pytest.mark.parametrize("bad", [VOCABULARY, -1])
def test_foreign_tokens(bad) -> None:
    model = gemma3()
    with pytest.raises(ValueError, match=f"wanted 0 to {VOCABULARY - 1}; they were made with another tokenizer"):
        observe_inputs(model, linears(model), [torch.tensor([3, bad])], progress=False)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_and_inf_are_named(value) -> None:
    model = Toy()
    with torch.no_grad():
        model.first.bias[0] = value
    with pytest.raises(ValueError, match=r"got NaN or Inf entering second, head \(2 modules\)"):
        observe_inputs(model, linears(model), [tokens()], progress=False)
