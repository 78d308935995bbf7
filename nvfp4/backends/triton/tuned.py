"""Triton's share of what `nvfp4 tune` measured: where something like a product was, the fastest plan there is taken.

Like it is what has the same weight and, up to 128 tokens, the same power of two of them, on which alone it is to depend
how sums are split, and with it a token's last bits. Above, half to twice as many tokens are like it.
"""

from __future__ import annotations

import importlib.metadata
from functools import cache, lru_cache, partial

import torch

from nvfp4 import _C
from nvfp4.backends.triton import plan
from nvfp4.backends.triton.plan import Gpu, Plan
from nvfp4.tuning import Measurements, Problem, Store, Times, candidates_refusal, key_of, nearest

__all__ = ["choose", "family", "gpu_of", "measured", "plan_of", "refusal", "store"]

_INTERPRETER = Gpu((8, 0), 4, 166912)


def family() -> str:
    """As the tuning file names these kernels: other versions of Triton compile them to others."""
    return f"triton-{importlib.metadata.version('triton')}"


@cache
def gpu_of(index: int | None) -> Gpu:
    """The GPU of this index; without one what Triton's interpreter stands for."""
    if index is None:
        return _INTERPRETER
    properties = torch.cuda.get_device_properties(index)
    shared: int = properties.shared_memory_per_block_optin  # type: ignore[attr-defined]
    return Gpu((properties.major, properties.minor), properties.multi_processor_count, shared)


def refusal(problem: Problem, times: Times, gpu: Gpu) -> str:
    """Why these times cannot be of this problem, or an empty string."""
    return candidates_refusal(times, plan.candidates(problem, gpu))


def _like(problem: Problem, found: Measurements) -> Problem | None:
    """The measured problem whose fastest plan this one takes."""

    def kind(of: Problem) -> tuple[object, ...]:
        # A weight's columns are padded to whole units, which is all that a product sees of them.
        return of.n, plan.units_of(of.k), plan.few(of.m) if of.m <= plan.FEW else None

    like = [other for other in found if kind(other) == kind(problem)]
    if problem.m <= plan.FEW:
        # The nearest would not be the same one for all numbers of tokens.
        return max(like, default=None)
    return nearest(problem, like)


def choose(problem: Problem, gpu: Gpu, found: Measurements) -> Plan:
    """The plan that was fastest where something like it was measured; else the one with the least predicted time."""
    near = _like(problem, found)
    if near is not None:
        times = found[near]
        fastest = plan.candidates(problem, gpu).get(min(times, key=times.__getitem__))
        if fastest is not None:
            return fastest
    return plan.choose(problem, gpu)


@cache
def store(index: int) -> Store:
    """The tuning file of the GPU of this index."""
    key = key_of(index, _C.build_info()["version"])
    return Store(key, family(), partial(refusal, gpu=gpu_of(index)))


@cache
def measured(index: int) -> Measurements:
    """What the file holds, read once in a process."""
    return store(index).usable()


@lru_cache(maxsize=4096)
def plan_of(problem: Problem, index: int | None) -> Plan:
    """How a product runs on the GPU of this index, or without one by the interpreter, for which nothing is measured."""
    return choose(problem, gpu_of(index), {} if index is None else measured(index))
