"""Operands of a GPU's cases, their calls, the check of the results, and what stands beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from nvfp4 import backends, functional, reference
from nvfp4.bench import cases, refcheck
from nvfp4.bench.gpu_cases import GpuCase
from nvfp4.bench.gpu_place import Place
from nvfp4.bench.gpu_results import GpuPeaks
from nvfp4.bench.operands import LinearOperands, cold_copies, copies
from nvfp4.bench.timing import Samples
from nvfp4.tensor import NVFP4Tensor

__all__ = ["Call", "Probes", "Products", "Quantisers"]

Call = Callable[[], object]

_STATIC = 448.0
"""The global scale under which activations of `LinearOperands` lie on the exact grid: 2688 over their largest, 6."""

_MOST_COPIES = 64  # of what is quantised: so few tokens that they would fit are in the cache in a model too


class Products:
    """Linear cases of one weight: it in every layout that is asked for, and in 16 bits for cuBLAS."""

    def __init__(self, n: int, k: int, dtype: str, place: Place) -> None:
        self.operands = LinearOperands(n, k, "plain", cold=0, peers=False)
        self._place = place
        self._weights: dict[str, list[NVFP4Tensor]] = {}
        self._static = torch.full((1,), _STATIC, device=place.device)
        made = torch.randn(n, k, device=place.device, dtype=cases.DTYPES[dtype])
        self._dense = cold_copies(made, place.cold)

    def _in_layout_of(self, name: str, activations: str) -> list[NVFP4Tensor]:
        layout = backends.BACKENDS[name].weight_layout(activations)
        if layout not in self._weights:
            with backends.force(name):
                made = functional.to_layout(self.operands.plain.to(self._place.device), layout)
            more = range(copies(made.nbytes, self._place.cold) - 1)
            self._weights[layout] = [
                made, *(replace(made, packed=made.packed.clone(), scale=made.scale.clone()) for _ in more)
            ]  # fmt: skip
        return self._weights[layout]

    def tokens(self, case: GpuCase) -> list[Tensor]:
        """The activations."""
        return [self.operands.activations(case.m, case.dtype).to(self._place.device)]

    def calls(self, case: GpuCase, name: str, tokens: list[Tensor]) -> list[Callable[[], Tensor]]:
        """The product with every copy of the weight."""
        given = self._static if case.activations == "static" else None
        kind = None if case.activations == "none" else "nvfp4"
        weights = self._in_layout_of(name, case.activations)
        return [
            partial(functional.linear, tokens[0], weight, activations=kind, input_global_scale=given)
            for weight in weights
        ]

    def check(self, case: GpuCase, tokens: list[Tensor], y: Tensor) -> None:
        """Compare some tokens' results for some rows of the weight with the reference, on the CPU."""
        some = refcheck.sample(case.m).to(y.device)
        given = self._static.cpu() if case.activations == "static" else None
        refcheck.check_linear(case.op, tokens[0][some].cpu(), self.operands, y[some].cpu(), given)

    def beside(self, tokens: list[Tensor], _case: GpuCase) -> list[Call]:
        """cuBLAS with every copy of a weight in 16 bits."""
        return [partial(F.linear, tokens[0], weight) for weight in self._dense]


class Quantisers:
    """Cases that quantise."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def tokens(self, case: GpuCase) -> list[Tensor]:
        """What is quantised, in copies."""
        made = torch.randn(case.m, case.k, device=self._place.device, dtype=cases.DTYPES[case.dtype])
        return self._copies(made)

    def _copies(self, made: Tensor) -> list[Tensor]:
        return cold_copies(made, min(self._place.cold, _MOST_COPIES * made.nbytes - 1))

    def calls(self, case: GpuCase, _name: str, tokens: list[Tensor]) -> list[Callable[[], NVFP4Tensor]]:
        """Every copy quantised."""
        given = reference.global_scale_of(tokens[0]) if case.activations == "static" else None
        granularity = "row" if case.activations == "row" else "tensor"
        return [partial(functional.quantize, x, given, granularity) for x in tokens]  # type: ignore[arg-type]

    def check(self, case: GpuCase, tokens: list[Tensor], t: NVFP4Tensor) -> None:
        """Compare some rows with the reference, on the CPU."""
        some = refcheck.sample(case.m).to(t.device)
        is_row = case.activations == "row"
        parts = t.packed[some], t.scale.view(torch.uint8)[some], t.global_scale[some] if is_row else t.global_scale
        given = None if is_row else reference.global_scale_of(tokens[0]).cpu()
        packed, scale, global_scale = (part.cpu() for part in parts)
        refcheck.check_quantize(tokens[0][some].cpu(), packed, scale, global_scale, given)

    def beside(self, tokens: list[Tensor], case: GpuCase) -> list[Call]:
        """A copy that moves as many bytes, half of them read and half written."""
        source = torch.randint(0, 256, (case.bytes // 2,), dtype=torch.uint8, device=tokens[0].device)
        target = torch.empty_like(source)
        return [partial(target.copy_, some) for some in self._copies(source)]


class Probes:
    """What the GPU can do: sums and copies of memory that is in no cache, and a large product of 16-bit matrices."""

    def __init__(self, place: Place, dtype: str) -> None:
        self._numbers = torch.randn(place.read_bytes // 4, device=place.device)
        self._halves = self._numbers.chunk(2)
        size = (place.matmul_size, place.matmul_size)
        self._square = torch.randn(size, device=place.device, dtype=cases.DTYPES[dtype])

    def calls(self) -> dict[str, list[Call]]:
        """Each twice, so that the launch of a graph counts for little."""
        target, source = self._halves
        return {
            "sum": [self._numbers.sum] * 2,
            "copy": [partial(target.copy_, source)] * 2,
            "matmul": [partial(torch.mm, self._square, self._square)] * 2,
        }

    def peaks(self, samples: Mapping[str, Samples]) -> GpuPeaks:
        """The rates; memory's is that of the faster of the two ways, as neither of torch's kernels is made for it."""
        fastest = min(samples["sum"].median, samples["copy"].median)  # the copy reads a half and writes a half
        flops = 2 * self._square.shape[0] ** 3
        return GpuPeaks(self._numbers.nbytes / fastest / 1e3, flops / samples["matmul"].median / 1e6)
