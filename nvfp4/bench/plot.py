"""The picture: time against M for every weight shape, with torch's times and the roofline in the same axes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nvfp4.bench.results import Row, check_writable
from nvfp4.bench.runner import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["check_matplotlib", "plot"]

_OURS = {"linear-w4a4": ("NVFP4 W4A4", "#1b6ca8"), "linear-w4a16": ("NVFP4 W4A16", "#3fa7d6")}
_PEERS: dict[str, tuple[str, str, Callable[[Row], float | None]]] = {
    "bf16": ("torch bf16", "#d1495b", lambda row: row.torch_bf16_us),
    "fp32": ("torch fp32", "#edae49", lambda row: row.torch_fp32_us),
    "int4": ("torch int4pack", "#66a182", lambda row: row.int4pack_us),
}
_ROW_OPS = {"quantize": "#3fa7d6", "quantize-kernel": "#1b6ca8", "dequantize": "#66a182"}


def check_matplotlib() -> None:
    """Refuse to start what ends in a picture without matplotlib.

    Raises:
        ModuleNotFoundError: it is not installed; the message names the extra.
    """
    try:
        import matplotlib as mpl
    except ModuleNotFoundError as error:
        message = 'matplotlib is not installed, a picture needs it; run `pip install ".[bench]"` in the checkout'
        raise ModuleNotFoundError(message) from error
    mpl.use("Agg")


def _line(axes: Any, rows: Sequence[Row], value: Callable[[Row], float | None], **style: Any) -> None:
    points = [(row.m, us) for row in rows if (us := value(row)) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), **style)


def _linear_axes(axes: Any, rows: Sequence[Row]) -> None:
    for label, colour, value in _PEERS.values():
        _line(axes, rows, value, label=label, color=colour, marker="s", markersize=4, linewidth=1.2)
    for op, (label, colour) in _OURS.items():
        ours = [row for row in rows if row.op == op]
        _line(axes, ours, lambda row: row.us, label=label, color=colour, marker="o", linewidth=2.2)
        _line(axes, ours, lambda row: row.roofline_us, label=f"{label} roofline", color=colour, linestyle=":")
        if op == "linear-w4a4":
            for row in ours:
                axes.annotate(
                    f"{100 * row.fraction:.0f} %", (row.m, row.us), xytext=(0, -14), textcoords="offset points",
                    ha="center", fontsize=8, color=colour,
                )  # fmt: skip
    tokens = sorted({row.m for row in rows})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(tokens, [str(m) for m in tokens])
    axes.margins(x=0.08, y=0.12)
    axes.set_title(f"N {rows[0].n}, K {rows[0].k}", fontsize=10)
    axes.set_xlabel("M (tokens)")
    axes.set_ylabel("µs a call")
    axes.grid(visible=True, which="major", alpha=0.3)


def _row_axes(axes: Any, rows: Sequence[Row]) -> None:
    labels = list(dict.fromkeys((row.m, row.k) for row in rows))
    present = [op for op in _ROW_OPS if any(row.op == op for row in rows)]
    height = 0.8 / len(present)
    for i, op in enumerate(present):
        chosen = [row for row in rows if row.op == op]
        places = [labels.index((row.m, row.k)) + (i - (len(present) - 1) / 2) * height for row in chosen]
        axes.barh(places, [100 * row.fraction for row in chosen], height, label=op, color=_ROW_OPS[op])
    axes.set_yticks(range(len(labels)), [f"{m} x {k}" for m, k in labels], fontsize=8)
    axes.invert_yaxis()
    axes.axvline(100, color="black", linewidth=0.8)
    axes.set_xlabel("% of memcpy, bytes read + written")
    axes.set_title("quantise and dequantise", fontsize=10)
    axes.legend(fontsize=8)
    axes.grid(visible=True, axis="x", alpha=0.3)


def plot(path: Path, report: Report) -> None:
    """Write the picture of a report as PNG (or what the suffix says); beside the target first, then renamed.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        OSError: the folder cannot be written to.
        ValueError: nothing was measured.
    """
    check_writable(path)
    check_matplotlib()
    import matplotlib.pyplot as plt

    shapes = list(dict.fromkeys((row.n, row.k) for row in report.rows if row.n))
    row_ops = [row for row in report.rows if not row.n]
    panels = len(shapes) + bool(row_ops)
    if not panels:
        raise ValueError("plot: got a report without rows, wanted at least one measured case")
    columns = min(panels, 3)
    lines = -(-panels // columns)
    size = (5.6 * columns, 4.6 * lines)
    figure, grid = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    axes = list(grid.flat)
    for place, shape in zip(axes, shapes, strict=False):
        _linear_axes(place, [row for row in report.rows if (row.n, row.k) == shape])
    if row_ops:
        # A few rows take no longer than the call: they stand in the table, and would only stretch the picture's axis.
        _row_axes(axes[len(shapes)], [row for row in row_ops if row.m >= 64] or row_ops)
    for unused in axes[panels:]:
        unused.remove()
    if shapes:
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    machine = report.machine
    figure.suptitle(
        f"{machine.cpu}, {machine.isa}, {machine.threads} threads, torch {machine.torch}; "
        "% is the share of the roofline measured in the same run",
        fontsize=11,
    )
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        figure.savefig(beside, dpi=130)
        beside.replace(path)
    finally:
        plt.close(figure)
        beside.unlink(missing_ok=True)
