"""Gemma's tokenizer, rebuilt from the vocabulary inside a GGUF file.

A GGUF file holds a SentencePiece BPE as pieces, scores and types, and no merges. Every way to cut a piece into two
other pieces is a merge; its rank follows the piece's score, then the lengths of the halves. For Gemma 3 this gives
Google's 514,906 merges in their own order. The conversion inside `transformers` 5 loses them and splits text into
characters.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from nvfp4.demo.files import DemoError

__all__ = ["PieceType", "merges_of", "save_tokenizer"]

_SPACE = "\u2581"


class PieceType(IntEnum):
    """`tokenizer.ggml.token_type`, as SentencePiece numbers them."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


def merges_of(pieces: Sequence[str], scores: Sequence[float], types: Sequence[int]) -> list[tuple[str, str]]:
    """All merges of a SentencePiece BPE vocabulary, the first to apply first.

    Args:
        pieces: every piece, by id.
        scores: its score; a better one merges earlier. User-defined pieces count as 0, the best, as in
            SentencePiece: GGUF writers store -1000 for them.
        types: its `PieceType`. Control and byte pieces are never merged into.
    """
    known = set(pieces)
    found: list[tuple[float, int, int, str, str]] = []
    for piece, score, kind in zip(pieces, scores, types, strict=True):
        if kind not in (PieceType.NORMAL, PieceType.USER_DEFINED):
            continue
        rank = 0.0 if kind == PieceType.USER_DEFINED else score
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in known and right in known:
                found.append((rank, len(left), len(right), left, right))
    # The sort is stable, so equal ranks keep the order of their ids.
    found.sort(key=lambda merge: merge[:3], reverse=True)
    return [(left, right) for *_, left, right in found]


def save_tokenizer(
    folder: Path,
    pieces: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    special: dict[str, int],
) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json`, which `transformers.AutoTokenizer` loads.

    Args:
        folder: an existing folder.
        pieces: every piece as stored in the GGUF file, by id.
        scores: its score (see `merges_of`).
        types: its `PieceType`.
        special: ids of "bos", "eos", "pad" and "unk".

    Raises:
        DemoError: the three lists differ in length, pieces repeat, or a special id is outside the vocabulary.
    """
    if not len(pieces) == len(scores) == len(types):
        raise DemoError(
            f"tokenizer: got {len(pieces)} pieces, {len(scores)} scores and {len(types)} types; wanted as many of "
            "each. The GGUF file is damaged or not a SentencePiece model"
        )
    # GGUF writers turn the space mark of user-defined pieces back into a space; the rules below need the mark.
    marked = [
        piece.replace(" ", _SPACE) if kind == PieceType.USER_DEFINED else piece
        for piece, kind in zip(pieces, types, strict=True)
    ]
    vocabulary = {piece: index for index, piece in enumerate(marked)}
    if len(vocabulary) != len(marked) or not all(0 <= index < len(marked) for index in special.values()):
        raise DemoError(
            f"tokenizer: {len(marked) - len(vocabulary)} repeated pieces, special ids {special}; wanted distinct "
            f"pieces and ids below {len(marked)}. The GGUF file is damaged or not a SentencePiece model"
        )
    names = {f"{name}_token": marked[index] for name, index in special.items()}
    merges = merges_of(marked, scores, types)
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token=names["unk_token"], fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    bos = names["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, special["bos"])]
    )
    by_type = list(zip(marked, types, strict=True))
    control = [
        AddedToken(piece, normalized=False, special=True) for piece, kind in by_type if kind == PieceType.CONTROL
    ]
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens([AddedToken(p, normalized=False) for p, kind in by_type if kind == PieceType.USER_DEFINED])
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
