"""Which Linears a recipe takes, which it leaves and why, and which of them share a scale."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from nvfp4 import NVFP4Linear, Recipe
from nvfp4.ptq.plan import Planned, make_plan, name_patterns, shared_scales, weight_scales
from ptq.models import Toy, gemma4

ALL = Recipe(scheme="NVFP4")


def planned(*names: str) -> list[Planned]:
    return [Planned(name, nn.Linear(16, 16), "Linear", "nvfp4") for name in names]


def test_name_patterns() -> None:
    names = ["model.layers.0.mlp.up", "model.layers.17.mlp.up", "h.3", "0.weight2.v3", "lm_head"]
    assert name_patterns(names) == {"model.layers.*.mlp.up": 2, "h.*": 1, "*.weight2.v3": 1, "lm_head": 1}
    assert name_patterns(["0", "2", "4.1"]) == {"0": 1, "2": 1, "4.1": 1}


def test_every_linear_is_matched_or_has_a_reason() -> None:
    class Special(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    class Plain(nn.Linear):
        pass

    model = Toy(tied=True)
    model.special, model.plain, model.done = Special(16, 16), Plain(16, 16), NVFP4Linear(16, 16)
    model.hooked = nn.Linear(16, 16)
    model.hooked.forward = lambda x: x
    model.attention = nn.MultiheadAttention(32, 2)
    model.parametrised = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
    model.pruned = prune.l1_unstructured(nn.Linear(16, 16), "weight", amount=0.5)
    model.kept = nn.Linear(16, 16)
    plan = make_plan(model, Recipe(scheme="NVFP4", ignore=["kept"], targets=["Linear", "re:.*absent.*", "embedding"]))
    assert [p.name for p in plan.matched] == ["first", "second", "plain"]
    assert plan.idle_targets == ["re:.*absent.*"]
    assert plan.idle_ignores == []
    recipe = Recipe(scheme="NVFP4", ignore=["kpet", "kept", "lm_head", "re:.*vision.*"], targets=["Linear"])
    assert make_plan(model, recipe).idle_ignores == ["kpet"]
    assert plan.skipped == {
        "head": "its weight is tied to 'embedding'; untie it to quantise it",
        "special": "Special is a Linear with a forward of its own",
        "done": "quantised already",
        "attention.out_proj": "its owner (nn.MultiheadAttention) reads the weight without calling it",
        "parametrised": "its weight is parametrised; torch.nn.utils.parametrize.remove_parametrizations first",
        "pruned": "its weight is no parameter of its own but computed from others, as by torch.nn.utils.weight_norm, "
        "spectral_norm and prune; remove that first",
        "hooked": "its forward was replaced on the module itself, as accelerate does for offloading",
        "kept": "ignored by 'kept'",
    }


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.spectral_norm], ids=lambda f: f.__name__)
def test_legacy_reparametrisations_are_skipped(wrap) -> None:
    plan = make_plan(nn.Sequential(wrap(nn.Linear(32, 16)), nn.Linear(16, 16)), ALL)
    assert [p.name for p in plan.matched] == ["1"]
    assert "computed from others" in plan.skipped["0"]


def test_nothing_matched_lists_what_there_is() -> None:
    with pytest.raises(ValueError, match="matches no Linear of this Toy") as caught:
        make_plan(Toy(), Recipe(scheme="NVFP4", targets=["re:.*mlp.*"], ignore=["head"]))
    message = str(caught.value)
    assert "Targets: re:.*mlp.*" in message
    assert "no target matches: first, second" in message
    assert "ignored by 'head': head" in message
    with pytest.raises(ValueError, match="Linears: none"):
        make_plan(nn.Sequential(nn.GELU()), ALL)


def test_a_long_list_is_cut() -> None:
    model = nn.ModuleDict({f"layer_{chr(97 + i)}": nn.Linear(16, 16) for i in range(20)})
    with pytest.raises(ValueError, match="layer_h and 12 more"):
        make_plan(model, Recipe(scheme="NVFP4", targets=["x"]))


def test_wrong_models() -> None:
    with pytest.raises(TypeError, match="got str, wanted a torch"):
        make_plan("google/gemma", ALL)
    with pytest.raises(ValueError, match="itself a Linear"):
        make_plan(nn.Linear(16, 16), ALL)


def test_siblings_share_the_scale_of_the_largest() -> None:
    matched = planned("l.0.mlp.gate_proj", "l.0.mlp.up_proj", "l.0.mlp.down_proj", "l.1.mlp.gate_proj", "gate_proj")
    amax = {p.name: torch.tensor(float(i + 1)) for i, p in enumerate(matched)}
    got = shared_scales(matched, amax)
    assert [got[p.name].item() for p in matched] == [1344, 1344, 896, 672, pytest.approx(2688 / 5)]


def test_attention_without_a_v_proj_shares_too() -> None:
    matched = planned("a.q_proj", "a.k_proj", "b.q_proj", "b.k_proj", "b.v_proj", "b.o_proj", "c.w1", "c.w3", "c.w2")
    got = shared_scales(matched, {p.name: torch.tensor(2.0**i) for i, p in enumerate(matched)})
    values = [got[p.name].item() * 2.0**8 / 2688 for p in matched]
    assert values == [128, 128, 16, 16, 16, 8, 2, 2, 1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("amax", [0.0, 1e-7, 0.3271, 3.0, 1e4])
def test_a_scale_is_that_of_compressed_tensors(dtype, amax) -> None:
    reason = "compressed-tensors is not there; the test extra installs it only on Python >= 3.11"
    theirs = pytest.importorskip("compressed_tensors.quantization.utils.helpers", reason=reason)
    value = torch.tensor(amax, dtype=dtype)
    got = shared_scales(planned("x"), {"x": value})["x"]
    assert torch.equal(got, theirs.generate_gparam(-value, value))


def test_a_zero_sibling_does_not_decide() -> None:
    got = shared_scales(planned("gate_proj", "up_proj"), {"gate_proj": torch.tensor(0.0), "up_proj": torch.tensor(1.0)})
    assert got["gate_proj"].item() == got["up_proj"].item() == 2688


def test_modules_without_an_amax_get_no_scale() -> None:
    assert shared_scales(planned("a", "b"), {"a": torch.tensor(1.0)}).keys() == {"a"}


def test_all_bad_weights_are_named_at_once() -> None:
    matched = [*planned("good"), *(Planned(n, nn.Linear(k, 4), "Linear", None) for n, k in (("odd", 40), ("nan", 32)))]
    with torch.no_grad():
        matched[2].linear.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="2 of 3 matched Linears") as caught:
        weight_scales(matched)
    assert "odd: weight: got K = 40" in str(caught.value)
    assert "nan: weight: got 1 NaN" in str(caught.value)
    assert "ignore" in str(caught.value)


def test_gemma4_counts() -> None:
    model = gemma4()
    plan = make_plan(model, Recipe.preset("gemma-mlp"))
    assert len(plan.matched) == 9
    assert not any("vision" in p.name for p in plan.matched)
    everything = make_plan(model, Recipe.preset("all-linear"))
    assert len(everything.matched) == 9 + 3 * 4 - 1
    assert all("vision" in name or name == "lm_head" for name in everything.skipped)
