"""A Gemma-3 GGUF file as a folder that `transformers` loads in seconds.

`transformers` can read GGUF itself, but does so anew on every load (about a minute for this model's vocabulary and
weights) and builds a wrong tokenizer. Here the tensors are dequantised once with the `gguf` library and kept as
float32 safetensors; every value is what `transformers` computes, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from nvfp4.demo.files import DemoError
from nvfp4.demo.tokenizer import save_tokenizer

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderTensor

__all__ = ["convert"]


def convert(file: Path, folder: Path, report: Callable[[str], None] = lambda _: None) -> None:
    """Write `config.json`, `model.safetensors` (float32), `tokenizer.json` and `tokenizer_config.json`.

    Args:
        file: a GGUF file of architecture `gemma3`, in any quantisation that the `gguf` library can undo.
        folder: an existing folder; what it holds under these names is replaced.
        report: called with one line before each step.

    Raises:
        DemoError: another architecture, a missing field, or tensors that are not those of the model.
    """
    report("reading the GGUF header and vocabulary")
    try:
        reader = gguf.GGUFReader(file)
    except (ValueError, OSError, IndexError) as error:
        raise DemoError(f"{file}: not a GGUF file ({error}); wanted a Gemma-3 text model in GGUF") from error
    field = _Fields(file, reader)
    if field("general.architecture") != "gemma3":
        raise DemoError(f"{file}: architecture {field('general.architecture')!r}; wanted 'gemma3'")
    config = _config(field)
    report("dequantising the weights to float32")
    weights = _weights(file, reader, config)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(folder)
    report("rebuilding the tokenizer")
    ids = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    save_tokenizer(
        folder,
        field("tokenizer.ggml.tokens"),
        field("tokenizer.ggml.scores"),
        field("tokenizer.ggml.token_type"),
        {name: int(field(f"tokenizer.ggml.{stored}_token_id")) for name, stored in ids.items()},
    )


class _Fields:
    """The file's metadata by name; a missing field is one clear error."""

    def __init__(self, file: Path, reader: GGUFReader) -> None:
        self._file = file
        self._reader = reader

    def __call__(self, name: str) -> Any:
        stored = self._reader.get_field(name)
        if stored is None:
            raise DemoError(f"{self._file}: no field {name!r}; wanted a complete Gemma-3 text model in GGUF")
        return stored.contents()


def _config(field: _Fields) -> Gemma3TextConfig:
    """The configuration; what GGUF leaves out (local rope base, 5:1 pattern, activation) is Gemma 3's default."""
    head_dim = int(field("gemma3.attention.key_length"))
    return Gemma3TextConfig(
        vocab_size=len(field("tokenizer.ggml.tokens")),
        hidden_size=int(field("gemma3.embedding_length")),
        intermediate_size=int(field("gemma3.feed_forward_length")),
        num_hidden_layers=int(field("gemma3.block_count")),
        num_attention_heads=int(field("gemma3.attention.head_count")),
        num_key_value_heads=int(field("gemma3.attention.head_count_kv")),
        head_dim=head_dim,
        query_pre_attn_scalar=head_dim,
        max_position_embeddings=int(field("gemma3.context_length")),
        rms_norm_eps=float(field("gemma3.attention.layer_norm_rms_epsilon")),
        sliding_window=int(field("gemma3.attention.sliding_window")),
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": float(field("gemma3.rope.freq_base"))},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
        bos_token_id=int(field("tokenizer.ggml.bos_token_id")),
        eos_token_id=int(field("tokenizer.ggml.eos_token_id")),
        pad_token_id=int(field("tokenizer.ggml.padding_token_id")),
        tie_word_embeddings=True,
        architectures=["Gemma3ForCausalLM"],
        dtype="float32",
    )


def _weights(file: Path, reader: GGUFReader, config: Gemma3TextConfig) -> dict[str, torch.Tensor]:
    """The model's state dict without the tied head. Gemma's norms compute 1 + w; GGUF stores the sum."""
    with torch.device("meta"):
        wanted = Gemma3ForCausalLM(config).state_dict()
    wanted.pop("lm_head.weight")
    stored: dict[str, ReaderTensor] = {tensor.name: tensor for tensor in reader.tensors}
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    weights = {}
    for name, meta in wanted.items():
        tensor = stored.pop(names.get_name(name, try_suffixes=(".weight",)) or name, None)
        if tensor is None:
            raise DemoError(f"{file}: no tensor for {name}; wanted a complete Gemma-3 text model in GGUF")
        value = torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type)))
        if value.shape != meta.shape:
            raise DemoError(f"{file}: {tensor.name} is {list(value.shape)}; wanted {list(meta.shape)} for {name}")
        weights[name] = value - 1.0 if name.endswith("norm.weight") else value
    if stored:
        raise DemoError(f"{file}: tensors without a place in the model: {', '.join(sorted(stored))}")
    return weights
