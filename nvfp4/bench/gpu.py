"""What `nvfp4 selftest` times on a GPU: a few ops as users call them, beside cuBLAS and a copy, in one run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from nvfp4 import functional
from nvfp4.backends import Desc, explain, sm120
from nvfp4.bench.operands import cold_copies
from nvfp4.bench.report import number
from nvfp4.bench.timing import successive
from nvfp4.bench.tuning import SHAPES
from nvfp4.tensor import NVFP4Tensor

__all__ = ["ROWS", "TOKENS", "Timed", "refusal", "render", "run"]

ROWS, COLUMNS = 4096, 5376
"""Of what is quantised: 44 MB in bfloat16."""

TOKENS = (1, 16, 256, 2048)


class Timed(NamedTuple):
    """Microseconds of an op on bfloat16 and of what it is measured against, cold and replayed by CUDA graphs.

    Attributes:
        name: of the op and its size.
        us: of the op.
        beside: what it is measured against.
        beside_us: of that.
    """

    name: str
    us: float
    beside: str
    beside_us: float


def refusal(op: str = "quantize", layout: str = "plain") -> str:
    """Why times of this op would say nothing about this machine's kernels, or an empty string."""
    explanation = explain(Desc(op, "cuda", layout=layout))
    answers = {answer.backend: answer for answer in explanation.answers}
    if not answers["cuda"].supported:
        return answers["cuda"].reason
    if explanation.choice != "cuda":
        return f"NVFP4_BACKEND (or force()) gives it to {explanation.choice}"
    if op == "linear" and sm120.is_emulated():
        return "this build emulates SM120's FP4 instruction"
    return ""


def _rotating(call: Callable[[Tensor], object], operands: list[Tensor]) -> float:
    return successive([partial(call, operand) for operand in operands])


def _quantisers() -> Iterator[Timed]:
    inputs = cold_copies(torch.randn(ROWS, COLUMNS, device="cuda", dtype=torch.bfloat16))
    moved = int(inputs[0].nbytes * (1 + 0.5625 / 2) / 2)  # a copy reads as many bytes as it writes
    target = torch.empty(moved, dtype=torch.uint8, device="cuda")
    copied = _rotating(target.copy_, cold_copies(torch.zeros(moved, dtype=torch.uint8, device="cuda")))
    given = torch.full((1,), 500.0, device="cuda")
    ways: dict[str, Callable[[Tensor], object]] = {
        "static": lambda x: functional.quantize(x, given),
        "static, 128x4": lambda x: functional.quantize(x, given, layout="128x4"),
        "a scale a row": lambda x: functional.quantize(x, granularity="row"),
    }
    for name, call in ways.items():
        yield Timed(f"quantise {ROWS} x {COLUMNS}, {name}", _rotating(call, inputs), "a copy of as many bytes", copied)


def _products() -> Iterator[Timed]:
    for name, (n, k) in zip(("gate_up", "down"), SHAPES, strict=True):
        plain = functional.quantize(torch.randn(n, k, device="cuda", dtype=torch.bfloat16))
        tiled = functional.to_layout(plain, "n128k128")
        weights = [replace(tiled, packed=packed) for packed in cold_copies(tiled.packed)]
        dense = cold_copies(torch.randn(n, k, device="cuda", dtype=torch.bfloat16))
        for m in TOKENS:
            x = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)

            def multiply(weight: NVFP4Tensor, x: Tensor = x) -> Tensor:
                return functional.linear(x, weight)

            us = successive([partial(multiply, weight) for weight in weights])
            cublas = _rotating(partial(F.linear, x), dense)
            yield Timed(f"linear {name} {n} x {k}, M = {m}", us, "cuBLAS bf16", cublas)


def run() -> list[Timed]:
    """Time what this machine's CUDA kernels serve; nothing where they serve nothing."""
    with torch.no_grad():
        timed = [] if refusal() else list(_quantisers())
        if not refusal("linear", "n128k128"):
            timed += _products()
    return timed


def render(timed: list[Timed]) -> Table:
    """As a table."""
    table = Table(
        "op", "µs", "beside", "µs", "times as fast", title="bfloat16, cold, by CUDA graphs", title_justify="left"
    )
    for row in timed:
        table.add_row(
            row.name, number(row.us), row.beside, number(row.beside_us), number(row.beside_us / row.us)
        )  # fmt: skip
    return table
