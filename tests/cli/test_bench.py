"""`nvfp4 bench` as a user types it."""

import csv

import pytest
import torch
from typer.testing import CliRunner

import gpu_rows
from nvfp4.bench import first_call, gpu_bench, gpu_place
from nvfp4.bench import runner as runner_module
from nvfp4.bench.gpu_cases import OPS
from nvfp4.bench.gpu_results import COLUMNS as GPU_COLUMNS
from nvfp4.bench.results import COLUMNS
from nvfp4.cli import app, main


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(runner_module, "cold_bytes", lambda _: 1 << 16)


def test_a_tiny_run_writes_table_csv_and_picture(tmp_path):
    pytest.importorskip("matplotlib")
    rows, picture = tmp_path / "rows.csv", tmp_path / "rows.png"
    arguments = [
        "bench",
        "--shape",
        "64,64",
        "--m",
        "1,2",
        "--threads",
        "1",
        "--quick",
        "--csv",
        str(rows),
        "--png",
        str(picture),
    ]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "linear-" not in result.output.splitlines()[0]
    assert "the price of a call" in result.output
    with rows.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == COLUMNS
    assert {row["m"] for row in read} == {"1", "2"}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_gpu_writes_its_table_its_rows_and_its_first_calls(tmp_path, monkeypatch):
    asked = []

    def run(cases, place, settings, progress):
        asked.append((place, settings.backend, settings.budget.rounds))
        return gpu_bench.GpuReport(gpu_rows.MACHINE, [gpu_rows.row(case) for case in cases], ["left out"])

    steps = [first_call.Step(cache, "loop", 7, 64, 32, 0.1, 2) for cache in ("empty", "filled")]
    monkeypatch.setattr(gpu_place, "gpu", lambda: "here")
    monkeypatch.setattr(gpu_bench, "run", run)
    monkeypatch.setattr(first_call, "check_served", lambda: None)
    monkeypatch.setattr(first_call, "measure", lambda n, k: steps if (n, k) == (64, 32) else None)
    rows = tmp_path / "rows.csv"
    arguments = ["bench", "--backend", "triton", "--shape", "64,32", "--m", "1,3", "--csv", str(rows), "--quick"]
    result = CliRunner().invoke(app, [*arguments, "--first-call"], catch_exceptions=False)
    assert result.exit_code == 0
    assert asked == [("here", "triton", 5)]  # a backend of the GPU's means the GPU
    for words in ("linear  N 64  K 32", "note: left out", "the growing loop compiled 2: at M = 7", "rows written to"):
        assert words in result.output
    with rows.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == GPU_COLUMNS
    assert len(read) == 2 * len(OPS)
    with (tmp_path / "rows.first-call.csv").open(newline="") as file:
        assert [row["kernels"] for row in csv.DictReader(file)] == ["2", "2"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU measures")
@pytest.mark.parametrize("options", [["--device", "cuda"], ["--backend", "triton", "--first-call"]])
def test_without_a_gpu_it_says_so(options, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["nvfp4", "bench", *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    assert "--device cuda needs a GPU, and torch sees none" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shape", "64"], "--shape: got '64'"),
        (["--shape", "64,20"], "multiple of 16"),
        (["--m", "one"], "--m: got 'one'"),
        (["--dtype", "int8"], "--dtype: got 'int8'"),
        (["--op", "gemm"], "--op: got 'gemm'"),
        (["--backend", "abacus", "--quick"], "got 'abacus'"),
        (["--csv", "/nowhere/at/all.csv"], "/nowhere/at does not exist"),
        (["--csv", "/"], "is a folder"),
        (["--device", "tpu"], "--device: got 'tpu', wanted one of cpu, cuda"),
        (["--first-call"], "it needs --device cuda"),
        (["--device", "cuda", "--threads", "2"], "--threads and --png are of the CPU"),
        (["--device", "cuda", "--png", "rows.png"], "--threads and --png are of the CPU"),
        (["--device", "cuda", "--op", "quantize"], "--op: got 'quantize', wanted one of linear-w4a4-row"),
        (["--device", "cuda", "--dtype", "float32"], "--dtype: got 'float32', wanted one of bfloat16, float16"),
    ],
)
def test_bad_options_are_one_line_and_exit_code_1(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["nvfp4", "bench", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    errors = capsys.readouterr().err
    assert errors.startswith("nvfp4: error: ")
    assert message in errors
    assert "Traceback" not in errors
