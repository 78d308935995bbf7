"""Per-position comparison of two next-token distributions over a full vocabulary.

With logits r (reference) and c (candidate), both shifted by their own row maximum, e = exp(r), S_r = sum(e) and
S_c = sum(exp(c)):

    KL(reference || candidate) = sum(e * (r - c)) / S_r - log(S_r) + log(S_c)
    negative log-likelihood    = log(S) - shifted logit of the target

so a position costs two exponentials and never a log-softmax of its own. Rows are taken a few at a time, because a
tile that stays in the cache is about twice as fast as one that does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["TOP_K", "PositionStatistics", "position_statistics"]

TOP_K = 20
"""Tokens that the truncated divergence keeps, as in the vLLM `prompt_logprobs` protocol; the rest is one bucket."""

_TILE_ELEMENTS = 1 << 19
"""Elements of one tile: 2 rows of Gemma's 262,144-token vocabulary, 2 MiB per buffer in float32.

Larger buffers go back to the system after every use, and page faults then take half of the time.
"""

_SMALLEST_TAIL = 1e-12
"""Floor of a tail probability, which is a difference of numbers near one; it keeps its logarithm finite."""


@dataclass(frozen=True)
class PositionStatistics:
    """What is kept of n positions; every tensor is 1-D of length n, on the CPU, float64 unless said otherwise.

    Attributes:
        nll_reference: -log p(target) under the reference.
        nll_candidate: -log q(target) under the candidate.
        kl: KL(p || q) over the full vocabulary, in nats.
        kl_top: KL(p || q) over the reference's `TOP_K` tokens and one bucket for the rest; a lower bound of `kl`.
        top_probability: probability that the reference gives its most likely token.
        agrees: bool, whether the reference's most likely token is the candidate's too (or one of several equals).
    """

    nll_reference: torch.Tensor
    nll_candidate: torch.Tensor
    kl: torch.Tensor
    kl_top: torch.Tensor
    top_probability: torch.Tensor
    agrees: torch.Tensor

    @staticmethod
    def concatenate(parts: list[PositionStatistics]) -> PositionStatistics:
        """The statistics of all positions of `parts`, in order. Raises ValueError if `parts` is empty."""
        if not parts:
            raise ValueError("PositionStatistics.concatenate: got no parts, wanted at least one")
        names = PositionStatistics.__dataclass_fields__
        return PositionStatistics(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def position_statistics(
    reference: torch.Tensor,
    candidate: torch.Tensor,
    targets: torch.Tensor,
    *,
    window: int = 0,
    first_position: int = 0,
) -> PositionStatistics:
    """Compare two models position by position.

    Args:
        reference: logits [n, vocabulary] of the reference, any floating dtype (half types are widened to float32).
        candidate: logits [n, vocabulary] of the candidate, on any device.
        targets: int64 [n], the token that really follows each position.
        window: index that error messages name.
        first_position: position of row 0 in its window, for error messages.

    Returns:
        The statistics of the n positions. Sums run in float32 (float64 for float64 logits) within a row and
        everything after them in float64; a KL that rounding made negative (by about 1e-7) is zero.

    Raises:
        ValueError: shapes that do not match, a target outside the vocabulary, logits that are NaN or +inf, or a
            candidate that rules out a token which the reference does not.
    """
    if reference.ndim != 2 or candidate.ndim != 2 or targets.shape != reference.shape[:1]:
        raise ValueError(
            "position_statistics: wanted logits [n, vocabulary] twice and targets [n]; got "
            f"{list(reference.shape)}, {list(candidate.shape)} and {list(targets.shape)}"
        )
    if reference.shape != candidate.shape:
        raise ValueError(
            f"position_statistics: the reference's logits are {list(reference.shape)}, the candidate's "
            f"{list(candidate.shape)}; wanted one vocabulary. Compare models that share a tokenizer, and cut "
            "padding tokens off the larger one"
        )
    _require_in_vocabulary(targets, reference.shape[1], window, first_position)
    rows = max(1, _TILE_ELEMENTS // max(1, reference.shape[1]))
    targets = targets.to(reference.device)
    parts = []
    for start in range(0, reference.shape[0], rows):
        tile = slice(start, start + rows)
        where = (window, first_position + start)
        parts.append(_tile_statistics(_widen(reference[tile]), candidate[tile], targets[tile], where))
    if not parts:
        empty = torch.empty(0, dtype=torch.float64)
        return PositionStatistics(empty, empty, empty, empty, empty, torch.empty(0, dtype=torch.bool))
    return PositionStatistics.concatenate(parts)


def _tile_statistics(
    reference: torch.Tensor, candidate: torch.Tensor, targets: torch.Tensor, where: tuple[int, int]
) -> PositionStatistics:
    candidate = _widen(candidate.to(reference.device))
    top_values, top = reference.topk(min(TOP_K, reference.shape[1]), dim=-1)
    peak_r, peak_c = top_values[:, :1], candidate.amax(dim=-1, keepdim=True)
    _require_finite(peak_r, "reference", where)
    _require_finite(peak_c, "candidate", where)
    target = targets.unsqueeze(-1)

    shifted_r = reference - peak_r
    shifted_c = candidate - peak_c
    agrees = shifted_c.gather(-1, top[:, :1]) == 0
    target_r, target_c = shifted_r.gather(-1, target).double(), shifted_c.gather(-1, target).double()
    top_r, top_c = shifted_r.gather(-1, top).double().exp(), shifted_c.gather(-1, top).double().exp()
    weights = shifted_r.exp()
    sum_r = weights.sum(dim=-1, keepdim=True).double()
    cross = shifted_r.sub_(shifted_c).mul_(weights).sum(dim=-1, keepdim=True).double()
    if not bool(cross.isfinite().all()):
        cross = _cross_with_masked_tokens(reference - peak_r, shifted_c, weights, where)
    sum_c = torch.exp(shifted_c, out=weights).sum(dim=-1, keepdim=True).double()

    log_r, log_c = sum_r.log(), sum_c.log()
    kl = (cross / sum_r - log_r + log_c).clamp_min(0.0)
    top_p, top_q = top_r / sum_r, top_c / sum_c
    tail_p = (1.0 - top_p.sum(dim=-1, keepdim=True)).clamp_min(_SMALLEST_TAIL)
    tail_q = (1.0 - top_q.sum(dim=-1, keepdim=True)).clamp_min(_SMALLEST_TAIL)
    kept = torch.special.xlogy(top_p, top_p) - torch.special.xlogy(top_p, top_q)
    kl_top = kept.sum(dim=-1, keepdim=True) + tail_p * (tail_p / tail_q).log()
    # Merging tokens into one bucket cannot raise a divergence, so only rounding can put kl_top above kl.
    kl_top = torch.minimum(kl_top.clamp_min(0.0), kl)
    columns = (log_r - target_r, log_c - target_c, kl, kl_top, 1.0 / sum_r, agrees)
    return PositionStatistics(*(column.squeeze(-1).cpu() for column in columns))


def _require_in_vocabulary(targets: torch.Tensor, size: int, window: int, first_position: int) -> None:
    """Named here, because a gather with such an index fails without saying which one, or on CUDA for good."""
    bad = ((targets < 0) | (targets >= size)).nonzero()
    if bad.numel():
        row = int(bad[0])
        raise ValueError(
            f"evaluate: the token after window {window}, position {first_position + row} has id {int(targets[row])}; "
            f"wanted 0 to {size - 1}, as many as the models have logits. Tokenise with the models' own tokenizer"
        )


def _widen(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _require_finite(peak: torch.Tensor, model: str, where: tuple[int, int]) -> None:
    """A NaN or +inf anywhere in a row shows in its maximum; a row of nothing but -inf does too."""
    bad = (~peak.isfinite()).flatten().nonzero()
    if bad.numel():
        row = int(bad[0])
        raise ValueError(
            f"evaluate: the {model}'s logits are not finite at window {where[0]}, position {where[1] + row} "
            f"(row maximum {peak.flatten()[row].item()}); wanted finite logits. Look for NaN weights or scales "
            "(nvfp4.diagnose) or an overflow in float16"
        )


def _cross_with_masked_tokens(
    shifted_r: torch.Tensor, shifted_c: torch.Tensor, weights: torch.Tensor, where: tuple[int, int]
) -> torch.Tensor:
    """The cross sum with 0 * log(0 / q) = 0: tokens that the reference rules out with -inf add nothing."""
    gap = torch.where(weights == 0, 0.0, shifted_r - shifted_c)
    cross = (gap * weights).sum(dim=-1, keepdim=True).double()
    bad = (~cross.isfinite()).flatten().nonzero()
    if bad.numel():
        raise ValueError(
            f"evaluate: the KL divergence is infinite at window {where[0]}, position {where[1] + int(bad[0])}: the "
            "candidate gives a logit of -inf to a token that the reference allows; wanted the same tokens masked"
        )
    return cross
