"""Evaluate a candidate model against its reference on token windows.

The report's columns are the field's (llama.cpp's `--kl-divergence`, exllamav3's `model_diff.py`): perplexity of both,
the full-vocabulary KL divergence with its tail, the divergence truncated to the reference's 20 most likely tokens
plus one bucket, the divergence where the reference is confident, and how often both agree on the next token.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from nvfp4.metrics.divergence import PositionStatistics, position_statistics
from nvfp4.metrics.forward import LogitSource, Model, inference

__all__ = ["CONFIDENT", "Evaluation", "evaluate"]

CONFIDENT = 0.5
"""Positions where the reference's top probability is at least this count as confident."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a candidate lost against its reference. Divergences are in nats.

    A field `x_se` is the standard error of `x`, with positions taken as independent draws: for a mean the sample
    standard deviation (n - 1) over sqrt(n); for a perplexity exp(mean) times the standard error of the mean
    negative log-likelihood (delta method); for `ppl_ratio` the same on the paired differences; for the agreement
    the binomial sqrt(p (1 - p) / n). It is NaN (null in JSON) where fewer than two positions count.

    Attributes:
        windows, positions: how much was scored; a window of T tokens has T - 1 positions.
        ppl_reference, ppl_candidate, ppl_ratio: exp of the mean negative log-likelihood; candidate over reference.
        kl_mean, kl_median, kl_p99, kl_max: KL(reference || candidate) over the full vocabulary; quantiles are
            linearly interpolated.
        kl_top20_mean: the same over the reference's 20 most likely tokens and one bucket for the rest.
        kl_confident_mean, confident_positions: mean KL where the reference's top probability is >= 0.5, and how
            many positions those are (NaN if none).
        top1_agreement: share of positions where both have the same most likely token.
        seconds_reference, seconds_candidate, seconds_statistics: time in either model and in comparing them.
        statistics: every position's own values.
    """

    windows: int
    positions: int
    ppl_reference: float
    ppl_reference_se: float
    ppl_candidate: float
    ppl_candidate_se: float
    ppl_ratio: float
    ppl_ratio_se: float
    kl_mean: float
    kl_mean_se: float
    kl_median: float
    kl_p99: float
    kl_max: float
    kl_top20_mean: float
    kl_top20_mean_se: float
    kl_confident_mean: float
    kl_confident_mean_se: float
    confident_positions: int
    top1_agreement: float
    top1_agreement_se: float
    seconds_reference: float
    seconds_candidate: float
    seconds_statistics: float
    statistics: PositionStatistics = field(repr=False)

    @property
    def kl_per_position(self) -> torch.Tensor:
        """KL of every position, float64 [positions], in window order."""
        return self.statistics.kl

    def to_dict(self) -> dict[str, int | float | None]:
        """Every figure by name, ready for JSON: not the per-position tensors, and None for NaN or infinity."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "statistics"}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}

    def to_json(self) -> str:
        """`to_dict` as indented JSON."""
        return json.dumps(self.to_dict(), indent=2)


def evaluate(
    reference: Model,
    candidate: Model,
    tokens: Sequence[torch.Tensor],
    *,
    chunk_positions: int = 128,
    progress: bool = True,
) -> Evaluation:
    """Compare `candidate` with `reference` on the next token of every position of every window.

    Both models see the same windows, one at a time; with `transformers` models at most `chunk_positions` rows of
    logits of each are in memory (2 x 134 MB for Gemma's vocabulary). Any other module or callable hands over the
    logits of a whole window. Results repeat to the bit for the same models and number of threads.

    Args:
        reference: module or callable from token ids int64 [1, T] to logits [1, T, vocabulary] or to an object with
            `.logits`. Modules run in eval mode and without gradients.
        candidate: the same, over the same vocabulary.
        tokens: windows, each int64 [T], T >= 2. Put the BOS token first in each if the model wants one: nothing is
            added here.
        chunk_positions: positions compared at a time, at least 1.
        progress: show a tqdm bar on stderr.

    Raises:
        TypeError: a window that is not a tensor of integers, or a model that returns no logits.
        ValueError: no windows, a window shorter than two tokens or not 1-D, a token id outside the vocabulary,
            vocabularies that differ, or logits that are not finite (window and position are named).
    """
    for name, model in (("reference", reference), ("candidate", candidate)):
        if not callable(model):
            raise TypeError(f"evaluate: {name}: got {type(model).__name__}, wanted a module or another callable")
    windows = _check_windows(tokens)
    if chunk_positions < 1:
        raise ValueError(f"evaluate: chunk_positions is {chunk_positions}, wanted at least 1")
    _check_vocabulary(reference, windows)
    _check_vocabulary(candidate, windows)
    sources = (LogitSource(reference, "reference"), LogitSource(candidate, "candidate"))
    clocks = [_Stopwatch(), _Stopwatch(), _Stopwatch()]
    parts: list[PositionStatistics] = []
    total = sum(len(window) - 1 for window in windows)
    bar = tqdm(total=total, desc="evaluate", unit="position", disable=not progress)
    with bar, inference(reference, candidate):
        for index, window in enumerate(windows):
            slices = [clock.run(source.run, window) for clock, source in zip(clocks, sources, strict=False)]
            for start in range(0, len(window) - 1, chunk_positions):
                stop = min(start + chunk_positions, len(window) - 1)
                logits = [clock.run(cut, start, stop) for clock, cut in zip(clocks, slices, strict=False)]
                targets = window[start + 1 : stop + 1]
                part = clocks[2].run(position_statistics, *logits, targets, window=index, first_position=start)
                parts.append(part)
                bar.update(stop - start)
    return _summary(PositionStatistics.concatenate(parts), len(windows), [clock.seconds for clock in clocks])


class _Stopwatch:
    """Adds up the time of the calls made through it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        result = function(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - start
        return result


def _check_windows(tokens: Any) -> list[torch.Tensor]:
    if isinstance(tokens, torch.Tensor):
        raise TypeError(f"evaluate: tokens is one tensor {list(tokens.shape)}; wanted a list of 1-D windows")
    if len(tokens) == 0:
        raise ValueError("evaluate: tokens is empty; wanted at least one window of two or more token ids")
    for index, window in enumerate(tokens):
        if not isinstance(window, torch.Tensor) or window.dtype not in (torch.int64, torch.int32):
            got = window.dtype if isinstance(window, torch.Tensor) else type(window).__name__
            raise TypeError(f"evaluate: window {index} is {got}; wanted a tensor of int64 token ids")
        one_row = window.ndim == 1 or (window.ndim == 2 and len(window) == 1)
        if not one_row or window.numel() < 2:
            raise ValueError(
                f"evaluate: window {index} has shape {list(window.shape)}; wanted [T] or [1, T] with T >= 2, so that "
                "at least one position has a next token"
            )
    return [window.detach().reshape(-1).to("cpu", torch.int64) for window in tokens]


def _check_vocabulary(model: Any, windows: list[torch.Tensor]) -> None:
    """Token ids against the embedding's size, before an embedding lookup fails without saying which id."""
    if not hasattr(model, "get_input_embeddings"):
        return
    size = getattr(model.get_input_embeddings(), "num_embeddings", None)
    for index, window in enumerate(windows):
        low, high = int(window.min()), int(window.max())
        if size is not None and (low < 0 or high >= size):
            raise ValueError(
                f"evaluate: window {index} has token ids from {low} to {high}; wanted 0 to {size - 1}, the model's "
                "vocabulary. Tokenise with the model's own tokenizer"
            )


def _mean(values: torch.Tensor) -> tuple[float, float]:
    """Mean and its standard error; NaN where there are too few values for either."""
    count = values.numel()
    mean = float(values.mean()) if count else math.nan
    return mean, float(values.std(correction=1)) / math.sqrt(count) if count > 1 else math.nan


def _exp(value: float) -> float:
    """e**value, infinite where `math.exp` would raise OverflowError (a broken model's likelihood)."""
    return math.exp(value) if value < 700.0 else math.inf


def _summary(statistics: PositionStatistics, windows: int, seconds: list[float]) -> Evaluation:
    count = statistics.kl.numel()
    nll_r, nll_r_se = _mean(statistics.nll_reference)
    nll_c, nll_c_se = _mean(statistics.nll_candidate)
    gap, gap_se = _mean(statistics.nll_candidate - statistics.nll_reference)
    kl, kl_se = _mean(statistics.kl)
    top, top_se = _mean(statistics.kl_top)
    confident = statistics.kl[statistics.top_probability >= CONFIDENT]
    confident_kl, confident_se = _mean(confident)
    agreement = float(statistics.agrees.double().mean())
    return Evaluation(
        windows=windows,
        positions=count,
        ppl_reference=_exp(nll_r),
        ppl_reference_se=_exp(nll_r) * nll_r_se,
        ppl_candidate=_exp(nll_c),
        ppl_candidate_se=_exp(nll_c) * nll_c_se,
        ppl_ratio=_exp(gap),
        ppl_ratio_se=_exp(gap) * gap_se,
        kl_mean=kl,
        kl_mean_se=kl_se,
        kl_median=float(np.quantile(statistics.kl.numpy(), 0.5)),
        kl_p99=float(np.quantile(statistics.kl.numpy(), 0.99)),
        kl_max=float(statistics.kl.max()),
        kl_top20_mean=top,
        kl_top20_mean_se=top_se,
        kl_confident_mean=confident_kl,
        kl_confident_mean_se=confident_se,
        confident_positions=confident.numel(),
        top1_agreement=agreement,
        top1_agreement_se=math.sqrt(agreement * (1.0 - agreement) / count) if count > 1 else math.nan,
        seconds_reference=seconds[0],
        seconds_candidate=seconds[1],
        seconds_statistics=seconds[2],
        statistics=statistics,
    )
