"""Two folders compared: the tokenizers must agree."""

import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import nvfp4
from nvfp4.demo.compare import compare_folders
from nvfp4.demo.files import DemoError


def test_tokenizers_that_cut_differently(tiny_folder: Path, tmp_path: Path) -> None:
    other, text = tmp_path / "other", tmp_path / "text.txt"
    shutil.copytree(tiny_folder, other)
    text.write_text("the sea in the light " * 20)
    file = other / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace('["▁t","he"],', ""), encoding="utf-8")
    with pytest.raises(DemoError, match="cut the text differently"):
        compare_folders(tiny_folder, other, text, windows=1, window_tokens=20)


def test_a_saved_quantised_model_is_not_scored_with_random_weights(tiny_folder: Path, tmp_path: Path) -> None:
    text, other = tmp_path / "text.txt", tmp_path / "quantised"
    text.write_text("the sea in the light " * 20)
    shutil.copytree(tiny_folder, other)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    nvfp4.quantize_model(model, "gemma-mlp", progress=False)
    model.save_pretrained(other)
    with pytest.raises(DemoError, match=r"lacks .* tensors, such as .*mlp.*--recipe"):
        compare_folders(tiny_folder, other, text, windows=1, window_tokens=20)


def test_a_recipe_quantises_the_candidate_only(tiny_folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the sea in the light " * 20)
    result = compare_folders(tiny_folder, tiny_folder, text, "gemma-mlp", windows=1, window_tokens=20)
    assert result.kl_mean > 0
