"""The proof that a user's machine computes what this package promises: each kernel against its definition.

On an SM120 that includes the instruction itself against its published model, which no card has confirmed yet. Each
check is small; what cannot run says why.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nvfp4 import backends, functional, reference
from nvfp4.backends import Desc, sm120
from nvfp4.tensor import NVFP4Tensor

__all__ = ["CHECKS", "Check", "run"]

_TILES = 4096  # of the instruction, for each of its eight selectors and three kinds of registers


class Check(NamedTuple):
    """One line of the report.

    Attributes:
        name: what was compared with what.
        state: ``passed``, ``FAILED`` or ``skipped``.
        detail: how much was compared; or the first difference; or why it did not run.
    """

    name: str
    state: str
    detail: str


class _Skipped(Exception):  # noqa: N818  (it is no error)
    pass


def _exact_operand(rows: int, k: int, device: str) -> NVFP4Tensor:
    """Any codes, scales of 1, 2 and 4: sums of products are exact in any order."""
    packed = torch.randint(0, 256, (rows, k // 2), dtype=torch.uint8, device=device)
    scale = torch.tensor([0x38, 0x40, 0x48], dtype=torch.uint8, device=device)[
        torch.randint(0, 3, (rows, k // 16), device=device)
    ]
    return NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), torch.full((1,), 0.5, device=device), (rows, k))


def _served(desc: Desc, backend: str) -> None:
    explanation = backends.explain(desc)
    if explanation.choice != backend:
        reasons = {answer.backend: answer.reason for answer in explanation.answers}
        raise _Skipped(reasons[backend])


def _quantize(device: str, backend: str) -> str:
    _served(Desc("quantize", device), backend)
    count = 0
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        x = torch.randn(64, 1040, device=device) * 10.0 ** torch.randint(-3, 4, (64, 1), device=device)
        x[:, ::7] = 0
        x = x.to(dtype)
        for granularity in ("tensor", "row"):
            with backends.force(backend):
                got = functional.quantize(x, granularity=granularity)
            wanted = reference.quantize(x, None, granularity)
            if got != wanted:
                raise AssertionError(f"{dtype}, a scale a {granularity}: other bytes than the reference")
            count += x.numel()
    return f"{count} numbers"


def _fused(device: str, backend: str) -> str:
    """Norms, activations and products whose results are numbers of few digits, which every evaluation rounds to."""
    _served(Desc("rms_norm_quantize", device), backend)
    count = 0
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        signs = torch.randint(0, 2, (64, 1040), device=device) * 4 - 2
        digits = torch.randint(-7, 8, (64, 1040), device=device)
        x, weight = signs.to(dtype), digits[0].to(dtype)
        residual = torch.zeros_like(x)
        gated = torch.cat((torch.full_like(x, 48.0), digits.to(dtype)), 1)

        def call(x: Tensor, weight: Tensor, residual: Tensor, gated: Tensor) -> list[object]:
            normed, total = functional.rms_norm_quantize(x, weight, 1e-30, residual=residual)
            activations: list[reference.Activation] = ["gelu_tanh", "gelu", "silu"]
            products = [functional.gated_quantize(gated, activation) for activation in activations]
            return [normed, total.tolist(), *products, functional.quantize_dequantize(gated).tolist()]

        with backends.force(backend):
            got = call(x, weight, residual, gated)
        with backends.force("reference"):
            wanted = call(x, weight, residual, gated)
        if got != wanted:
            raise AssertionError(f"{dtype}: other bytes than the reference")
        count += 6 * x.numel()
    return f"{count} numbers"


def _products(device: str, backend: str) -> str:
    _served(Desc("matmul", device, torch.float32), backend)
    sizes = [(1, 136, 272), (7, 128, 128), (33, 264, 1040), (128, 384, 512), (300, 640, 768)]
    for m, n, k in sizes:
        a, b = _exact_operand(m, k, device), _exact_operand(n, k, device)
        wanted = reference.matmul(a, b, out_dtype=torch.float32)
        with backends.force(backend):
            for repeat in range(20):
                got = functional.matmul(a, b, out_dtype=torch.float32)
                if not torch.equal(got, wanted):
                    wrong = int((got != wanted).sum())
                    raise AssertionError(f"{m} x {n} x {k}, repeat {repeat}: {wrong} of {got.numel()} sums are wrong")
    return f"{len(sizes)} sizes, 20 times each"


def _registers(random: np.random.Generator, kind: str, selectors: tuple[int, int]) -> sm120.Registers:
    """a, b, c, sfa, sfb of `_TILES` warps: of any bits; usual ones; or ones whose sums nearly cancel."""

    def words(*shape: int) -> NDArray[np.uint32]:
        return random.integers(0, 1 << 32, (_TILES, 32, *shape), np.uint32)

    a, b = words(4), words(2)
    if kind == "any":
        return sm120.Registers(a, b, words(4).view(np.float32), words(), words())
    # No NaN among the scales: every byte below 0x7F.
    sfa, sfb = (np.minimum(words().view(np.uint8) & 0x7F, 0x7E).view(np.uint32) for _ in range(2))
    c = random.standard_normal((_TILES, 32, 4)).astype(np.float32) * np.float32(1000)
    if kind == "cancelling":
        c = -sm120.model(sm120.Registers(a, b, np.zeros_like(c), sfa, sfb), *selectors) * np.float32(1 + 2**-20)
    return sm120.Registers(a, b, c, sfa, sfb)


def _instruction() -> str:
    refusal = sm120.instruction_refusal()
    if refusal:
        raise _Skipped(refusal)
    random = np.random.default_rng(1)
    for kind in ("any", "usual", "cancelling"):
        for selectors in itertools.product(range(2), range(4)):
            registers = _registers(random, kind, selectors)
            got, wanted = (
                multiply(registers, *selectors).view(np.uint32) for multiply in (sm120.instruction, sm120.model)
            )
            if not np.array_equal(got, wanted):
                where = tuple(np.argwhere(got != wanted)[0])
                wrong = int((got != wanted).sum())
                raise AssertionError(
                    f"{kind} registers, selectors {selectors}: {wrong} of {got.size} results differ; "
                    f"the first, {where}, is {got[where]:#010x}, and {wanted[where]:#010x} in the model"
                )
    native = "the model on the GPU, not a card's instruction" if sm120.is_emulated() else "the GPU's own"
    return f"{24 * _TILES} tiles bit-equal; it was {native}"


CHECKS: dict[str, Callable[[], str]] = {
    "CPU: quantise against the reference": lambda: _quantize("cpu", "cpu"),
    "CPU: fused quantise against the reference": lambda: _fused("cpu", "cpu"),
    "CPU: products against the reference": lambda: _products("cpu", "cpu"),
    "GPU: quantise against the reference": lambda: _quantize("cuda", "cuda"),
    "GPU: fused quantise against the reference": lambda: _fused("cuda", "cuda"),
    "SM120: the FP4 instruction against its published model": _instruction,
    "SM120: products against the reference": lambda: _products("cuda", "cuda"),
}
"""Every check by its name: it returns what it compared, or raises."""


def run() -> list[Check]:
    """Run every check; an unexpected error of one is its failure and does not stop the others."""
    results = []
    for name, check in CHECKS.items():
        torch.manual_seed(zlib.crc32(name.encode()))
        try:
            results.append(Check(name, "passed", check()))
        except _Skipped as reason:
            results.append(Check(name, "skipped", str(reason)))
        except Exception as error:  # whatever it is, it is this check's failure
            results.append(Check(name, "FAILED", f"{type(error).__name__}: {error}"))
    return results
