"""What first calls cost: who counts, who asks, and the table; the calls themselves on a GPU."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

import gpu_rows
from nvfp4 import backends
from nvfp4.bench import first_call
from nvfp4.bench.results import write_csv

SERVED = backends.BACKENDS["triton"].supports(backends.Desc("linear", "cuda"))[0]


def made_up(folder: Path, n: int, k: int) -> list[tuple[str, int, float, int]]:
    """Compiles a kernel for every power of two, unless it is in the folder."""

    def call(m: int) -> None:
        clock[0] += 0.5
        file = folder / f"hash{m.bit_length()}" / "kernel.cubin"
        if m & (m - 1) == 0 and not file.exists():
            file.parent.mkdir()
            file.touch()
            clock[0] += 2.0

    clock = [0.0]
    steps = [("first", 1), ("first", 16), *(("loop", m) for m in range(1, 9))]
    calls = [(step, m, lambda m=m: call(m)) for step, m in steps]
    return list(first_call.take(calls, folder, lambda: None, lambda: clock[0]))


def test_kernels_are_counted_by_what_comes_into_the_cache() -> None:
    steps = first_call.measure(64, 32, made_up)
    empty = [step for step in steps if step.cache == "empty"]
    assert [(step.m, step.kernels) for step in empty if step.step == "first"] == [(1, 1), (16, 1)]
    assert [step.m for step in empty if step.step == "loop" and step.kernels] == [2, 4, 8]
    assert [step.seconds for step in empty[:3]] == [2.5, 2.5, 0.5]
    filled = [step for step in steps if step.cache == "filled"]
    assert sum(step.kernels for step in filled) == 0
    assert {step.seconds for step in filled} == {0.5}
    assert {(step.n, step.k) for step in steps} == {(64, 32)}


def test_the_table_and_the_file(tmp_path) -> None:
    steps = first_call.measure(64, 32, made_up)
    console = Console(width=160, file=io.StringIO())
    console.print(first_call.render(steps))
    text = console.file.getvalue()
    for words in (
        *("N 64  K 32", "M = 16", "2,500", "500", "then 8 numbers of tokens from 1 to 8", "10,000", "4,000"),
        "distinct kernels: 5, of which the growing loop compiled 3: at M = 2, 4, 8 and no other",
    ):
        assert words in text, words
    path = tmp_path / "rows.first-call.csv"
    write_csv(path, steps, gpu_rows.MACHINE, first_call.COLUMNS)
    with path.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert len(read) == 20
    assert (read[0]["cache"], read[0]["kernels"], read[0]["gpu"]) == ("empty", "1", "a card, of paper")


def test_a_loop_that_compiles_nothing_says_so() -> None:
    console = Console(width=160, file=io.StringIO())
    steps = [first_call.Step(cache, "loop", 1, 16, 16, 0.1, 0) for cache in ("empty", "filled")]
    console.print(first_call.render(steps))
    assert "the growing loop compiled 0: none" in console.file.getvalue()


def test_the_calls_are_those_of_a_loop_that_generates() -> None:
    assert list(first_call.LOOP) == sorted(set(first_call.LOOP))
    assert {1, 2, 64, 65, 512, 513, 1024} <= set(first_call.LOOP)
    steps = first_call.calls(32, 64, "cpu", "cpu")
    with backends.force("cpu"):
        taken = list(first_call.take(steps, Path("/nonexistent"), lambda: None))
    assert [(step, m) for step, m, _, _ in taken] == [
        ("prepare", 0), *(("first", m) for m in first_call.TOKENS), *(("loop", m) for m in first_call.LOOP)
    ]  # fmt: skip
    assert all(seconds > 0 and kernels == 0 for _, _, seconds, kernels in taken)


def test_a_process_that_fails_is_quoted(monkeypatch) -> None:
    def failing(command, **_):
        return subprocess.CompletedProcess(command, 3, "", "one\ntwo\nRuntimeError: no such thing\n")

    monkeypatch.setattr(first_call.subprocess, "run", failing)
    with pytest.raises(RuntimeError, match=r"ended with 3:\none\ntwo\nRuntimeError: no such thing"):
        first_call.measure(16, 16)


def test_the_process_is_this_module_and_its_last_line_the_steps(monkeypatch, tmp_path) -> None:
    def succeeding(command, **_):
        assert command[:3] == [sys.executable, "-m", "nvfp4.bench.first_call"]
        assert command[4:] == ["16", "32"]
        return subprocess.CompletedProcess(command, 0, 'a warning\n[["first", 1, 0.25, 7]]\n', "")

    monkeypatch.setattr(first_call.subprocess, "run", succeeding)
    assert first_call.measure(16, 32)[0] == first_call.Step("empty", "first", 1, 16, 32, 0.25, 7)


def test_the_process_prints_what_it_measured(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "elsewhere")
    monkeypatch.setattr(sys, "argv", ["first_call", str(tmp_path), "16", "32"])
    monkeypatch.setattr(first_call, "calls", lambda n, k: [("first", n + k, lambda: (tmp_path / "a.cubin").touch())])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    first_call.main()
    assert first_call.os.environ["TRITON_CACHE_DIR"] == str(tmp_path)
    (step,) = first_call.json.loads(capsys.readouterr().out)
    assert (step[0], step[1], step[3]) == ("first", 48, 1)


@pytest.mark.skipif(SERVED, reason="Triton serves here")
def test_without_triton_it_says_why() -> None:
    with pytest.raises(RuntimeError, match="--first-call is of the Triton backend, which serves nothing here: "):
        first_call.check_served()


@pytest.mark.skipif(not SERVED, reason="no GPU that Triton serves")
def test_on_a_gpu_the_kernels_are_few_and_the_cache_holds_them() -> None:
    first_call.check_served()
    steps = first_call.measure(640, 2048)
    compiled = {
        cache: [step for step in steps if step.cache == cache and step.kernels] for cache in ("empty", "filled")
    }
    assert 0 < sum(step.kernels for step in compiled["empty"]) <= 20  # 11 of Gemma-4-31B's down on an H100
    assert compiled["filled"] == []
