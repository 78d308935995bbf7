"""`nvfp4 selftest` on whatever machine the suite runs on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from nvfp4 import backends, reference, selftest
from nvfp4.cli import app

FUSED = {"CPU: fused quantise against the reference", "CPU: gated MLP against the reference"}
PRODUCTS = {"CPU: products against the reference", "CPU: gated MLP against the reference"}


@contextmanager
def only(names: set[str]) -> Iterator[None]:
    """Run no other checks."""
    with pytest.MonkeyPatch.context() as inside:
        inside.setattr(selftest, "CHECKS", {name: check for name, check in selftest.CHECKS.items() if name in names})
        yield


def failed(among: set[str]) -> set[str]:
    with only(among):
        return {check.name for check in selftest.run() if check.state == "FAILED"}


def test_what_runs_here_passes_and_the_rest_says_why() -> None:
    checks = {check.name: check for check in selftest.run()}
    assert checks.keys() == selftest.CHECKS.keys()
    for check in checks.values():
        assert check.state == "passed" or not check.name.startswith("CPU"), check
        assert check.state in ("passed", "skipped"), check
        assert check.detail


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU runs more")
def test_without_a_gpu_its_checks_are_skipped() -> None:
    skipped = [check for check in selftest.run() if check.state == "skipped"]
    assert [check.name.partition(":")[0] for check in skipped] == ["GPU"] * 3 + ["Triton"] * 6 + ["SM120"] * 4
    assert all("GPU" in check.detail or "CUDA" in check.detail for check in skipped)


def test_a_wrong_product_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.matmul

    def wrong(*args, **kwargs):
        y = right(*args, **kwargs)
        y[0, 0] += 1
        return y

    monkeypatch.setattr(selftest.reference, "matmul", wrong)
    with only(PRODUCTS):  # a gated MLP has products too
        checks = {check.name: check for check in selftest.run()}
        assert {check.state for check in checks.values()} == {"FAILED"}
        assert "sums are wrong" in checks["CPU: products against the reference"].detail
        result = CliRunner().invoke(app, ["selftest"])
    assert result.exit_code == 1
    assert " 2 failed" in result.stdout


def of_the_cpu(monkeypatch: pytest.MonkeyPatch, change: Callable[..., Tensor]) -> None:
    """Let the CPU backend alone evaluate another act(gate) * up."""
    cpu, right = type(backends.BACKENDS["cpu"]), reference.gated_activation

    def patched(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(self, *args):
            with pytest.MonkeyPatch.context() as inside:
                inside.setattr(reference, "gated_activation", lambda *values: change(right, *values))
                return original(self, *args)

        return call

    for name in ("gated_quantize", "gated_mlp"):
        monkeypatch.setattr(cpu, name, patched(getattr(cpu, name)))


@pytest.mark.parametrize(("called", "computed"), list(itertools.permutations(reference.ACTIVATIONS, 2)))
def test_a_wrong_activation_is_a_failure(monkeypatch: pytest.MonkeyPatch, called: str, computed: str) -> None:
    of_the_cpu(monkeypatch, lambda right, gate, up, name: right(gate, up, computed if name == called else name))
    assert failed(FUSED) == FUSED


@pytest.mark.parametrize("step", [-1, 1])
def test_a_unit_in_the_last_place_of_an_activation_is_none(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """GPUs are promised to be so near; of large gates every evaluation is the same."""

    def near(right, gate, up, name):
        values = right(gate, up, name)
        bits = values.view({2: torch.int16, 4: torch.int32}[values.itemsize])
        return torch.where((gate < 0) & (up != 0), (bits + step).view(values.dtype), values)

    of_the_cpu(monkeypatch, near)
    assert failed(FUSED) == set()


@pytest.mark.parametrize(
    ("name", "check"),
    [
        ("dequantize", "CPU: dequantise against the reference"),
        ("linear", "CPU: products of 16-bit activations against the reference"),
    ],
)
def test_one_wrong_number_is_a_failure(monkeypatch: pytest.MonkeyPatch, name: str, check: str) -> None:
    cpu = type(backends.BACKENDS["cpu"])
    right = getattr(cpu, name)

    def wrong(self, *args):
        y = right(self, *args)
        y[-1, -1] += 1
        return y

    monkeypatch.setattr(cpu, name, wrong)
    assert failed({check}) == {check}


def test_the_report_counts() -> None:
    result = CliRunner().invoke(app, ["selftest"])
    assert result.exit_code == 0
    assert " 0 failed, " in result.stdout
    assert result.stdout.startswith("nvfp4 ")


SERVES_A_GPU = backends.BACKENDS["triton"].supports(backends.Desc("quantize", "cuda"))[0]
TRITON = pytest.mark.skipif(not SERVES_A_GPU, reason="Triton serves no GPU here")
NO_TRITON = pytest.mark.skipif(SERVES_A_GPU, reason="Triton serves the GPU here, so its checks run")


@pytest.mark.parametrize("forced", ["reference", pytest.param("triton", marks=NO_TRITON)])
def test_where_nothing_can_run_it_is_no_success(forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Of the instruction no backend is asked.
    monkeypatch.delitem(selftest.CHECKS, "SM120: the FP4 instruction against its published model")
    with backends.force(forced):
        result = CliRunner().invoke(app, ["selftest"])
    assert result.exit_code == 2
    assert result.stdout.count("NVFP4_BACKEND (or force()) forces another backend; unset it") >= 6
    assert "nothing was compared" in result.stderr
    assert "0 passed, 0 failed" in result.stdout


@pytest.mark.parametrize("forced", ["cpu", pytest.param("triton", marks=TRITON)])
def test_a_forced_backend_runs_its_own_checks(forced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVFP4_BACKEND", forced)
    with backends.force(forced):
        result = CliRunner().invoke(app, ["selftest"])
    assert result.exit_code == 0
    assert f"NVFP4_BACKEND={forced}" in result.stdout.splitlines()[0]


def test_the_help_says_what_the_exit_codes_mean() -> None:
    text = " ".join(CliRunner().invoke(app, ["selftest", "--help"]).stdout.split())
    assert "Exit code 0: all that ran is equal. 1: something differs. 2: nothing ran" in text


def test_a_forced_backend_stays_forced() -> None:
    with backends.force("reference"):
        selftest.run()
        assert backends.explain(backends.Desc("quantize")).forced
