"""`nvfp4 bench` as a user types it."""

import csv

import pytest
from typer.testing import CliRunner

from nvfp4.bench import runner as runner_module
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
