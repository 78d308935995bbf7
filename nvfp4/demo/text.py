"""The text that the demo scores: a file of the user's, or a few pages written for it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch

from nvfp4.demo.files import DemoError
from nvfp4.demo.model import DemoModel

__all__ = ["read_text", "windows_of"]


def read_text(path: Path | None) -> str:
    """The text of `path` (UTF-8), or the pages that come with the package if None.

    Raises:
        DemoError: the file cannot be read or is not UTF-8.
    """
    if path is None:
        return resources.files("nvfp4.demo").joinpath("prose.txt").read_text(encoding="utf-8")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DemoError(f"--text {path}: {error.strerror or error}; wanted a readable text file") from error
    except UnicodeDecodeError as error:
        raise DemoError(
            f"--text {path}: byte {error.start} is not UTF-8; wanted UTF-8 text. Convert it, for instance with "
            f"`iconv -t UTF-8`"
        ) from error


def windows_of(model: DemoModel, text: str, windows: int, window_tokens: int) -> list[torch.Tensor]:
    """Cut the beginning of `text` into consecutive windows, each with BOS in front.

    Args:
        model: whose tokenizer is used.
        text: what to cut.
        windows: how many, at least 1.
        window_tokens: tokens of text in each, at least 1; each is scored given those before it.

    Returns:
        `windows` tensors int64 [window_tokens + 1], or [window_tokens] for a tokenizer without BOS.

    Raises:
        DemoError: a count below 1, or a text that is too short.
    """
    if windows < 1 or window_tokens < (1 if model.bos else 2):
        raise DemoError(f"got {windows} windows of {window_tokens} tokens; wanted at least one window of two tokens")
    # A token is seldom longer than 16 characters, so a long file need not be tokenised to its end.
    ids = model.encode(text[: windows * window_tokens * 16])
    if len(ids) < windows * window_tokens:
        raise DemoError(
            f"the text has {len(ids)} tokens; wanted {windows} windows of {window_tokens} = {windows * window_tokens}. "
            "Give a longer text, or fewer or shorter windows (--windows, --window-tokens)"
        )
    starts = range(0, windows * window_tokens, window_tokens)
    return [torch.tensor([*model.bos, *ids[start : start + window_tokens]]) for start in starts]
