"""The roof, measured in the same loop as what stands under it.

Probes take turns with the kernels: a threaded read of memory in no cache; the int8 group-16 dot loop on data in the
first-level cache, which bounds W4A4; and for W4A16, whose products are of floating-point numbers, its own loop on such
data and torch's matmul of matrices that fit into the caches. All but torch's are in the compiled core
(`csrc/include/nvfp4/probe.h`).

Probes and kernels are judged alike, by their medians: they take turns, so neighbours on the machine slow both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

from nvfp4 import _C, env
from nvfp4.backends.arguments import DTYPE_CODES
from nvfp4.bench.cases import DTYPES
from nvfp4.bench.results import Peaks
from nvfp4.bench.timing import Samples, Variant, quantile
from nvfp4.bench.variants import MEMCPY

__all__ = ["Probes"]

_READ, _DOT, _FLOAT_DOT = "probe read", "probe dot", "probe float dot"
_MATMUL = {name: f"probe matmul {name}" for name in DTYPES}
_READ_BYTES = 48 << 20
_DOT_ITERATIONS = 3200  # of 2^16 multiply-adds a thread: some milliseconds
_MATMUL_SIZE = 768  # large enough for torch's matmul at its best, small enough for the caches


class Probes:
    """The probes as variants for `interleave`, and their samples as `Peaks`.

    Args:
        cold: bytes the read probe rotates over, from `operands.cold_bytes`.
    """

    def __init__(self, cold: int) -> None:
        self._threads = env.num_threads() or torch.get_num_threads()
        part = min(_READ_BYTES, cold)
        self._memory = torch.randint(0, 256, (cold // part + 2, part), dtype=torch.uint8)
        square = torch.randn(_MATMUL_SIZE, _MATMUL_SIZE)
        self._square = {name: square.to(dtype) for name, dtype in DTYPES.items()}
        self._rates: dict[str, list[float]] = {}

    def wake_threads(self) -> None:
        """Give every thread of the pool, torch's and ours, some milliseconds of arithmetic.

        A variant with one thread, such as some of torch's bf16 matmuls, leaves the other cores asleep and their clocks
        low; the next variant would be 10 % slower for it. In a model calls follow each other too fast for that.
        """
        _C.cpu.dot_loop(_DOT_ITERATIONS, self._threads)

    def _read(self, round_: int) -> Callable[[], object]:
        part = self._memory[round_ % len(self._memory)]
        return lambda: self._rates[_READ].append(_C.cpu.read_bandwidth(part.data_ptr(), part.nbytes, self._threads))

    def _dot(self, _: int) -> Callable[[], object]:
        return lambda: self._rates[_DOT].append(_C.cpu.dot_loop(_DOT_ITERATIONS, self._threads))

    def variants(self, activations: str | None) -> dict[str, Variant]:
        """The read probe, and for linear cases their arithmetic; forgets what the probes said before.

        Args:
            activations: their dtype in linear cases, None in others.
        """
        self._rates = {_READ: [], _DOT: [], _FLOAT_DOT: []}
        chosen: dict[str, Variant] = {_READ: self._read}
        if activations is not None:
            code, rates = DTYPE_CODES[DTYPES[activations]], self._rates[_FLOAT_DOT]
            chosen[_DOT] = self._dot
            chosen[_FLOAT_DOT] = lambda _: (
                lambda: rates.append(_C.cpu.float_dot_loop(_DOT_ITERATIONS, code, self._threads))
            )
            for name in {"float32", activations}:
                product = partial(torch.mm, self._square[name], self._square[name])
                chosen[_MATMUL[name]] = lambda _, product=product: product  # type: ignore[misc]
        return chosen

    def peaks(self, samples: Mapping[str, Samples], copied_bytes: int = 0) -> Peaks:
        """What the machine could do in one loop.

        Args:
            samples: of an `interleave` with `variants` among its variants. The core's probes time themselves.
            copied_bytes: read and written by one call of the copies, where they took part.
        """

        def said(name: str) -> float:
            return quantile(self._rates[name][1:] or [0.0], 0.5) / 1e9  # the first is of the untimed round

        def fastest(amount: float, names: tuple[str, ...]) -> float:
            return max((amount / samples[name].median / 1e3 for name in names if name in samples), default=0.0)

        return Peaks(
            read_gbs=said(_READ),
            dot_gmacs=said(_DOT),
            float_gmacs=max(said(_FLOAT_DOT), fastest(_MATMUL_SIZE**3, tuple(_MATMUL.values()))),
            memcpy_gbs=fastest(copied_bytes, MEMCPY),
        )
