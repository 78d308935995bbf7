"""Runs cases: builds operands, checks results against the reference, takes turns, and makes rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import groupby

import torch

from nvfp4 import backends, env
from nvfp4.bench.cases import DTYPES, OPS, Case
from nvfp4.bench.machine import Machine, describe, environment_prefix
from nvfp4.bench.operands import LinearOperands, RowOperands, cold_bytes
from nvfp4.bench.overhead import Overhead, measure_overhead
from nvfp4.bench.results import Peaks, Row, make_row
from nvfp4.bench.roofline import Probes
from nvfp4.bench.timing import Budget, Samples, interleave
from nvfp4.bench.variants import INT4, TORCH_BF16, TORCH_FP32, linear_variants, peer_variants, row_variants

__all__ = ["Report", "Settings", "backend_of", "is_served", "run"]

_PEERS = (TORCH_BF16, TORCH_FP32, INT4)
_KERNEL_ENDINGS = {op: f"/{op.replace('-', '/')}" for op in OPS}
_DESC_OPS = {"quantize-kernel": "quantize", "linear-w4a4": "linear", "linear-w4a16": "linear"}


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        budget: rounds and seconds of every variant.
        backend: to force, or empty for the choice a user would get.
        threads: of torch and of the kernels; 0 leaves torch's number.
        overhead: whether to measure the price of a call too, where there is a linear case.
    """

    budget: Budget = field(default_factory=Budget)
    backend: str = ""
    threads: int = 0
    overhead: bool = True


@dataclass(frozen=True)
class Report:
    """Everything one run measured, and what it left out with the reason."""

    machine: Machine
    rows: list[Row]
    overhead: list[Overhead]
    notes: list[str]


def _set_threads(threads: int) -> None:
    if threads < 0:
        raise ValueError(f"--threads: got {threads}, wanted a positive number")
    fixed = env.num_threads()
    if threads and fixed and threads != fixed:
        raise ValueError(f"--threads: got {threads}, but NVFP4_NUM_THREADS is {fixed}; unset it or ask for as many")
    if threads or fixed:
        torch.set_num_threads(threads or fixed)


def backend_of(case: Case) -> backends.Backend:
    """The backend that serves a case on the CPU (the forced one, where one is forced).

    Raises:
        RuntimeError: nobody serves it.
    """
    op = _DESC_OPS.get(case.op, case.op)
    activations = "none" if case.op == "linear-w4a16" else "row"
    desc = backends.Desc(op, "cpu", DTYPES[case.dtype], "plain", activations)
    return backends.select(*desc)


def is_served(case: Case) -> bool:
    """Whether there is such a kernel: `quantize-kernel` is of the cpu backend alone."""
    return case.op != "quantize-kernel" or backend_of(case).name == "cpu"


class _Session:
    """One run: the weights of the shape at hand stay while its groups are measured."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.machine = describe()
        self.cold = cold_bytes(self.machine.llc_bytes)
        self.probes = Probes(self.cold)
        self.notes: list[str] = []
        if self.machine.load > 0.5:
            self._note(f"the machine was busy when this began (load {self.machine.load}): the figures are rough")
        self._weight: LinearOperands | None = None

    def _operands(self, case: Case, layout: str) -> LinearOperands:
        kept = self._weight
        if kept is None or (kept.n, kept.k, kept.layout) != (case.n, case.k, layout):
            self._weight = kept = None
            self._weight = kept = LinearOperands(case.n, case.k, layout, self.cold)
            if not kept.peers.int4:
                self._note(f"{INT4} left out for N,K = {case.n},{case.k}: it needs N % 16 == 0 and K % 32 == 0")
        return kept

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def measure(self, group: Sequence[Case]) -> list[Row]:
        """The rows of cases that share operands and peers."""
        served = {case: backend_of(case) for case in group}
        cases = [case for case in group if is_served(case)]
        if len(cases) < len(group):
            self._note(f"quantize-kernel left out: it is of the cpu backend, and {served[group[0]].name} serves")
        if not cases:
            return []
        first = cases[0]
        backends.reset_kernel_calls()
        if first.is_linear:
            operands = self._operands(first, served[first].weight_layout())
            x = operands.activations(first.m, first.dtype)
            variants = linear_variants(cases, x, operands)
            peers = peer_variants(x, operands)
        else:
            variants, peers = row_variants(cases, RowOperands(first.m, first.k, first.dtype, self.cold)), {}
        kernels = sorted(backends.kernel_calls())
        turns = variants | peers | self.probes.variants(first.dtype if first.is_linear else None)
        with torch.no_grad():
            samples = interleave(turns, self.settings.budget, before=self.probes.wake_threads)
        peaks = self.probes.peaks(samples, first.bytes // 2 * 2)
        return [self._row(case, served[case].name, kernels, samples, peaks) for case in cases]

    def _row(self, case: Case, backend: str, kernels: list[str], samples: dict[str, Samples], peaks: Peaks) -> Row:
        kernel = "+".join(name for name in kernels if name.endswith(_KERNEL_ENDINGS[case.op]))
        if case.op == "quantize-kernel":
            kernel = f"cpu/{self.machine.isa}/quantize"
        medians = tuple(samples[name].median if name in samples else None for name in _PEERS)
        command = f"{environment_prefix()}{case.command} --threads {self.machine.threads}"
        if self.settings.backend:
            command += f" --backend {self.settings.backend}"
        return make_row(case, backend, kernel, samples[case.op], medians, peaks, command)


def run(cases: Sequence[Case], settings: Settings, progress: Callable[[str], None] = lambda _: None) -> Report:
    """Measure cases on the CPU.

    Args:
        cases: from `make_cases`; groups must stand together.
        settings: how.
        progress: told what comes next.

    Raises:
        ValueError: the settings contradict each other or the environment.
        RuntimeError: nobody serves a case.
        RefcheckError: a kernel's result differs from the reference.
    """
    threads = torch.get_num_threads()
    _set_threads(settings.threads)
    try:
        with backends.force(settings.backend) if settings.backend else nullcontext():
            session = _Session(settings)
            rows: list[Row] = []
            for _, members in groupby(cases, key=lambda case: case.group):
                group = list(members)
                progress(", ".join(map(str, group)))
                rows += session.measure(group)
            overhead: list[Overhead] = []
            if settings.overhead and any(case.is_linear for case in cases):
                progress("the price of a call")
                rounds = settings.budget.rounds
                overhead = measure_overhead(repeats=4 * rounds, rounds=min(rounds, 15))
    finally:
        torch.set_num_threads(threads)
    return Report(session.machine, rows, overhead, session.notes)
