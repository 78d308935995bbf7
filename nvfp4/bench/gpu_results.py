"""One measured case of a GPU as a row, and where it was measured."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass, fields

import torch

from nvfp4.bench import machine
from nvfp4.bench.gpu_cases import GpuCase
from nvfp4.bench.results import Ran
from nvfp4.bench.timing import Samples
from nvfp4.tuning import driver_version

__all__ = ["COLUMNS", "GpuMachine", "GpuPeaks", "GpuRow", "describe", "make_row"]


@dataclass(frozen=True)
class GpuMachine:
    """What every row of a CSV file says about its origin."""

    gpu: str
    capability: str
    processors: int
    l2_bytes: int
    driver: str
    torch: str
    cuda: str
    triton: str
    nvfp4: str
    commit: str
    date: str


def _triton_version() -> str:
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def describe() -> GpuMachine:
    """The current GPU, this build, now."""
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    host = machine.describe()
    return GpuMachine(
        gpu=properties.name,
        capability=f"{properties.major}.{properties.minor}",
        processors=properties.multi_processor_count,
        l2_bytes=properties.L2_cache_size,
        driver=driver_version(),
        torch=host.torch,
        cuda=str(torch.version.cuda),
        triton=_triton_version(),
        nvfp4=host.nvfp4,
        commit=host.commit,
        date=host.date,
    )


@dataclass(frozen=True)
class GpuPeaks:
    """What this GPU could do while a case was measured.

    Attributes:
        read_gbs: GB/s of memory that is in no cache.
        matmul_tflops: TFLOP/s of torch's product of two large 16-bit matrices.
    """

    read_gbs: float
    matmul_tflops: float

    def attainable(self, case: GpuCase) -> tuple[float, str]:
        """The least microseconds that a product could take in 16 bits, and what bounds it: memory or matmul."""
        memory = case.bytes / self.read_gbs / 1e3
        return max((memory, "memory"), (case.flops / self.matmul_tflops / 1e6, "matmul"))


@dataclass(frozen=True)
class GpuRow(Ran):
    """One case on one backend: what ran, how long it took, what it could have taken, what stood beside. Times in µs.

    Attributes:
        plan: the tile of Triton's product and how its columns are shared, or by which route it goes.
        attainable_us: of a product by the rates of the same loop; of a quantiser what the copy took.
        fraction: of what is attainable. FP4 tensor cores may exceed 1 where 16-bit ones bound it.
        beside: cuBLAS in the activations' dtype, or a copy of as many bytes.
        ratio: how many times faster than what stands beside.
    """

    plan: str
    us: float
    us_p20: float
    us_p80: float
    samples: int
    tflops: float
    gbs: float
    attainable_us: float
    bound: str
    fraction: float
    beside: str
    beside_us: float
    ratio: float
    read_gbs: float
    matmul_tflops: float
    command: str


COLUMNS = (*(field.name for field in fields(GpuRow)), *(field.name for field in fields(GpuMachine)))
"""Of the CSV file, in this order."""


def make_row(
    case: GpuCase, backend: str, ran: tuple[str, str], samples: Samples, beside_us: float, peaks: GpuPeaks, prefix: str
) -> GpuRow:
    """The figures of one case.

    Args:
        case: what was measured.
        backend: that was forced.
        ran: names of the kernels, and the plan.
        samples: its times, a call.
        beside_us: of cuBLAS, or of the copy.
        peaks: measured in the same loop.
        prefix: of the command: variables in effect.
    """
    us = samples.median
    attainable, bound = peaks.attainable(case) if case.is_linear else (beside_us, "copy")
    return GpuRow(
        case.op, case.m, case.n, case.k, case.dtype, backend, *ran, us, samples.p20, samples.p80, len(samples.us),
        tflops=case.flops / us / 1e6,
        gbs=case.bytes / us / 1e3,
        attainable_us=attainable,
        bound=bound,
        fraction=attainable / us,
        beside="cuBLAS" if case.is_linear else "copy",
        beside_us=beside_us,
        ratio=beside_us / us,
        read_gbs=peaks.read_gbs,
        matmul_tflops=peaks.matmul_tflops,
        command=f"{prefix}{case.command} --backend {backend}",
    )  # fmt: skip
