"""A tiny Gemma-3 as a GGUF file, whole and cut into fake packages: no network and no real model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import gguf
import numpy as np
import pytest

from nvfp4.demo.parts import SplitFile

HIDDEN, FFN, LAYERS, HEADS, HEAD_DIM = 64, 96, 2, 2, 32
WORDS = [
    "▁l",
    "▁t",
    "he",
    "▁the",
    "in",
    "▁a",
    "▁light",
    "house",
    "▁s",
    "ea",
    "▁sea",
    "▁li",
    "gh",
    "ght",
    "ho",
    "us",
    "se",
    "hous",
]


def vocabulary() -> tuple[list[str], list[float], list[int]]:
    """Pieces, scores and types as a GGUF writer stores them."""
    pieces, types = ["<pad>", "<eos>", "<bos>", "<unk>"], [3, 3, 3, 3]
    pieces += ["\n", "\n\n", "  "]
    types += [4, 4, 4]
    pieces += [f"<0x{byte:02X}>" for byte in range(256)]
    types += [6] * 256
    scores = [-1000.0] * 7 + [0.0] * 256
    normal = WORDS + sorted({letter for word in WORDS for letter in word} | set("abcdefghijklmnopqrstuvwxyz.,▁"))
    pieces += normal
    types += [1] * len(normal)
    scores += [-float(rank) for rank in range(len(normal))]
    return pieces, scores, types


def tensor_shapes(vocabulary_size: int) -> dict[str, tuple[int, ...]]:
    """Shapes by GGUF name."""
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (vocabulary_size, HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        block = {
            "attn_q": (HEADS * HEAD_DIM, HIDDEN),
            "attn_k": (HEAD_DIM, HIDDEN),
            "attn_v": (HEAD_DIM, HIDDEN),
            "attn_output": (HIDDEN, HEADS * HEAD_DIM),
            "ffn_gate": (FFN, HIDDEN),
            "ffn_up": (FFN, HIDDEN),
            "ffn_down": (HIDDEN, FFN),
            "attn_q_norm": (HEAD_DIM,),
            "attn_k_norm": (HEAD_DIM,),
            "attn_norm": (HIDDEN,),
            "post_attention_norm": (HIDDEN,),
            "ffn_norm": (HIDDEN,),
            "post_ffw_norm": (HIDDEN,),
        }
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes


def write_gguf(
    path: Path, *, architecture: str = "gemma3", leave_out: str = "", extra: dict[str, tuple[int, ...]] | None = None
) -> dict[str, np.ndarray]:
    """Write the model (matrices in Q8_0, norms in F32) and return the values a reader must find."""
    pieces, scores, types = vocabulary()
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    if leave_out != "sliding_window":
        writer.add_sliding_window(16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(pieces)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    values = {}
    for name, shape in (tensor_shapes(len(pieces)) | (extra or {})).items():
        if name == leave_out:
            continue
        value = (random.standard_normal(shape) * 0.3 + (1.0 if len(shape) == 1 else 0.0)).astype(np.float32)
        if len(shape) == 1:
            writer.add_tensor(name, value)
        else:
            packed = gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
            value = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
        values[name] = value
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def split_into_packages(file: Path, site: Path, prefix: str) -> SplitFile:
    """Cut `file` into two importable packages under `site`, and a third that holds the terms."""
    content = file.read_bytes()
    half = len(content) // 2 + 1
    parts = []
    for index, piece in enumerate((content[:half], content[half:])):
        data = site / f"{prefix}_part{index}" / "data"
        data.mkdir(parents=True)
        (data.parent / "__init__.py").write_text("raise AssertionError('data packages need not be imported')\n")
        (data / f"part{index}").write_bytes(piece)
        parts.append((data.parent.name, f"data/part{index}"))
    (site / prefix).mkdir()
    (site / prefix / "__init__.py").touch()
    (site / prefix / "TERMS.html").write_text("terms")
    return SplitFile("tiny.gguf", tuple(parts), hashlib.sha256(content).hexdigest(), (prefix, "TERMS.html"))


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return path, write_gguf(path)


@pytest.fixture(scope="session")
def tiny_folder(tiny_gguf: tuple[Path, dict[str, np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    from nvfp4.demo.gguf_model import convert

    folder = tmp_path_factory.mktemp("tiny-gemma")
    convert(tiny_gguf[0], folder)
    return folder


@pytest.fixture
def source(tiny_gguf: tuple[Path, dict[str, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SplitFile:
    """The tiny model in installed parts, and an empty cache."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("NVFP4_CACHE", str(tmp_path / "cache"))
    return split_into_packages(tiny_gguf[0], tmp_path / "site", f"tiny_demo_{tmp_path.name.replace('-', '_')}")


@pytest.fixture
def lines() -> list[str]:
    """Collects what is reported: pass `lines.append`."""
    return []
