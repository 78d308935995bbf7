"""The compiled CPU kernels without the op around them: no dispatch, no checks, no allocation.

Two figures need them: what a call costs in Python on top of its kernel, and quantisation into memory that is there.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nvfp4 import _C, env
from nvfp4.backends.arguments import COMPUTE_ROW, DTYPE_CODES
from nvfp4.tensor import NVFP4Tensor

__all__ = ["linear_w4a4", "quantize_rows"]

_SCHEME_NVFP4, _SCALES_PLAIN, _NO_BIAS = 0, 0, -1


def _threads() -> int:
    return env.num_threads() or torch.get_num_threads()


def _call(kernel: Callable[..., None], arguments: tuple[int, ...], kept: object) -> Callable[[], None]:
    """The kernel with its arguments; `kept` owns the memory behind the pointers and lives as long as the call does."""

    def call(_kept: object = kept) -> None:
        kernel(*arguments)

    return call


def quantize_rows(x: Tensor, packed: Tensor, scale: Tensor, global_scale: Tensor) -> Callable[[], None]:
    """A call that quantises x [m, k], with a global scale a row, into the other three tensors; all contiguous."""
    (rows, cols), threads, kernel = x.shape, _threads(), _C.cpu.quantize
    arguments = (
        x.data_ptr(), DTYPE_CODES[x.dtype], rows, cols, cols, COMPUTE_ROW, _SCHEME_NVFP4, _SCALES_PLAIN,
        global_scale.data_ptr(), packed.data_ptr(), scale.data_ptr(), threads,
    )  # fmt: skip
    return _call(kernel, arguments, (x, packed, scale, global_scale))


def linear_w4a4(x: Tensor, weight: NVFP4Tensor, out: Tensor) -> Callable[[], None]:
    """A call that computes out [m, n] = x [m, k] @ weight.T with row scales; the weight in the layout n16k64."""
    (m, k), n, threads, kernel = x.shape, weight.shape[0], _threads(), _C.cpu.linear_w4a4
    arguments = (
        m, n, k, x.data_ptr(), DTYPE_CODES[x.dtype], k, COMPUTE_ROW, 0, weight.packed.data_ptr(),
        weight.global_scale.data_ptr(), False, 0, _NO_BIAS, out.data_ptr(), DTYPE_CODES[out.dtype], threads,
    )  # fmt: skip
    return _call(kernel, arguments, (x, weight, out))
