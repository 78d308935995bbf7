"""What `nvfp4 tune` can time: the matrix products of a backend, whose plans are its candidates.

Operands lie on an exact grid, random codes under scales of 1 or 2, so that every partial sum is exact in any order and
all plans have to agree to the bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from nvfp4 import _C, functional
from nvfp4.backends import Desc, explain, sm120, sm120_tuning
from nvfp4.backends.arguments import DTYPE_CODES
from nvfp4.backends.triton import plan as triton_plan
from nvfp4.backends.triton import tuned
from nvfp4.bench.operands import cold_copies
from nvfp4.tensor import NVFP4Tensor
from nvfp4.tuning import Problem, Store

__all__ = ["FAMILIES", "Family", "Product"]

_kernels: Any = getattr(_C, "cuda", None)

_ONE, _TWO = 0x38, 0x40  # e4m3 bytes
_ATOM_ROWS = 32  # of the scales of SM120's tokens


def _codes(m: int, k: int) -> Tensor:
    """A byte for two columns."""
    return torch.randint(0, 256, (m, k // 2), dtype=torch.uint8, device="cuda")


def _scales(*shape: int) -> Tensor:
    return _ONE + (_TWO - _ONE) * torch.randint(0, 2, shape, dtype=torch.uint8, device="cuda")


class Product(ABC):
    """One problem's operands on the current GPU, and its product by any plan.

    Args:
        problem: the sizes.
        weights: copies of one weight, from `Family.weights`.

    Attributes:
        out: the result, [m, n].
    """

    def __init__(self, problem: Problem, weights: list[Tensor]) -> None:
        self.problem, self.weights = problem, weights
        self.out = torch.empty(problem.m, problem.n, dtype=torch.bfloat16, device="cuda")

    @abstractmethod
    def calls(self, plan: Any) -> Callable[[], None]:
        """The product with every copy of the weight, one after the other."""


class Family(ABC):
    """The products of one backend.

    Attributes:
        name: as a message has it.
        desc: one of the products.
        backend: whose they are.
        tokens: numbers of tokens at which they are timed, unless others are asked for.
        product: of a problem, with its operands.
    """

    name: ClassVar[str]
    desc: ClassVar[Desc]
    backend: ClassVar[str]
    tokens: ClassVar[tuple[int, ...]]
    product: ClassVar[type[Product]]

    def refusal(self) -> str:
        """Why these products do not run here, or an empty string."""
        explanation = explain(self.desc)
        if explanation.choice == self.backend:
            return ""
        (answer,) = (answer for answer in explanation.answers if answer.backend == self.backend)
        return "NVFP4_BACKEND (or force()) wants another backend" if answer.supported else answer.reason

    def fault(self) -> str:
        """Why times would say nothing about the kernels although they run, or an empty string."""
        return ""

    @abstractmethod
    def candidates(self, problem: Problem) -> Mapping[str, Any]:
        """Every plan worth timing on the current GPU, by its name."""

    @abstractmethod
    def predicted(self, plan: Any) -> float | None:
        """Microseconds of one of them without measuring; None where they are predicted in no unit."""

    def weights(self, n: int, k: int) -> list[Tensor]:
        """One weight as the kernels take it, cold."""
        scale = _scales(n, k // 16).view(torch.float8_e4m3fn)
        plain = NVFP4Tensor(_codes(n, k), scale, torch.ones(1, device="cuda"), (n, k))
        return cold_copies(functional.to_layout(plain, self.desc.layout).packed)

    @abstractmethod
    def store(self, index: int) -> Store:
        """The tuning file of the GPU of this index."""


class _Sm120Product(Product):
    def __init__(self, problem: Problem, weights: list[Tensor]) -> None:
        super().__init__(problem, weights)
        m, _, k = problem
        self.pitch = sm120.pitch_of(k)
        self.codes = _codes(m, 2 * self.pitch)
        self.scales = _scales(_C.swizzled_bytes(m, k // 16, _ATOM_ROWS))
        self.alpha = torch.full((1,), 2.0**-10, device="cuda")

    def calls(self, plan: Any) -> Callable[[], None]:
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


class _Sm120(Family):
    name = "SM120's matrix products"
    desc = Desc("linear", "cuda", layout="n128k128")
    backend = "cuda"
    tokens = (512, 1024, 2048, 4096, 8192)
    product = _Sm120Product

    def fault(self) -> str:
        if not sm120.is_emulated():
            return ""
        return (
            "this build emulates SM120's FP4 instruction (NVFP4_EMULATE_SM120); times of an emulated instruction "
            "say nothing about the kernels, so none are taken or stored. Build without it, on an SM120"
        )

    def candidates(self, problem: Problem) -> Mapping[str, Any]:
        return sm120_tuning.candidates(problem, _kernels.gpu(torch.cuda.current_device()))

    def predicted(self, plan: Any) -> float | None:
        microseconds: float = plan.seconds * 1e6
        return microseconds

    def store(self, index: int) -> Store:
        return sm120_tuning.store(index)


class _TritonProduct(Product):
    def __init__(self, problem: Problem, weights: list[Tensor]) -> None:
        from nvfp4.backends.triton import products  # imports Triton, which only they need

        super().__init__(problem, weights)
        m, n, k = problem
        self.products, self.one = products, torch.ones(1, device="cuda")
        self.operands = [products.Weight(tiles, n, self.one) for tiles in weights]
        self.codes, self.scales = _codes(m, k), _scales(m, k // 16)

    def calls(self, plan: Any) -> Callable[[], None]:
        def call() -> None:
            with self.products.force_plan(plan):
                for weight in self.operands:
                    # As in a model, a kernel that writes tokens is before each product, which may start while it ends.
                    tokens = self.products.decoded_tokens(self.codes, self.scales, self.one, weight)
                    self.products.product(tokens, weight, self.out)

        return call


class _Triton(Family):
    name = "Triton's matrix products"
    # Products of 16-bit activations have a plan everywhere; quantised ones may be the GPU's own FP4 instruction.
    desc = Desc("linear", "cuda", layout="n64k256", activations="none")
    backend = "triton"
    tokens = (1, 16, 64, 128, 256, 512, 1024, 2048, 8192)
    product = _TritonProduct

    def candidates(self, problem: Problem) -> Mapping[str, Any]:
        return triton_plan.candidates(problem, tuned.gpu_of(torch.cuda.current_device()))

    def predicted(self, plan: Any) -> float | None:
        return None

    def store(self, index: int) -> Store:
        return tuned.store(index)


FAMILIES: tuple[Family, ...] = (_Sm120(), _Triton())
"""Those whose products are served are tuned, the first of them."""
