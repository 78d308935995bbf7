"""Recipes: llm-compressor's YAML, the presets, matching as compressed-tensors does it, and what is refused by name."""

from __future__ import annotations

import pytest
from torch import nn

from nvfp4 import NVFP4Linear, Recipe
from nvfp4.nn.recipe import PRESETS, matches

REAL = """
default_stage:
  default_modifiers:
    QuantizationModifier:
      targets: [Linear]
      ignore: ['re:.*self_attn.*', 're:.*vision.*', 're:.*embed_vision.*', lm_head]
      scheme: NVFP4
      bypass_divisibility_checks: false
"""

GROUPS = """
QuantizationModifier:
  ignore: lm_head
  config_groups:
    group_0:
      format: nvfp4-pack-quantized
      targets: ['re:.*mlp.*']
      weights: {num_bits: 4, type: float, strategy: tensor_group, group_size: 16, symmetric: true, dynamic: false,
                scale_dtype: torch.float8_e4m3fn, zp_dtype: null, observer: memoryless_minmax, observer_kwargs: {},
                actorder: null, block_structure: null}
      input_activations: {num_bits: 4, type: float, strategy: tensor_group, group_size: 16, symmetric: true,
                          dynamic: local, observer: static_minmax}
      output_activations: null
    group_1:
      targets: [Linear]
      weights: {num_bits: 4, type: float, strategy: tensor_group, group_size: 16}
"""

LINEAR = nn.Linear(16, 16)


def activations(recipe: Recipe, name: str, module: nn.Module = LINEAR) -> str | None:
    """``nvfp4``, ``none`` (weights only), ``ignored`` or None (no target)."""
    if recipe.ignored_by(name, module) is not None:
        return "ignored"
    found = recipe.target_of(name, module)
    return None if found is None else str(found[1].activations or "none")


def test_a_real_recipe() -> None:
    recipe = Recipe.from_yaml(REAL)
    assert recipe.scheme == "NVFP4"
    assert activations(recipe, "model.layers.0.mlp.up_proj") == "nvfp4"
    assert activations(recipe, "model.layers.0.self_attn.q_proj") == "ignored"
    assert activations(recipe, "lm_head") == "ignored"
    assert activations(recipe, "model.norm", nn.LayerNorm(4)) is None


def test_from_a_file(tmp_path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(REAL)
    assert Recipe.from_yaml(path) == Recipe.from_yaml(str(path)) == Recipe.of(path) == Recipe.of(REAL)
    with pytest.raises(FileNotFoundError, match=r"no file .*absent.yaml"):
        Recipe.from_yaml(tmp_path / "absent.yaml")
    with pytest.raises(FileNotFoundError, match="absent"):
        Recipe.of("absent.yaml")


def test_groups() -> None:
    recipe = Recipe.from_yaml(GROUPS)
    assert recipe.ignore == ("lm_head",)
    assert activations(recipe, "model.layers.0.mlp.up_proj") == "nvfp4"
    assert activations(recipe, "model.layers.0.self_attn.q_proj") == "none"


@pytest.mark.parametrize("scheme", ["NVFP4", "nvfp4", "NVFP4A16", {"NVFP4": ["re:.*mlp.*"], "NVFP4A16": ["Linear"]}])
def test_schemes(scheme) -> None:
    recipe = Recipe(scheme=scheme)
    wanted = "none" if scheme == "NVFP4A16" else "nvfp4"
    assert activations(recipe, "model.mlp.up_proj") == wanted
    assert activations(recipe, "model.attn.q") == (wanted if isinstance(scheme, str) else "none")
    groups = Recipe(config_groups={"NVFP4A16": ["Linear"]})
    assert activations(groups, "a") == "none"


def test_yaml_round_trip() -> None:
    for recipe in (*map(Recipe.preset, PRESETS), Recipe.from_yaml(REAL), Recipe.from_yaml(GROUPS)):
        assert Recipe.from_yaml(recipe.to_yaml()) == recipe


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("model.layers.0.mlp.gate_proj", True),
        ("model.layers.17.mlp.down_proj", True),
        ("model.language_model.layers.3.mlp.up_proj", True),
        ("language_model.model.layers.3.mlp.up_proj", True),
        ("mlp.up_proj", True),
        ("model.layers.0.self_attn.q_proj", False),
        ("model.layers.0.mlp.gate_proj.linear", False),
        ("model.layers.0.mlp.experts.0.gate_proj", False),
        ("model.layers.0.notmlp.gate_proj", False),
        ("model.vision_tower.encoder.layers.0.mlp.gate_proj.linear", False),
        ("model.vision_tower.encoder.layers.0.mlp.gate_proj", False),
        ("model.audio_tower.layers.0.mlp.gate_proj", False),
        ("model.embed_vision.embedding_projection", False),
        ("model.multi_modal_projector.mlp.up_proj", False),
        ("lm_head", False),
    ],
)
def test_gemma_mlp(name, wanted) -> None:
    assert (activations(Recipe.preset("gemma-mlp"), name) == "nvfp4") is wanted


def test_other_presets() -> None:
    for preset, wanted in (("all-linear", "nvfp4"), ("weight-only", "none")):
        recipe = Recipe.preset(preset)
        assert activations(recipe, "model.layers.0.self_attn.q_proj") == wanted
        assert activations(recipe, "model.layers.0.mlp.up_proj") == wanted
        assert activations(recipe, "lm_head") == "ignored"
        assert activations(recipe, "model.vision_tower.layers.0.fc1") == "ignored"
    with pytest.raises(ValueError, match="got 'fast', wanted one of gemma-mlp, all-linear, weight-only"):
        Recipe.of("fast")
    with pytest.raises(TypeError, match="got int 3, wanted a Recipe"):
        Recipe.of(3)


class MyLinear(nn.Linear):
    """A subclass: its base class's name matches too."""


TARGETS = (
    "Linear", "MyLinear", "NVFP4Linear", "Module", "object", "LayerNorm", "a.b", "a", "b", "re:a", "re:b", "re:.*b$",
    "re:.*", "re:a[.]b", "re:a.bc", "re:", "",
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_matching_is_that_of_compressed_tensors(target) -> None:
    match = pytest.importorskip("compressed_tensors.utils.match", reason="the extra installs it on Python >= 3.11 only")
    modules = (LINEAR, MyLinear(16, 16), NVFP4Linear(16, 16), nn.LayerNorm(4))
    for name in ("", "a", "a.b", "a.bc", "b", "b.a.b", "Linear"):
        for module in modules:
            assert matches(name, module, target) == match.is_match(name, module, target), (name, module)


def test_a_name_is_stronger_than_a_regex_and_a_regex_than_a_class() -> None:
    def group(*targets: str) -> dict:
        weights = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
        return {"targets": targets, "weights": weights}

    recipe = Recipe(config_groups={"c": group("Linear"), "r": group("re:.*q$", "re:.*"), "n": group("x.q")})
    assert recipe.target_of("x.q", LINEAR)[0] == "x.q"
    assert recipe.target_of("y.q", LINEAR)[0] == "re:.*"
    assert Recipe(config_groups={"c": group("Linear", "MyLinear")}).target_of("z", MyLinear(16, 16))[0] == "Linear"


ARGS = "num_bits: {bits}, type: {type}, strategy: {strategy}, group_size: {size}"


def grouped(weights: str, more: str = "") -> str:
    return f"QuantizationModifier: {{config_groups: {{g: {{targets: [Linear], weights: {{{weights}}}{more}}}}}}}"


NVFP4 = ARGS.format(bits=4, type="float", strategy="tensor_group", size=16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("GPTQModifier: {targets: Linear}", "got GPTQModifier, wanted QuantizationModifier"),
        (
            "default_stage: {default_modifiers: {AWQModifier: {}, QuantizationModifier: {scheme: NVFP4}}}",
            "got AWQModifier",
        ),
        ("s_stage: {s_modifiers: {SmoothQuantModifier: {}}}", "got SmoothQuantModifier"),
        ("default_stage: {SpinQuantModifier: {}}", "got SpinQuantModifier"),
        ("version: 3", "got version"),
        ("default_stage: {default_modifiers: {}}", "got 0 QuantizationModifiers"),
        (
            "a_stage: {a_modifiers: {QuantizationModifier: {}}}\nb_stage: {b_modifiers: {QuantizationModifier: {}}}",
            "got 2",
        ),
        ("QuantizationModifier: [1, 2]", "got list, wanted a mapping"),
        ("QuantizationModifier: {1: 2}", "wanted a mapping of its fields"),
        ("default_stage: 3\n", "default_stage: got int"),
        ("- 3\n- 4", "top level: got int"),
        ("a: [b: c: d", "not readable as YAML"),
        ("QuantizationModifier: {scheme: NVFP4, colour: red}", "colour: unknown field, wanted one of targets, ignore"),
        ("QuantizationModifier: {scheme: FP8_DYNAMIC}", "got 'FP8_DYNAMIC'; supported are the schemes NVFP4"),
        ("QuantizationModifier: {scheme: W4A16}", "got 'W4A16'"),
        ("QuantizationModifier: {scheme: {FP8: [Linear]}}", "got 'FP8'"),
        ("QuantizationModifier: {config_groups: {MXFP4: [Linear]}}", "got 'MXFP4'"),
        ("QuantizationModifier: {scheme: 3}", "scheme"),
        ("QuantizationModifier: {targets: Linear}", "got neither of scheme and config_groups"),
        ("QuantizationModifier: {scheme: NVFP4, config_groups: {NVFP4: [Linear]}}", "got both"),
        ("QuantizationModifier: {scheme: NVFP4, targets: []}", "targets: got none"),
        ("QuantizationModifier: {config_groups: {}}", "targets: got none"),
        ("QuantizationModifier: {scheme: NVFP4, targets: 3}", "targets"),
        ("QuantizationModifier: {scheme: NVFP4, ignore: ['re:*']}", "'re:[*]' is not a regular expression"),
        ("QuantizationModifier: {scheme: NVFP4, kv_cache_scheme: {num_bits: 8}}", "kv_cache_scheme"),
        (
            "QuantizationModifier: {scheme: NVFP4, bypass_divisibility_checks: true}",
            "bypass_divisibility_checks: got True",
        ),
        (grouped(ARGS.format(bits=8, type="float", strategy="channel", size="null")), "num_bits=8 .wanted 4."),
        (grouped(ARGS.format(bits=4, type="int", strategy="group", size=128)), "type='int' .wanted 'float'."),
        (grouped(ARGS.format(bits=4, type="float", strategy="group", size=32)), "group_size=32 .wanted 16."),
        (grouped(NVFP4 + ", symmetric: false"), "symmetric=False"),
        (grouped(NVFP4 + ", observer: mse"), "observer='mse'"),
        (grouped(NVFP4 + ", actorder: weight"), "actorder='weight'"),
        (grouped(NVFP4 + ", colour: red"), "weights.colour: unknown field, wanted one of num_bits"),
        (grouped(NVFP4, ", colour: red"), "g.colour: unknown field, wanted one of targets"),
        (grouped(NVFP4, f", input_activations: {{{NVFP4}, dynamic: true}}"), "input_activations: got dynamic=True"),
        (grouped(NVFP4, f", input_activations: {{{NVFP4}, dynamic: local, observer: minmax}}"), "observer='minmax'"),
        (grouped(NVFP4, f", output_activations: {{{NVFP4}}}"), "output_activations"),
        (grouped(NVFP4, ", format: float-quantized"), "format"),
    ],
)
def test_refused(text, message) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Recipe.from_yaml(text)
    assert str(caught.value).startswith("recipe")


def test_the_constructor_validates_too() -> None:
    with pytest.raises(ValueError, match="colour"):
        Recipe(scheme="NVFP4", colour="red")
    with pytest.raises(ValueError, match="FP8"):
        Recipe(scheme="FP8")
    recipe = Recipe(scheme="NVFP4")
    with pytest.raises(ValueError, match="frozen"):
        recipe.scheme = "NVFP4A16"
