"""`quantize_model` on tiny Gemma-3, Gemma-4 and Llama models, and everything it promises."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

import nvfp4
from nvfp4 import NVFP4Linear, Recipe, backends, quantize_model
from nvfp4.ptq.calibration import observe_inputs
from ptq.models import MODELS, Toy, gemma3, gemma4, tokens

LAYERS = {"gemma3": 2, "gemma4": 3, "llama": 2}


def quantized(model: nn.Module) -> dict[str, NVFP4Linear]:
    return {name: m for name, m in model.named_modules() if isinstance(m, NVFP4Linear)}


def logits(model: nn.Module, length: int = 12) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens(length)).logits


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("calibrated", [False, True])
def test_models(backend, name, calibrated) -> None:
    model = MODELS[name]()
    before = {n: copy.deepcopy(m) for n, m in model.named_modules() if re.search(r"mlp.(gate|up|down)_proj$", n)}
    before = {n: m for n, m in before.items() if "vision" not in n}
    reference = logits(model)
    calibration = [tokens(7, seed=1), tokens(5, seed=2)[0]] if calibrated else None
    report = quantize_model(model, calibration=calibration, progress=False)
    done = quantized(model)
    assert set(done) == set(before) == {m.name for m in report.quantized}
    assert len(done) == 3 * LAYERS[name]
    wanted = "plain" if backend == "reference" else "n16k64"
    for n, module in done.items():
        assert module.layout == wanted
        assert module.mode == ("static" if calibrated else "row")
        scale = module.weight_global_scale.detach()
        t = nvfp4.quantize(before[n].weight.detach(), scale, scheme="compressed-tensors")
        assert nvfp4.to_layout(module.quantized_weight(), "plain") == t
        assert module.weight.dtype == before[n].weight.dtype
    got = logits(model)
    assert got.shape == reference.shape
    assert got.isfinite().all()
    assert not torch.equal(got, reference)
    assert (got.float() - reference.float()).norm() < reference.float().norm()
    if backend == "cpu":
        assert model.generate(tokens(6), max_new_tokens=3, do_sample=False).shape == (1, 9)


@pytest.mark.parametrize("make", [gemma3, gemma4])
def test_siblings_share_scales_and_down_does_not(both, make) -> None:
    model = make()
    quantize_model(model, "all-linear", [tokens()], progress=False)
    done = quantized(model)
    for name, module in done.items():
        parent, _, leaf = name.rpartition(".")
        for a, b in (("gate_proj", "up_proj"), ("q_proj", "k_proj"), ("q_proj", "v_proj")):
            if leaf == a and f"{parent}.{b}" in done:
                other = done[f"{parent}.{b}"]
                assert torch.equal(module.weight_global_scale, other.weight_global_scale)
                assert torch.equal(module.input_global_scale, other.input_global_scale)
    scales = {m.weight_global_scale.item() for n, m in done.items() if n.endswith(("gate_proj", "down_proj"))}
    assert len(scales) > 1


def test_static_scales_come_from_the_unquantised_model(both) -> None:
    """Were modules swapped one by one under calibration, later layers would see quantised inputs."""
    model, texts = gemma3(), [tokens(12, seed=i) for i in range(3)]
    linears = {n: m for n, m in model.named_modules() if n.endswith(("gate_proj", "up_proj", "down_proj"))}
    amax = observe_inputs(copy.deepcopy(model), {}, texts, progress=False)
    assert amax == {}
    amax = observe_inputs(model, linears, texts, progress=False)
    quantize_model(model, calibration=texts, progress=False)
    for name, module in quantized(model).items():
        assert torch.equal(module.input_global_scale, (2688 / amax[name]).float().reshape(1))


def test_weight_only(both) -> None:
    model = gemma3()
    report = quantize_model(model, "weight-only", calibration=[tokens()], progress=False)
    done = quantized(model)
    assert len(done) == 14
    assert all(m.activations is None and m.input_global_scale is None for m in done.values())
    assert {m.mode for m in report.quantized} == {"W4A16"}
    assert report.skipped == {"lm_head": "ignored by 're:.*lm_head$'"}
    assert logits(model).isfinite().all()


def test_mixed_groups(both) -> None:
    model = gemma3()
    recipe = Recipe(scheme={"NVFP4": ["re:.*mlp.*"], "NVFP4A16": ["Linear"]}, ignore=["lm_head"])
    quantize_model(model, recipe, progress=False)
    for name, module in quantized(model).items():
        assert module.activations == ("nvfp4" if ".mlp." in name else None)


def test_recipe_from_a_file(both, tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("QuantizationModifier: {targets: ['re:.*down_proj'], scheme: NVFP4}")
    model = gemma3()
    assert len(quantize_model(model, path, progress=False).quantized) == 2
    assert len(quantize_model(gemma3(), str(path), progress=False).quantized) == 2


def test_the_kernel_runs_as_often_as_there_are_modules() -> None:
    with backends.force("cpu"):
        model = gemma3()
        quantize_model(model, progress=False)
        backends.reset_kernel_calls()
        logits(model)
        calls = {k: v for k, v in backends.kernel_calls().items() if "linear" in k}
    assert sum(calls.values()) == 6
    assert all(k.endswith("linear/w4a4") for k in calls)


def test_per_token_results_do_not_depend_on_batch_mates(backend) -> None:
    model = Toy()
    quantize_model(model, "all-linear", progress=False)
    with torch.no_grad():
        whole = model.first(model.embedding(tokens(17)))
        for i in range(17):
            assert torch.equal(model.first(model.embedding(tokens(17)[:, i : i + 1]))[0, 0], whole[0, i])


def test_hooks_go_on(both) -> None:
    model, seen = Toy(), []
    before = model.first.register_forward_pre_hook(lambda module, args: seen.append("before"))
    model.first.register_forward_hook(lambda module, args, kwargs, out: seen.append("after"), with_kwargs=True)
    quantize_model(model, "all-linear", progress=False)
    model(tokens())
    assert seen == ["before", "after"]
    before.remove()
    model(tokens())
    assert seen == ["before", "after", "after"]


def test_a_compiled_model_equals_eager_to_the_bit(both) -> None:
    model = gemma3(layers=1)
    quantize_model(model, progress=False)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(tokens(), use_cache=False).logits, model(tokens(), use_cache=False).logits)


def test_tied_head_is_left_and_said(both) -> None:
    model = Toy(tied=True)
    report = quantize_model(model, Recipe(scheme="NVFP4"), progress=False)
    assert "tied to 'embedding'" in report.skipped["head"]
    assert model.head.weight is model.embedding.weight


def test_shared_modules_are_replaced_everywhere(both) -> None:
    shared = nn.Linear(32, 32)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.ModuleList([shared, nn.Linear(32, 32)])})
    report = quantize_model(model, Recipe(scheme="NVFP4"), progress=False)
    assert isinstance(model["a"][0], NVFP4Linear)
    assert model["a"][0] is model["b"][0]
    assert len(report.quantized) == 2


def test_second_run_skips_what_is_done(both) -> None:
    model = gemma3()
    quantize_model(model, progress=False)
    first = dict(quantized(model))
    report = quantize_model(model, "all-linear", progress=False)
    assert all(quantized(model)[name] is module for name, module in first.items())
    assert sum(reason == "quantised already" for reason in report.skipped.values()) == 6
    with pytest.raises(ValueError, match="matches only what is quantised already in this Gemma3ForCausalLM"):
        quantize_model(model, progress=False)


def test_a_second_run_cannot_fuse_and_says_what_can(both) -> None:
    model = gemma3()
    quantize_model(model, progress=False)
    before = logits(model)
    with pytest.raises(ValueError, match=r"fused in the call that quantises.*GatedMLP\.from_linears.*nvfp4\.prepare"):
        quantize_model(model, fuse=True, progress=False)
    for layer in model.model.layers:  # as it says
        mlp = layer.mlp
        layer.mlp = nvfp4.GatedMLP.from_linears(mlp.gate_proj, mlp.up_proj, mlp.down_proj, "gelu_tanh")
    nvfp4.prepare(model)
    assert logits(model).shape == before.shape
    with pytest.raises(ValueError, match=r"quantised and fused already: model\.layers") as raised:
        quantize_model(model, fuse=True, progress=False)
    assert "from_linears" not in str(raised.value)


def test_training_mode_and_gradients_survive(both) -> None:
    model = Toy()
    quantize_model(model, "all-linear", [tokens()], progress=False)
    assert model.training
    assert model.first.training
    model(tokens()).sum().backward()
    assert model.embedding.weight.grad is not None
    assert model.embedding.weight.grad.any()


def test_state_dict_into_another_quantised_model(both) -> None:
    model = gemma3()
    quantize_model(model, calibration=[tokens()], progress=False)
    other = gemma3()
    quantize_model(other, calibration=[tokens(seed=5)], progress=False)
    assert not torch.equal(logits(model), logits(other))
    other.load_state_dict(model.state_dict())
    assert torch.equal(logits(model), logits(other))
    assert torch.equal(logits(copy.deepcopy(model)), logits(model))


@pytest.mark.parametrize("preset", ["all-linear", "gemma-mlp", "weight-only"])
def test_unreached_and_silent_modules_stay_per_token_and_are_named(both, preset, caplog) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mlp = nn.ModuleDict({f"{n}_proj": nn.Linear(16, 16) for n in ("gate", "up", "down")})

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.mlp["down_proj"](self.mlp["gate_proj"](ids.float().expand(4, 16)) * 0)

    model = Model()
    report = quantize_model(model, preset, [torch.arange(16)], progress=False)
    notes = {m.name: (m.mode, m.note) for m in report.quantized}
    if preset == "weight-only":
        assert all(mode == "W4A16" for mode, _ in notes.values())
        return
    assert notes == {
        "mlp.gate_proj": ("W4A4 static", ""),
        "mlp.up_proj": ("W4A4 per token", "no calibration token reached it"),
        "mlp.down_proj": ("W4A4 per token", "calibration saw only zeros"),
    }
    assert "2 of 3 modules quantise per token" in caplog.text


def spoil(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    return model


def odd() -> nn.Module:
    return Toy(k=40)


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda: spoil(gemma3()), {}, ValueError, "model.layers.1.mlp.down_proj: weight: got 1 NaN"),
        (odd, {"recipe": "all-linear"}, ValueError, "first: weight: got K = 40, .*nearest legal K is"),
        (lambda: gemma3().to("meta"), {}, ValueError, "meta device"),
        (gemma3, {"recipe": "fast"}, ValueError, "got 'fast', wanted one of gemma-mlp"),
        (gemma3, {"recipe": Recipe(scheme="NVFP4", targets=["re:.*experts.*"])}, ValueError, "matches no Linear"),
        (gemma3, {"recipe": "absent.yaml"}, FileNotFoundError, "absent.yaml"),
        (gemma3, {"recipe": 7}, TypeError, "got int"),
        (gemma3, {"calibration": []}, ValueError, "empty list"),
        (gemma3, {"calibration": [torch.tensor([999])]}, ValueError, "another tokenizer"),
        (gemma3, {"calibration": ["text"]}, TypeError, "got str"),
        (lambda: nn.Linear(16, 16), {}, ValueError, "Linear"),
        (lambda: "model", {}, TypeError, "got str"),
    ],
)
def test_errors_come_before_anything_changes(both, make, options, error, message) -> None:
    model = make()
    kinds = {n: type(m) for n, m in model.named_modules()} if isinstance(model, nn.Module) else None
    with pytest.raises(error, match=message):
        quantize_model(model, **{"progress": False, **options})
    if kinds is not None:
        assert {n: type(m) for n, m in model.named_modules()} == kinds


def test_a_failure_half_way_leaves_a_working_model(both, monkeypatch) -> None:
    model, real, done = gemma3(), NVFP4Linear.from_linear.__func__, []

    def fail_at_the_third(cls, linear, **options):
        if len(done) == 2:
            raise MemoryError("no more")
        done.append(linear)
        return real(cls, linear, **options)

    monkeypatch.setattr(NVFP4Linear, "from_linear", classmethod(fail_at_the_third))
    with pytest.raises(MemoryError):
        quantize_model(model, progress=False)
    assert len(quantized(model)) == 2
    assert logits(model).isfinite().all()


def test_an_idle_target_is_said(both, caplog) -> None:
    recipe = Recipe(scheme="NVFP4", targets=["re:.*up_proj", "re:.*expert.*"])
    report = quantize_model(gemma3(), recipe, progress=False)
    assert report.idle_targets == ("re:.*expert.*",)
    assert "'re:.*expert.*' matches no module" in caplog.text


def test_progress_prints_the_report_and_silence_is_silent(both, capsys) -> None:
    quantize_model(gemma3(), progress=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    quantize_model(gemma3(), calibration=[tokens()], progress=True)
    captured = capsys.readouterr()
    assert "6 Linears quantised" in captured.out
    assert "calibrating" in captured.err
    assert "quantising" in captured.err


def test_a_model_that_names_the_input(backend) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(64, 32)

        def forward(self, h: torch.Tensor) -> torch.Tensor:
            return self.fc(input=h)

    model, x = Named(), torch.randn(3, 64)
    quantize_model(model, "all-linear", progress=False)
    assert isinstance(model.fc, NVFP4Linear)
    assert torch.equal(model(x), model.fc(x))


def test_a_default_device_does_not_matter(both) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    with torch.device("meta"):
        quantize_model(model, "all-linear", progress=False)
        assert NVFP4Linear.from_linear(nn.Linear(64, 8, device="cpu"), weight_global_scale=2.0).device.type == "cpu"
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert model(torch.randn(2, 64)).isfinite().all()


@pytest.mark.parametrize(("name", "count"), [("gemma3", 2), ("gemma4", 3), ("llama", 2)])
@pytest.mark.parametrize("calibrated", [False, True])
def test_fused_mlps_compute_the_same_and_keep_their_names(name, count, calibrated) -> None:
    torch.manual_seed(0)
    model = MODELS[name]()
    apart = copy.deepcopy(model)
    calibration = [tokens()] if calibrated else None
    for m, fuse in ((model, True), (apart, False)):
        report = quantize_model(m, "gemma-mlp", calibration, progress=False, fuse=fuse)
        assert len(report.fused) == (count if fuse else 0), report.unfused
        assert not report.unfused
        assert (f"Fused: {count} MLPs" in str(report)) == fuse
    got, wanted = model.state_dict(), apart.state_dict()
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[k].view(torch.uint8), wanted[k].view(torch.uint8)) for k in wanted)
    with torch.no_grad():
        # transformers rounds act(gate) too, which four bits amplify: two roundings of one model, not two models.
        p, q = (m(tokens()).logits.float().log_softmax(-1) for m in (apart, model))
    assert float((p.exp() * (p - q)).sum(-1).mean()) < 0.01
    model.load_state_dict(wanted)
