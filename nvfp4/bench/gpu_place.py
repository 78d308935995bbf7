"""Where the cases of a GPU run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nvfp4.bench import gpu_results
from nvfp4.bench.gpu_results import GpuMachine
from nvfp4.bench.operands import cold_bytes
from nvfp4.bench.timing import Timer, Variant, by_events, replayed

__all__ = ["Place", "check_gpu", "gpu"]


@dataclass(frozen=True)
class Place:
    """Where cases run, and how time is told there; the tests put a CPU where a user has a GPU.

    Attributes:
        device: of all tensors.
        backends: that are asked, in this order.
        cold: bytes that operands rotate over.
        prepared: a call as what is timed.
        timer: how.
        describe: what it is.
        read_bytes: that the probe of memory reads.
        matmul_size: of the square matrices that the probe of arithmetic multiplies.
        in_a_row: calls that are timed together where they are short.
    """

    device: str
    backends: tuple[str, ...]
    cold: int
    prepared: Callable[[Callable[[], object]], Variant]
    timer: Timer
    describe: Callable[[], GpuMachine]
    read_bytes: int = 1 << 30
    matmul_size: int = 8192
    in_a_row: int = 32


def check_gpu() -> None:
    """Make sure that there is a GPU.

    Raises:
        RuntimeError: there is none; the message says what to look at.
    """
    if not torch.cuda.is_available():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        raise RuntimeError(
            f"bench: --device cuda needs a GPU, and torch sees none (torch {torch.__version__} {built}); see whether "
            "`nvidia-smi` lists one and install a torch with CUDA, or measure the CPU with --device cpu"
        )


def gpu() -> Place:
    """The current GPU.

    Raises:
        RuntimeError: there is none.
    """
    check_gpu()
    cold = cold_bytes(torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size)
    return Place("cuda", ("cuda", "triton"), cold, replayed, by_events, gpu_results.describe)
