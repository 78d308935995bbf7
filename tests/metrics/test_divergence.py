"""Per-position statistics against their definition in float64, exact identities, and what must be refused."""

import pytest
import torch

from nvfp4.metrics import divergence
from nvfp4.metrics.divergence import PositionStatistics, position_statistics


def _logits(rows: int, vocabulary: int, seed: int, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


def _definition(reference: torch.Tensor, candidate: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """The textbook formulas, row by row, nothing shared with the code under test."""
    log_p, log_q = reference.double().log_softmax(-1), candidate.double().log_softmax(-1)
    rows = {"nll_reference": [], "nll_candidate": [], "kl": [], "kl_top": [], "top_probability": [], "agrees": []}
    for row, target in enumerate(targets.tolist()):
        p, q = log_p[row].exp(), log_q[row].exp()
        order = sorted(range(p.numel()), key=lambda token: -float(p[token]))[:20]
        kept = sum(float(p[t] * (log_p[row, t] - log_q[row, t])) for t in order)
        tail_p, tail_q = 1.0 - float(p[order].sum()), 1.0 - float(q[order].sum())
        if p.numel() > 20:
            kept += tail_p * float(torch.tensor(tail_p / tail_q, dtype=torch.float64).log())
        rows["nll_reference"].append(-float(log_p[row, target]))
        rows["nll_candidate"].append(-float(log_q[row, target]))
        rows["kl"].append(float((p * (log_p[row] - log_q[row])).sum()))
        rows["kl_top"].append(kept)
        rows["top_probability"].append(float(p.max()))
        rows["agrees"].append(int(p.argmax()) == int(q.argmax()))
    return {name: torch.tensor(values) for name, values in rows.items()}


@pytest.mark.parametrize("vocabulary", [2, 19, 20, 21, 1000, 20_001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_matches_the_definition(vocabulary: int, dtype: torch.dtype) -> None:
    reference = _logits(5, vocabulary, seed=1).to(dtype)
    candidate = (reference.float() + _logits(5, vocabulary, seed=2, spread=0.5)).to(dtype)
    targets = torch.randint(vocabulary, (5,), generator=torch.Generator().manual_seed(3))
    got, want = position_statistics(reference, candidate, targets), _definition(reference, candidate, targets)
    # Half types give ties for the first and the twentieth place; any of them is right, so these are checked without.
    names = [n for n in want if n not in ("agrees", "kl_top") or dtype in (torch.float32, torch.float64)]
    for name in names:
        torch.testing.assert_close(getattr(got, name).double(), want[name].double(), rtol=1e-5, atol=2e-6, msg=name)


def test_identical_models_have_exactly_no_divergence() -> None:
    logits = _logits(5, 300_000, seed=4)
    got = position_statistics(logits, logits.clone(), torch.zeros(5, dtype=torch.int64))
    assert torch.equal(got.kl, torch.zeros(5, dtype=torch.float64))
    assert torch.equal(got.kl_top, torch.zeros(5, dtype=torch.float64))
    assert bool(got.agrees.all())
    assert torch.equal(got.nll_reference, got.nll_candidate)


def test_truncation_never_exceeds_the_full_divergence_and_nothing_is_negative() -> None:
    for spread in (1e-6, 1e-3, 0.1, 3.0, 30.0):
        reference = _logits(64, 4096, seed=5, spread=10.0)
        candidate = reference + _logits(64, 4096, seed=6, spread=spread)
        got = position_statistics(reference, candidate, torch.zeros(64, dtype=torch.int64))
        assert bool((got.kl_top <= got.kl).all())
        assert bool((got.kl_top >= 0).all())


def test_adding_a_constant_to_the_logits_changes_nothing() -> None:
    reference, candidate = _logits(8, 512, seed=7).double(), _logits(8, 512, seed=8).double()
    targets = torch.arange(8)
    plain = position_statistics(reference, candidate, targets)
    shifted = position_statistics(reference + 1e4, candidate - 1e4, targets)
    torch.testing.assert_close(shifted.kl, plain.kl, rtol=0, atol=1e-9)
    torch.testing.assert_close(shifted.nll_candidate, plain.nll_candidate, rtol=0, atol=1e-9)


def test_extreme_but_finite_logits() -> None:
    reference = torch.full((1, 64), -3e38)
    reference[0, 5] = 3e4
    candidate = torch.zeros(1, 64)
    got = position_statistics(reference, candidate, torch.tensor([5]))
    assert float(got.nll_reference) == 0.0
    torch.testing.assert_close(float(got.kl), float(torch.tensor(64.0, dtype=torch.float64).log()), rtol=1e-6, atol=0)


def test_tiles_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, candidate = _logits(37, 700, seed=9), _logits(37, 700, seed=10)
    targets = torch.randint(700, (37,), generator=torch.Generator().manual_seed(11))
    whole = position_statistics(reference, candidate, targets)
    monkeypatch.setattr(divergence, "_TILE_ELEMENTS", 1400)
    tiled = position_statistics(reference, candidate, targets)
    for name in PositionStatistics.__dataclass_fields__:
        torch.testing.assert_close(getattr(tiled, name), getattr(whole, name), rtol=1e-6, atol=1e-7)


def test_inputs_are_left_alone_and_may_be_strided() -> None:
    base = _logits(6, 200, seed=12)
    reference, candidate = base[::2, ::2], base[1::2, ::2]
    before = base.clone()
    strided = position_statistics(reference, candidate, torch.arange(3))
    compact = position_statistics(reference.contiguous(), candidate.contiguous(), torch.arange(3))
    assert torch.equal(base, before)
    torch.testing.assert_close(strided.kl, compact.kl)


def test_no_positions() -> None:
    got = position_statistics(torch.empty(0, 10), torch.empty(0, 10), torch.empty(0, dtype=torch.int64))
    assert got.kl.shape == (0,)
    assert got.agrees.dtype == torch.bool


def test_tokens_masked_in_both_count_for_nothing() -> None:
    reference, candidate = _logits(3, 50, seed=13).double(), _logits(3, 50, seed=14).double()
    kept = position_statistics(reference[:, :40], candidate[:, :40], torch.zeros(3, dtype=torch.int64))
    reference[:, 40:] = candidate[:, 40:] = float("-inf")
    masked = position_statistics(reference, candidate, torch.zeros(3, dtype=torch.int64))
    torch.testing.assert_close(masked.kl, kept.kl)
    torch.testing.assert_close(masked.kl_top, kept.kl_top)


def test_a_token_that_only_the_candidate_rules_out_is_an_error() -> None:
    reference, candidate = _logits(4, 50, seed=15), _logits(4, 50, seed=16)
    candidate[2, 7] = float("-inf")
    with pytest.raises(ValueError, match=r"infinite at window 3, position 12.*masked"):
        position_statistics(reference, candidate, torch.zeros(4, dtype=torch.int64), window=3, first_position=10)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("model", ["reference", "candidate"])
def test_logits_that_are_not_finite_are_named_by_window_and_position(value: float, model: str) -> None:
    logits = {"reference": _logits(6, 300_000, seed=17), "candidate": _logits(6, 300_000, seed=18)}
    logits[model][4, 123_456] = value
    with pytest.raises(ValueError, match=rf"the {model}'s logits are not finite at window 2, position 104 "):
        position_statistics(
            logits["reference"], logits["candidate"], torch.zeros(6, dtype=torch.int64), window=2, first_position=100
        )


def test_vocabularies_must_match() -> None:
    with pytest.raises(ValueError, match="one vocabulary"):
        position_statistics(torch.zeros(2, 5), torch.zeros(2, 6), torch.zeros(2, dtype=torch.int64))


@pytest.mark.parametrize("token", [-1, 5])
def test_a_target_outside_the_vocabulary_is_named(token: int) -> None:
    with pytest.raises(ValueError, match=rf"window 2, position 11 has id {token}; wanted 0 to 4"):
        position_statistics(torch.zeros(2, 5), torch.zeros(2, 5), torch.tensor([0, token]), window=2, first_position=10)


@pytest.mark.parametrize(
    ("reference", "candidate", "targets"), [((2, 5), (2, 5), (3,)), ((5,), (5,), (5,)), ((2, 5), (1, 2, 5), (2,))]
)
def test_shapes_are_checked(reference: tuple, candidate: tuple, targets: tuple) -> None:
    with pytest.raises(ValueError, match=r"wanted logits \[n, vocabulary\]"):
        position_statistics(torch.zeros(reference), torch.zeros(candidate), torch.zeros(targets, dtype=torch.int64))


def test_concatenating_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no parts"):
        PositionStatistics.concatenate([])
