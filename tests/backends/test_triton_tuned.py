"""How measured times decide between Triton's plans, for a GPU that is not here; Triton itself is not needed."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from nvfp4 import tuning
from nvfp4.backends import Desc, explain
from nvfp4.backends.triton import backend, plan, tuned
from nvfp4.backends.triton.tuned import choose, refusal
from nvfp4.tuning import Key, Problem, Store

H200 = plan.Gpu((9, 0), 132, 232448)
RTX3090 = plan.Gpu((8, 6), 82, 101376)
GEMMA = [(43008, 5376), (5376, 21504)]
PROBLEMS = [Problem(m, n, k) for n, k in GEMMA for m in (1, 16, 64, 128, 256, 1024, 8192)]


def won_by(name: str, problem: Problem, gpu: plan.Gpu = H200) -> dict[str, float]:
    return dict.fromkeys(plan.candidates(problem, gpu), 100.0) | {name: 99.0}


def another(problem: Problem, gpu: plan.Gpu = H200) -> str:
    """A candidate that is not chosen without measuring."""
    return next(name for name in plan.candidates(problem, gpu) if name != str(plan.choose(problem, gpu)))


@pytest.mark.parametrize("gpu", [H200, RTX3090], ids=["H200", "RTX 3090"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_at_a_measured_problem_the_measured_winner_runs(problem, gpu) -> None:
    for name, how in plan.candidates(problem, gpu).items():
        times = won_by(name, problem, gpu)
        assert refusal(problem, times, gpu) == ""
        assert choose(problem, gpu, {problem: times}) == how


@pytest.mark.parametrize(("n", "k"), GEMMA)
def test_it_speaks_for_half_and_twice_as_many_tokens(n, k) -> None:
    at, further = Problem(1024, n, k), Problem(4096, n, k)
    split = next(name for name, how in plan.candidates(further, H200).items() if not how.tile.is_alone)
    measured = {at: won_by("library", at), further: won_by(split, further)}
    for m in (512, 700, 1025, 1999):
        assert choose(at._replace(m=m), H200, measured).route == "library"
    for m in (2049, 8192):
        assert str(choose(at._replace(m=m), H200, measured)) == split
    for m in (1, 128, 256, 511, 8193):
        assert choose(at._replace(m=m), H200, measured) == plan.choose(at._replace(m=m), H200)


def test_what_is_of_another_weight_or_tile_says_nothing() -> None:
    at = Problem(64, 5376, 21504)
    measured = {at: won_by(another(at), at)}
    assert choose(at, H200, measured) != plan.choose(at, H200)
    for other in (at._replace(n=5368), at._replace(k=21248), at._replace(m=32), at._replace(m=65)):
        assert choose(other, H200, measured) == plan.choose(other, H200)


def test_columns_are_counted_by_units() -> None:
    """A product sees no more of them than that."""
    at = Problem(16, 640, 2000)
    measured = {at: won_by(another(at), at)}
    assert str(choose(at._replace(k=2048), H200, measured)) == another(at)


@pytest.mark.parametrize("gpu", [H200, RTX3090], ids=["H200", "RTX 3090"])
def test_tokens_of_a_power_of_two_are_all_summed_alike(gpu) -> None:
    """However many of them were measured: a token's last bits depend on how many others there are only by it."""
    n, k = GEMMA[1]
    measured = {}
    for m in (1, 2, 5, 17, 20, 65, 100, 128, 129, 200):
        problem = Problem(m, n, k)
        names = [*plan.candidates(problem, gpu)]
        measured[problem] = won_by(names[m % len(names)], problem, gpu)
    plans = {}
    for m in range(1, plan.FEW + 1):
        plans.setdefault(plan.few(m), set()).add(choose(Problem(m, n, k), gpu, measured))
    assert [len(chosen) for chosen in plans.values()] == [1] * len(plans)
    assert choose(Problem(3, n, k), gpu, measured) == choose(Problem(5, n, k), gpu, measured)


def test_a_winner_that_is_no_candidate_is_not_taken() -> None:
    """Twice as many tokens may be too many for the sums of as many programs."""
    at = Problem(1024, 43008, 5376)
    (name,) = (name for name, how in plan.candidates(at, H200).items() if how.splits == 3)
    twice = at._replace(m=2048)
    assert name not in plan.candidates(twice, H200)
    assert choose(twice, H200, {at: won_by(name, at)}) == plan.choose(twice, H200)


@pytest.mark.parametrize("m", [129, 1024, 8192])
@pytest.mark.parametrize(("n", "k"), [*GEMMA, (262144, 5376), (64, 65536)])
def test_no_candidate_takes_more_memory_than_is_allowed(m, n, k) -> None:
    for how in plan.candidates(Problem(m, n, k), H200).values():
        assert how.splits == 1 or 4 * how.splits * m * n <= plan.WORKSPACE_BYTES


def test_other_candidates_than_there_are_are_refused() -> None:
    problem = PROBLEMS[0]
    assert "got times of nothing, wanted 64x8x128" in refusal(problem, {}, H200)
    assert "got times of library, wanted" in refusal(problem, {"library": 1.0}, H200)
    assert "there is nothing to choose" in refusal(Problem(1, 64, 256), {"64x8x128": 1.0}, H200)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A tuning file of an H200 that is taken for the GPU here."""
    monkeypatch.setenv("NVFP4_CACHE", str(tmp_path))
    monkeypatch.setattr(tuned, "family", lambda: "triton-3.6.0")
    monkeypatch.setattr(tuned, "gpu_of", lambda index: H200)
    monkeypatch.setattr(tuned, "key_of", lambda index, version: Key("NVIDIA H200", "580", version))

    def forget():
        for cached in (tuning._warn_once, tuned.store, tuned.measured, tuned.plan_of):
            cached.cache_clear()

    forget()
    yield tuned.store(0)
    forget()


def test_a_plan_takes_the_winner_from_the_file(stored) -> None:
    at = Problem(16, 5376, 21504)
    name = another(at)
    stored.add({at: won_by(name, at)})
    assert str(tuned.plan_of(at, 0)) == name
    assert tuned.plan_of(at._replace(n=43008), 0) == plan.choose(at._replace(n=43008), H200)
    assert tuned.plan_of(at, None) == plan.choose(at, H200)  # nothing is measured by the interpreter


def test_products_run_by_the_winner_unless_a_plan_is_forced(stored, monkeypatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from nvfp4.backends.triton import products

    at = Problem(1024, 5376, 21504)
    stored.add({at: won_by(another(at), at)})
    ran = []
    monkeypatch.setattr(products, "_fused", lambda x, weight, out, how, gpu: ran.append((how, gpu)))
    tokens = SimpleNamespace(parts=1, rows=at.m, units=plan.units_of(at.k))
    weight = SimpleNamespace(rows=at.n, has_many_scales=False)
    out = SimpleNamespace(device=torch.device("cuda", 0))
    products.product(tokens, weight, out)
    forced = plan.Plan(plan.tile_for(8, H200), 2)
    with products.force_plan(forced):
        products.product(tokens, weight, out)
    assert ran == [(plan.candidates(at, H200)[another(at)], H200), (forced, H200)]


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace("128x16x128", "128x24x128"),
        lambda text: text.replace("16x5376x21504", "200x5376x21504"),
        lambda text: text.replace("580", "570"),
    ],
    ids=["half", "unknown tile", "more tokens", "another driver"],
)
def test_a_damaged_file_is_one_warning_and_the_models_choice(stored, damage, caplog) -> None:
    stored.add({problem: won_by(another(problem), problem) for problem in PROBLEMS})
    stored.key.path.write_text(damage(stored.key.path.read_text()))
    with caplog.at_level(logging.WARNING, "nvfp4"):
        for problem in PROBLEMS:
            assert tuned.plan_of(problem, 0) == plan.choose(problem, H200)
    (record,) = caplog.records
    assert str(stored.key.path) in record.getMessage()


def test_what_another_version_of_triton_took_is_ignored_and_kept(stored, caplog) -> None:
    at = Problem(16, 5376, 21504)
    other = Store(stored.key, "triton-3.5.1", stored.refusal)
    other.add({at: {"a plan of it": 1.0}})
    with caplog.at_level(logging.WARNING, "nvfp4"):
        assert tuned.measured(0) == {}
        assert tuned.plan_of(at, 0) == plan.choose(at, H200)
    assert not caplog.records
    stored.add({at: won_by(another(at), at)})
    assert tuning._read(stored.key).keys() == {"triton-3.5.1", "triton-3.6.0"}


def test_the_family_is_of_the_version_that_is_installed(monkeypatch) -> None:
    monkeypatch.setattr(tuned.importlib.metadata, "version", lambda package: {"triton": "3.7.1"}[package])
    assert tuned.family() == "triton-3.7.1"


def test_explain_says_that_plans_are_tuned(stored, monkeypatch) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setattr(backend, "_refusal", lambda: "")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    desc = Desc("linear", "cuda", layout="n64k256", activations="none")

    def reason():
        (answer,) = (answer for answer in explain(desc).answers if answer.backend == "triton")
        return answer.reason

    assert reason().endswith("; exact 16-bit operands")
    stored.add({problem: won_by(another(problem), problem) for problem in PROBLEMS[:3]})
    tuned.measured.cache_clear()
    assert reason().endswith("; exact 16-bit operands; plans near 3 measured problems are tuned on this GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    assert reason().endswith("; never run on compute capability 8.9 by the authors: `nvfp4 selftest` checks it here")
