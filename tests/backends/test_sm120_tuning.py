"""How measured times correct the choice of SM120's plans, for GPUs that are not here."""

from __future__ import annotations

import logging
from functools import partial
from types import SimpleNamespace

import pytest

from nvfp4 import _C, tuning
from nvfp4.backends import Desc, cuda, explain, sm120, sm120_tuning
from nvfp4.backends.sm120_tuning import candidates, choose, refusal
from nvfp4.tuning import Key, Problem, Store

dispatch = _C.dispatch
PRO6000 = dispatch.Gpu(188, 2.4e9, 1.79e12)
GEMMA = [(43008, 5376), (5376, 21504)]
PROBLEMS = [Problem(m, n, k) for n, k in GEMMA for m in (512, 1024, 2048, 4096, 8192)]


def as_predicted(problem: Problem) -> dict[str, float]:
    """Microseconds of every candidate as the model has them."""
    return {name: plan.seconds * 1e6 for name, plan in candidates(problem, PRO6000).items()}


def same(plan, other) -> bool:
    return all(getattr(plan, name) == getattr(other, name) for name in ("shape", "blocks", "whole", "group"))


@pytest.mark.parametrize("problem", [*PROBLEMS, Problem(300, 264, 400), Problem(9999, 24448, 128)], ids=str)
@pytest.mark.parametrize("sms", [36, 170, 188])
def test_every_candidate_has_a_name_of_its_own(problem, sms) -> None:
    gpu = dispatch.Gpu(sms, 2.4e9, 1.79e12)
    assert len(candidates(problem, gpu)) == len(dispatch.sm120_candidates(*problem, gpu)) > 0


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_at_a_measured_problem_the_measured_winner_runs(problem) -> None:
    for winner, plan in candidates(problem, PRO6000).items():
        times = dict.fromkeys(candidates(problem, PRO6000), 100.0) | {winner: 99.0}
        assert refusal(problem, times, PRO6000) == ""
        got = choose(problem, PRO6000, {problem: times})
        assert same(got, plan)
        assert got.tuned
        assert repr(got).endswith(", tuned on this GPU")


@pytest.mark.parametrize("m", [700, 1025, 1500, 2047, 4096, 4097])
@pytest.mark.parametrize(("n", "k"), GEMMA)
def test_times_as_predicted_change_no_choice(m, n, k) -> None:
    measured = {problem: as_predicted(problem) for problem in PROBLEMS}
    assert same(choose(Problem(m, n, k), PRO6000, measured), dispatch.sm120_choose(m, n, k, PRO6000))


def test_the_nearest_measurement_corrects_other_numbers_of_tokens() -> None:
    at = Problem(2048, 5376, 21504)
    as_measured = {name: us * (1 if name.startswith("128x128x256") else 3) for name, us in as_predicted(at).items()}
    measured = {at: as_measured, at._replace(m=8192): as_predicted(at._replace(m=8192))}
    for m in (1024, 1500, 3000):
        got = choose(at._replace(m=m), PRO6000, measured)
        assert got.name == "128x128x256"
        assert got.tuned
        assert dispatch.sm120_refusal(got, m, at.n, at.k) == ""
    for m in (5000, 8192):  # nearer to the other one
        got = choose(at._replace(m=m), PRO6000, measured)
        assert same(got, dispatch.sm120_choose(m, at.n, at.k, PRO6000))


def test_what_is_far_or_of_another_weight_says_nothing() -> None:
    at = Problem(2048, 5376, 21504)
    measured = {at: dict.fromkeys(candidates(at, PRO6000), 1.0)}
    for other in (at._replace(m=1023), at._replace(m=4097), at._replace(n=5368), at._replace(k=21488)):
        got = choose(other, PRO6000, measured)
        assert not got.tuned
        assert same(got, dispatch.sm120_choose(*other, PRO6000))


@pytest.mark.parametrize("m", [1, 8, 9, 64, 128, 200, 256])
def test_up_to_256_tokens_nothing_is_tuned(m) -> None:
    """One candidate, whose order of summation does not depend on M; a file cannot say otherwise."""
    problem = Problem(m, 43008, 5376)
    (only,) = candidates(problem, PRO6000)
    for times in (
        {only: 1.0},
        {"256x128x128 whole": 1.0},
        dict.fromkeys(candidates(problem._replace(m=512), PRO6000), 1.0),
    ):
        assert "there is nothing to choose" in refusal(problem, times, PRO6000)
        got = choose(problem, PRO6000, {problem: times, problem._replace(m=257): times})
        assert not got.tuned
        assert same(got, dispatch.sm120_choose(*problem, PRO6000))


@pytest.mark.parametrize("m", [257, 511, 1153, 9999])
@pytest.mark.parametrize("sms", [30, 84, 170, 188])
def test_whatever_was_measured_the_plan_is_valid(m, sms) -> None:
    """Candidates that were not possible at the measured problem, and the other way round."""
    gpu = dispatch.Gpu(sms, 2.3e9, 1e12)
    for n, k in ((151936, 896), (640, 2048), (1152, 256), (8, 16), (127 * 128, 16)):
        for near in (m // 2 + 1, m + 1, 2 * m):
            measured = {Problem(near, n, k): dict.fromkeys(candidates(Problem(near, n, k), gpu), 50.0)}
            got = choose(Problem(m, n, k), gpu, measured)
            assert dispatch.sm120_refusal(got, m, n, k) == ""


def test_a_measurement_of_kernels_that_do_not_run_here_leaves_the_model_alone() -> None:
    at = Problem(512, 43008, 5376)
    assert not choose(at._replace(m=300), PRO6000, {at: {}}).tuned


@pytest.mark.parametrize(
    ("times", "why"),
    [
        ({}, "got times of nothing, wanted 128x128x128 pieces"),
        ({"512x512x512 whole": 1.0}, "got times of 512x512x512 whole, wanted"),
        ({"128x128x128 pieces": 1.0}, "got times of 128x128x128 pieces, wanted"),
    ],
)
def test_other_candidates_than_there_are_are_refused(times, why) -> None:
    assert why in refusal(PROBLEMS[2], times, PRO6000)


def test_a_problem_without_kernels_is_refused() -> None:
    assert "nothing to choose" in refusal(Problem(512, 132, 128), {"a": 1.0}, PRO6000)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A tuning file of a GPU that `sm120.plan` takes for the one here."""
    monkeypatch.setenv("NVFP4_CACHE", str(tmp_path))
    store = Store(Key("GPU", "580", "0.1.0"), "sm120", partial(refusal, gpu=PRO6000))
    monkeypatch.setattr(sm120_tuning, "store", lambda index: store)
    monkeypatch.setattr(sm120, "_gpu", lambda index: PRO6000)

    def forget():
        for cached in (tuning._warn_once, sm120_tuning.measured, sm120.plan):
            cached.cache_clear()

    forget()
    yield store
    forget()


def test_a_plan_takes_the_winner_from_the_file(stored) -> None:
    problem = Problem(2048, 5376, 21504)
    winner = "128x128x256 pieces"
    stored.add({problem: dict.fromkeys(candidates(problem, PRO6000), 100.0) | {winner: 90.0}})
    assert same(sm120.plan(*problem, 0), candidates(problem, PRO6000)[winner])
    assert not sm120.plan(2048, 43008, 5376, 0).tuned


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("256x128x128", "1024x128x128"),
        lambda text: text.replace("2048x", "200x"),
        lambda text: text.replace("580", "570"),
    ],
    ids=["half", "unknown kernel", "streamed tokens", "another driver"],
)
def test_a_damaged_file_is_one_warning_and_the_models_choice(stored, damage, caplog) -> None:
    stored.add({problem: as_predicted(problem) for problem in PROBLEMS})
    stored.key.path.write_text(damage(stored.key.path.read_text()))
    with caplog.at_level(logging.WARNING, "nvfp4"):
        for problem in (*PROBLEMS, Problem(1, 43008, 5376)):
            got = sm120.plan(*problem, 0)
            assert not got.tuned
            assert same(got, dispatch.sm120_choose(*problem, PRO6000))
    (record,) = caplog.records
    assert str(stored.key.path) in record.getMessage()


def test_explain_says_that_plans_are_tuned(stored, monkeypatch) -> None:
    monkeypatch.setattr(cuda, "_refusal", lambda: "")
    monkeypatch.setattr(cuda, "_kernels", SimpleNamespace(emulation=lambda: ""))
    monkeypatch.setattr(sm120, "gemm_refusal", lambda: "")
    monkeypatch.setattr(cuda.torch.cuda, "current_device", lambda: 0)
    desc = Desc("linear", "cuda", layout="n128k128")
    unproven = "SM120 kernels, which their authors never ran on a card: `nvfp4 selftest` checks them on this one"
    assert explain(desc).answers[0].reason == unproven
    stored.add({problem: as_predicted(problem) for problem in PROBLEMS[:3]})
    sm120_tuning.measured.cache_clear()
    assert explain(desc).answers[0].reason == f"{unproven}; plans near 3 measured problems are tuned on this GPU"
