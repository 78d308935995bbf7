"""One measured case as a row, and the CSV file of all rows."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from nvfp4.bench.cases import Case
from nvfp4.bench.machine import Machine
from nvfp4.bench.timing import Samples

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["COLUMNS", "Peaks", "Ran", "Row", "check_writable", "make_row", "write_csv"]


@dataclass(frozen=True)
class Peaks:
    """What this machine could do while a case was measured; 0 where it was not measured.

    Attributes:
        read_gbs: GB/s of a threaded read of memory that is in no cache.
        dot_gmacs: 1e9 multiply-adds a second of the int8 group-16 dot loop on data in the first-level cache.
        float_gmacs: the same of floating-point numbers: W4A16's own loop or torch's matmul, the faster.
        memcpy_gbs: GB/s, read and written together, of the faster of two ways to copy as many bytes.
    """

    read_gbs: float = 0.0
    dot_gmacs: float = 0.0
    float_gmacs: float = 0.0
    memcpy_gbs: float = 0.0

    def roofline(self, case: Case) -> tuple[float, str]:
        """The least microseconds this case could take, and what bounds it: memory, compute or memcpy."""
        if not case.is_linear:
            return case.bytes / self.memcpy_gbs / 1e3, "memcpy"
        memory = case.bytes / self.read_gbs / 1e3
        compute = case.macs / (self.dot_gmacs if case.op == "linear-w4a4" else self.float_gmacs) / 1e3
        return max((memory, "memory"), (compute, "compute"))

    def impossible(self, case: Case, us: float) -> bool:
        """Whether a time is below what the machine can do: then the harness is wrong, not the kernel good."""
        if case.is_linear:
            return us < self.roofline(case)[0]
        return self.read_gbs > 0 and us < case.bytes / self.read_gbs / 1e3


@dataclass(frozen=True)
class Ran:
    """What a row of any device begins with: a case and what served it.

    Attributes:
        kernel: what the backend recorded of the call.
    """

    op: str
    m: int
    n: int
    k: int
    dtype: str
    backend: str
    kernel: str


@dataclass(frozen=True)
class Row(Ran):
    """One case: what ran, how long it took, what it could have taken, and what torch took beside it. Times in µs."""

    us: float
    us_p20: float
    us_p80: float
    samples: int
    gbs: float
    gflops: float
    roofline_us: float
    bound: str
    fraction: float
    torch_bf16_us: float | None
    torch_fp32_us: float | None
    int4pack_us: float | None
    speedup_bf16: float | None
    speedup_fp32: float | None
    speedup_int4pack: float | None
    read_gbs: float
    dot_gmacs: float
    float_gmacs: float
    memcpy_gbs: float
    flag: str
    command: str


COLUMNS = (*(field.name for field in fields(Row)), *(field.name for field in fields(Machine)))
"""Of the CSV file, in this order."""


def make_row(
    case: Case, backend: str, kernel: str, samples: Samples, peers: tuple[float | None, ...], peaks: Peaks, command: str
) -> Row:
    """The figures of one case.

    Args:
        case: what was measured.
        backend: that served it.
        kernel: name of the kernel that ran.
        samples: its times.
        peers: median µs of torch bf16, fp32 and int4pack, None where there is none.
        peaks: measured in the same loop.
        command: that repeats the row.
    """
    us = samples.median
    roofline_us, bound = peaks.roofline(case)
    bf16, fp32, int4 = peers
    return Row(
        case.op, case.m, case.n, case.k, case.dtype, backend, kernel, us, samples.p20, samples.p80, len(samples.us),
        gbs=case.bytes / us / 1e3,
        gflops=2 * case.macs / us / 1e3,
        roofline_us=roofline_us,
        bound=bound,
        fraction=roofline_us / us,
        torch_bf16_us=bf16,
        torch_fp32_us=fp32,
        int4pack_us=int4,
        speedup_bf16=bf16 and bf16 / us,
        speedup_fp32=fp32 and fp32 / us,
        speedup_int4pack=int4 and int4 / us,
        read_gbs=peaks.read_gbs,
        dot_gmacs=peaks.dot_gmacs,
        float_gmacs=peaks.float_gmacs,
        memcpy_gbs=peaks.memcpy_gbs,
        flag="above the roofline" if peaks.impossible(case, us) else "",
        command=command,
    )  # fmt: skip


def check_writable(path: Path) -> None:
    """Refuse an output file that could not be written, before an hour of measuring.

    Raises:
        OSError: its folder is missing or closed to us, or it is a folder.
    """
    folder = path.absolute().parent
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, wanted the name of a file")
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{path}: the folder {folder} cannot be written to; choose another")


def _cell(value: object) -> object:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value


def write_csv(
    path: Path, rows: Iterable[DataclassInstance], machine: DataclassInstance, columns: Sequence[str] = COLUMNS
) -> None:
    """Write rows, the machine's fields after each; beside the target first and renamed, so that no half file stays.

    Args:
        path: of the file.
        rows: all of one class.
        machine: where they come from.
        columns: names of both classes' fields.

    Raises:
        OSError: the folder cannot be written to.
    """
    check_writable(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for row in rows:
                writer.writerow([_cell(cell) for cell in (*astuple(row), *astuple(machine))])
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
