"""What `nvfp4 tune` does: the candidates of a family of products in turn, on the GPU here, and the fastest of them.

Weights rotate, so that none is found in the L2 cache; codes of tokens do not, as they have just been written in a model
too. Candidates that disagree in one bit are a fault, not a choice: their operands are such that every sum is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from nvfp4.bench.families import FAMILIES, Family
from nvfp4.bench.report import number
from nvfp4.bench.timing import Budget, Samples, by_events, interleave, replayed
from nvfp4.tuning import Measurements, Problem, Times

__all__ = ["SHAPES", "Tuned", "family", "measure", "measurements", "render", "run", "stored", "winner"]

SHAPES = ((43008, 5376), (5376, 21504))
"""(N, K) of Gemma-4-31B's MLP: gate and up together, and down."""

_BUDGET = Budget(rounds=15, seconds=1.0)


class Tuned(NamedTuple):
    """A problem's candidates by name, and the microseconds of each; no times where there was nothing to choose."""

    problem: Problem
    plans: Mapping[str, Any]
    us: Times


def winner(us: Times) -> str:
    """The candidate that took the least time; the first of equal ones."""
    return min(us, key=us.__getitem__)


def family() -> Family:
    """The products that are tuned here.

    Raises:
        RuntimeError: no GPU that any family serves, or times here would say nothing; the message says which and why.
    """
    reasons = []
    for found in FAMILIES:
        refusal = found.refusal()
        if not refusal:
            fault = found.fault()
            if fault:
                raise RuntimeError(f"tune: {fault}")
            return found
        reasons.append(f"{found.name}: {refusal}")
    raise RuntimeError(f"tune: there is nothing to choose from. {'; '.join(reasons)}")


def measure(
    of: Family, problem: Problem, plans: Mapping[str, Any], weights: list[Tensor], budget: Budget = _BUDGET
) -> Times:
    """Microseconds of one product by each plan: medians of rounds in which the plans take turns.

    Raises:
        RuntimeError: a plan's result differs from the first one's.
    """
    product = of.product(problem, weights)
    pool = torch.cuda.graph_pool_handle()  # what one plan needs for its sums, the next one may have
    first: Tensor | None = None
    variants = {}
    for name, plan in plans.items():
        call = product.calls(plan)
        product.out.fill_(float("nan"))
        call()
        first = product.out.clone() if first is None else first
        if not torch.equal(product.out, first):
            raise RuntimeError(
                f"tune: {problem}: {name} and {next(iter(plans))} differ where sums are exact; one of them is wrong. "
                "Nothing is stored; please run `nvfp4 selftest` and report what it says"
            )
        variants[name] = replayed(call, pool)
    samples: dict[str, Samples] = interleave(variants, budget, by_events)
    return {name: taken.median / len(weights) for name, taken in samples.items()}


def run(
    of: Family,
    shapes: Iterable[tuple[int, int]],
    tokens: Iterable[int],
    progress: Callable[[str], None] = lambda _: None,
) -> list[Tuned]:
    """Time every candidate of every problem on the current GPU.

    Args:
        of: whose candidates.
        shapes: (N, K) of weights.
        tokens: values of M.
        progress: told what comes next.

    Raises:
        RuntimeError: candidates of a problem disagree.
    """
    sizes, results = list(tokens), []
    for n, k in shapes:
        weights: list[Tensor] = []
        for m in sizes:
            problem = Problem(m, n, k)
            plans = of.candidates(problem)
            us: Times = {}
            if len(plans) > 1:
                progress(f"{len(plans)} candidates of {problem}")
                weights = weights or of.weights(n, k)
                us = measure(of, problem, plans, weights)
            results.append(Tuned(problem, plans, us))
    return results


def stored(of: Family, measured: Measurements) -> list[Tuned]:
    """The results that these measurements of the current GPU are."""
    return [Tuned(problem, of.candidates(problem), us) for problem, us in measured.items()]


def measurements(results: Iterable[Tuned]) -> Measurements:
    """What is stored of the results."""
    return {result.problem: result.us for result in results if result.us}


def render(of: Family, results: Iterable[Tuned]) -> Table:
    """One line a candidate, the fastest of each problem marked."""
    table = Table(header_style="bold", pad_edge=False)
    for column in ("M x N x K", "candidate", "predicted µs", "measured µs", ""):
        table.add_column(column, justify="right" if "µs" in column else "left", no_wrap=True)
    for problem, plans, us in results:
        for name, plan in plans.items():
            best = bool(us) and name == winner(us)
            note = "fastest" if best else "" if us else "nothing to choose"
            table.add_row(
                str(problem) if name == next(iter(plans)) else "", name, number(of.predicted(plan)),
                number(us.get(name)), note, style="green" if best else None,
            )  # fmt: skip
        table.add_section()
    return table
