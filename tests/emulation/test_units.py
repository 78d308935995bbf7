"""The weight layout of the SM120 kernels through the model of the instruction, lane by lane, without a GPU.

What a lane loads from a unit is what the instruction wants from it, selectors included.
"""

from __future__ import annotations

import torch

from emulation.host_product import host_product
from nvfp4 import reference
from nvfp4.tensor import NVFP4Tensor


def operand(rows: int, k: int, seed: int) -> NVFP4Tensor:
    """Scales are powers of two, so that every sum is exact."""
    random = torch.Generator().manual_seed(seed)
    packed = torch.randint(0, 256, (rows, k // 2), dtype=torch.uint8, generator=random)
    scale = torch.tensor([0x30, 0x38, 0x40], dtype=torch.uint8)[torch.randint(0, 3, (rows, k // 16), generator=random)]
    return NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), torch.ones(1), (rows, k))


def test_warps_multiply_units() -> None:
    weight, tokens = operand(256, 256, 0), operand(64, 256, 1)
    wanted = reference.matmul(tokens, weight, out_dtype=torch.float32)
    assert torch.equal(host_product(tokens, weight), wanted)
    assert torch.equal(host_product(tokens, weight, cuts=(128,)), wanted)
