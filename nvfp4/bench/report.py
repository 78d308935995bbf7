"""The rows as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nvfp4.bench.overhead import Overhead
from nvfp4.bench.results import Row
from nvfp4.bench.runner import Report

__all__ = ["make_table", "number", "render"]


def number(value: float | None, suffix: str = "") -> str:
    """Three significant digits without an exponent, or a dash for what was not measured."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}{suffix}"


def make_table(title: str, columns: Iterable[str]) -> Table:
    """A table whose first column is of names and the others of figures."""
    table = Table(title=title, title_justify="left", header_style="bold", pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="left" if i == 0 else "right", no_wrap=True)
    return table


def _fraction(row: Row) -> Text:
    style = "bold red" if row.flag else "green" if row.fraction >= 0.65 else "yellow"
    return Text(f"{100 * row.fraction:.0f} %{' !' if row.flag else ''}", style=style)


def _linear_table(rows: list[Row]) -> Table:
    first = rows[0]
    columns = (
        *("op", "M", "µs", "p20–p80", "GB/s", "GFLOP/s", "roof µs", "bound", "of roof"),
        *("x bf16", "x fp32", "x int4"),
    )
    table = make_table(f"linear  N {first.n}  K {first.k}  {first.dtype}", columns)
    for row in rows:
        table.add_row(
            row.op.removeprefix("linear-"), str(row.m), number(row.us), f"{number(row.us_p20)}–{number(row.us_p80)}",
            number(row.gbs), number(row.gflops), number(row.roofline_us), row.bound, _fraction(row),
            number(row.speedup_bf16), number(row.speedup_fp32), number(row.speedup_int4pack),
        )  # fmt: skip
    return table


def _row_table(rows: list[Row]) -> Table:
    columns = ("op", "rows", "K", "µs", "p20–p80", "GB/s", "memcpy GB/s", "of memcpy")
    table = make_table(f"quantise and dequantise  {rows[0].dtype}, bytes read + written", columns)
    for row in rows:
        table.add_row(
            row.op, str(row.m), str(row.k), number(row.us), f"{number(row.us_p20)}–{number(row.us_p80)}",
            number(row.gbs), number(row.memcpy_gbs), _fraction(row),
        )  # fmt: skip
    return table


def _overhead_table(overhead: list[Overhead]) -> Table:
    columns = (
        *("N x K, M = 1, warm, µs a call", "NVFP4Linear", "op", "kernel", "Python"),
        *("F.linear bf16", "F.linear fp32"),
    )
    table = make_table("the price of a call", columns)
    for item in overhead:
        figures = (item.module_us, item.op_us, item.kernel_us, item.python_us, item.torch_bf16_us, item.torch_fp32_us)
        table.add_row(f"{item.n} x {item.k}", *map(number, figures))
    return table


def _peaks(rows: list[Row]) -> str:
    def spread(name: str, unit: str) -> str:
        values = [value for value in (getattr(row, name) for row in rows) if value]
        if not values:
            return "not measured"
        return f"{number(median(values))} {unit} ({number(min(values))}–{number(max(values))})"

    return (
        f"measured roof, median of the cases (least–most): read {spread('read_gbs', 'GB/s')}, "
        f"int8 dot loop {spread('dot_gmacs', 'GMAC/s')}, floating-point loop {spread('float_gmacs', 'GMAC/s')}"
    )


def render(report: Report) -> RenderableType:
    """The machine, a table for each weight shape, one for the row ops, one for the price of a call, and the notes."""
    machine = report.machine
    lines = [
        f"{machine.cpu} · {machine.isa} · {machine.threads} threads · last-level cache {machine.llc_bytes >> 20} MiB",
        f"torch {machine.torch} · nvfp4 {machine.nvfp4} {machine.commit} · {machine.date}",
    ]
    shapes = dict.fromkeys((row.n, row.k) for row in report.rows if row.n)
    parts = [_linear_table([row for row in report.rows if (row.n, row.k) == shape]) for shape in shapes]
    row_ops = [row for row in report.rows if not row.n]
    if row_ops:
        parts.append(_row_table(row_ops))
    if report.overhead:
        parts.append(_overhead_table(report.overhead))
    if report.rows:
        kernels = dict.fromkeys(row.kernel for row in report.rows)
        lines += [f"kernels that ran: {', '.join(kernels)}", _peaks(report.rows)]
    lines += [f"note: {note}" for note in report.notes]
    flagged = sum(bool(row.flag) for row in report.rows)
    if flagged:
        lines.append(
            f"! {flagged} rows are faster than the roof: a harness error, or a machine that others slowed meanwhile"
        )
    return Group(*parts, *(Text(line) for line in lines))
