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
from nvfp4.bench import tuning
from nvfp4.bench.timing import Budget
from nvfp4.bench.tuning import Tuned
from nvfp4.tuning import Problem

PRO6000 = _C.dispatch.Gpu(188, 2.4e9, 1.79e12)


def test_the_winner_took_the_least_time() -> None:
    assert tuning.winner({"a": 3.0, "b": 1.5, "c": 2.0}) == "b"
    assert tuning.winner({"a": 2.0, "b": 2.0}) == "a"


@pytest.fixture
def fake_gpu(monkeypatch):
    monkeypatch.setattr(tuning, "_kernels", SimpleNamespace(gpu=lambda index: PRO6000))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)


def test_every_problem_with_a_choice_is_measured_and_stored(fake_gpu, monkeypatch) -> None:
    made, told = [], []
    monkeypatch.setattr(tuning, "_weights", lambda n, k: made.append((n, k)) or [torch.empty(0)])
    monkeypatch.setattr(tuning, "measure", lambda problem, plans, weights: dict.fromkeys(plans, float(problem.m)))
    results = tuning.run([(43008, 5376), (5376, 21504)], [16, 512, 2048], told.append)
    assert [result.problem.m for result in results] == [16, 512, 2048] * 2
    assert made == [(43008, 5376), (5376, 21504)]  # once for all numbers of tokens
    assert len(told) == 4
    measured = tuning.measurements(results)
    assert {problem.m for problem in measured} == {512, 2048}
    for problem, us in measured.items():
        assert sm120_tuning.refusal(problem, us, PRO6000) == ""
    again = tuning.stored(measured)
    assert [(one.problem, list(one.plans), one.us) for one in again] == [
        (one.problem, list(one.plans), one.us) for one in results if one.us
    ]


def test_the_table_says_what_was_predicted_what_was_measured_and_who_won() -> None:
    problem = Problem(2048, 5376, 21504)
    plans = sm120_tuning.candidates(problem, PRO6000)
    us = {name: 400.0 + i for i, name in enumerate(reversed(plans))}
    only = Problem(1, 5376, 21504)
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tuning.render([Tuned(problem, plans, us), Tuned(only, sm120_tuning.candidates(only, PRO6000), {})]))
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
        tuning.check_tunable()


def test_times_of_an_emulated_instruction_are_refused(monkeypatch) -> None:
    def served(desc):
        return backends.Explanation(desc, (backends.Answer("cuda", True, "SM120 kernels"),), "cuda", False)

    monkeypatch.setattr(tuning, "explain", served)
    monkeypatch.setattr(tuning.sm120, "is_emulated", lambda: True)
    with pytest.raises(RuntimeError, match="say nothing about the kernels"):
        tuning.check_tunable()
    monkeypatch.setattr(tuning.sm120, "is_emulated", lambda: False)
    tuning.check_tunable()


@pytest.mark.skipif(not sm120.served(), reason="no GPU that runs SM120's products")
def test_candidates_are_timed() -> None:
    problem = Problem(600, 640, 2048)
    plans = sm120_tuning.candidates(problem, sm120.kernels.gpu(0))
    us = tuning.measure(problem, plans, tuning._weights(640, 2048), Budget(rounds=3, seconds=1.0))
    assert us.keys() == plans.keys()
    assert all(0 < time < 1e6 for time in us.values())


@pytest.mark.skipif(not sm120.served(), reason="no GPU that runs SM120's products")
def test_a_plan_that_gives_other_bits_stops_the_tuning(monkeypatch) -> None:
    problem = Problem(600, 640, 2048)
    plans = sm120_tuning.candidates(problem, sm120.kernels.gpu(0))
    monkeypatch.setattr(tuning.torch, "equal", lambda a, b: False)
    with pytest.raises(RuntimeError, match="one of them is wrong"):
        tuning.measure(problem, plans, tuning._weights(640, 2048))
