"""A GGUF file as a folder for transformers: values, norms, configuration, and damaged files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from demo.conftest import FFN, HEAD_DIM, HEADS, HIDDEN, LAYERS, vocabulary, write_gguf
from nvfp4.demo.files import DemoError
from nvfp4.demo.gguf_model import convert

NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight",
    "blk.1.attn_output.weight": "model.layers.1.self_attn.o_proj.weight",
    "blk.1.ffn_gate.weight": "model.layers.1.mlp.gate_proj.weight",
    "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
}
NORMS = {
    "output_norm.weight": "model.norm.weight",
    "blk.0.attn_norm.weight": "model.layers.0.input_layernorm.weight",
    "blk.0.post_attention_norm.weight": "model.layers.0.post_attention_layernorm.weight",
    "blk.1.ffn_norm.weight": "model.layers.1.pre_feedforward_layernorm.weight",
    "blk.1.post_ffw_norm.weight": "model.layers.1.post_feedforward_layernorm.weight",
    "blk.0.attn_q_norm.weight": "model.layers.0.self_attn.q_norm.weight",
    "blk.0.attn_k_norm.weight": "model.layers.0.self_attn.k_norm.weight",
}


def test_every_tensor_has_its_place_and_norms_lose_their_one(
    tiny_gguf: tuple[Path, dict[str, np.ndarray]], tiny_folder: Path
) -> None:
    stored, made = tiny_gguf[1], load_file(tiny_folder / "model.safetensors")
    assert len(made) == len(stored)
    for theirs, ours in NAMES.items():
        assert torch.equal(made[ours], torch.from_numpy(stored[theirs]))
    for theirs, ours in NORMS.items():
        assert torch.equal(made[ours], torch.from_numpy(stored[theirs]) - 1.0)
    assert all(tensor.dtype == torch.float32 for tensor in made.values())


def test_transformers_loads_it(tiny_folder: Path) -> None:
    model, info = AutoModelForCausalLM.from_pretrained(tiny_folder, output_loading_info=True, local_files_only=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    config = model.config
    assert (config.hidden_size, config.intermediate_size, config.num_hidden_layers) == (HIDDEN, FFN, LAYERS)
    assert (config.num_attention_heads, config.head_dim, config.sliding_window) == (HEADS, HEAD_DIM, 16)
    assert config.rope_parameters["full_attention"]["rope_theta"] == 1e6
    assert config.rope_parameters["sliding_attention"]["rope_theta"] == 1e4
    assert config.vocab_size == len(vocabulary()[0])
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert bool(model(torch.tensor([[2, 5, 300]])).logits.isfinite().all())


def test_not_a_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "some.gguf"
    file.write_bytes(b"GIF89a" * 10)
    with pytest.raises(DemoError, match="not a GGUF file"):
        convert(file, tmp_path)


def test_another_architecture(tmp_path: Path) -> None:
    write_gguf(tmp_path / "llama.gguf", architecture="llama")
    with pytest.raises(DemoError, match="architecture 'llama'; wanted 'gemma3'"):
        convert(tmp_path / "llama.gguf", tmp_path)


@pytest.mark.parametrize(
    ("leave_out", "message"),
    [
        ("sliding_window", "no field 'gemma3.attention.sliding_window'"),
        ("blk.1.ffn_up.weight", r"no tensor for model\.layers\.1\.mlp\.up_proj\.weight"),
    ],
)
def test_incomplete_files(tmp_path: Path, leave_out: str, message: str) -> None:
    write_gguf(tmp_path / "part.gguf", leave_out=leave_out)
    with pytest.raises(DemoError, match=message):
        convert(tmp_path / "part.gguf", tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_tensors_nobody_wants(tmp_path: Path) -> None:
    write_gguf(tmp_path / "more.gguf", extra={"blk.7.ffn_up.weight": (FFN, HIDDEN)})
    with pytest.raises(DemoError, match=r"without a place in the model: blk\.7\.ffn_up\.weight"):
        convert(tmp_path / "more.gguf", tmp_path)


def test_a_tensor_of_another_shape(tmp_path: Path) -> None:
    write_gguf(tmp_path / "odd.gguf", extra={"blk.0.ffn_up.weight": (HIDDEN, HIDDEN)})
    with pytest.raises(DemoError, match=r"blk\.0\.ffn_up\.weight is \[64, 64\]; wanted \[96, 64\]"):
        convert(tmp_path / "odd.gguf", tmp_path)
