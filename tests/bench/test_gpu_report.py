"""The tables of a GPU's rows."""

from __future__ import annotations

import io

from rich.console import Console

import gpu_rows
from nvfp4.bench.gpu_bench import GpuReport
from nvfp4.bench.gpu_cases import make_cases
from nvfp4.bench.gpu_report import render


def show(report: GpuReport) -> str:
    console = Console(width=240, file=io.StringIO())
    console.print(render(report))
    return console.file.getvalue()


def test_every_part_is_there() -> None:
    cases = make_cases(shapes=[(64, 32), (128, 48)], tokens=[1])
    text = show(GpuReport(gpu_rows.MACHINE, [gpu_rows.row(case) for case in cases], ["cuda left out of it"]))
    for words in (
        *("linear  N 64  K 32  bfloat16", "linear  N 128  K 48", "quantise  bfloat16", "linear-w4a4-static"),
        *("128x16x128, 4 stages, 4 warps", "triton/quantize", "20.0–20.0", "x cuBLAS", "2.00", "200 %"),
        *("a card, of paper", "driver 580.1", "Triton 3.6.0", "memory 4,000 GB/s", "matmul 800 TFLOP/s"),
        "note: cuda left out of it",
    ):
        assert words in text, words
    assert text.count("quantize-row") == 2  # once for each K


def test_a_report_without_rows_still_names_the_machine() -> None:
    text = show(GpuReport(gpu_rows.MACHINE, [], []))
    assert "a card, of paper" in text
    assert "attainable" not in text
