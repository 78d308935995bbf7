"""A GPU's rows as tables for a terminal."""

from __future__ import annotations

from statistics import median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nvfp4.bench.gpu_bench import GpuReport
from nvfp4.bench.gpu_results import GpuRow
from nvfp4.bench.report import make_table, number

__all__ = ["render"]


def _times(row: GpuRow) -> tuple[str, ...]:
    return row.op, row.backend, str(row.m), number(row.us), f"{number(row.us_p20)}–{number(row.us_p80)}"


def _linear_table(rows: list[GpuRow]) -> Table:
    first = rows[0]
    columns = (
        *("op", "backend", "M", "µs", "p20–p80", "TFLOP/s", "GB/s", "attainable µs", "bound", "of it"),
        *("cuBLAS µs", "x cuBLAS", "ran"),
    )
    table = make_table(f"linear  N {first.n}  K {first.k}  {first.dtype}, cold weights", columns)
    for row in rows:
        table.add_row(
            *_times(row), number(row.tflops), number(row.gbs), number(row.attainable_us), row.bound,
            f"{100 * row.fraction:.0f} %", number(row.beside_us), number(row.ratio),
            f"{row.kernel}: {row.plan}" if row.plan else row.kernel,
        )  # fmt: skip
    return table


def _quantize_table(rows: list[GpuRow]) -> Table:
    columns = ("op", "backend", "rows", "µs", "p20–p80", "K", "GB/s", "copy µs", "copy GB/s", "of a copy", "ran")
    table = make_table(f"quantise  {rows[0].dtype}, bytes read + written once", columns)
    for row in rows:
        copied = row.gbs * row.us / row.beside_us
        table.add_row(
            *_times(row), str(row.k), number(row.gbs), number(row.beside_us), number(copied),
            f"{100 * row.fraction:.0f} %", row.kernel,
        )  # fmt: skip
    return table


def render(report: GpuReport) -> RenderableType:
    """A table for each weight shape, one for the quantisers, then the machine, what it could do, and the notes."""
    machine, rows = report.machine, report.rows
    shapes = dict.fromkeys((row.n, row.k) for row in rows if row.n)
    tables = [_linear_table([row for row in rows if (row.n, row.k) == shape]) for shape in shapes]
    quantised = [row for row in rows if not row.n]
    if quantised:
        tables.append(_quantize_table(quantised))
    lines = [
        f"{machine.gpu} · compute capability {machine.capability} · driver {machine.driver} · CUDA {machine.cuda}",
        f"torch {machine.torch} · Triton {machine.triton} · nvfp4 {machine.nvfp4} {machine.commit} · {machine.date}",
    ]
    if rows:
        read, matmul = (median(getattr(row, name) for row in rows) for name in ("read_gbs", "matmul_tflops"))
        lines.append(
            f"attainable, median of the loops: memory {number(read)} GB/s, 16-bit matmul {number(matmul)} TFLOP/s"
        )
    lines += [f"note: {note}" for note in report.notes]
    return Group(*tables, *(Text(line) for line in lines))
