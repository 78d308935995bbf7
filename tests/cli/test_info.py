"""`nvfp4 info`: complete, and no probe that fails stops the others."""

import json

import pytest
import torch
from typer.testing import CliRunner

from nvfp4 import backends, env
from nvfp4.cli import app, probes


def invoke(*arguments):
    return CliRunner().invoke(app, ["info", *arguments], catch_exceptions=False)


def test_info_names_everything():
    result = invoke()
    assert result.exit_code == 0
    for word in (*backends.BACKENDS, *backends.OPS, *(variable.name for variable in env.VARIABLES)):
        assert word in result.output
    assert "self-check" in result.output
    assert "passed" in result.output


def test_products_are_shown_as_prepared_modules_use_them():
    lines = invoke().output.splitlines()
    for op in ("linear", "gated_mlp"):
        first = lines.index(f"  {op} cpu bfloat16 n16k64 W4A4 (row): cpu")
        assert lines[first + 1 : first + 3] == [
            f"  {op} cpu bfloat16 n16k64 W4A4 (static): cpu",
            f"  {op} cpu bfloat16 n16k64 W4A16: cpu",
        ]
        answers = lines[first + 3 : first + 7]  # once for the three
        assert [line.replace("->", "").split()[0] for line in answers] == list(backends.BACKENDS)
        assert not any("repacks" in line for line in answers)
    with backends.force("reference"):
        assert "  gated_mlp cpu bfloat16 plain W4A16: reference  (forced)" in invoke().output


def test_a_build_for_the_cpu_says_so(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    build = {**probes._C.build_info(), "cuda": "", "nvcc": ""}
    monkeypatch.setattr(probes._C, "build_info", lambda: build)
    output = invoke().output
    assert "torch sees none (this torch is a build for the CPU alone)" in output
    assert "cuda        none: a library for the CPU alone" in output
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "torch sees none (this torch is built for CUDA 13.0)" in invoke().output


def test_json_parses_and_says_who_serves():
    result = invoke("--json")
    assert result.exit_code == 0
    report = json.loads(result.output)
    assert report["self_check"]["passed"] is True
    assert report["self_check"]["kernels"]
    assert {found["choice"] for found in report["backends"]} <= set(backends.BACKENDS)
    assert [isa["name"] for isa in report["instruction_sets"] if isa["in_use"]]
    assert report["versions"]["python"].startswith("3.")


def test_a_probe_that_fails_states_its_reason(monkeypatch):
    def broken(*args):
        raise OSError("no such luck")

    for name in ("_isas", "_cpu", "_gpus", "_openmp", "_environment", "_backends", "_versions"):
        monkeypatch.setattr(probes, name, broken)
    result = invoke()
    assert result.exit_code == 0
    assert result.output.count("unknown: OSError: no such luck") == 7


def test_a_failed_self_check_is_exit_code_1(monkeypatch):
    monkeypatch.setattr(probes, "_PACKED", "00" * 32)
    result = invoke()
    assert result.exit_code == 1
    assert "FAILED: quantize: got codes 07224466a8caecfe" in result.output


def test_a_backend_that_cannot_serve_fails_the_self_check():
    with backends.force("triton"):
        result = invoke()
    assert result.exit_code == 1
    assert "not served by the forced backend" in result.output
    assert "served by nobody  (forced)" in result.output


def test_the_self_check_runs_on_each_backend(backend):
    found = probes.self_check()
    assert found["passed"], found["difference"]
    assert all(kernel.startswith(backend) for kernel in found["kernels"])


@pytest.mark.parametrize(
    ("files", "count"),
    [
        (["/a/libgomp.so.1.0.0", "/a/libgomp.so.1.0.0", "/lib/libc.so.6"], 1),
        (["/a/libgomp-a34b.so.1", "/b/libiomp5.so", "/c/libomp.so.5"], 3),
        (["/a/libompstub_not.so"], 0),
    ],
)
def test_openmp_runtimes_are_counted_by_file(files, count, tmp_path):
    maps = tmp_path / "maps"
    lines = [f"7f00-7f01 r-xp 00000000 08:01 42   {file}" for file in files]
    maps.write_text("\n".join([*lines, "7f02-7f03 rw-p 0 0:0 0", ""]))
    assert len(probes.openmp_runtimes(maps)) == count
