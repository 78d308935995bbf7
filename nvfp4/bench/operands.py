"""Operands of the cases: random, never zeros, and in enough copies that no call finds its weight in a cache.

The NVFP4 operands lie on an exact grid: random codes, block scales 1 or 2, global scales that are powers of two, and
activations that NVFP4 represents exactly. So every partial sum is exact in float32, in any order, and the results that
are timed can be compared with the reference at atol = rtol = 0 (`nvfp4.bench.refcheck`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from nvfp4.bench.cases import DTYPES
from nvfp4.formats import E2M1_VALUES, GROUP_SIZE
from nvfp4.functional import to_layout
from nvfp4.tensor import NVFP4Tensor

__all__ = ["INT4_GROUP", "LinearOperands", "Peers", "RowOperands", "cold_bytes", "cold_copies", "copies", "takes_int4"]

INT4_GROUP = 32
"""Group size of torch's int4 weights: its smallest, the nearest to 16."""

_WEIGHT_GLOBAL_SCALE = 512.0
_ONE, _TWO = 0x38, 0x40  # e4m3 bytes
_LEAST_COLD = 64 << 20
_MOST_COLD = 1 << 30


def cold_bytes(llc_bytes: int) -> int:
    """Bytes over which operands rotate: twice the last-level cache, at least 64 MiB, at most 1 GiB to save memory."""
    return min(max(_LEAST_COLD, 2 * llc_bytes), _MOST_COLD)


def copies(nbytes: int, cold: int) -> int:
    """Copies of an operand so that a rotation over them exceeds `cold` bytes."""
    return cold // max(nbytes, 1) + 1


def cold_copies(made: Tensor, cold: int | None = None) -> list[Tensor]:
    """A tensor as often as it takes to leave no part of it in a cache.

    Args:
        made: the tensor.
        cold: bytes to rotate over, from `cold_bytes`; None: of the L2 cache of the GPU that it is on.
    """
    if cold is None:
        cold = cold_bytes(torch.cuda.get_device_properties(made.device).L2_cache_size)
    return [made, *(made.clone() for _ in range(copies(made.nbytes, cold) - 1))]


def _scales(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return _ONE + (_TWO - _ONE) * torch.randint(0, 2, shape, dtype=torch.uint8, generator=generator)


def _codes(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def takes_int4(n: int, k: int) -> bool:
    """Whether torch's int4 kernel has this shape."""
    return n % 16 == 0 and k % INT4_GROUP == 0


@dataclass(frozen=True)
class Peers:
    """Torch's own weights of the same shape, each a list of copies; empty where torch cannot hold this shape."""

    fp32: list[Tensor] = field(default_factory=list)
    bf16: list[Tensor] = field(default_factory=list)
    int4: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @staticmethod
    def build(n: int, k: int, cold: int, generator: torch.Generator) -> Peers:
        """Weights [n, k] of the three peers."""
        weight = torch.randn(n, k, generator=generator).mul_(k**-0.5)
        fp32 = [weight, *(weight.clone() for _ in range(copies(weight.nbytes, cold) - 1))]
        bf16 = [weight.bfloat16() for _ in range(copies(weight.nbytes // 2, cold))]
        int4: list[tuple[Tensor, Tensor]] = []
        if takes_int4(n, k):
            codes = torch.randint(0, 16, (n, k), dtype=torch.int32, generator=generator)
            packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 2)
            scale_zero = torch.rand(k // INT4_GROUP, n, 2, generator=generator).mul_(k**-0.5).bfloat16()
            number = copies(packed.nbytes + scale_zero.nbytes, cold)
            int4 = [(packed, scale_zero), *((packed.clone(), scale_zero.clone()) for _ in range(number - 1))]
        return Peers(fp32, bf16, int4)


class LinearOperands:
    """One weight [n, k]: plain, as prepared copies, and as the peers hold it.

    Args:
        n: output features.
        k: input features, a multiple of 16.
        layout: what the weight is prepared to.
        cold: bytes to rotate over, from `cold_bytes`.
        peers: whether torch's weights are wanted too.
        seed: of the random codes.
    """

    def __init__(self, n: int, k: int, layout: str, cold: int, *, peers: bool = True, seed: int = 0) -> None:
        self.n, self.k, self.layout = n, k, layout
        self._generator = torch.Generator().manual_seed(seed)
        packed = _codes((n, k // 2), self._generator)
        scale = _scales((n, k // GROUP_SIZE), self._generator).view(torch.float8_e4m3fn)
        self.plain = NVFP4Tensor(packed, scale, torch.tensor([_WEIGHT_GLOBAL_SCALE]), (n, k))
        first = to_layout(self.plain, layout)
        self.weights = [first]
        for _ in range(copies(first.nbytes, cold) - 1):
            copy = NVFP4Tensor(first.packed.clone(), first.scale.clone(), first.global_scale, first.shape, layout)
            self.weights.append(copy)
        self.peers = Peers.build(n, k, cold, self._generator) if peers else Peers()

    def activations(self, m: int, dtype: str) -> Tensor:
        """x [m, k]: random e2m1 values with a 6 in every block, which makes every block scale of a row the largest."""
        table = torch.tensor([*E2M1_VALUES, *(-value for value in E2M1_VALUES)])
        x = table[torch.randint(0, 16, (m, self.k), generator=self._generator)]
        x[:, ::GROUP_SIZE] = 6.0
        return x.to(DTYPES[dtype])


class RowOperands:
    """Matrices [m, k]: values to quantise, NVFP4 to dequantise, and outputs, each as one tensor [copies, m, …]."""

    def __init__(self, m: int, k: int, dtype: str, cold: int, seed: int = 0) -> None:
        self.m, self.k, self.dtype = m, k, DTYPES[dtype]
        generator = torch.Generator().manual_seed(seed)
        value_bytes, coded_bytes = m * k * self.dtype.itemsize, m * (k // 2 + k // GROUP_SIZE + 4)
        self.values = torch.randn(copies(value_bytes, cold), m, k, generator=generator).to(self.dtype)
        number = copies(coded_bytes, cold)
        self.packed = _codes((number, m, k // 2), generator)
        self.scale = _scales((number, m, k // GROUP_SIZE), generator)
        self.global_scale = torch.full((number, m, 1), _WEIGHT_GLOBAL_SCALE)
        half = (value_bytes + coded_bytes) // 2
        number = copies(half, cold)
        self.copy_source = _codes((number, half), generator)
        self.copy_target = torch.ones_like(self.copy_source)
