"""The table of docs/support.md that says who serves what is what `explain` answers, on every kind of GPU."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from nvfp4 import backends
from nvfp4.backends import Desc, cuda, sm120, sm120_tuning
from nvfp4.backends.triton import backend as triton_backend
from nvfp4.backends.triton import tuned

PAGE = Path(__file__).parents[1] / "docs" / "support.md"
OPS = {
    "matmul": ("matmul", "row"),
    "linear W4A4": ("linear", "row"),
    "linear W4A16": ("linear", "none"),
    "gated_mlp W4A4": ("gated_mlp", "row"),
    "gated_mlp W4A16": ("gated_mlp", "none"),
}
"""Rows whose names are not an op's."""


def table() -> dict[str, dict[str, str]]:
    """The choice by op and by target, as the page has it."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| op | no GPU |"))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:]]
    header, _, *body = rows[: next((i for i, row in enumerate(rows) if len(row) == 1), len(rows))]
    return {
        name.strip("`"): dict(zip(header[1:], cells, strict=True))
        for names, *cells in body
        for name in re.split(r",\s*", names)
    }


def desc_of(name: str, device: str) -> Desc:
    op, activations = OPS.get(name, (name, "row"))
    return Desc(op, device, activations=activations)


TABLE = table()
TARGETS = [target for target in next(iter(TABLE.values())) if target != "no GPU"]
CAPABILITIES = [(target, text) for target in TARGETS for text in re.findall(r"\d+\.\d", target)]


def test_the_table_has_every_op() -> None:
    described = {OPS.get(name, (name,))[0] for name in TABLE}
    assert described == set(backends.OPS) - {"tiles"}


@pytest.mark.parametrize("name", TABLE)
def test_without_a_gpu(name: str) -> None:
    assert backends.explain(desc_of(name, "cpu")).choice == TABLE[name]["no GPU"]


@pytest.fixture
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU of a compute capability that is not here."""
    kernels = cuda._kernels
    if kernels is None or kernels.emulation() or set(kernels.built_archs()) != {"90a", "120f"}:
        pytest.skip("the page is of a build for 90a and 120f")
    pytest.importorskip("triton", reason="Triton is not installed")
    capability = tuple(int(part) for part in request.param.split("."))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(cuda, "_refusal", lambda: "" if kernels.runs_on(*capability) else "no kernels for it")
    monkeypatch.setattr(
        sm120, "gemm_refusal", lambda: "" if kernels.gemm_runs_on(*capability) else "no products for it"
    )
    monkeypatch.setattr(sm120_tuning, "measured", lambda index: {})
    monkeypatch.setattr(tuned, "measured", lambda index: {})
    monkeypatch.setattr(triton_backend, "_refusal", lambda: "" if capability >= (8, 0) else "older than Ampere")


@pytest.mark.parametrize(("target", "gpu"), CAPABILITIES, indirect=["gpu"])
def test_on_a_gpu_that_is_not_here(target: str, gpu: None) -> None:
    for name, choices in TABLE.items():
        assert backends.explain(desc_of(name, "cuda")).choice == choices[target], name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_the_gpu_that_is_here() -> None:
    if cuda._kernels is None or cuda._kernels.emulation():
        pytest.skip("the page is of a build with CUDA kernels that emulates nothing")
    here = "{}.{}".format(*torch.cuda.get_device_capability())
    targets = [target for target, text in CAPABILITIES if text == here]
    for name, choices in TABLE.items():
        for target in targets:
            assert backends.explain(desc_of(name, "cuda")).choice == choices[target], name
