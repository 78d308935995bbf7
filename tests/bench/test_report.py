"""The tables a user reads."""

import pytest
from rich.console import Console

from nvfp4.bench.cases import Case
from nvfp4.bench.machine import describe
from nvfp4.bench.overhead import Overhead
from nvfp4.bench.report import number, render
from nvfp4.bench.results import Peaks, make_row
from nvfp4.bench.runner import Report
from nvfp4.bench.timing import Samples

PEAKS = Peaks(10.0, 100.0, 50.0, 20.0)
OVERHEAD = Overhead(16, 64, 12.0, 9.0, None, 5.0, 4.0)


def show(report):
    console = Console(width=140)
    with console.capture() as capture:
        console.print(render(report))
    return capture.get()


def test_every_part_is_there():
    cases = [Case("linear-w4a4", 1, 64, 64), Case("linear-w4a4", 1, 64, 64), Case("quantize", 4096, 0, 64)]
    peers = (900.0, 1800.0, None)
    rows = [make_row(case, "cpu", f"cpu/{case.op}", Samples((us,)), peers, PEAKS, case.command)
            for case, us in zip(cases, (300.0, 0.001, 5000.0), strict=True)]  # fmt: skip
    shown = show(Report(describe(), rows, [OVERHEAD], ["left out"]))
    for text in (
        *("linear  N 64  K 64", "of memcpy", "the price of a call", "16 x 64", "note: left out"),
        *("kernels that ran: cpu/linear-w4a4, cpu/quantize", "read 10.0 GB/s", "300", "3.00", "–"),
        *("% !", "! 1 rows are faster than the roof"),
    ):
        assert text in shown


def test_an_empty_report_still_names_the_machine():
    assert describe().cpu in show(Report(describe(), [], [], []))


def test_python_time_needs_a_kernel_time():
    assert OVERHEAD.python_us is None
    assert Overhead(16, 64, 12.0, 9.0, 2.0, 5.0, 4.0).python_us == 10.0


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.5, "0.50"), (12.345, "12.3"), (1234.5, "1,234"), (99.96, "100.0")]
)
def test_numbers(value, shown):
    assert number(value) == shown
