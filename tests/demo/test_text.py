"""The text to score and how it is cut."""

from pathlib import Path

import pytest

from nvfp4.demo.files import DemoError
from nvfp4.demo.model import DemoModel, load
from nvfp4.demo.text import read_text, windows_of


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> DemoModel:
    return load(tiny_folder, print)


def test_the_built_in_pages_are_plain_english() -> None:
    text = read_text(None)
    assert len(text) > 16_000
    assert text.isascii()
    assert "lighthouse" in text


def test_windows_follow_each_other_with_bos_in_front(model: DemoModel) -> None:
    text = read_text(None)
    windows = windows_of(model, text, 3, 50)
    assert [len(window) for window in windows] == [51, 51, 51]
    assert all(int(window[0]) == 2 for window in windows)
    assert [int(token) for window in windows for token in window[1:]] == model.encode(text)[:150]


def test_a_short_text_and_silly_counts(model: DemoModel) -> None:
    with pytest.raises(DemoError, match=r"the text has \d+ tokens; wanted 4 windows of 1023 = 4092"):
        windows_of(model, "the sea", 4, 1023)
    for windows, tokens in ((0, 10), (1, 0), (-1, 5)):
        with pytest.raises(DemoError, match="wanted at least one window"):
            windows_of(model, "the sea", windows, tokens)


def test_unreadable_texts(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="No such file"):
        read_text(tmp_path / "absent.txt")
    with pytest.raises(DemoError, match="wanted a readable text file"):
        read_text(tmp_path)
    (tmp_path / "latin.txt").write_bytes("Café".encode("latin-1"))
    with pytest.raises(DemoError, match="byte 3 is not UTF-8"):
        read_text(tmp_path / "latin.txt")
