"""The SM120 machine code against its budget (`budget.json`). Needs no GPU: it reads the compiled module."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit import sass
from nvfp4 import _C

BUDGET = json.loads(Path(__file__).with_name("budget.json").read_text())

pytestmark = pytest.mark.skipif(bool(sass.missing()), reason=sass.missing() or "-")


def test_every_kernel_has_a_budget() -> None:
    assert sass.kernels().keys() == BUDGET.keys() == set(sass.NAMES.values())


@pytest.mark.skipif(
    not _C.build_info()["nvcc"].startswith("13.0."),
    reason="the budget is of nvcc 13.0's code",
)
@pytest.mark.parametrize("name", BUDGET)
def test_the_main_loop_keeps_its_budget(name: str) -> None:
    kernel, budget = sass.kernels()[name], BUDGET[name]
    assert kernel.ommas > 0
    assert kernel.per_omma <= budget["instructions_per_omma"], kernel.classes()
    assert kernel.load_to_use >= budget.get("load_to_use", 0)  # none where ptxas leaves loads at their use
    assert kernel.registers <= budget["registers"]


@pytest.mark.parametrize("name", BUDGET)
def test_nothing_lives_in_local_memory(name: str) -> None:
    assert sass.kernels()[name].local_accesses == 0


@pytest.mark.parametrize("name", ["128x128x128", "128x128x256", "256x128x128"])
def test_registers_move_to_the_warps_that_multiply(name: str) -> None:
    """ptxas drops setmaxnreg with a warning (C7506, C7508) when it cannot keep it."""
    assert sass.kernels()[name].count("USETMAXREG") == 2


@pytest.mark.parametrize("name", BUDGET)
def test_nothing_is_called(name: str) -> None:
    assert sass.kernels()[name].count("CALL") == 0
