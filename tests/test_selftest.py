"""`nvfp4 selftest` on whatever machine the suite runs on."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from nvfp4 import backends, reference, selftest
from nvfp4.cli import app


def test_what_runs_here_passes_and_the_rest_says_why() -> None:
    checks = {check.name: check for check in selftest.run()}
    assert checks.keys() == selftest.CHECKS.keys()
    assert checks["CPU: quantise against the reference"].state == "passed"
    assert checks["CPU: products against the reference"].state == "passed"
    for check in checks.values():
        assert check.state in ("passed", "skipped"), check
        assert check.detail


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU runs more")
def test_without_a_gpu_four_checks_are_skipped() -> None:
    skipped = [check for check in selftest.run() if check.state == "skipped"]
    assert [check.name.partition(":")[0] for check in skipped] == ["GPU", "GPU", "SM120", "SM120"]
    assert all("GPU" in check.detail or "CUDA" in check.detail for check in skipped)


def test_a_wrong_product_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.matmul

    def wrong(*args, **kwargs):
        y = right(*args, **kwargs)
        y[0, 0] += 1
        return y

    monkeypatch.setattr(selftest.reference, "matmul", wrong)
    check = next(c for c in selftest.run() if c.name == "CPU: products against the reference")
    assert check.state == "FAILED"
    assert "sums are wrong" in check.detail
    result = CliRunner().invoke(app, ["selftest"])
    assert result.exit_code == 1
    assert "1 failed" in result.stdout


def test_the_report_counts() -> None:
    result = CliRunner().invoke(app, ["selftest"])
    assert result.exit_code == 0
    assert " 0 failed, " in result.stdout
    assert result.stdout.startswith("nvfp4 ")


def test_a_forced_backend_stays_forced() -> None:
    with backends.force("reference"):
        selftest.run()
        assert backends.explain(backends.Desc("quantize")).forced
