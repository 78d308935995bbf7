"""Runs the cases of a GPU: every backend that serves one in turn, beside cuBLAS or a copy, by CUDA graphs.

Weights rotate over copies, so that none is found in the L2 cache; tokens do not, as they have just been written in a
model too. What is quantised rotates, unless it is small. Every result is compared with the reference before anyone
times it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import torch

from nvfp4 import backends, env
from nvfp4.backends import sm120
from nvfp4.backends.triton import plan, tuned
from nvfp4.bench.gpu_cases import GpuCase
from nvfp4.bench.gpu_operands import Call, Probes, Products, Quantisers
from nvfp4.bench.gpu_place import Place
from nvfp4.bench.gpu_results import GpuMachine, GpuRow, make_row
from nvfp4.bench.machine import environment_prefix
from nvfp4.bench.timing import Budget, Samples, interleave
from nvfp4.tuning import Problem

__all__ = ["GpuReport", "GpuSettings", "run"]

_FEW = 256  # tokens, up to which a call is so short that the launch of a graph would be seen beside it


@dataclass(frozen=True)
class GpuSettings:
    """How to measure.

    Attributes:
        budget: rounds and seconds of every variant.
        backend: the only one to measure, or empty for all that serve.
    """

    budget: Budget = field(default_factory=lambda: Budget(rounds=15, seconds=1.0))
    backend: str = ""


@dataclass(frozen=True)
class GpuReport:
    """Everything one run measured, and what it left out with the reason."""

    machine: GpuMachine
    rows: list[GpuRow]
    notes: list[str]


def _served(ops: Mapping[str, GpuCase], place: Place, backend: str) -> tuple[dict[str, list[str]], list[str]]:
    """Backends that serve each op, and why others do not.

    Raises:
        ValueError: there is no such backend here.
        RuntimeError: nobody serves anything.
    """
    backend = backend or env.get("NVFP4_BACKEND")
    if backend and backend not in place.backends:
        raise ValueError(
            f"--backend (or NVFP4_BACKEND): got {backend!r}, wanted one of {', '.join(place.backends)} "
            f"with --device {place.device}"
        )
    served: dict[str, list[str]] = {op: [] for op in ops}
    notes = []
    for op, case in ops.items():
        for name in (backend,) if backend else place.backends:
            supported, reason = backends.BACKENDS[name].supports(case.desc(place.device))
            if supported and name == "cuda" and case.is_linear and sm120.is_emulated():
                supported, reason = False, "this build emulates SM120's FP4 instruction, so its times say nothing"
            if supported:
                served[op].append(name)
            else:
                notes.append(f"{name} left out of {op}: {reason}")
    if not any(served.values()):
        raise RuntimeError("bench: nothing to measure on this GPU. " + "; ".join(notes))
    return served, notes


def _repeated(calls: Sequence[Call], least: int) -> list[Call]:
    """Whole rotations, at least as many calls as that."""
    return [*calls] * -(-least // len(calls))


def _plan_of(case: GpuCase) -> str:
    """How Triton's product runs on the current GPU."""
    return str(tuned.plan_of(Problem(case.m, case.n, 256 * plan.units_of(case.k)), torch.cuda.current_device()))


class _Entry(NamedTuple):
    """What was compared with the reference and is timed next."""

    case: GpuCase
    backend: str
    kernel: str
    plan: str


class _Session:
    """One run: the weights of the shape at hand stay while its groups are measured."""

    def __init__(self, place: Place, budget: Budget, served: Mapping[str, list[str]], dtype: str) -> None:
        self._place, self._budget, self._served = place, budget, served
        self._probes = Probes(place, dtype)
        self._quantisers = Quantisers(place)
        self._products: Products | None = None

    def _operands(self, case: GpuCase) -> Products | Quantisers:
        if not case.is_linear:
            self._products = None  # its memory is needed
            return self._quantisers
        kept = self._products
        if kept is None or (kept.operands.n, kept.operands.k) != (case.n, case.k):
            self._products = kept = None
            self._products = kept = Products(case.n, case.k, case.dtype, self._place)
        return kept

    def _time(self, calls: Mapping[str, Sequence[Call]], forced: Mapping[str, str]) -> dict[str, Samples]:
        """Microseconds of one call of each, by the backends that are forced."""
        turns = {}
        for name, some in calls.items():

            def one_after_another(some: Sequence[Call] = some, backend: str | None = forced.get(name)) -> None:
                with backends.force(backend):
                    for call in some:
                        call()

            one_after_another()  # what is compiled or allocated at a first call cannot be part of a graph
            turns[name] = self._place.prepared(one_after_another)
        samples = interleave(turns, self._budget, self._place.timer)
        return {name: Samples(tuple(us / len(calls[name]) for us in taken.us)) for name, taken in samples.items()}

    def measure(self, group: Sequence[GpuCase]) -> list[GpuRow]:
        """The rows of cases that share operands: one a case and backend."""
        first, operands = group[0], self._operands(group[0])
        tokens = operands.tokens(first)
        least = self._place.in_a_row if first.m <= _FEW else 2
        entries: dict[str, _Entry] = {}
        calls: dict[str, Sequence[Call]] = {}
        for case in group:
            for name in self._served[case.op]:
                some = operands.calls(case, name, tokens)
                backends.reset_kernel_calls()
                with backends.force(name):
                    result: Any = some[0]()
                kernel = "+".join(sorted(backends.kernel_calls()))
                operands.check(case, tokens, result)
                how = _plan_of(case) if kernel.startswith("triton/linear") else ""
                entries[f"{case.op} {name}"] = _Entry(case, name, kernel, how)
                calls[f"{case.op} {name}"] = _repeated(some, least)
        if not entries:
            return []
        calls["beside"] = _repeated(operands.beside(tokens, first), least)
        forced = {key: entry.backend for key, entry in entries.items()}
        samples = self._time({**calls, **self._probes.calls()}, forced)
        peaks, beside = self._probes.peaks(samples), samples["beside"].median
        return [
            make_row(
                entry.case, entry.backend, (entry.kernel, entry.plan), samples[key], beside, peaks, environment_prefix()
            )
            for key, entry in entries.items()
        ]


def run(
    chosen: Sequence[GpuCase],
    place: Place,
    settings: GpuSettings,
    progress: Callable[[str], None] = lambda _: None,
) -> GpuReport:
    """Measure cases.

    Args:
        chosen: from `make_cases`, of one dtype; groups must stand together.
        place: `gpu_place.gpu()`.
        settings: how.
        progress: told what comes next.

    Raises:
        ValueError: there is no such backend.
        RuntimeError: nobody serves any case; the message holds the reasons.
        RefcheckError: a kernel's result differs from the reference.
    """
    served, notes = _served({case.op: case for case in chosen}, place, settings.backend)
    machine = place.describe()
    rows: list[GpuRow] = []
    with torch.no_grad():
        session = _Session(place, settings.budget, served, chosen[0].dtype)
        for _, members in groupby(chosen, key=lambda case: case.group):
            group = list(members)
            progress(", ".join(map(str, group)))
            rows += session.measure(group)
    return GpuReport(machine, rows, notes)
