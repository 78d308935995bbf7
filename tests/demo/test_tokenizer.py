"""The tokenizer rebuilt from pieces, scores and types."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from nvfp4.demo.files import DemoError
from nvfp4.demo.tokenizer import PieceType, merges_of, save_tokenizer

N, U, C = PieceType.NORMAL, PieceType.USER_DEFINED, PieceType.CONTROL
SPECIAL = {"bos": 2, "eos": 1, "pad": 0, "unk": 3}


def test_merges_come_by_score_then_by_the_lengths_of_the_halves() -> None:
    pieces = ["ab", "abc", "bc", "a", "b", "c"]
    merges = merges_of(pieces, [-2.0, -1.0, -3.0, -4.0, -5.0, -6.0], [N] * 6)
    assert merges == [("ab", "c"), ("a", "bc"), ("a", "b"), ("b", "c")]


def test_user_defined_pieces_merge_first_whatever_score_is_stored() -> None:
    pieces = ["xx", "ab", "x", "a", "b"]
    assert merges_of(pieces, [-1000.0, 0.5, -3.0, -4.0, -5.0], [U, N, N, N, N]) == [("a", "b"), ("x", "x")]
    assert merges_of(pieces, [-1000.0, -2.0, -3.0, -4.0, -5.0], [U, N, N, N, N]) == [("x", "x"), ("a", "b")]


def test_control_and_byte_pieces_are_never_made_by_merging() -> None:
    assert merges_of(["ab", "cd", "a", "b", "c", "d"], [0.0] * 6, [C, PieceType.BYTE, N, N, N, N]) == []


def _load(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture
def tokenizer(tiny_folder: Path) -> Tokenizer:
    return _load(tiny_folder)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("in the sea", ["in", "▁the", "▁sea"]),
        (" lighthouse", ["▁light", "house"]),
        ("a\n\nb", ["a", "\n\n", "b"]),
        ("a  b", ["a", "▁▁", "b"]),
        ("a   b", ["a", "▁▁", "▁", "b"]),
        ("é", ["<0xC3>", "<0xA9>"]),
        ("<bos>a", ["<bos>", "a"]),
        ("", []),
    ],
)
def test_pieces(tokenizer: Tokenizer, text: str, tokens: list[str]) -> None:
    encoded = tokenizer.encode(text, add_special_tokens=False)
    assert encoded.tokens == tokens
    if "<" not in text:
        assert tokenizer.decode(encoded.ids) == text


def test_bos_comes_first_when_special_tokens_are_asked_for(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("a").ids[0] == SPECIAL["bos"]


def test_auto_tokenizer_reads_the_folder(tiny_folder: Path, tokenizer: Tokenizer) -> None:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tiny_folder, local_files_only=True)
    text = "the lighthouse\n\nin  a sea é."
    assert loaded(text, add_special_tokens=False)["input_ids"] == tokenizer.encode(text, add_special_tokens=False).ids
    assert (loaded.bos_token_id, loaded.eos_token_id, loaded.pad_token_id, loaded.unk_token_id) == (2, 1, 0, 3)


def test_damaged_vocabularies(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="got 2 pieces, 1 scores and 2 types"):
        save_tokenizer(tmp_path, ["a", "b"], [0.0], [1, 1], SPECIAL)
    with pytest.raises(DemoError, match="1 repeated pieces"):
        save_tokenizer(tmp_path, ["a", "b", "c", "d", "a"], [0.0] * 5, [1] * 5, SPECIAL)
    with pytest.raises(DemoError, match="ids below 2"):
        save_tokenizer(tmp_path, ["a", "b"], [0.0] * 2, [1] * 2, SPECIAL)
    assert not list(tmp_path.iterdir())
