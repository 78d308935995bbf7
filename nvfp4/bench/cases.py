"""What is measured: the cases, once, for `nvfp4 bench` and for `pytest bench --benchmark-only`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from nvfp4.formats import check_group_multiple
from nvfp4.layout import TILE_BYTES, tiles_shape

__all__ = [
    "DTYPES",
    "LINEAR_OPS",
    "OPS",
    "QUICK_SHAPES",
    "QUICK_TOKENS",
    "ROW_OPS",
    "SHAPES",
    "TOKENS",
    "Case",
    "Sizes",
    "make_cases",
    "parse_dtype",
    "parse_ops",
    "parse_shape",
    "parse_tokens",
]

LINEAR_OPS = ("linear-w4a4", "linear-w4a16")
ROW_OPS = ("quantize", "quantize-kernel", "dequantize")
OPS = (*LINEAR_OPS, *ROW_OPS)
"""`quantize-kernel` is quantize into memory that is there already, so it pays no page faults for its results."""

SHAPES = ((43008, 5376), (21504, 5376), (5376, 21504), (2048, 640), (640, 2048))
"""(N, K) of Gemma 3 27B's fused gate/up, gate and down projections and of Gemma-3-270m's."""

TOKENS = (1, 4, 16, 64, 256)
ROW_TOKENS = (1, 16, 256, 4096)
QUICK_SHAPES = ((2048, 640), (640, 2048))
QUICK_TOKENS = (1, 16)

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Sizes:
    """One problem: y [m, n] = x [m, k] @ weight [n, k].T for a linear op, a matrix [m, k] for any other (n is 0)."""

    op: str
    m: int
    n: int
    k: int
    dtype: str = "bfloat16"

    @property
    def is_linear(self) -> bool:
        """Whether there is a weight."""
        return self.op.startswith("linear")

    @property
    def group(self) -> tuple[bool, int, int, int, str]:
        """Cases of one group share peers and operands, and are measured in one interleaved loop."""
        return self.is_linear, self.n, self.k, self.m, self.dtype


@dataclass(frozen=True)
class Case(Sizes):
    """What is measured on the CPU."""

    @property
    def macs(self) -> int:
        """Multiply-adds; 0 for the row ops, which only move bytes."""
        return self.m * self.n * self.k

    @property
    def quantized_bytes(self) -> int:
        """Bytes of the NVFP4 side: the weight's tiles, or the codes, scales and global scales of m rows."""
        if self.is_linear:
            panels, steps, _ = tiles_shape(self.n, self.k)
            return panels * steps * TILE_BYTES
        return self.m * (self.k // 2 + self.k // 16 + 4)

    @property
    def bytes(self) -> int:
        """Bytes that have to move: the NVFP4 side, the activations (or values), and the output."""
        return self.quantized_bytes + (self.m * self.k + self.m * self.n) * DTYPES[self.dtype].itemsize

    @property
    def command(self) -> str:
        """The command line that repeats this case."""
        shape = f"{self.n},{self.k}" if self.is_linear else f"16,{self.k}"
        return f"nvfp4 bench --op {self.op} --shape {shape} --m {self.m} --dtype {self.dtype}"

    def __str__(self) -> str:
        """A name that a test id can hold."""
        shape = f"{self.m}x{self.n}x{self.k}" if self.is_linear else f"{self.m}x{self.k}"
        return f"{self.op}-{shape}-{self.dtype}"


def parse_shape(text: str) -> tuple[int, int]:
    """``"N,K"`` as integers.

    Raises:
        ValueError: not two positive integers, or K is no multiple of 16.
    """
    parts = text.replace("x", ",").split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"--shape: got {text!r}, wanted N,K, two positive integers, such as 21504,5376")
    n, k = (int(part) for part in parts)
    check_group_multiple(k, "--shape")
    return n, k


def parse_tokens(text: str, option: str = "--m") -> tuple[int, ...]:
    """``"1,16,256"`` as integers.

    Raises:
        ValueError: not positive integers with commas between them.
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"{option}: got {text!r}, wanted positive integers with commas between them, such as 1,16,256")
    return tuple(dict.fromkeys(int(part) for part in parts))


def parse_dtype(text: str, known: tuple[str, ...] = tuple(DTYPES)) -> str:
    """A known name of a dtype.

    Raises:
        ValueError: it is none.
    """
    if text not in known:
        raise ValueError(f"--dtype: got {text!r}, wanted one of {', '.join(known)}")
    return text


def parse_ops(names: Iterable[str], known: tuple[str, ...] = OPS) -> tuple[str, ...]:
    """Known names of ops, all of them when none is given.

    Raises:
        ValueError: a name is unknown.
    """
    ops = tuple(dict.fromkeys(names))
    for name in ops:
        if name not in known:
            raise ValueError(f"--op: got {name!r}, wanted one of {', '.join(known)}")
    return ops or known


def make_cases(
    ops: Iterable[str] = OPS,
    shapes: Iterable[tuple[int, int]] = SHAPES,
    tokens: Iterable[int] | None = None,
    dtype: str = "bfloat16",
) -> list[Case]:
    """Every case, ordered so that cases of one group, and groups of one shape, stand together.

    Args:
        ops: of `OPS`; row ops run once for each different K of the shapes.
        shapes: (N, K) pairs.
        tokens: values of M; None: `TOKENS`, and `ROW_TOKENS` for the row ops.
        dtype: of the floating-point side.
    """
    ops, shapes = list(ops), list(shapes)
    linear = [
        Case(op, m, n, k, dtype)
        for n, k in dict.fromkeys(shapes)
        for m in (TOKENS if tokens is None else tokens)
        for op in ops
        if op in LINEAR_OPS
    ]
    rows = [
        Case(op, m, 0, k, dtype)
        for k in dict.fromkeys(k for _, k in shapes)
        for m in (ROW_TOKENS if tokens is None else tokens)
        for op in ops
        if op in ROW_OPS
    ]
    return linear + rows
