"""What `nvfp4 selftest` times: nothing where no CUDA kernel is served, and no emulated product."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from nvfp4.bench import gpu, tuning

needs_gpu = pytest.mark.skipif(bool(gpu.refusal()), reason="no GPU that the CUDA part serves")


def test_a_row_says_what_it_is_beside() -> None:
    console = Console(width=200, file=io.StringIO())
    console.print(gpu.render([gpu.Timed("quantise", 20.0, "a copy", 15.0), gpu.Timed("linear", 50.0, "cuBLAS", 110.0)]))
    text = console.file.getvalue()
    for words in ("quantise", "20.0", "a copy", "15.0", "0.75", "linear", "2.20"):
        assert words in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU has times")
def test_without_a_gpu_nothing_is_timed() -> None:
    assert gpu.run() == []
    assert "GPU" in gpu.refusal() or "CUDA" in gpu.refusal()


@needs_gpu
def test_on_a_gpu_everything_that_is_served_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROWS", 64)
    timed = gpu.run()
    products = 0 if gpu.refusal("linear", "n128k128") else len(tuning.SHAPES) * len(gpu.TOKENS)
    assert len(timed) == 3 + products
    assert all(row.us > 0 and row.beside_us > 0 for row in timed)
