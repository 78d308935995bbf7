"""Rows, roofline arithmetic and the CSV file."""

import csv

import pytest

from nvfp4.bench.cases import Case
from nvfp4.bench.machine import Machine
from nvfp4.bench.results import COLUMNS, Peaks, check_writable, make_row, write_csv
from nvfp4.bench.timing import Samples

PEAKS = Peaks(read_gbs=10.0, dot_gmacs=100.0, float_gmacs=50.0, memcpy_gbs=20.0)
MACHINE = Machine("CPU, with a comma", "avx2", 2, 1 << 25, 0.25, "2.13.0", "0.1.0", "abc", "2026-01-01T00:00:00+00:00")


def row(case, us, peers=(None, None, None)):
    return make_row(case, "cpu", "cpu/avx2/linear/w4a4", Samples((us,)), peers, PEAKS, case.command)


def test_memory_bounds_one_token_and_arithmetic_many():
    one, many = Case("linear-w4a4", 1, 1600, 1600), Case("linear-w4a4", 256, 1600, 1600)
    assert PEAKS.roofline(one) == (pytest.approx(one.bytes / 10e3), "memory")
    assert PEAKS.roofline(many) == (pytest.approx(many.macs / 100e3), "compute")
    assert PEAKS.roofline(Case("linear-w4a16", 256, 1600, 1600))[0] == pytest.approx(many.macs / 50e3)
    rows = Case("quantize", 256, 0, 1600)
    assert PEAKS.roofline(rows) == (pytest.approx(rows.bytes / 20e3), "memcpy")


def test_figures_of_a_row():
    case = Case("linear-w4a4", 1, 1600, 1600)
    made = row(case, 2 * PEAKS.roofline(case)[0], (1000.0, None, 500.0))
    assert made.fraction == pytest.approx(0.5)
    assert made.gbs == pytest.approx(5.0)
    assert made.speedup_bf16 == pytest.approx(1000 / made.us)
    assert made.speedup_fp32 is None
    assert made.flag == ""


def test_faster_than_possible_is_flagged():
    case = Case("linear-w4a4", 1, 1600, 1600)
    assert "above the roofline" in row(case, 0.9 * PEAKS.roofline(case)[0]).flag
    rows = Case("quantize", 16, 0, 1600)
    assert row(rows, 0.9 * rows.bytes / 20e3).flag != ""
    fast_read = Peaks(read_gbs=40.0, memcpy_gbs=20.0)
    assert not fast_read.impossible(rows, 0.9 * rows.bytes / 20e3)


def test_csv_has_every_column_and_survives_commas(tmp_path):
    path = tmp_path / "rows.csv"
    case = Case("linear-w4a4", 1, 64, 64)
    write_csv(path, [row(case, 3.0), row(case, 4.0)], MACHINE)
    with path.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == COLUMNS
    assert len(read) == 2
    assert read[0]["cpu"] == "CPU, with a comma"
    assert read[0]["torch_fp32_us"] == ""
    assert float(read[1]["us"]) == 4.0
    assert list(tmp_path.iterdir()) == [path]


def test_an_output_that_cannot_be_written_is_refused_early(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        check_writable(tmp_path / "missing" / "rows.csv")
    with pytest.raises(IsADirectoryError, match="is a folder"):
        check_writable(tmp_path)
    check_writable(tmp_path / "rows.csv")
