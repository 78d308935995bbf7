"""`nvfp4 tune` as a user types it."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from nvfp4 import _C
from nvfp4.backends import sm120_tuning
from nvfp4.bench import families, tuning
from nvfp4.cli import app, main, probes
from nvfp4.tuning import Key, Store

PRO6000 = _C.dispatch.Gpu(188, 2.4e9, 1.79e12)
SM120 = families.FAMILIES[0]


def invoke(*arguments):
    return CliRunner().invoke(app, ["tune", *arguments], catch_exceptions=False)


def error_of(monkeypatch, capsys, *arguments, printed="") -> str:
    monkeypatch.setattr("sys.argv", ["nvfp4", "tune", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == printed
    assert captured.err.startswith("nvfp4: error: ")
    return captured.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU says something else")
@pytest.mark.parametrize("arguments", [(), ("--shape", "128,128", "--tokens", "512")])
def test_without_a_gpu_it_says_why_and_prints_no_number(arguments, monkeypatch, capsys) -> None:
    error = error_of(monkeypatch, capsys, *arguments)
    assert "torch sees no GPU" in error or "no CUDA part" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "64"], "--shape: got '64'"),
        (["--shape", "64,20"], "multiple of 16"),
        (["--tokens", "one"], "--tokens: got 'one'"),
        (["--show", "--clear"], "wanted one of them"),
    ],
)
def test_bad_options(arguments, message, monkeypatch, capsys) -> None:
    assert message in error_of(monkeypatch, capsys, *arguments)


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A GPU that is not here, on which every candidate takes as long as predicted."""
    monkeypatch.setenv("NVFP4_CACHE", str(tmp_path))
    found = Store(Key("GPU", "580", "0.1.0"), "sm120", partial(sm120_tuning.refusal, gpu=PRO6000))
    monkeypatch.setattr(sm120_tuning, "store", lambda index: found)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(families, "_kernels", SimpleNamespace(gpu=lambda index: PRO6000))
    monkeypatch.setattr(tuning, "family", lambda: SM120)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(SM120, "weights", lambda n, k: [torch.empty(0)])

    def measure(of, problem, plans, weights):
        return {name: of.predicted(plan) for name, plan in plans.items()}

    monkeypatch.setattr(tuning, "measure", measure)
    return found


def test_measure_show_clear(store) -> None:
    assert "nothing is stored" in invoke("--show").output
    result = invoke("--shape", "5376,21504", "--tokens", "16,512,2048")
    assert result.exit_code == 0
    assert "fastest" in result.output
    assert f"problems stored: 2, in {store.key.path}" in result.output
    assert {problem.m for problem in store.load()} == {512, 2048}
    assert invoke("--tokens", "1024").exit_code == 0
    shown = invoke("--show")
    assert "43008" in shown.output
    assert "problems stored: 4" in shown.output
    assert f"removed {store.key.path}" in invoke("--clear").output
    assert "nothing to remove" in invoke("--clear").output
    assert store.load() == {}


def test_without_a_gpu_it_shows_what_is_stored_for_others(store, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for argument in ("--show", "--clear"):
        result = invoke(argument)
        assert result.exit_code == 0
        assert f"nothing is stored: no tuning file in {tmp_path}" in result.stderr
        assert result.stdout == ""
    invoke("--shape", "5376,21504", "--tokens", "512,2048")
    damaged = tmp_path / "tuning-other.json"
    damaged.write_text("{")
    shown = invoke("--show").stdout
    assert f"{store.key.path}: GPU, driver 580, nvfp4 0.1.0, problems: 2\n" in shown
    assert f"{damaged}: Invalid JSON" in shown
    assert "remove them by hand" in error_of(monkeypatch, capsys, "--clear", printed=shown)
    assert store.key.path.exists()


def test_only_streamed_tokens_store_nothing(store) -> None:
    result = invoke("--tokens", "1,256")
    assert result.exit_code == 0
    assert "nothing is stored" in result.output
    assert not store.key.path.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU says something else")
def test_info_says_why_nothing_is_tuned() -> None:
    assert probes._tuning().startswith("none: there is nothing to choose from. SM120's matrix products: ")


def test_info_names_the_file(store) -> None:
    assert probes._tuning() == {"cuda:0": f"none: `nvfp4 tune` makes {store.key.path}"}
    invoke("--shape", "5376,21504", "--tokens", "512")
    assert probes._tuning() == {"cuda:0": f"problems: 1, in {store.key.path}"}
    store.key.path.write_text("{")
    assert probes._tuning()["cuda:0"].startswith(f"ignored: {store.key.path}: Invalid JSON")


def test_a_damaged_file_is_shown_as_an_error(store, monkeypatch, capsys) -> None:
    store.key.path.write_text("{")
    assert "Invalid JSON" in error_of(monkeypatch, capsys, "--show")
