"""Quantise the MLPs of a Hugging Face model to NVFP4, look at what it cost, and save a state dict.

python examples/quantize_model.py PATH_TO_MODEL --text some_text.txt --out quantized.safetensors
"""

from __future__ import annotations

import argparse
from copy import deepcopy
from pathlib import Path

import torch
from safetensors.torch import save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import nvfp4


def main() -> None:
    """Load, quantise a copy, compare, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--recipe", default="gemma-mlp", help="a preset, or a recipe.yaml of llm-compressor")
    arguments = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    reference = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.bfloat16).eval()
    candidate = deepcopy(reference)
    recipe = arguments.recipe if "." not in arguments.recipe else nvfp4.Recipe.from_yaml(Path(arguments.recipe))
    nvfp4.quantize_model(candidate, recipe)

    ids = tokenizer(arguments.text.read_text(encoding="utf-8"), return_tensors="pt").input_ids[0]
    windows = list(ids[: 4 * 1024].split(1024))
    print(nvfp4.evaluate(reference, candidate, windows))
    save_model(candidate, str(arguments.out))


if __name__ == "__main__":
    main()
