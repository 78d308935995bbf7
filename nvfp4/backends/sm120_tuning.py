"""SM120's share of what `nvfp4 tune` measured: how it corrects the choice of a plan.

The cost model predicts the time of every candidate for any number of tokens. Where the same weight was measured with
about as many, each prediction is scaled by what its candidate took there over what had been predicted for it, and the
least wins: at the measured size that is the measured winner. A plan is always one of the candidates, so that up to 256
tokens, where there is only one, a token's result still does not depend on how many others there are.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from nvfp4 import _C
from nvfp4.tuning import Measurements, Problem, Store, Times, candidates_refusal, key_of, nearest

__all__ = ["candidates", "choose", "measured", "refusal", "store"]

_kernels: Any = getattr(_C, "cuda", None)
_dispatch: Any = _C.dispatch


def _whole_or_pieces(plan: Any, problem: Problem) -> str:
    return "pieces" if _dispatch.sm120_arrivals(plan, *problem) else "whole"


def candidates(problem: Problem, gpu: Any) -> dict[str, Any]:
    """Every plan worth timing by its name: the kernel's, and what becomes of tiles that do not fill all SMs."""
    plans = _dispatch.sm120_candidates(*problem, gpu)
    return {f"{plan.name} {_whole_or_pieces(plan, problem)}": plan for plan in plans}


def refusal(problem: Problem, times: Times, gpu: Any) -> str:
    """Why these times cannot be of this problem, or an empty string."""
    return candidates_refusal(times, candidates(problem, gpu))


def choose(problem: Problem, gpu: Any, found: Measurements) -> Any:
    """The plan with the least time: predicted, and corrected where something near was measured."""
    plans = candidates(problem, gpu)
    near = nearest(problem, (other for other in found if other[1:] == problem[1:]))
    if near is None or len(plans) < 2:
        return _dispatch.sm120_choose(*problem, gpu)
    there = candidates(near, gpu)
    ratios = {name: us / (there[name].seconds * 1e6) for name, us in found[near].items()}

    seconds = {}
    for name, plan in plans.items():
        # Where a candidate was not possible there, its kernel's other one may have been: their main loops are the same.
        ratio = ratios.get(name) or ratios.get(f"{plan.name} pieces") or ratios.get(f"{plan.name} whole")
        if ratio:
            seconds[name] = plan.seconds * ratio
    if not seconds:
        return _dispatch.sm120_choose(*problem, gpu)
    best = plans[min(seconds, key=seconds.__getitem__)]
    return _dispatch.Sm120Plan(best.shape, best.blocks, best.whole, best.group, tuned=True)


@cache
def store(index: int) -> Store:
    """The tuning file of the GPU of this index."""
    key = key_of(index, _C.build_info()["version"])
    return Store(key, "sm120", partial(refusal, gpu=_kernels.gpu(index)))


@cache
def measured(index: int) -> Measurements:
    """What the file holds, read once in a process."""
    return store(index).usable()
