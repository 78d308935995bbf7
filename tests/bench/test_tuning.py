"""What `nvfp4 tune` makes of measured times; and, where the products run, the measurement itself."""

from __future__ import annotations

import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

import sm120
from nvfp4 import _C, backends
from nvfp4.backends import sm120_tuning
from nvfp4.backends.triton import plan, tuned
from nvfp4.bench import families, tuning
from nvfp4.bench.timing import Budget
from nvfp4.bench.tuning import Tuned
from nvfp4.tuning import Problem

PRO6000 = _C.dispatch.Gpu(188, 2.4e9, 1.79e12)
H200 = plan.Gpu((9, 0), 132, 232448)
SM120, TRITON = families.FAMILIES


def test_the_winner_took_the_least_time() -> None:
    assert tuning.winner({"a": 3.0, "b": 1.5, "c": 2.0}) == "b"
    assert tuning.winner({"a": 2.0, "b": 2.0}) == "a"


@pytest.fixture
def fake_gpu(monkeypatch):
    monkeypatch.setattr(families, "_kernels", SimpleNamespace(gpu=lambda index: PRO6000))
    monkeypatch.setattr(tuned, "gpu_of", lambda index: H200)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_every_problem_with_a_choice_is_measured_and_stored(fake_gpu, monkeypatch) -> None:
    made, told = [], []
    monkeypatch.setattr(SM120, "weights", lambda n, k: made.append((n, k)) or [torch.empty(0)])
    monkeypatch.setattr(tuning, "measure", lambda of, problem, plans, weights: dict.fromkeys(plans, float(problem.m)))
    results = tuning.run(SM120, [(43008, 5376), (5376, 21504)], [16, 512, 2048], told.append)
    assert [result.problem.m for result in results] == [16, 512, 2048] * 2
    assert made == [(43008, 5376), (5376, 21504)]  # once for all numbers of tokens
    assert len(told) == 4
    measured = tuning.measurements(results)
    assert {problem.m for problem in measured} == {512, 2048}
    for problem, us in measured.items():
        assert sm120_tuning.refusal(problem, us, PRO6000) == ""
    again = tuning.stored(SM120, measured)
    assert [(one.problem, list(one.plans), one.us) for one in again] == [
        (one.problem, list(one.plans), one.us) for one in results if one.us
    ]


def test_the_table_says_what_was_predicted_what_was_measured_and_who_won() -> None:
    problem = Problem(2048, 5376, 21504)
    plans = sm120_tuning.candidates(problem, PRO6000)
    us = {name: 400.0 + i for i, name in enumerate(reversed(plans))}
    only = Problem(1, 5376, 21504)
    console = Console(width=100, record=True, file=io.StringIO())
    results = [Tuned(problem, plans, us), Tuned(only, sm120_tuning.candidates(only, PRO6000), {})]
    console.print(tuning.render(SM120, results))
    lines = console.export_text().splitlines()
    (fastest,) = [line for line in lines if "fastest" in line]
    assert tuning.winner(us) in fastest
    assert " 400 " in fastest
    (streamed,) = [line for line in lines if "nothing to choose" in line]
    assert "stream-8 pieces" in streamed
    assert "–" in streamed  # not measured is not a number


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine with a GPU says something else")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"tune: .*(torch sees no GPU|no CUDA part)"):
        tuning.family()


def test_times_of_an_emulated_instruction_are_refused(monkeypatch) -> None:
    def served(desc):
        return backends.Explanation(desc, (backends.Answer("cuda", True, "SM120 kernels"),), "cuda", False)

    monkeypatch.setattr(families, "explain", served)
    monkeypatch.setattr(families.sm120, "is_emulated", lambda: True)
    with pytest.raises(RuntimeError, match="say nothing about the kernels"):
        tuning.family()
    monkeypatch.setattr(families.sm120, "is_emulated", lambda: False)
    assert tuning.family() is SM120


@pytest.mark.parametrize(
    ("cuda", "triton", "forced", "wanted"),
    [(True, True, None, 0), (False, True, None, 1), (True, True, "triton", 1), (True, False, None, 0)],
)
def test_the_backend_whose_products_run_is_tuned(cuda, triton, forced, wanted, monkeypatch) -> None:
    def supports(served, layout):
        return lambda desc: (served and desc.layout == layout, "its reason")

    monkeypatch.setattr(backends.BACKENDS["cuda"], "supports", supports(cuda, "n128k128"))
    monkeypatch.setattr(backends.BACKENDS["triton"], "supports", supports(triton, "n64k256"))
    monkeypatch.setattr(families.sm120, "is_emulated", lambda: False)
    with backends.force(forced):
        assert tuning.family() is families.FAMILIES[wanted]
    with (
        backends.force("reference"),
        pytest.raises(RuntimeError, match=r"SM120's matrix products: .*; Triton's matrix products: "),
    ):
        tuning.family()


def test_few_tokens_are_measured_too_where_triton_serves(fake_gpu, monkeypatch) -> None:
    monkeypatch.setattr(TRITON, "weights", lambda n, k: [torch.empty(0)])
    monkeypatch.setattr(tuning, "measure", lambda of, problem, plans, weights: dict.fromkeys(plans, float(problem.m)))
    results = tuning.run(TRITON, tuning.SHAPES, TRITON.tokens)
    measured = tuning.measurements(results)
    assert [(problem.m, problem.n, problem.k) for problem in measured] == [
        (m, n, k) for n, k in tuning.SHAPES for m in TRITON.tokens
    ]
    assert all(tuned.refusal(problem, us, H200) == "" for problem, us in measured.items())
    assert tuning.stored(TRITON, measured) == results
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tuning.render(TRITON, results))
    assert "128x16x128, 4 stages, 4 warps" in console.export_text()


@pytest.mark.skipif(not sm120.served(), reason="no GPU that runs SM120's products")
def test_candidates_are_timed() -> None:
    problem = Problem(600, 640, 2048)
    plans = sm120_tuning.candidates(problem, sm120.kernels.gpu(0))
    us = tuning.measure(SM120, problem, plans, SM120.weights(640, 2048), Budget(rounds=3, seconds=1.0))
    assert us.keys() == plans.keys()
    assert all(0 < time < 1e6 for time in us.values())


@pytest.mark.skipif(not sm120.served(), reason="no GPU that runs SM120's products")
def test_a_plan_that_gives_other_bits_stops_the_tuning(monkeypatch) -> None:
    problem = Problem(600, 640, 2048)
    plans = sm120_tuning.candidates(problem, sm120.kernels.gpu(0))
    monkeypatch.setattr(tuning.torch, "equal", lambda a, b: False)
    with pytest.raises(RuntimeError, match="one of them is wrong"):
        tuning.measure(SM120, problem, plans, SM120.weights(640, 2048))


needs_triton = pytest.mark.skipif(bool(TRITON.refusal()), reason="no GPU that Triton's products run on")


@needs_triton
@pytest.mark.parametrize("m", [1, 16, 100, 600])
@pytest.mark.parametrize(("n", "k"), [(640, 2048), (72, 528)])
def test_tritons_candidates_are_timed(m, n, k) -> None:
    """By every route and tile; that their bits agree is checked on the way."""
    problem = Problem(m, n, k)
    plans = TRITON.candidates(problem)
    us = tuning.measure(TRITON, problem, plans, TRITON.weights(n, k), Budget(rounds=3, seconds=1.0))
    assert us.keys() == plans.keys()
    assert all(0 < time < 1e6 for time in us.values())


@needs_triton
def test_a_plan_of_triton_that_gives_other_bits_stops_the_tuning(monkeypatch) -> None:
    problem = Problem(16, 640, 2048)
    monkeypatch.setattr(tuning.torch, "equal", lambda a, b: False)
    with pytest.raises(RuntimeError, match="one of them is wrong"):
        tuning.measure(TRITON, problem, TRITON.candidates(problem), TRITON.weights(640, 2048))
