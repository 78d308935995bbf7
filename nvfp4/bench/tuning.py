"""What `nvfp4 tune` does: the candidates of SM120's matrix products in turn, on the GPU here, and the fastest of them.

Weights rotate, so that none is found in the L2 cache; codes of tokens do not, as they have just been written in a model
too. Operands are such that every partial sum is exact: candidates that disagree in one bit are a fault, not a choice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from rich.table import Table
from torch import Tensor

from nvfp4 import _C, functional
from nvfp4.backends import Desc, explain, sm120, sm120_tuning
from nvfp4.backends.arguments import DTYPE_CODES
from nvfp4.bench.operands import cold_copies
from nvfp4.bench.report import number
from nvfp4.bench.timing import Budget, Samples, by_events, interleave, replayed
from nvfp4.tensor import NVFP4Tensor
from nvfp4.tuning import Measurements, Problem, Times

__all__ = [
    "SHAPES", "TOKENS", "Tuned", "check_tunable", "has_gpu", "measure", "measurements", "render", "run", "stored",
    "winner",
]  # fmt: skip

SHAPES = ((43008, 5376), (5376, 21504))
"""(N, K) of Gemma-4-31B's MLP: gate and up together, and down."""

TOKENS = (512, 1024, 2048, 4096, 8192)

_kernels: Any = getattr(_C, "cuda", None)

_BUDGET = Budget(rounds=15, seconds=1.0)
_ONE, _TWO = 0x38, 0x40  # e4m3 bytes
_ATOM_ROWS = 32  # of the scales of tokens


class Tuned(NamedTuple):
    """A problem's candidates by name, and the microseconds of each; no times where there was nothing to choose."""

    problem: Problem
    plans: Mapping[str, Any]
    us: Times


def winner(us: Times) -> str:
    """The candidate that took the least time; the first of equal ones."""
    return min(us, key=us.__getitem__)


def has_gpu() -> bool:
    """Whether there is a GPU here, and a build that can ask it what it is."""
    return _kernels is not None and torch.cuda.is_available()


def check_tunable() -> None:
    """Make sure that timings here say something about the kernels.

    Raises:
        RuntimeError: no GPU that they serve, or a build that emulates their instruction; the message says which.
    """
    answers = {answer.backend: answer for answer in explain(Desc("linear", "cuda", layout="n128k128")).answers}
    if not answers["cuda"].supported:
        raise RuntimeError(f"tune: the only candidates are of SM120's matrix products: {answers['cuda'].reason}")
    if sm120.is_emulated():
        raise RuntimeError(
            "tune: this build emulates SM120's FP4 instruction (NVFP4_EMULATE_SM120); times of an emulated instruction "
            "say nothing about the kernels, so none are taken or stored. Build without it, on an SM120"
        )


def _random(shape: tuple[int, ...], choice: tuple[int, ...] | None = None) -> Tensor:
    """Bytes of any value, or among a few."""
    if choice is None:
        return torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda")
    values = torch.tensor(choice, dtype=torch.uint8, device="cuda")
    return values[torch.randint(0, len(choice), shape, device="cuda")]


def _weights(n: int, k: int) -> list[Tensor]:
    """One weight in units, cold."""
    scale = _random((n, k // 16), (_ONE, _TWO)).view(torch.float8_e4m3fn)
    plain = NVFP4Tensor(_random((n, k // 2)), scale, torch.ones(1, device="cuda"), (n, k))
    return cold_copies(functional.to_layout(plain, "n128k128").packed)


class _Product:
    """One problem's operands on the current GPU, and its product by any plan."""

    def __init__(self, problem: Problem, weights: list[Tensor]) -> None:
        m, n, k = self.problem = problem
        self.weights = weights
        self.pitch = -(-k // 32) * 16
        self.codes = _random((m, self.pitch))
        self.scales = _random((_C.swizzled_bytes(m, k // 16, _ATOM_ROWS),), (_ONE, _TWO))
        self.alpha = torch.full((1,), 2.0**-10, device="cuda")
        self.out = torch.empty(m, n, dtype=torch.bfloat16, device="cuda")

    def calls(self, plan: Any) -> Callable[[], None]:
        """The product with every copy of the weight, one after the other."""
        m, n, k = self.problem
        arrivals = torch.zeros(_C.dispatch.sm120_arrivals(plan, m, n, k), dtype=torch.int32, device="cuda")
        partials = torch.empty(_C.dispatch.sm120_partial_bytes(plan, m, n, k), dtype=torch.uint8, device="cuda")

        def call() -> None:
            stream = torch.cuda.current_stream().cuda_stream
            for units in self.weights:
                _kernels.gemm(
                    plan, m, n, k, self.codes.data_ptr(), self.pitch, self.scales.data_ptr(), units.data_ptr(),
                    self.alpha.data_ptr(), 0, False, 0, 0, 0, 0, self.out.data_ptr(), DTYPE_CODES[self.out.dtype],
                    0, 0, 0, 0, partials.data_ptr(), arrivals.data_ptr(), False, stream,
                )  # fmt: skip

        return call


def measure(problem: Problem, plans: Mapping[str, Any], weights: list[Tensor], budget: Budget = _BUDGET) -> Times:
    """Microseconds of one product by each plan: medians of rounds in which the plans take turns.

    Raises:
        RuntimeError: a plan's result differs from the first one's.
    """
    product = _Product(problem, weights)
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
        variants[name] = replayed(call)
    samples: dict[str, Samples] = interleave(variants, budget, by_events)
    return {name: taken.median / len(weights) for name, taken in samples.items()}


def run(
    shapes: Iterable[tuple[int, int]], tokens: Iterable[int], progress: Callable[[str], None] = lambda _: None
) -> list[Tuned]:
    """Time every candidate of every problem on the current GPU.

    Args:
        shapes: (N, K) of weights.
        tokens: values of M.
        progress: told what comes next.

    Raises:
        RuntimeError: candidates of a problem disagree.
    """
    gpu, sizes = _kernels.gpu(torch.cuda.current_device()), list(tokens)
    results = []
    for n, k in shapes:
        weights: list[Tensor] = []
        for m in sizes:
            problem = Problem(m, n, k)
            plans = sm120_tuning.candidates(problem, gpu)
            us: Times = {}
            if len(plans) > 1:
                progress(f"{len(plans)} candidates of {problem}")
                weights = weights or _weights(n, k)
                us = measure(problem, plans, weights)
            results.append(Tuned(problem, plans, us))
    return results


def stored(measured: Measurements) -> list[Tuned]:
    """The results that these measurements of the current GPU are."""
    gpu = _kernels.gpu(torch.cuda.current_device())
    return [Tuned(problem, sm120_tuning.candidates(problem, gpu), us) for problem, us in measured.items()]


def measurements(results: Iterable[Tuned]) -> Measurements:
    """What is stored of the results."""
    return {result.problem: result.us for result in results if result.us}


def render(results: Iterable[Tuned]) -> Table:
    """One line a candidate, the fastest of each problem marked."""
    table = Table(header_style="bold", pad_edge=False)
    for column in ("M x N x K", "candidate", "predicted µs", "measured µs", ""):
        table.add_column(column, justify="right" if "µs" in column else "left", no_wrap=True)
    for problem, plans, us in results:
        for name, plan in plans.items():
            best = bool(us) and name == winner(us)
            note = "fastest" if best else "" if us else "nothing to choose"
            table.add_row(
                str(problem) if name == next(iter(plans)) else "", name, number(plan.seconds * 1e6),
                number(us.get(name)), note, style="green" if best else None,
            )  # fmt: skip
        table.add_section()
    return table
