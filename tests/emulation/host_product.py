"""The SM120 kernels' product on the host, in their order.

Lanes' registers come from the kernels' layouts and go through the model of the instruction, 64 columns at a time;
pieces of K are summed one after the other.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch

from nvfp4 import _C, layout
from nvfp4.tensor import NVFP4Tensor

LANE = np.arange(32)
GROUP, THREAD = LANE // 4, LANE % 4


def host_product(tokens: NVFP4Tensor, weight: NVFP4Tensor, cuts: tuple[int, ...] = ()) -> torch.Tensor:
    """float32 sums [tokens, N] of the codes times the block scales; K is cut at the columns `cuts`.

    Tokens are a multiple of 32 and N and K multiples of 128.
    """
    (m, k), n = tokens.shape, weight.shape[0]
    units = layout.to_tiles(weight.packed, weight.scale, "n128k128").numpy().reshape(n // 128, k // 64, 4608)
    codes, scales = units[..., :4096].copy().view(np.uint32), units[..., 4096:].copy().view(np.uint32)
    a = codes.reshape(n // 128, k // 64, 8, 32, 4).swapaxes(1, 2).reshape(n // 16, k // 64, 32, 4)
    sfa = scales.reshape(n // 128, k // 64, 4, 32).swapaxes(1, 2).reshape(n // 32, k // 64, 32)
    words = tokens.packed.numpy().view(np.uint32).reshape(m // 8, 8, k // 8)[:, GROUP]
    token_scales = tokens.scale.view(torch.uint8).numpy().view(np.uint32).reshape(m // 32, 32, k // 64)
    sfb = token_scales[:, 8 * THREAD + GROUP]  # 32x4: lane l holds the scales of token 8 (l % 4) + l / 4
    total = np.zeros((m, n), np.float32)
    for begin, end in itertools.pairwise((0, *cuts, k)):
        sums = np.zeros((n // 16, m // 8, 32, 4), np.float32)
        for step in range(begin // 64, end // 64):
            b = np.stack([words[:, LANE, 8 * step + THREAD], words[:, LANE, 8 * step + 4 + THREAD]], -1)
            for i in range(n // 16):
                for selector in range(4):  # token atoms that share a selector go through the model together
                    which = slice(selector, None, 4)
                    atoms = sums[i, which]
                    count = len(atoms)
                    sums[i, which] = _C.emulation.mma_m16n8k64(
                        np.broadcast_to(a[i, step], (count, 32, 4)), b[which], atoms,
                        np.broadcast_to(sfa[i // 2, step], (count, 32)), sfb[:, :, step], i % 2, selector,
                    )  # fmt: skip
        piece = np.zeros((m, n), np.float32)
        for e in range(4):
            columns = 16 * np.arange(n // 16)[:, None, None] + GROUP + e // 2 * 8
            rows = 8 * np.arange(m // 8)[None, :, None] + 2 * THREAD + e % 2
            piece[rows, columns] = sums[..., e]
        total += piece
    return torch.from_numpy(total)
