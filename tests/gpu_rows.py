"""Rows that no GPU made, for what is done with them."""

from __future__ import annotations

from nvfp4.bench.gpu_cases import GpuCase
from nvfp4.bench.gpu_results import GpuMachine, GpuPeaks, GpuRow, make_row
from nvfp4.bench.timing import Samples

MACHINE = GpuMachine(
    "a card, of paper", "9.0", 132, 50 << 20, "580.1", "2.11.0", "13.0", "3.6.0", "0.1.0", "abc", "2026-01-01T00:00:00"
)
PEAKS = GpuPeaks(4000.0, 800.0)


def row(case: GpuCase, us: float = 20.0, beside_us: float = 40.0, peaks: GpuPeaks = PEAKS) -> GpuRow:
    ran = ("triton/linear/w4a4", "128x16x128, 4 stages, 4 warps") if case.is_linear else ("triton/quantize", "")
    return make_row(case, "triton", ran, Samples((us,)), beside_us, peaks, "NVFP4_LOG=info ")
