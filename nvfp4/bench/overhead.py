"""What a linear layer costs in Python: a call of the op against its kernel, with F.linear beside it.

Measured warm and on matrices small enough that the kernel is short. The tiny case shows the price of a call; the shapes
of a small model show how much of its decode step is not the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from nvfp4 import backends
from nvfp4.bench import direct
from nvfp4.bench.operands import LinearOperands
from nvfp4.bench.timing import per_call

__all__ = ["OVERHEAD_SHAPES", "Overhead", "measure_overhead"]

OVERHEAD_SHAPES = ((16, 64), (2048, 640), (640, 2048))


@dataclass(frozen=True)
class Overhead:
    """µs a call with M = 1 and bf16; `kernel_us` is None where the serving backend is not the compiled CPU core.

    `module_us` is `NVFP4Linear.forward`, `op_us` is `torch.ops.nvfp4.linear` alone.
    """

    n: int
    k: int
    module_us: float
    op_us: float
    kernel_us: float | None
    torch_bf16_us: float
    torch_fp32_us: float

    @property
    def python_us(self) -> float | None:
        """What the module adds to its kernel."""
        return None if self.kernel_us is None else self.module_us - self.kernel_us


def _module(operands: LinearOperands) -> torch.nn.Module:
    from nvfp4.nn import NVFP4Linear, prepare

    weight = operands.plain.dequantize(torch.bfloat16)
    linear = torch.nn.Linear(operands.k, operands.n, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        linear.weight.copy_(weight)
    module = NVFP4Linear.from_linear(linear)
    prepare(module)
    return module


def measure_overhead(
    shapes: Sequence[tuple[int, int]] = OVERHEAD_SHAPES, repeats: int = 100, rounds: int = 15
) -> list[Overhead]:
    """Time a call of module, op, kernel and F.linear on each shape, in turn; medians."""
    results = []
    for n, k in shapes:
        desc = backends.Desc("linear", "cpu", torch.bfloat16, "n16k64", "row")
        backend = backends.select(*desc)
        operands = LinearOperands(n, k, backend.weight_layout(), cold=0)
        x, weight = operands.activations(1, "bfloat16"), operands.weights[0]
        calls: dict[str, Callable[[], object]] = {
            "module": partial(_module(operands), x),
            "op": partial(
                torch.ops.nvfp4.linear.default, x, weight.packed, weight.scale.view(torch.uint8), weight.global_scale,
                None, None, n, weight.layout, "row",
            ),
            "bf16": partial(F.linear, x, operands.peers.bf16[0]),
            "fp32": partial(F.linear, x.float(), operands.peers.fp32[0]),
        }  # fmt: skip
        if backend.name == "cpu":
            calls["kernel"] = direct.linear_w4a4(x, weight, x.new_empty(1, n))
        with torch.no_grad():
            us = {name: samples.median for name, samples in per_call(calls, repeats, rounds).items()}
        results.append(Overhead(n, k, us["module"], us["op"], us.get("kernel"), us["bf16"], us["fp32"]))
    return results
