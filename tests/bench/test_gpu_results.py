"""The columns of a GPU's rows, and their CSV file."""

from __future__ import annotations

import csv

import pytest
import torch

import gpu_rows
from nvfp4.bench import gpu_results
from nvfp4.bench.gpu_cases import GpuCase
from nvfp4.bench.gpu_results import COLUMNS, GpuPeaks
from nvfp4.bench.results import write_csv

PEAKS = GpuPeaks(read_gbs=1000.0, matmul_tflops=100.0)


def test_memory_bounds_one_token_and_arithmetic_many() -> None:
    one, many = GpuCase("linear-w4a4-row", 1, 4096, 4096), GpuCase("linear-w4a4-row", 4096, 4096, 4096)
    assert PEAKS.attainable(one) == (pytest.approx(one.bytes / 1e6), "memory")
    assert PEAKS.attainable(many) == (pytest.approx(2 * 4096**3 / 100e6), "matmul")


def test_figures_of_a_product() -> None:
    case = GpuCase("linear-w4a16", 1, 4096, 4096)
    row = gpu_rows.row(case, us=2 * case.bytes / 1e6, beside_us=100.0, peaks=PEAKS)
    assert (row.fraction, row.bound) == (pytest.approx(0.5), "memory")
    assert row.gbs == pytest.approx(500.0)
    assert row.tflops == pytest.approx(2 * 4096**2 / row.us / 1e6)
    assert (row.beside, row.ratio) == ("cuBLAS", pytest.approx(100 / row.us))
    assert row.command.startswith("NVFP4_LOG=info nvfp4 bench --device cuda --op linear-w4a16")
    assert row.command.endswith("--backend triton")


def test_a_quantiser_stands_beside_a_copy() -> None:
    row = gpu_rows.row(GpuCase("quantize-row", 64, 0, 4096), us=10.0, beside_us=8.0, peaks=PEAKS)
    assert (row.beside, row.bound, row.attainable_us, row.fraction, row.ratio) == ("copy", "copy", 8.0, 0.8, 0.8)
    assert row.tflops == 0


def test_csv_says_where_every_row_is_from(tmp_path) -> None:
    path = tmp_path / "rows.csv"
    rows = [gpu_rows.row(GpuCase("linear-w4a16", m, 64, 64)) for m in (1, 2)]
    write_csv(path, rows, gpu_rows.MACHINE, COLUMNS)
    with path.open(newline="") as file:
        read = list(csv.DictReader(file))
    assert tuple(read[0]) == COLUMNS
    assert [row["m"] for row in read] == ["1", "2"]
    for name in ("gpu", "driver", "torch", "triton", "commit"):
        assert read[0][name] == getattr(gpu_rows.MACHINE, name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_described() -> None:
    machine = gpu_results.describe()
    assert machine.gpu == torch.cuda.get_device_name()
    assert machine.l2_bytes > 0
    assert all((machine.driver, machine.torch, machine.cuda, machine.triton, machine.date))


def test_a_machine_without_triton_says_so(monkeypatch) -> None:
    def missing(name):
        raise gpu_results.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(gpu_results.importlib.metadata, "version", missing)
    assert gpu_results._triton_version() == "none"
