"""`evaluate` against slow float64 figures, chunking, model kinds, and one clear error for each bad input."""

import json
import math

import pytest
import torch
from torch import nn

from nvfp4.metrics import evaluate

VOCABULARY = 97


class Bigram(nn.Module):
    """Logits depend on the current token only: small, and easy to predict."""

    def __init__(self, seed: int, noise: float = 0.0) -> None:
        super().__init__()
        table = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2
        table += noise * torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(seed + 1))
        self.table = nn.Parameter(table)
        self.drop = nn.Dropout(0.5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.drop(self.table[ids])


def _windows(*lengths: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (length,), generator=generator) for length in lengths]


def test_figures_follow_their_definitions() -> None:
    reference, candidate = Bigram(1).eval(), Bigram(1, noise=0.5).eval()
    windows = _windows(33, 2, 70)
    log_p = torch.cat([reference(w)[:-1].double().log_softmax(-1) for w in windows]).detach()
    log_q = torch.cat([candidate(w)[:-1].double().log_softmax(-1) for w in windows]).detach()
    targets = torch.cat([w[1:] for w in windows]).unsqueeze(-1)
    nll_p, nll_q = -log_p.gather(1, targets), -log_q.gather(1, targets)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    sure = log_p.exp().amax(-1) >= 0.5
    count = len(targets)

    got = evaluate(reference, candidate, windows, progress=False)
    assert (got.windows, got.positions) == (3, count)
    assert got.kl_per_position.shape == (count,)
    expected = {
        "ppl_reference": nll_p.mean().exp(),
        "ppl_candidate": nll_q.mean().exp(),
        "ppl_candidate_se": nll_q.mean().exp() * nll_q.std() / math.sqrt(count),
        "ppl_ratio": (nll_q - nll_p).mean().exp(),
        "ppl_ratio_se": (nll_q - nll_p).mean().exp() * (nll_q - nll_p).std() / math.sqrt(count),
        "kl_mean": kl.mean(),
        "kl_mean_se": kl.std() / math.sqrt(count),
        "kl_median": kl.quantile(0.5),
        "kl_p99": kl.quantile(0.99),
        "kl_max": kl.max(),
        "kl_confident_mean": kl[sure].mean(),
        "confident_positions": sure.sum(),
        "top1_agreement": (log_p.argmax(-1) == log_q.argmax(-1)).double().mean(),
    }
    for name, value in expected.items():
        assert getattr(got, name) == pytest.approx(float(value), rel=1e-5), name
    assert got.kl_top20_mean <= got.kl_mean
    assert got.top1_agreement_se == pytest.approx(math.sqrt(got.top1_agreement * (1 - got.top1_agreement) / count))


def test_a_model_against_itself_loses_nothing() -> None:
    model = Bigram(2)
    got = evaluate(model, model, _windows(64), progress=False)
    assert (got.kl_mean, got.kl_max, got.kl_top20_mean, got.ppl_ratio, got.top1_agreement) == (0, 0, 0, 1, 1)


def test_chunks_do_not_show_and_runs_repeat_to_the_bit() -> None:
    reference, candidate = Bigram(3), Bigram(3, noise=1.0)
    windows = _windows(50, 31)
    whole = evaluate(reference, candidate, windows, chunk_positions=1000, progress=False)
    for chunk in (1, 7, 49, 50):
        part = evaluate(reference, candidate, windows, chunk_positions=chunk, progress=False)
        torch.testing.assert_close(part.kl_per_position, whole.kl_per_position, rtol=1e-6, atol=1e-7)
    again = evaluate(reference, candidate, windows, chunk_positions=1000, progress=False)
    assert torch.equal(again.kl_per_position, whole.kl_per_position)


def test_callables_int32_windows_and_training_mode() -> None:
    model = Bigram(4).train()
    frozen = nn.Sequential(Bigram(4)).train()
    frozen[0].drop.eval()
    table = model.table.detach()
    got = evaluate(model, lambda ids: table[ids], [w.int() for w in _windows(20)], progress=False)
    assert got.kl_max == 0.0, "dropout must be off during the evaluation"
    assert model.training
    assert model.drop.training
    evaluate(frozen, frozen, _windows(20), progress=False)
    assert frozen.training
    assert not frozen[0].drop.training


def test_json_has_every_figure_and_no_nan() -> None:
    got = evaluate(Bigram(5), Bigram(6), [torch.tensor([1, 2])], progress=False)
    figures = json.loads(got.to_json())
    assert figures["positions"] == 1
    assert figures["kl_mean_se"] is None
    assert figures["kl_mean"] == got.kl_mean
    assert "statistics" not in figures


def test_a_hopeless_candidate_overflows_to_infinity_and_null() -> None:
    def certain(ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, VOCABULARY)
        logits[..., 0] = 1e4
        return logits

    got = evaluate(Bigram(7), certain, [torch.tensor([1, 2, 3])], progress=False)
    assert got.ppl_candidate == math.inf
    assert got.to_dict()["ppl_candidate"] is None


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        ([], ValueError, "tokens is empty"),
        (torch.zeros(2, 8, dtype=torch.int64), TypeError, "wanted a list of 1-D windows"),
        ([torch.zeros(2, 8, dtype=torch.int64)], ValueError, r"window 0 has shape \[2, 8\]"),
        ([torch.tensor([1, 2]), torch.tensor([1])], ValueError, r"window 1 has shape \[1\]"),
        ([torch.tensor([1.0, 2.0])], TypeError, "wanted a tensor of int64"),
        ([[1, 2, 3]], TypeError, "window 0 is list"),
    ],
)
def test_bad_windows(tokens: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        evaluate(Bigram(8), Bigram(8), tokens, progress=False)


def test_bad_models_and_chunks() -> None:
    model, windows = Bigram(9), _windows(8)
    with pytest.raises(ValueError, match="chunk_positions is 0"):
        evaluate(model, model, windows, chunk_positions=0, progress=False)
    with pytest.raises(ValueError, match="one vocabulary"):
        evaluate(model, lambda ids: model(ids)[..., :-1], windows, progress=False)
    with pytest.raises(TypeError, match="the candidate returned str"):
        evaluate(model, lambda ids: "logits", windows, progress=False)
    with pytest.raises(ValueError, match=r"the reference returned logits \[8, 97\]"):
        evaluate(lambda ids: model(ids)[0], model, windows, progress=False)


def test_a_token_outside_a_callables_vocabulary_is_named() -> None:
    def uniform(ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros(*ids.shape, 7)

    with pytest.raises(ValueError, match=r"window 0, position 1 has id 7; wanted 0 to 6"):
        evaluate(uniform, uniform, [torch.tensor([1, 2, 7])], progress=False)


def test_nan_names_window_and_position() -> None:
    model = Bigram(10)
    broken = Bigram(10)
    windows = [torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 96, 8])]
    with torch.no_grad():
        broken.table[96, 3] = float("nan")
    with pytest.raises(ValueError, match="candidate's logits are not finite at window 1, position 3"):
        evaluate(model, broken, windows, chunk_positions=2, progress=False)


def test_windows_of_one_row_are_windows() -> None:
    model, (window,) = Bigram(1).eval(), _windows(12)
    flat, row = (evaluate(model, model, [w], progress=False) for w in (window, window[None]))
    assert flat.ppl_reference == row.ppl_reference
