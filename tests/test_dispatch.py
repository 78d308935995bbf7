"""Which SM120 kernel a product gets: pure arithmetic, for GPUs that are not here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from nvfp4 import _C

ROOT = Path(__file__).resolve().parents[1]

dispatch = _C.dispatch
PRO6000 = dispatch.Gpu(188, 2.3e9, 1.792e12)
RTX5090 = dispatch.Gpu(170, 2.4e9, 1.792e12)
SMALL = dispatch.Gpu(36, 2.5e9, 0.448e12)
GEMMA = [(43008, 5376), (5376, 21504)]


@pytest.mark.parametrize("gpu", [PRO6000, RTX5090, SMALL])
@pytest.mark.parametrize(("n", "k"), [*GEMMA, (8, 16), (1000, 1040), (128, 8192)])
def test_the_pieces_of_streamed_weights_do_not_depend_on_the_tokens(n, k, gpu) -> None:
    """So that a token's sums are added in one order, however many other tokens there are."""
    plans = [dispatch.sm120_choose(m, n, k, gpu) for m in (1, 7, 8, 9, 16, 33, 64, 65, 128, 129, 256)]
    assert {(plan.blocks, plan.whole) for plan in plans} == {(plans[0].blocks, 0)}
    names = [plan.name for plan in plans]
    assert names[:2] == ["stream-8", "stream-8"]
    assert names[-3:] == ["128x128x128", "256x128x128", "256x128x128"]


@pytest.mark.parametrize("gpu", [PRO6000, RTX5090])
@pytest.mark.parametrize(("n", "k"), GEMMA)
def test_the_busiest_block_has_at_most_a_twentieth_more_than_the_mean(n, k, gpu) -> None:
    stages = n // 128 * (k // 128)
    plan = dispatch.sm120_choose(1, n, k, gpu)
    assert -(-stages // plan.blocks) <= 1.05 * stages / plan.blocks


@pytest.mark.parametrize("gpu", [PRO6000, RTX5090, SMALL])
def test_every_candidate_is_valid_and_the_choice_is_the_fastest(gpu) -> None:
    for m in (1, 200, 257, 500, 2048, 8192):
        for n, k in (*GEMMA, (2048, 2048), (264, 400), (16, 16)):
            plans = dispatch.sm120_candidates(m, n, k, gpu)
            assert plans
            assert all(dispatch.sm120_refusal(plan, m, n, k) == "" for plan in plans)
            best = dispatch.sm120_choose(m, n, k, gpu)
            assert best.seconds == min(plan.seconds for plan in plans) > 0
            assert best.bound in ("memory", "tensor cores", "latency")


@pytest.mark.parametrize("sms", [30, 84, 170, 188])
def test_every_legal_shape_has_a_plan(sms) -> None:
    """Awkward numbers of tiles, and few stages to a tile."""
    gpu = dispatch.Gpu(sms, 2.3e9, 1e12)
    for n, k in ((151936, 896), (30528, 1024), (640, 2048), (1152, 256), (24448, 128), (8, 16), (127 * 128, 16)):
        for m in (1, 100, 257, 1153, 1280, 4000, 4096, 4225, 7681, 9999):
            assert dispatch.sm120_refusal(dispatch.sm120_choose(m, n, k, gpu), m, n, k) == ""


def test_the_model_agrees_with_published_timings() -> None:
    """Of other people's kernels: `bench/results/sm120-published.csv`."""
    spec = importlib.util.spec_from_file_location("sm120_model", ROOT / "bench" / "sm120_model.py")
    assert spec is not None
    assert spec.loader is not None
    model = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(model)
    assert len(model.published()) >= 15
    assert model.median_error() <= 0.25


def test_a_choice_prints_itself() -> None:
    text = repr(dispatch.sm120_choose(2048, 43008, 5376, PRO6000))
    assert text.startswith("256x128x128, thread blocks: 188, whole tiles: 2632, predicted ")
    assert repr(dispatch.Sm120Plan(0, 188, 0, 1)) == "stream-8, thread blocks: 188, all tiles in pieces"
    tuned = dispatch.Sm120Plan(6, 188, 2632, 12, tuned=True)
    assert repr(tuned) == "256x128x128, thread blocks: 188, whole tiles: 2632, tuned on this GPU"


@pytest.mark.parametrize(
    ("plan", "size", "why"),
    [
        ((9, 1, 0, 1), (1, 128, 128), "got shape 9, wanted 0 to 6"),
        ((0, 0, 0, 1), (1, 128, 128), "got 0 thread blocks"),
        ((0, 1, 0, 1), (9, 128, 128), "got m = 9, wanted at most 8"),
        ((4, 2, 0, 1), (9, 128, 128), "got 2 thread blocks for 1 stages"),
        ((5, 1, 0, 1), (9, 128, 128), "wanted a multiple of 256"),
        ((4, 2, 3, 1), (500, 128, 128), "got 3 whole tiles of 4"),
        ((4, 1, 0, 0), (9, 128, 128), "or no group"),
        ((4, 1, 0, 1), (9, 132, 128), "got n = 132 and k = 128, wanted multiples of 8 and 16"),
        ((4, 1, 0, 1), (0, 128, 128), "got m = 0"),
        ((4, 1, 0, 1), (1 << 40, 128, 128), "more than 2^30 pieces"),
    ],
)
def test_what_cannot_run_is_refused(plan, size, why) -> None:
    assert why in dispatch.sm120_refusal(dispatch.Sm120Plan(*plan), *size)


def test_a_gpu_without_numbers_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        dispatch.sm120_choose(1, 128, 128, dispatch.Gpu(0, 1e9, 1e12))


def test_what_a_plan_needs_beside_its_operands() -> None:
    streamed, whole = dispatch.Sm120Plan(0, 100, 0, 1), dispatch.Sm120Plan(6, 4, 4, 1)
    assert dispatch.sm120_partial_bytes(streamed, 8, 43008, 5376) == 2 * 100 * 128 * 8 * 4
    assert dispatch.sm120_arrivals(streamed, 8, 43008, 5376) == 336 * 4
    assert dispatch.sm120_partial_bytes(whole, 512, 256, 512) == 0
    assert dispatch.sm120_arrivals(whole, 512, 256, 512) == 0
