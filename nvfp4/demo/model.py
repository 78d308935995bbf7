"""The demo's model: Gemma 3 270M from installed packages, kept in the cache folder, or any local folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nvfp4 import env
from nvfp4.demo.files import DemoError, folder_beside, make_folder
from nvfp4.demo.parts import GEMMA_3_270M, SplitFile, require_extra

__all__ = ["DemoModel", "assemble", "load"]

_FOLDER = "gemma-3-270m-float32-v1"
"""The cached folder; the number changes with the conversion, so an older cache is never taken for a newer one."""

_SHOWN = "gemma-terms-shown"
_COMPLETE = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class DemoModel:
    """A float32 causal language model in eval mode, its tokenizer, and what to call it."""

    model: nn.Module
    tokenizer: Any
    name: str

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without BOS or other special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    @property
    def bos(self) -> list[int]:
        """The BOS token as a list, empty for a tokenizer without one. Gemma's likelihoods are wrong without it."""
        return [] if self.tokenizer.bos_token_id is None else [int(self.tokenizer.bos_token_id)]


def load(path: Path | None, report: Callable[[str], None]) -> DemoModel:
    """The model in the folder `path`, or Gemma 3 270M if None (assembled on its first use).

    Args:
        path: a folder in Hugging Face's layout, read locally; nothing is ever downloaded.
        report: called with one line before each longer step.

    Raises:
        DemoError: a missing extra, a folder that holds no causal language model, or an unwritable cache.
    """
    if path is None:
        return _from_folder(assemble(report), "Gemma 3 270M (dequantised Q4_K_M)")
    require_extra()
    if not (path / "config.json").is_file():
        raise DemoError(f"--model {path}: no config.json there; wanted a local folder in Hugging Face's layout")
    return _from_folder(path, path.resolve().name)


def assemble(report: Callable[[str], None], source: SplitFile = GEMMA_3_270M) -> Path:
    """The cached folder of the demo model, made from the installed parts if it is not there yet.

    The folder appears whole or not at all, so an interrupted run leaves nothing that a later one would trust.

    Args:
        report: called with one line before each step; the licence terms are named through it, once per cache.
        source: the file and the packages that hold it.

    Raises:
        DemoError: a missing extra, a damaged part, or an unwritable cache.
    """
    cache = env.cache_dir()
    folder = cache / _FOLDER
    if all((folder / name).is_file() for name in _COMPLETE):
        return folder
    require_extra(source=source)
    make_folder(cache, "the cache folder", "Set NVFP4_CACHE to another folder")
    if folder.exists():
        raise DemoError(f"{folder}: incomplete, wanted {', '.join(_COMPLETE)}. Remove the folder and run again")
    _show_terms(cache / _SHOWN, source, report)

    from nvfp4.demo.gguf_model import convert

    with folder_beside(folder) as partial:
        report(f"joining and checking {source.name}")
        gguf_file = partial / source.name
        source.join(gguf_file)
        convert(gguf_file, partial, report)
        gguf_file.unlink()
    return folder


def _show_terms(marker: Path, source: SplitFile, report: Callable[[str], None]) -> None:
    if marker.exists():
        return
    report("Gemma is provided under and subject to the Gemma Terms of Use, https://ai.google.dev/gemma/terms")
    report(f"(installed copy: {source.terms_path()}). By using the model you accept them.")
    marker.touch()


def _from_folder(folder: Path, name: str) -> DemoModel:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    logging: Any = transformers_logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        load: Any = AutoModelForCausalLM.from_pretrained
        model, loaded = load(folder, dtype=torch.float32, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise DemoError(
            f"{folder}: {error}; wanted a causal language model and its tokenizer. If nvfp4 made this folder, remove "
            "it and run again"
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    missing = sorted(loaded["missing_keys"])
    if missing:
        raise DemoError(
            f"{folder}: the checkpoint lacks {len(missing)} of the model's tensors, such as {missing[0]}, which would "
            "be random; wanted an unquantised checkpoint (quantised ones cannot be read yet: pass the original's "
            "folder and --recipe)"
        )
    model.requires_grad_(False)
    return DemoModel(model.train(False), tokenizer, name)
