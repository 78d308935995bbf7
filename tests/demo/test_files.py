"""Files that appear whole or not at all."""

import os
import time
from pathlib import Path

import pytest

from nvfp4.demo.files import DemoError, file_beside, folder_beside, make_folder


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


def test_what_a_killed_run_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    old, young, foreign = (tmp_path / name for name in (".partial-[a]-old", ".partial-[a]-young", ".partial-a-old"))
    for path in (old, young, foreign):
        path.mkdir()
    for path in (old, foreign):
        os.utime(path, (time.time() - 7200, time.time() - 7200))
    with folder_beside(tmp_path / "[a]") as path:
        (path / "file").touch()
    assert (tmp_path / "[a]" / "file").exists()
    assert not old.exists()
    assert young.exists(), "another process may be writing it"
    assert foreign.exists(), "the folder may be shared with another program"
