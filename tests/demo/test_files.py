"""Files that appear whole or not at all."""

from pathlib import Path

import pytest

from nvfp4.demo.files import DemoError, file_beside, make_folder


def test_a_file_is_replaced_only_when_complete(tmp_path: Path) -> None:
    target = tmp_path / "demo.json"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), file_beside(target) as path:  # noqa: PT012 - the block is what is tested
        path.write_text("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
    with file_beside(target) as path:
        assert path.suffix == target.suffix
        path.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_cannot_be_put_in_place(tmp_path: Path) -> None:
    target = tmp_path / "demo.json"
    target.mkdir()
    with pytest.raises(DemoError, match=r"cannot write .*demo\.json"), file_beside(target) as path:
        path.write_text("new")
    assert list(tmp_path.iterdir()) == [target]


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DemoError, match=r"the results folder .*Give another"):
        make_folder(tmp_path / "file", "the results folder", "Give another --out folder")
    make_folder(tmp_path / "a" / "b", "x", "y")
    assert not list((tmp_path / "a" / "b").iterdir())
