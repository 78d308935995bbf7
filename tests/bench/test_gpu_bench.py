"""The benchmark of a GPU, driven on the CPU from end to end; and on a GPU where there is one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import gpu_rows
from nvfp4 import backends
from nvfp4.backends.triton import plan, tuned
from nvfp4.bench import gpu_bench, gpu_operands, gpu_place, refcheck
from nvfp4.bench.gpu_bench import GpuSettings, run
from nvfp4.bench.gpu_cases import OPS, GpuCase, make_cases
from nvfp4.bench.gpu_place import Place
from nvfp4.bench.timing import Budget, by_clock

BUDGET = Budget(rounds=2, seconds=0.05, least=1)
CPU = Place(
    "cpu", ("cpu", "reference"), 1 << 13, lambda call: lambda _: call, by_clock(), lambda: gpu_rows.MACHINE,
    read_bytes=1 << 12, matmul_size=16, in_a_row=3,
)  # fmt: skip
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def with_a_gpu() -> Place:
    return replace(CPU, device="cuda", backends=("cuda", "triton"))


@pytest.fixture(autouse=True)
def _unforced(monkeypatch):
    monkeypatch.delenv("NVFP4_BACKEND", raising=False)


def test_every_op_is_measured_on_every_backend_beside_its_peer() -> None:
    cases = make_cases(shapes=[(48, 64), (32, 96)], tokens=[1, 5])
    told: list[str] = []
    report = run(cases, CPU, GpuSettings(BUDGET), told.append)
    assert [(row.op, row.m, row.n, row.k, row.backend) for row in report.rows] == [
        (case.op, case.m, case.n, case.k, name) for case in cases for name in CPU.backends
    ]
    assert len(told) == len({case.group for case in cases})
    assert report.notes == []
    assert report.machine is gpu_rows.MACHINE
    for row in report.rows:
        assert min(row.us, row.gbs, row.attainable_us, row.beside_us, row.read_gbs, row.matmul_tflops) > 0
        assert row.kernel.startswith(f"{row.backend}/")
        assert row.plan == ""  # is Triton's
        assert row.samples in (1, 2)  # as many as there is time for
        assert row.command.endswith(f"--m {row.m} --dtype bfloat16 --backend {row.backend}")


def test_times_are_of_one_call_and_calls_rotate() -> None:
    counted: list[int] = []

    def timer(call):
        backends.reset_kernel_calls()
        call()
        counted.append(sum(backends.kernel_calls().values()))
        return 120.0

    place = replace(CPU, timer=timer, backends=("cpu",), cold=0)
    report = run([GpuCase("quantize-row", 4, 0, 64)], place, GpuSettings(BUDGET))
    assert report.rows[0].us == pytest.approx(120 / 3)  # three calls in a row
    assert report.rows[0].beside_us == pytest.approx(120 / 3)
    assert report.rows[0].read_gbs == pytest.approx((1 << 12) / 60 / 1e3)
    assert report.rows[0].matmul_tflops == pytest.approx(2 * 16**3 / 60 / 1e6)
    assert max(counted) == 3
    many = run([GpuCase("quantize-row", 300, 0, 64)], place, GpuSettings(BUDGET))
    assert many.rows[0].us == pytest.approx(120 / 2)


def test_what_is_quantised_has_a_limited_number_of_copies() -> None:
    few = gpu_operands.Quantisers(replace(CPU, cold=1 << 20)).tokens(GpuCase("quantize-row", 1, 0, 64))
    assert len(few) == 64
    many = gpu_operands.Quantisers(replace(CPU, cold=1 << 13)).tokens(GpuCase("quantize-row", 64, 0, 64))
    assert len(many) == 2


def test_rotations_are_whole() -> None:
    assert gpu_bench._repeated([int, str], 3) == [int, str, int, str]
    assert gpu_bench._repeated([int, str, float], 2) == [int, str, float]


def test_only_one_backend_where_it_is_asked_for(monkeypatch) -> None:
    cases = make_cases(["linear-w4a16"], [(16, 32)], [2])
    assert {row.backend for row in run(cases, CPU, GpuSettings(BUDGET, "reference")).rows} == {"reference"}
    monkeypatch.setenv("NVFP4_BACKEND", "cpu")
    rows = run(cases, CPU, GpuSettings(BUDGET)).rows
    assert {row.backend for row in rows} == {"cpu"}
    assert rows[0].command.startswith("NVFP4_BACKEND=cpu nvfp4 bench")
    with pytest.raises(ValueError, match="got 'triton', wanted one of cpu, reference"):
        run(cases, CPU, GpuSettings(BUDGET, "triton"))


def test_who_does_not_serve_is_left_out_with_the_reason() -> None:
    cases = make_cases(["linear-w4a16"], [(16, 32)], [2])
    report = run(cases, replace(CPU, backends=("triton", "cpu")), GpuSettings(BUDGET))
    assert {row.backend for row in report.rows} == {"cpu"}
    assert report.notes == ["triton left out of linear-w4a16: tensors are on cpu, the kernels need the GPU"]


def test_nobody_who_serves_is_an_error() -> None:
    cases = make_cases(["quantize-row"], [(16, 32)], [2])
    with pytest.raises(RuntimeError, match=r"nothing to measure.*triton left out of quantize-row: tensors are on cpu"):
        run(cases, replace(CPU, backends=("cuda", "triton")), GpuSettings(BUDGET))


def test_an_op_that_nobody_serves_has_no_rows(monkeypatch) -> None:
    monkeypatch.setattr(gpu_bench.sm120, "is_emulated", lambda: True)
    cuda = backends.BACKENDS["cuda"]
    monkeypatch.setattr(type(cuda), "supports", lambda self, desc: (True, "made up"))
    served, notes = gpu_bench._served({op: GpuCase(op, 1, 16, 16) for op in OPS}, with_a_gpu(), "cuda")
    assert served["linear-w4a4-row"] == []
    assert served["quantize-row"] == ["cuda"]
    assert any("emulates SM120's FP4 instruction" in note for note in notes)
    served = {"linear-w4a16": ["cpu"], "linear-w4a4-row": []}
    session = gpu_bench._Session(CPU, BUDGET, served, "bfloat16")
    assert session.measure([GpuCase("linear-w4a4-row", 1, 16, 16)]) == []


@pytest.mark.parametrize("op", ["linear-w4a4-static", "linear-w4a16", "quantize-tensor"])
def test_a_wrong_kernel_is_not_timed(op, monkeypatch) -> None:
    cpu = backends.BACKENDS["cpu"]
    name = "linear" if op.startswith("linear") else "quantize"
    right = getattr(type(cpu), name)

    def wrong(self, *args):
        result = right(self, *args)
        (result if name == "linear" else result[0]).view(torch.uint8)[-1, -1] ^= 1
        return result

    monkeypatch.setattr(type(cpu), name, wrong)
    with pytest.raises(refcheck.RefcheckError, match="nothing was timed"):
        run(make_cases([op], [(16, 64)], [3]), CPU, GpuSettings(BUDGET))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU has one")
def test_without_a_gpu_it_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"needs a GPU, and torch sees none.*nvidia-smi.*--device cpu"):
        gpu_place.gpu()


def test_the_plan_is_the_one_that_is_chosen_for_the_gpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(tuned, "gpu_of", lambda index: plan.Gpu((9, 0), 132, 232448))
    monkeypatch.setattr(tuned, "measured", lambda index: {})
    tuned.plan_of.cache_clear()
    assert gpu_bench._plan_of(GpuCase("linear-w4a4-row", 16, 43008, 5376)).startswith("128x16x128, 4 stages")
    tuned.plan_of.cache_clear()


@needs_gpu
def test_on_a_gpu_every_backend_that_serves_is_measured() -> None:
    place = replace(gpu_place.gpu(), read_bytes=64 << 20, matmul_size=1024)
    cases = make_cases(shapes=[(512, 640)], tokens=[1, 300])
    report = run(cases, place, GpuSettings(Budget(rounds=3, seconds=1.0)))
    assert {row.op for row in report.rows} == set(OPS)
    for row in report.rows:
        assert 0 < row.us < 1e5
        assert row.kernel.startswith(row.backend) or f"{row.backend}/" in row.kernel
        assert bool(row.plan) == row.kernel.startswith("triton/linear")
