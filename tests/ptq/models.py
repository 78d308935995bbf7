"""Tiny random models with the architectures that matter; names and shapes are real, the numbers are not."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    Gemma4VisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

VOCABULARY = 128

_SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 2,
    "eos_token_id": 1,
}  # fmt: skip


def gemma3(layers: int = 2) -> nn.Module:
    """The head is tied to the embedding."""
    return Gemma3ForCausalLM(Gemma3TextConfig(**_SIZES, num_hidden_layers=layers)).bfloat16().eval()


def gemma4() -> nn.Module:
    """Three layers, the last one global and without a v_proj, and a vision tower of two, built as the 31B model is."""
    text = Gemma4TextConfig(
        **_SIZES, num_hidden_layers=3, global_head_dim=32, num_global_key_value_heads=1, attention_k_eq_v=True,
        hidden_size_per_layer_input=0, num_kv_shared_layers=0, sliding_window=16, enable_moe_block=False,
    )  # fmt: skip
    vision = Gemma4VisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        head_dim=16, patch_size=4, pooling_kernel_size=2, position_embedding_size=64,
    )  # fmt: skip
    return Gemma4ForConditionalGeneration(Gemma4Config(text_config=text, vision_config=vision)).bfloat16().eval()


def llama() -> nn.Module:
    """Two layers, the head not tied."""
    return LlamaForCausalLM(LlamaConfig(**_SIZES, num_hidden_layers=2, tie_word_embeddings=False)).eval()


MODELS = {"gemma3": gemma3, "gemma4": gemma4, "llama": llama}


def tokens(length: int = 20, seed: int = 0) -> Tensor:
    """[1, length] token ids without special ones."""
    return torch.randint(3, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))


class Toy(nn.Module):
    """Embedding, two Linears and a head: tokens in, logits out."""

    def __init__(self, tied: bool = False, k: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, k)
        self.first = nn.Linear(k, 64)
        self.second = nn.Linear(64, k)
        self.head = nn.Linear(k, VOCABULARY, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        return self.head(x + self.second(torch.relu(self.first(x))))
