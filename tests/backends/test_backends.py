"""The choice of a backend, its explanation, and the environment that steers it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch

import nvfp4
from helpers import quantized
from nvfp4 import backends, env
from nvfp4.backends import Desc


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )


def test_the_cpu_serves_cpu_tensors() -> None:
    explanation = backends.explain(Desc("linear"))
    assert explanation.choice == "cpu"
    assert [a.backend for a in explanation.answers] == ["cuda", "triton", "cpu", "reference"]
    assert all(a.reason for a in explanation.answers)
    assert "-> cpu" in str(explanation)
    assert "nvfp4.prepare" in str(explanation)
    assert "nvfp4.prepare" not in str(backends.explain(Desc("linear", layout="n16k64")))


def test_every_op_is_served_on_the_cpu() -> None:
    for op in backends.OPS:
        assert backends.explain(Desc(op)).choice == "cpu"


@pytest.mark.parametrize(
    "desc",
    [Desc("linear", dtype=torch.float64), Desc("quantize", scheme="compressed-tensors", activations="row")],
)
def test_what_the_ops_refuse_nobody_serves(desc: Desc) -> None:
    explanation = backends.explain(desc)
    assert explanation.choice is None
    assert not any(a.supported for a in explanation.answers)


@pytest.mark.parametrize(
    "desc",
    [Desc("foo"), Desc("quantize", layout="n16k64"), Desc("linear", activations="fp8"), Desc("linear", layout="x")],
)
def test_problems_that_do_not_exist(desc: Desc) -> None:
    with pytest.raises(ValueError, match="wanted one of"):
        backends.explain(desc)


def test_the_cpu_does_not_serve_a_gpu() -> None:
    explanation = backends.explain(Desc("linear", device="xpu"))
    assert explanation.choice == "reference"
    assert not any(a.supported for a in explanation.answers if a.backend != "reference")


def test_a_fallback_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    backends.select.cache_clear()
    with caplog.at_level(logging.WARNING, logger="nvfp4"):
        for _ in range(3):
            backends.select("matmul", "xpu", torch.float16)
    assert len(caplog.records) == 1
    assert "xpu" in caplog.text


def test_force() -> None:
    w, x = quantized(16, 32), torch.randn(2, 32)
    backends.reset_kernel_calls()
    with backends.force("reference"):
        nvfp4.linear(x, w)
        assert "in effect" in str(backends.explain(Desc("linear")))
    nvfp4.linear(x, w, activations=None)
    calls = backends.kernel_calls()
    assert calls["reference/linear/w4a4"] == 1
    assert sum(count for name, count in calls.items() if name.startswith("cpu/") and name.endswith("w4a16")) == 1


def test_forcing_what_cannot_serve_is_an_error() -> None:
    with backends.force("cuda"), pytest.raises(RuntimeError, match="forced backend 'cuda'"):
        nvfp4.quantize(torch.randn(2, 32))
    with pytest.raises(ValueError, match="wanted one of cuda, triton, cpu, reference"), backends.force("tpu"):
        pass


@pytest.mark.parametrize(
    ("variables", "code", "wanted"),
    [
        (
            {"NVFP4_BACKEND": "reference"},
            "print(nvfp4.backends.explain(nvfp4.backends.Desc('linear')).choice)",
            "reference",
        ),
        ({"NVFP4_CPU_ISA": "portable"}, "print(nvfp4.backends.BACKENDS['cpu'].isa)", "portable"),
        ({"NVFP4_NUM_THREADS": "1"}, "print(nvfp4.env.num_threads())", "1"),
    ],
)
def test_environment(variables: dict[str, str], code: str, wanted: str) -> None:
    done = run_python(f"import nvfp4; {code}", **variables)
    assert done.stdout.strip() == wanted, done.stderr


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"NVFP4_BACKEND": "tpu"}, "NVFP4_BACKEND: got 'tpu', wanted one of"),
        ({"NVFP4_CPU_ISA": "sse9"}, "NVFP4_CPU_ISA: CPU instruction set: got sse9"),
        ({"NVFP4_CPU_ISA": "neon"}, "NVFP4_CPU_ISA: CPU instruction set: got neon"),
        ({"NVFP4_NUM_THREADS": "many"}, "NVFP4_NUM_THREADS: got 'many', wanted an integer from 1 to 1024"),
        ({"NVFP4_NUM_THREADS": "0"}, "NVFP4_NUM_THREADS: got '0', wanted an integer from 1 to 1024"),
        ({"NVFP4_NUM_THREADS": "1025"}, "NVFP4_NUM_THREADS: got '1025', wanted an integer from 1 to 1024"),
        ({"NVFP4_LOG": "loud"}, "NVFP4_LOG: got 'loud'"),
    ],
)
def test_malformed_environment(variables: dict[str, str], message: str) -> None:
    done = run_python("import nvfp4", **variables)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert done.stderr.startswith("Traceback")


def test_the_table_is_complete() -> None:
    assert len({v.name for v in env.VARIABLES}) == len(env.VARIABLES)
    for variable in env.VARIABLES:
        assert env.get(variable.name) == os.environ.get(variable.name, variable.default)


@pytest.mark.parametrize("device", ["cuda:0", "gpu", ""])
def test_a_device_that_is_no_type_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match=f"explain: device: got '{device}', wanted the type of a device"):
        backends.explain(Desc("linear", device=device))


def test_what_to_do_about_a_forced_backend() -> None:
    with backends.force("triton"), pytest.raises(RuntimeError, match="Unset NVFP4_BACKEND, or leave force"):
        nvfp4.quantize(torch.ones(1, 16))
