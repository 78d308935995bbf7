"""The suite of Triton's kernels by Triton's interpreter, on the CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU runs test_triton.py itself")
def test_the_suite_passes() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    suite = Path(__file__).with_name("test_triton.py")
    # What is asked of the whole suite, such as its coverage, is not asked of this part.
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", suite],
        capture_output=True, text=True, timeout=600, check=False, env={**environment, "TRITON_INTERPRET": "1"},
        cwd=suite.parents[2],
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) > 40
