"""A tiny run from end to end, on both backends."""

import pytest
import torch

from nvfp4 import backends
from nvfp4.bench import cases, refcheck
from nvfp4.bench import runner as runner_module
from nvfp4.bench.runner import Settings, run
from nvfp4.bench.timing import Budget

BUDGET = Budget(rounds=2, seconds=0.05, least=1)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(runner_module, "cold_bytes", lambda _: 1 << 16)


def test_a_run_measures_every_op_beside_its_peers():
    chosen = cases.make_cases(shapes=[(64, 64)], tokens=[1, 2])
    told = []
    report = run(chosen, Settings(BUDGET, overhead=False), told.append)
    assert [(row.op, row.m) for row in report.rows] == [(case.op, case.m) for case in chosen]
    assert len(told) == len({case.group for case in chosen})
    for row in report.rows:
        assert row.us > 0
        assert row.roofline_us > 0
        assert row.us_p20 <= row.us <= row.us_p80
        assert row.samples == 2
        assert "/" in row.kernel
        assert row.command.startswith("nvfp4 bench --op ") or "NVFP4_" in row.command
        if row.n:
            assert min(row.torch_bf16_us, row.torch_fp32_us, row.int4pack_us) > 0
            assert row.speedup_fp32 == pytest.approx(row.torch_fp32_us / row.us)


def test_a_forced_backend_serves_and_is_named():
    chosen = cases.make_cases(shapes=[(64, 64)], tokens=[1])
    report = run(chosen, Settings(BUDGET, backend="reference", overhead=False))
    assert {row.backend for row in report.rows} == {"reference"}
    assert all(row.kernel.startswith("reference/") for row in report.rows)
    assert any("quantize-kernel left out" in note for note in report.notes)
    assert all("--backend reference" in row.command for row in report.rows)


def test_shapes_that_int4_cannot_hold_are_noted():
    report = run(cases.make_cases(["linear-w4a4"], [(24, 48)], [1]), Settings(BUDGET, overhead=False))
    assert report.rows[0].int4pack_us is None
    assert any("int4pack left out" in note for note in report.notes)


def test_threads_are_set_for_the_run_only(monkeypatch):
    monkeypatch.delenv("NVFP4_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    report = run(cases.make_cases(["quantize"], [(16, 16)], [1]), Settings(BUDGET, threads=1, overhead=False))
    assert report.machine.threads == 1
    assert torch.get_num_threads() == before


def test_threads_may_not_contradict_the_environment(monkeypatch):
    monkeypatch.setenv("NVFP4_NUM_THREADS", "1")
    with pytest.raises(ValueError, match="NVFP4_NUM_THREADS is 1"):
        run([], Settings(threads=2))
    with pytest.raises(ValueError, match="positive"):
        run([], Settings(threads=-1))


def test_a_backend_that_cannot_serve_is_an_error():
    with pytest.raises(RuntimeError, match="cuda"):
        run(cases.make_cases(["quantize"], [(16, 16)], [1]), Settings(BUDGET, backend="cuda"))


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    cpu = backends.BACKENDS["cpu"]
    right = type(cpu).linear
    monkeypatch.setattr(type(cpu), "linear", lambda self, *args: right(self, *args) + 1)
    with backends.force(None), pytest.raises(refcheck.RefcheckError, match="nothing was timed"):
        run(cases.make_cases(["linear-w4a4"], [(16, 64)], [1]), Settings(BUDGET))
