"""The SM120 matrix products with integers in the place of their instruction: at full speed, where races would show.

They run on a Hopper GPU in a build with NVFP4_EMULATE_SM120=surrogate, or =disturbed, where every role pauses at random
and stages are filled with NaN scales as soon as they have been read; skipped elsewhere.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sm120
from nvfp4 import NVFP4Tensor

pytestmark = pytest.mark.skipif(
    sm120.kernels is None
    or not torch.cuda.is_available()
    or sm120.kernels.emulation() not in ("surrogate", "disturbed"),
    reason="not a build with NVFP4_EMULATE_SM120=surrogate or disturbed on a GPU",
)


GEMMA = [(43008, 5376), (5376, 21504)]


def operand(rows: int, k: int) -> NVFP4Tensor:
    """Any bytes; scales of any sound value, which are numbers too."""
    packed = torch.randint(0, 256, (rows, k // 2), dtype=torch.uint8, device="cuda")
    scale = torch.randint(0, 0x7F, (rows, k // 16), dtype=torch.uint8, device="cuda")
    return NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), torch.ones(1, device="cuda"), (rows, k))


def wanted(a: NVFP4Tensor, b: NVFP4Tensor) -> Tensor:
    """What `ptx/mma.cuh` says of the surrogate: twice the products of the bytes; where both selectors are zero, once
    those and twice those of the scales that the lanes of a quad hold."""
    bytes_ = a.packed.view(torch.int8).double() @ b.packed.view(torch.int8).double().T

    def lanes(t: NVFP4Tensor) -> Tensor:
        rows, groups = t.scale.shape
        padded = torch.zeros(-(-rows // 32) * 32, -(-groups // 4) * 4, dtype=torch.float64, device="cuda")
        padded[:rows, :groups] = t.scale.view(torch.int8)
        # Lane 4 g + t of an atom holds row 8 t + g: all octets' rows g share the sum over t.
        octets = padded.view(-1, 4, 8, padded.shape[1])
        return octets.transpose(1, 2).reshape(octets.shape[0] * 8, -1)

    scales = 2 * lanes(a) @ lanes(b).T
    scales = scales.view(-1, 8, scales.shape[1] // 8, 8)
    every = scales[:, None, :, :, None, :].expand(-1, 4, -1, -1, 4, -1).reshape(scales.shape[0] * 32, -1)
    tokens, rows = torch.arange(a.shape[0], device="cuda"), torch.arange(b.shape[0], device="cuda")
    # Selector zero: the first of four octets of tokens, and the first of two sixteens of rows.
    both_zero = (tokens % 32 < 8)[:, None] & (rows % 32 < 16)[None]
    return (bytes_ + torch.where(both_zero, every[: a.shape[0], : b.shape[0]], bytes_)).float()


@pytest.mark.parametrize(
    ("m", "n", "k"),
    [(1, 128, 128), (3, 8, 16), (8, 256, 512), (17, 136, 272), (100, 264, 400), (257, 1000, 1552), (600, 1280, 3072)],
)
def test_every_plan_is_exact(m, n, k) -> None:
    a, b = operand(m, k), operand(n, k)
    right = wanted(a, b)
    for how in sm120.every_plan(m, n, k):
        assert torch.equal(sm120.product(how, a, b), right), how


@pytest.mark.parametrize(("n", "k"), GEMMA)
@pytest.mark.parametrize("m", [1, 8, 16, 32, 64, 128, 256, 512, 2048])
def test_the_sizes_of_gemma_a_hundred_times(m, n, k) -> None:
    a, b = operand(m, k), operand(n, k)
    right = wanted(a, b)
    for how in sm120.every_plan(m, n, k, (188, 132)):
        first = sm120.product(how, a, b)
        assert torch.equal(first, right), how
    how = sm120.dispatch.sm120_choose(m, n, k, sm120.kernels.gpu(0))
    for _ in range(100):
        assert torch.equal(sm120.product(how, a, b), right)
