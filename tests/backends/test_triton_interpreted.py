"""The suites of Triton's kernels by Triton's interpreter, on the CPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU runs them itself")
def test_the_suites_pass() -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    here = Path(__file__)
    suites = [here.with_name(f"test_triton{part}.py") for part in ("", "_products", "_fused")]
    # What is asked of the whole of the tests, such as its coverage, is not asked of this part.
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suites],
        capture_output=True, text=True, timeout=600, check=False, env={**environment, "TRITON_INTERPRET": "1"},
        cwd=here.parents[2],
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is not None
    assert int(passed[1]) > 250
