"""Byte layouts, as bijections in plain torch. `docs/format.md` has the pictures.

- ``plain``: what is on disk. Codes uint8 [rows, K/2] with the even column in the low nibble, scales [rows, K/16].
- ``128x4``: the same codes; scales in the order Blackwell's tensor cores read them, padded with zeros to 128 rows and
  4 groups (source: CUTLASS `sm100_blockscaled_layout.hpp`, PTX ISA "scale factor layout").
- ``n16k64``: codes and scales together in tiles of 16 rows by 64 columns, 576 bytes = nine cache lines, the operand of
  the CPU kernels (`csrc/include/nvfp4/layout.h` says why).
- ``n128k128``: the same in units of 128 rows by 128 columns, 9,216 bytes, in the order in which the lanes of a warp
  hold the operand of SM120's block-scaled MMA.
- ``n64k256``: the same in units of 64 rows by 256 columns, 9,216 bytes, in the order in which the lanes of four warps
  hold a 16-bit MMA's operand; the bits of four codes are laid so that few instructions make 16-bit numbers of them, and
  scales are coded as the upper half of a float16. The operand of Triton's kernels.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from nvfp4.formats import GROUP_SIZE, check_group_multiple

__all__ = [
    "LAYOUTS",
    "TILED_LAYOUTS",
    "TILE_BYTES",
    "TILE_COLS",
    "TILE_ROWS",
    "Layout",
    "from_tiles",
    "pack",
    "swizzle_scales",
    "swizzled_shape",
    "tiles_shape",
    "to_tiles",
    "unpack",
    "unswizzle_scales",
]

Layout = Literal["plain", "128x4", "n16k64", "n128k128", "n64k256"]
LAYOUTS: tuple[str, ...] = get_args(Layout)
TILED_LAYOUTS = ("n16k64", "n128k128", "n64k256")
"""Layouts of matrices [N, K] whose codes and scales are one tensor."""

TILE_ROWS, TILE_COLS = 16, 64
_TILE_GROUPS = TILE_COLS // GROUP_SIZE
_TILE_CODE_BYTES = TILE_ROWS * TILE_COLS // 2
TILE_BYTES = _TILE_CODE_BYTES + TILE_ROWS * _TILE_GROUPS


def pack(codes: Tensor) -> Tensor:
    """Two codes a byte, the even column in the low nibble: uint8 [..., K] to uint8 [..., K/2].

    K must be even. Only the low four bits of a code are used.
    """
    return (codes[..., 0::2] & 0xF) | (codes[..., 1::2] << 4)


def unpack(packed: Tensor) -> Tensor:
    """The codes again: uint8 [..., K/2] to uint8 [..., K]."""
    return torch.stack((packed & 0xF, packed >> 4), dim=-1).flatten(-2)


def swizzled_shape(rows: int, groups: int) -> tuple[int, int]:
    """Shape of the padded 128x4 buffer of `rows` x `groups` scales."""
    return -(-rows // 128) * 128, -(-groups // 4) * 4


def _pad(x: Tensor, rows: int, cols: int) -> Tensor:
    return torch.nn.functional.pad(x, (0, cols - x.shape[1], 0, rows - x.shape[0]))


def swizzle_scales(scale: Tensor) -> Tensor:
    """Plain scales to the 128x4 order.

    Args:
        scale: [rows, groups], uint8 or float8_e4m3fn.

    Returns:
        The same dtype, of shape `swizzled_shape(rows, groups)`; row-major order of the *bytes* is the layout, padding
        is zero.
    """
    rows, groups = swizzled_shape(*scale.shape)
    blocks = _pad(scale.view(torch.uint8), rows, groups).view(rows // 128, 4, 32, groups // 4, 4)
    return blocks.permute(0, 3, 2, 1, 4).reshape(rows, groups).view(scale.dtype)


def unswizzle_scales(swizzled: Tensor, rows: int, groups: int) -> Tensor:
    """The plain [rows, groups] scales of a 128x4 buffer; the inverse of `swizzle_scales`."""
    padded_rows, padded_groups = swizzled_shape(rows, groups)
    blocks = swizzled.view(torch.uint8).view(padded_rows // 128, padded_groups // 4, 32, 4, 4)
    plain = blocks.permute(0, 3, 2, 1, 4).reshape(padded_rows, padded_groups)
    return plain[:rows, :groups].contiguous().view(swizzled.dtype)


_UNIT = 128
_HALF_UNIT_CODE_BYTES = _UNIT * 64 // 2
_UNIT_BYTES = 2 * (_HALF_UNIT_CODE_BYTES + _UNIT * 4)
_FRAGMENT_ROWS, _FRAGMENT_COLS = 64, 256
_FRAGMENT_CODE_BYTES = _FRAGMENT_ROWS * _FRAGMENT_COLS // 2
_FRAGMENT_BYTES = _FRAGMENT_CODE_BYTES + _FRAGMENT_ROWS * _FRAGMENT_COLS // GROUP_SIZE
_TILES = {
    "n16k64": (TILE_ROWS, TILE_COLS, TILE_BYTES),
    "n128k128": (_UNIT, _UNIT, _UNIT_BYTES),
    "n64k256": (_FRAGMENT_ROWS, _FRAGMENT_COLS, _FRAGMENT_BYTES),
}


def tiles_shape(n: int, k: int, layout: str = "n16k64") -> tuple[int, int, int]:
    """Shape of the tiles of an [n, k] weight: (panels, tiles along K, bytes)."""
    rows, cols, size = _TILES[layout]
    return -(-n // rows), -(-k // cols), size


_CODE_BITS = ((6, 7, 8, 15), (3, 4, 5, 12), (0, 1, 2, 9), (13, 10, 11, 14))
"""Of each of four codes, the places of its bits in a 16-bit word. The first three lie as in a bfloat16 that was shifted
right by 0, 3 and 6; what is left takes the fourth (after Triton's own layout for Hopper)."""


def _interleave(codes: Tensor) -> Tensor:
    """Codes uint8 [..., 4] as 16-bit words, uint8 [..., 2]."""
    word = torch.zeros(codes.shape[:-1], dtype=torch.int16, device=codes.device)
    for index, places in enumerate(_CODE_BITS):
        code = codes[..., index].to(torch.int16)
        for bit, place in enumerate(places):
            word |= ((code >> bit) & 1) << place
    return word.unsqueeze(-1).view(torch.uint8)


def _deinterleave(words: Tensor) -> Tensor:
    """The inverse of `_interleave`."""
    word = words.contiguous().view(torch.int16).squeeze(-1)
    codes = torch.zeros((*word.shape, 4), dtype=torch.uint8, device=words.device)
    for index, places in enumerate(_CODE_BITS):
        for bit, place in enumerate(places):
            codes[..., index] |= (((word >> place) & 1) << bit).to(torch.uint8)
    return codes


def _halves(device: torch.device) -> Tensor:
    """Of every e4m3 scale byte that is no negative number, bits 7 to 14 of the float16 of 2^7 times its value."""
    scales = torch.arange(128, dtype=torch.uint8, device=device).view(torch.float8_e4m3fn)
    coded = (scales.float() * 128).half().view(torch.int16) >> 7
    coded[0x7F] = 0xFF
    return coded.to(torch.uint8)


def to_tiles(packed: Tensor, scale: Tensor, layout: str = "n16k64") -> Tensor:
    """Plain weight bytes to tiles.

    Args:
        packed: uint8 [n, k/2].
        scale: uint8 or float8_e4m3fn [n, k/16].
        layout: one of `TILED_LAYOUTS`.

    Returns:
        uint8 `tiles_shape(n, k, layout)`; rows past n and columns past k are zero.
    """
    n, k = packed.shape[0], packed.shape[1] * 2
    check_group_multiple(k, "to_tiles")
    panels, steps, size = tiles_shape(n, k, layout)
    rows, cols, _ = _TILES[layout]
    codes = _pad(unpack(packed), panels * rows, steps * cols)
    scales = _pad(scale.view(torch.uint8), panels * rows, steps * cols // GROUP_SIZE)
    if layout == "n16k64":
        # panel, row, step, group, half, nibble, byte -> panel, step, group, half, row, byte, nibble
        codes = codes.view(panels, rows, steps, _TILE_GROUPS, 2, 2, 4).permute(0, 2, 3, 4, 1, 6, 5)
        scales = scales.view(panels, rows, steps, _TILE_GROUPS).permute(0, 2, 3, 1)
        code_bytes = pack(codes).reshape(panels, steps, _TILE_CODE_BYTES)
        return torch.cat((code_bytes, scales.reshape(panels, steps, size - _TILE_CODE_BYTES)), dim=-1)
    if layout == "n64k256":
        # panel, warp, upper, row, unit, step, group, half, pair, code -> panel, unit, step, warp, (lane) row, group,
        # (16 bytes) half, upper, pair, code
        codes = codes.view(panels, 4, 2, 8, steps, 4, 4, 2, 2, 4).permute(0, 4, 5, 1, 3, 6, 7, 2, 8, 9)
        coded = _halves(scale.device)[(scales & 0x7F).int()]
        # panel, warp, upper, row, unit, step, group -> panel, unit, warp, (lane) row, group, step, upper
        coded = coded.view(panels, 4, 2, 8, steps, 4, 4).permute(0, 4, 1, 3, 6, 5, 2)
        code_bytes = _interleave(codes).reshape(panels, steps, _FRAGMENT_CODE_BYTES)
        return torch.cat((code_bytes, coded.reshape(panels, steps, size - _FRAGMENT_CODE_BYTES)), dim=-1)
    # panel, sixteen, half, group, unit, step, upper, thread, code -> panel, unit, step, sixteen, (lane) group, thread,
    # (word) upper, half, code
    codes = codes.view(panels, 8, 2, 8, steps, 2, 2, 4, 8).permute(0, 4, 5, 1, 3, 7, 6, 2, 8)
    # panel, atom, octet, group, unit, step, scale -> panel, unit, step, atom, (lane) group, octet, scale
    scales = scales.view(panels, 4, 4, 8, steps, 2, 4).permute(0, 4, 5, 1, 3, 2, 6)
    code_bytes = pack(codes).reshape(panels, steps, 2, _HALF_UNIT_CODE_BYTES)
    halves = torch.cat((code_bytes, scales.reshape(panels, steps, 2, _UNIT * 4)), dim=-1)
    return halves.reshape(panels, steps, size)


def from_tiles(tiles: Tensor, n: int, k: int, layout: str = "n16k64") -> tuple[Tensor, Tensor]:
    """The plain (packed uint8 [n, k/2], scale uint8 [n, k/16]) of tiles; the inverse of `to_tiles`."""
    panels, steps, _ = tiles_shape(n, k, layout)
    rows, cols, _ = _TILES[layout]
    if layout == "n16k64":
        codes = unpack(tiles[..., :_TILE_CODE_BYTES]).view(panels, steps, _TILE_GROUPS, 2, TILE_ROWS, 4, 2)
        codes = codes.permute(0, 4, 1, 2, 3, 6, 5)
        scales = tiles[..., _TILE_CODE_BYTES:].reshape(panels, steps, _TILE_GROUPS, TILE_ROWS).permute(0, 3, 1, 2)
    elif layout == "n64k256":
        words = tiles[..., :_FRAGMENT_CODE_BYTES].reshape(panels, steps, 4, 4, 8, 4, 2, 2, 2, 2)
        codes = _deinterleave(words).permute(0, 3, 7, 4, 1, 2, 5, 6, 8, 9)
        plain = torch.zeros(256, dtype=torch.uint8, device=tiles.device)
        plain[_halves(tiles.device).int()] = torch.arange(128, dtype=torch.uint8, device=tiles.device)
        coded = tiles[..., _FRAGMENT_CODE_BYTES:].reshape(panels, steps, 4, 8, 4, 4, 2).permute(0, 2, 6, 3, 1, 5, 4)
        scales = plain[coded.int()]
    else:
        halves = tiles.reshape(panels, steps, 2, _UNIT_BYTES // 2)
        codes = unpack(halves[..., :_HALF_UNIT_CODE_BYTES]).view(panels, steps, 2, 8, 8, 4, 2, 2, 8)
        codes = codes.permute(0, 3, 7, 4, 1, 2, 6, 5, 8)
        scales = halves[..., _HALF_UNIT_CODE_BYTES:].reshape(panels, steps, 2, 4, 8, 4, 4).permute(0, 3, 5, 4, 1, 2, 6)
    codes = codes.reshape(panels * rows, steps * cols)
    scales = scales.reshape(panels * rows, steps * cols // GROUP_SIZE)
    return pack(codes[:n, :k]), scales[:n, : k // GROUP_SIZE].contiguous()
