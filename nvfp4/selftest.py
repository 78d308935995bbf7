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

from nvfp4 import backends, functional, fused_ops, reference
from nvfp4.backends import Desc, sm120
from nvfp4.checks import FLOATS
from nvfp4.gated import GatedWeights, alternate
from nvfp4.tensor import NVFP4Tensor

__all__ = ["CHECKS", "Check", "run"]

_ACTIVATIONS: tuple[reference.Activation, ...] = ("gelu_tanh", "gelu", "silu")
_WAYS: tuple[tuple[reference.Granularity, reference.Scheme], ...] = (
    ("tensor", "nvfp4"),
    ("row", "nvfp4"),
    ("tensor", "compressed-tensors"),
)
_ONE, _TWO, _FOUR, _FOURTEEN = 0x38, 0x40, 0x48, 0x56  # e4m3 bytes
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


def _uneven(dtype: torch.dtype, device: str, rows: int = 64) -> Tensor:
    """Rows of very different size, with zeros."""
    x = torch.randn(rows, 1040, device=device) * 10.0 ** torch.randint(-3, 4, (rows, 1), device=device)
    x[:, ::7] = 0
    return x.to(dtype)


def _chosen(bytes_: tuple[int, ...], shape: tuple[int, ...], device: str) -> Tensor:
    """Any of a few bytes."""
    return torch.tensor(bytes_, dtype=torch.uint8, device=device)[torch.randint(0, len(bytes_), shape, device=device)]


def _exact_operand(rows: int, k: int, device: str) -> NVFP4Tensor:
    """Any codes, scales of 1, 2 and 4: sums of products are exact in any order."""
    packed = torch.randint(0, 256, (rows, k // 2), dtype=torch.uint8, device=device)
    scale = _chosen((_ONE, _TWO, _FOUR), (rows, k // 16), device)
    return NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), torch.full((1,), 0.5, device=device), (rows, k))


def _compare(got: Tensor, wanted: Tensor, what: str, where: str) -> None:
    if not torch.equal(got, wanted):
        raise AssertionError(f"{where}: {int((got != wanted).sum())} of {got.numel()} {what} are wrong")


def _served(desc: Desc, backend: str) -> None:
    """Skip what this backend does not serve, whether another comes before it or not."""
    explanation = backends.explain(desc)
    answers = {answer.backend: answer for answer in explanation.answers}
    if answers[backend].supported and not (explanation.forced and explanation.choice != backend):
        return
    if answers[backend].supported:
        raise _Skipped("NVFP4_BACKEND (or force()) forces another backend; unset it to run this")
    raise _Skipped(answers[backend].reason)


def _quantize(device: str, backend: str) -> str:
    _served(Desc("quantize", device), backend)
    count = 0
    for dtype, layout, rows in itertools.product(FLOATS, ("plain", "128x4"), (64, 130)):
        x = _uneven(dtype, device, rows)
        for granularity, scheme in _WAYS:
            for given in (None, torch.full((1,), 3.7, device=device)):
                with backends.force(backend):
                    got = functional.quantize(x, given, granularity, scheme=scheme, layout=layout)
                with backends.force("reference"):
                    wanted = functional.quantize(x, given, granularity, scheme=scheme, layout=layout)
                if got != wanted:
                    how = "by a given scale" if given is not None else f"a scale a {granularity}"
                    raise AssertionError(
                        f"{dtype}, {rows} rows, {how}, {scheme}, {layout}: other bytes than the reference"
                    )
                count += x.numel()
    return f"{count} numbers"


def _dequantize(device: str, backend: str, layouts: tuple[str, ...]) -> str:
    _served(Desc("dequantize", device), backend)
    count = 0
    for dtype, granularity in itertools.product(FLOATS, ("tensor", "row")):
        t = reference.quantize(_uneven(dtype, device), None, granularity)  # type: ignore[arg-type]
        wanted = reference.dequantize(t, dtype)
        for layout in layouts:
            with backends.force("reference"):
                held = functional.to_layout(t, layout)
            with backends.force(backend):
                got = held.dequantize(dtype)
            _compare(got, wanted, "values", f"{dtype}, {layout}")
            count += got.numel()
    return f"{count} numbers"


def _gates_and_ups(shape: tuple[int, int], device: str) -> tuple[Tensor, Tensor]:
    """A gate and an up for every column, by turns of 16: 48 and a digit, and -3 and a power of two.

    Every activation of 48 is 48. Those of -3 differ, GELU by tanh and by erf by a ninth; beside the 48s, with their
    global scale of 8, they and their products become block scales and codes that no unit in the last place changes.
    """
    large = torch.arange(shape[1], device=device) // 16 % 2 == 0
    digits = torch.randint(-7, 8, shape, device=device)
    digits[:, 0] = 7
    powers = 2 ** torch.randint(0, 3, shape, device=device) * (torch.randint(0, 2, shape, device=device) * 2 - 1)
    return torch.where(large, 48, -3).expand(shape), torch.where(large, digits, powers)


def _fused(device: str, backend: str) -> str:
    """Norms, activations and products whose results every evaluation rounds to the same codes."""
    _served(Desc("rms_norm_quantize", device), backend)
    count = 0
    for dtype in FLOATS:
        signs = torch.randint(0, 2, (64, 1040), device=device) * 4 - 2
        digits = torch.randint(-7, 8, (64, 1040), device=device)
        x, weight = signs.to(dtype), digits[0].to(dtype)
        # Half of x stands in the residual.
        residual = torch.where(torch.rand_like(x, dtype=torch.float32) < 0.5, x, 0).to(dtype)
        x = x - residual
        gate, up = (t.to(dtype) for t in _gates_and_ups((64, 1040), device))
        gated = torch.cat((gate, up), 1)
        by_turns = alternate(gate.T, up.T).T.contiguous()

        def call(x: Tensor, weight: Tensor, residual: Tensor, gated: Tensor, by_turns: Tensor) -> list[object]:
            normed, total = functional.rms_norm_quantize(x, weight, 1e-30, residual=residual)
            products = [functional.gated_quantize(gated, activation) for activation in _ACTIVATIONS]
            products.append(functional.gated_quantize(by_turns, interleaved=True))
            return [normed, total.tolist(), *products, functional.quantize_dequantize(gated).tolist()]

        with backends.force(backend):
            got = call(x, weight, residual, gated, by_turns)
        with backends.force("reference"):
            wanted = call(x, weight, residual, gated, by_turns)
        if got != wanted:
            raise AssertionError(f"{dtype}: other bytes than the reference")
        count += 7 * x.numel()
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
                _compare(got, wanted, "sums", f"{m} x {n} x {k}, repeat {repeat}")
    return f"{len(sizes)} sizes, 20 times each"


def _weight_only(device: str, backend: str) -> str:
    """Activations of one digit: sums of products are exact in any order."""
    _served(Desc("linear", device, activations="none"), backend)
    sizes = [(1, 136, 272), (7, 128, 128), (33, 264, 1040), (300, 640, 768)]
    for dtype, (m, n, k) in itertools.product(FLOATS, sizes):
        x, weight = torch.randint(-7, 8, (m, k), device=device).to(dtype), _exact_operand(n, k, device)
        wanted = reference.linear(x, weight)
        with backends.force(backend):
            got = functional.linear(x, weight, activations=None)
        _compare(got, wanted, "sums", f"{dtype}, {m} x {n} x {k}")
    return f"{len(sizes)} sizes, in {len(FLOATS)} dtypes"


def _gated_weights(k: int, intermediate: int, n: int, device: str) -> GatedWeights:
    """By turns of 16, gates of 56 and of -3 for tokens that begin with a one; as `_gates_and_ups` otherwise.

    An output adds up what came of one kind of gate only, so that its sums are exact in any order.
    """
    large = (torch.arange(intermediate, device=device) // 16 % 2 == 0)[:, None]
    gate = torch.zeros((intermediate, k), dtype=torch.uint8, device=device)
    gate[:, :1] = torch.where(large, 6, 13)
    gate_scale = torch.full((intermediate, k // 16), _ONE, dtype=torch.uint8, device=device)
    gate_scale[:, :1] = torch.where(large, _FOURTEEN, _ONE)
    powers = _chosen((2, 4, 6, 10, 12, 14), gate.shape, device)
    up = torch.where(large, torch.randint(0, 16, gate.shape, dtype=torch.uint8, device=device), powers)
    up[:, :16], up[0, 16:] = 0, 7
    kinds = torch.arange(n, device=device)[:, None] % 2 == 0
    down = torch.randint(0, 16, (n, intermediate), dtype=torch.uint8, device=device)
    down[kinds != large.T] = 0
    rows = alternate(functional.pack(gate), functional.pack(up))
    one = torch.ones(1, device=device)
    return GatedWeights(
        rows, alternate(gate_scale, torch.full_like(gate_scale, _ONE)), one, one, None, functional.pack(down),
        _chosen((_ONE, _TWO, _FOUR), (n, intermediate // 16), device), 64 * one, None, intermediate, n, "plain",
    )  # fmt: skip


def _gated_mlp(device: str, backend: str) -> str:
    _served(Desc("gated_mlp", device), backend)
    sizes = [(1, 272, 320, 264), (40, 144, 256, 136), (300, 272, 320, 128)]
    calls = list(itertools.product(FLOATS, sizes, _ACTIVATIONS, (True, False)))
    for dtype, (m, k, intermediate, n), activation, static in calls:
        weights = _gated_weights(k, intermediate, n, device)
        x = torch.zeros(m, k, dtype=dtype, device=device)
        x[:, 0] = 1
        x[torch.arange(m, device=device), torch.randint(16, k, (m,), device=device)] = 1
        given, given_down = (torch.full((1,), g, device=device) if static else None for g in (1344.0, 8.0))
        with backends.force(backend):
            got = fused_ops.gated_mlp(x, weights, given, given_down, activation, "row")
        with backends.force("reference"):
            wanted = fused_ops.gated_mlp(x, weights, given, given_down, activation, "row")
        how = "given scales" if static else "a scale a token"
        _compare(got, wanted, "outputs", f"{dtype}, {m} tokens, {activation}, {how}")
    return f"{len(calls)} calls"


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


def _every_kernel() -> str:
    """Sizes that between them are best for each kernel, by every plan worth trying, whole tiles and pieces."""
    _served(Desc("matmul", "cuda", torch.float32), "cuda")
    names, plans = set(), 0
    for m, n, k in [(m, 640, 768) for m in (8, 16, 32, 64, 100, 256, 300)] + [(1024, 3072, 256)]:
        a, b = _exact_operand(m, k, "cuda"), _exact_operand(n, k, "cuda")
        wanted = reference.matmul(a, b, out_dtype=torch.float32)
        for plan in sm120.candidates(m, n, k, torch.cuda.current_device()):
            with backends.force("cuda"), sm120.force_plan(plan):
                for repeat in range(5):
                    got = functional.matmul(a, b, out_dtype=torch.float32)
                    _compare(got, wanted, "sums", f"{plan}, repeat {repeat}")
            names.add(plan.name)
            plans += 1
    missing = set(sm120.kernel_names()) - names
    if missing:
        raise AssertionError(f"no size here is for {', '.join(sorted(missing))}")
    return f"{len(names)} kernels by {plans} plans, 5 times each"


CHECKS: dict[str, Callable[[], str]] = {
    "CPU: quantise against the reference": lambda: _quantize("cpu", "cpu"),
    "CPU: dequantise against the reference": lambda: _dequantize("cpu", "cpu", ("plain", "128x4", "n16k64")),
    "CPU: fused quantise against the reference": lambda: _fused("cpu", "cpu"),
    "CPU: products against the reference": lambda: _products("cpu", "cpu"),
    "CPU: products of 16-bit activations against the reference": lambda: _weight_only("cpu", "cpu"),
    "CPU: gated MLP against the reference": lambda: _gated_mlp("cpu", "cpu"),
    "GPU: quantise against the reference": lambda: _quantize("cuda", "cuda"),
    "GPU: dequantise against the reference": lambda: _dequantize("cuda", "cuda", ("plain", "128x4", "n128k128")),
    "GPU: fused quantise against the reference": lambda: _fused("cuda", "cuda"),
    "Triton: quantise against the reference": lambda: _quantize("cuda", "triton"),
    "Triton: dequantise against the reference": lambda: _dequantize("cuda", "triton", ("plain", "128x4", "n64k256")),
    "Triton: fused quantise against the reference": lambda: _fused("cuda", "triton"),
    "Triton: products against the reference": lambda: _products("cuda", "triton"),
    "Triton: products of 16-bit activations against the reference": lambda: _weight_only("cuda", "triton"),
    "Triton: gated MLP against the reference": lambda: _gated_mlp("cuda", "triton"),
    "SM120: the FP4 instruction against its published model": _instruction,
    "SM120: products against the reference": lambda: _products("cuda", "cuda"),
    "SM120: every kernel against the reference": _every_kernel,
    "SM120: gated MLP against the reference": lambda: _gated_mlp("cuda", "cuda"),
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
