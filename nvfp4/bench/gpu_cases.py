"""What `nvfp4 bench --device cuda` measures: the problems, and what each has to move and to multiply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from nvfp4.backends import Desc
from nvfp4.bench import cases
from nvfp4.bench.tuning import SHAPES

__all__ = ["DTYPES", "LINEAR_OPS", "OPS", "QUANTIZE_OPS", "QUICK_TOKENS", "SHAPES", "TOKENS", "GpuCase", "make_cases"]

LINEAR_OPS = {"linear-w4a4-row": "row", "linear-w4a4-static": "static", "linear-w4a16": "none"}
QUANTIZE_OPS = {"quantize-static": "static", "quantize-row": "row", "quantize-tensor": "tensor"}
OPS = (*LINEAR_OPS, *QUANTIZE_OPS)
"""By the global scale of what is quantised: given, one a row, or one of the tensor."""

TOKENS = (1, 4, 16, 64, 128, 256, 1024, 2048, 8192)
QUICK_TOKENS = (1, 16, 256)

DTYPES = ("bfloat16", "float16")
"""A float32 product is three, and nothing of the same kind stands beside it."""


@dataclass(frozen=True)
class GpuCase(cases.Sizes):
    """What is measured on a GPU."""

    @property
    def activations(self) -> str:
        """Of the `Desc`: where the global scale comes from, or ``none`` where activations stay as they are."""
        return {**LINEAR_OPS, **QUANTIZE_OPS}[self.op]

    @property
    def flops(self) -> int:
        """Multiplications and additions of the product; 0 where there is none."""
        return 2 * self.m * self.n * self.k

    @property
    def bytes(self) -> int:
        """Bytes that have to move, each once: codes and scales, the other side's values, and the results.

        A global scale of the tensor needs a second look at x, which is not counted: what is left of it in the L2 cache
        is the kernel's own merit.
        """
        itemsize = cases.DTYPES[self.dtype].itemsize
        coded = self.k // 2 + self.k // 16
        if self.is_linear:
            return self.n * coded + self.m * (self.k + self.n) * itemsize
        scales = self.m if self.activations == "row" else 1
        return self.m * (self.k * itemsize + coded) + 4 * scales

    @property
    def command(self) -> str:
        """The command line that repeats this case."""
        shape = f"{self.n or 16},{self.k}"
        return f"nvfp4 bench --device cuda --op {self.op} --shape {shape} --m {self.m} --dtype {self.dtype}"

    def desc(self, device: str) -> Desc:
        """The problem as backends are asked about it."""
        op = "linear" if self.is_linear else "quantize"
        return Desc(op, device, cases.DTYPES[self.dtype], "plain", self.activations)

    def __str__(self) -> str:
        """As progress is told."""
        shape = f"{self.m}x{self.n}x{self.k}" if self.is_linear else f"{self.m}x{self.k}"
        return f"{self.op} {shape}"


def make_cases(
    ops: Iterable[str] = OPS,
    shapes: Iterable[tuple[int, int]] = SHAPES,
    tokens: Iterable[int] = TOKENS,
    dtype: str = "bfloat16",
) -> list[GpuCase]:
    """Every case, ordered so that cases of one group, and groups of one shape, stand together.

    Args:
        ops: of `OPS`; those that quantise run once for each different K of the shapes.
        shapes: (N, K) pairs.
        tokens: values of M.
        dtype: of `DTYPES`.
    """
    ops, shapes, tokens = list(ops), list(dict.fromkeys(shapes)), list(tokens)
    linear = [op for op in ops if op in LINEAR_OPS]
    quantize = [op for op in ops if op in QUANTIZE_OPS]
    columns = dict.fromkeys(k for _, k in shapes)
    return [GpuCase(op, m, n, k, dtype) for n, k in shapes for m in tokens for op in linear] + [
        GpuCase(op, m, 0, k, dtype) for k in columns for m in tokens for op in quantize
    ]
