"""The picture is written whole or not at all."""

import sys

import pytest

from nvfp4.bench.cases import Case
from nvfp4.bench.machine import describe
from nvfp4.bench.plot import check_matplotlib, plot
from nvfp4.bench.results import Peaks, make_row
from nvfp4.bench.runner import Report
from nvfp4.bench.timing import Samples

PEAKS = Peaks(10.0, 100.0, 50.0, 20.0)


def report(*cases):
    peers = (900.0, 1800.0, 600.0)
    rows = [make_row(case, "cpu", "kernel", Samples((300.0 * case.m,)), peers, PEAKS, "") for case in cases]
    return Report(describe(), rows, [], [])


LINEAR = [Case(op, m, 64, 64) for m in (1, 16) for op in ("linear-w4a4", "linear-w4a16")]
ROWS = [Case(op, m, 0, 64) for m in (1, 16) for op in ("quantize", "dequantize")]


@pytest.mark.parametrize("cases", [LINEAR, ROWS, LINEAR + ROWS], ids=["linear", "rows", "both"])
def test_a_picture(cases, tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "bench.png"
    plot(path, report(*cases))
    assert path.read_bytes().startswith(b"\x89PNG")
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_to_draw(tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="without rows"):
        plot(tmp_path / "bench.png", report())
    assert not list(tmp_path.iterdir())


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        plot(tmp_path / "missing" / "bench.png", report(*LINEAR))


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install \"\.\[bench\]\""):
        check_matplotlib()
