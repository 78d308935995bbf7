"""Timing: variants take turns (A B C A B C …), so that a noisy neighbour slows all of them and not one of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = [
    "Budget",
    "Samples",
    "Timer",
    "Variant",
    "by_clock",
    "by_events",
    "interleave",
    "per_call",
    "quantile",
    "replayed",
    "successive",
]

Variant = Callable[[int], Callable[[], object]]
"""Given the number of a round, returns the call to be timed; choosing the round's operands is not timed."""

Clock = Callable[[], int]
"""Nanoseconds, like `time.perf_counter_ns`."""

Timer = Callable[[Callable[[], object]], float]
"""Makes a call and returns the microseconds that it took."""


def by_clock(clock: Clock = time.perf_counter_ns) -> Timer:
    """Times what the CPU does; the tests pass a fake clock."""

    def timer(call: Callable[[], object]) -> float:
        start = clock()
        call()
        return (clock() - start) / 1e3

    return timer


def by_events(call: Callable[[], object]) -> float:
    """Times what a call gives to the current CUDA stream, by the GPU's own clock. Waits for it."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    call()
    end.record()
    end.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds * 1e3


def replayed(call: Callable[[], object], pool: Any = None) -> Variant:
    """The call as a CUDA graph, so that what is timed is the GPU's work and not the launches.

    Args:
        call: gives work to the current stream.
        pool: from `torch.cuda.graph_pool_handle`, memory shared with other graphs, of which none runs at the same time
            and none leaves anything there.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        call()

    def replay(_call: object = call) -> None:  # the call may own memory that the graph uses
        graph.replay()

    return lambda _round: replay


_WALL = by_clock()


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile of some values with linear interpolation, q in 0..1."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@dataclass(frozen=True)
class Samples:
    """Microseconds of every call of one variant."""

    us: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle."""
        return quantile(self.us, 0.5)

    @property
    def p20(self) -> float:
        """A fifth of the calls were faster."""
        return quantile(self.us, 0.2)

    @property
    def p80(self) -> float:
        """A fifth of the calls were slower."""
        return quantile(self.us, 0.8)


@dataclass(frozen=True)
class Budget:
    """When to stop: after `rounds`; a slow variant earlier, once it has had `seconds` and at least `least` samples."""

    rounds: int = 31
    seconds: float = 2.0
    least: int = 3

    def __post_init__(self) -> None:
        """Refuse a budget that gives no sample."""
        if self.rounds < 1 or self.least < 1:
            raise ValueError(f"Budget: got rounds = {self.rounds}, least = {self.least}, wanted at least 1 of each")


def interleave(
    variants: Mapping[str, Variant],
    budget: Budget,
    timer: Timer = _WALL,
    before: Callable[[], object] = lambda: None,
) -> dict[str, Samples]:
    """Time every variant in turn, after one untimed round.

    Args:
        variants: by name; each is given the number of the round, to rotate over its copies of the operands.
        budget: when to stop.
        timer: makes and times a call.
        before: is called before every call, outside of the timing.

    Returns:
        The samples by name.
    """
    times: dict[str, list[float]] = {name: [] for name in variants}
    for variant in variants.values():
        variant(0)()
    for round_ in range(1, budget.rounds + 1):
        for name, variant in variants.items():
            taken = times[name]
            if len(taken) >= budget.least and sum(taken) > budget.seconds * 1e6:
                continue
            call = variant(round_)
            before()
            taken.append(timer(call))
    return {name: Samples(tuple(taken)) for name, taken in times.items()}


def per_call(
    calls: Mapping[str, Callable[[], object]],
    repeats: int = 200,
    rounds: int = 15,
    timer: Timer = _WALL,
) -> dict[str, Samples]:
    """Microseconds a call, of calls too short to be timed one by one: a sample is the mean of `repeats` in a row."""
    indices = [None] * repeats

    def looped(call: Callable[[], object]) -> Variant:
        def run() -> None:
            for _ in indices:
                call()

        return lambda _round: run

    loops = {name: looped(call) for name, call in calls.items()}
    samples = interleave(loops, Budget(rounds, seconds=2.0), timer)
    return {name: Samples(tuple(us / repeats for us in taken.us)) for name, taken in samples.items()}


def successive(calls: Sequence[Callable[[], object]], rounds: int = 15) -> float:
    """Microseconds of one of some calls that follow one another in a CUDA graph: the median of rounds."""

    def run() -> None:
        for call in calls:
            call()

    run()
    samples = interleave({"calls": replayed(run)}, Budget(rounds), by_events)
    return samples["calls"].median / len(calls)
