"""Weights between their plain bytes, the layout n64k256 (`nvfp4/layout.py`) and 16-bit numbers.

A program has one unit: 64 rows by 256 columns, 4,096 words of four codes and then 1,024 scales.
"""

from __future__ import annotations

import triton
import triton.language as tl

from nvfp4.backends.triton.bits import decode_e4m3, encode_e4m3

__all__ = ["COLUMNS", "ROWS", "UNIT_BYTES", "pack_tiles", "unpack_tiles"]

ROWS = 64
COLUMNS = 256
UNIT_BYTES = 9216
_UNIT_WORDS = tl.constexpr(4608)
_UNIT_BYTES = tl.constexpr(9216)


@triton.jit
def _place_of_words():
    """Rows and columns of the first codes of a unit's words: step, warp, row, group, half, upper, pair."""
    e = tl.arange(0, 4096)
    row = (e // 256 % 4) * 16 + (e // 2 % 2) * 8 + e // 32 % 8
    return row, (e // 1024) * 64 + (e // 8 % 4) * 16 + (e // 4 % 2) * 8 + (e % 2) * 4


@triton.jit
def _place_of_scales():
    """Rows and groups of a unit's scales: warp, row, group, step, upper."""
    e = tl.arange(0, 1024)
    return (e // 256) * 16 + (e % 2) * 8 + e // 32 % 8, (e // 2 % 4) * 4 + e // 8 % 4


@triton.jit
def pack_tiles(packed, scale, words, halves, rows, groups, units):
    """Plain bytes to tiles; `words` and `halves` are the same memory, in 16-bit words and in bytes."""
    panel, unit = tl.program_id(0) // units, tl.program_id(0) % units
    base = tl.program_id(0).to(tl.int64)
    row, column = _place_of_words()
    row, column = panel * 64 + row, unit * 256 + column
    inside = (row < rows) & (column < groups * 16)
    at = packed + row.to(tl.int64) * (groups * 8) + column // 2
    low = tl.load(at, mask=inside, other=0).to(tl.int32)
    high = tl.load(at + 1, mask=inside, other=0).to(tl.int32)
    a, b, c, d = low & 15, low >> 4, high & 15, high >> 4
    word = ((a & 7) << 6) | ((a & 8) << 12) | ((b & 7) << 3) | ((b & 8) << 9) | (c & 7) | ((c & 8) << 6)
    word |= ((d & 6) << 9) | ((d & 1) << 13) | ((d & 8) << 11)
    tl.store(words + base * _UNIT_WORDS + tl.arange(0, 4096), word.to(tl.int16))
    row, group = _place_of_scales()
    row, group = panel * 64 + row, unit * 16 + group
    inside = (row < rows) & (group < groups)
    byte = tl.load(scale + row.to(tl.int64) * groups + group, mask=inside, other=0).to(tl.int32) & 0x7F
    # Bits 7 to 14 of the float16 of 2^7 times the scale: its exponent has a bias of 15, a float32's has 127.
    coded = ((decode_e4m3(byte) * 128.0).to(tl.int32, bitcast=True) >> 20) - (112 << 3)
    coded = tl.where(byte == 0, 0, tl.where(byte == 0x7F, 0xFF, coded))
    tl.store(halves + base * _UNIT_BYTES + 8192 + tl.arange(0, 1024), coded.to(tl.uint8))


@triton.jit
def unpack_tiles(words, halves, packed, scale, rows, groups, units):
    """The inverse of `pack_tiles`."""
    panel, unit = tl.program_id(0) // units, tl.program_id(0) % units
    base = tl.program_id(0).to(tl.int64)
    row, column = _place_of_words()
    row, column = panel * 64 + row, unit * 256 + column
    inside = (row < rows) & (column < groups * 16)
    word = tl.load(words + base * _UNIT_WORDS + tl.arange(0, 4096)).to(tl.int32) & 0xFFFF
    a, b = ((word >> 6) & 7) | ((word >> 12) & 8), ((word >> 3) & 7) | ((word >> 9) & 8)
    c, d = (word & 7) | ((word >> 6) & 8), ((word >> 9) & 6) | ((word >> 13) & 1) | ((word >> 11) & 8)
    at = packed + row.to(tl.int64) * (groups * 8) + column // 2
    tl.store(at, (a | (b << 4)).to(tl.uint8), mask=inside)
    tl.store(at + 1, (c | (d << 4)).to(tl.uint8), mask=inside)
    row, group = _place_of_scales()
    row, group = panel * 64 + row, unit * 16 + group
    coded = tl.load(halves + base * _UNIT_BYTES + 8192 + tl.arange(0, 1024)).to(tl.int32)
    value = ((coded + (112 << 3)) << 20).to(tl.float32, bitcast=True) * 0.0078125  # 2^-7
    byte = tl.where(coded == 0, 0, tl.where(coded == 0xFF, 0x7F, encode_e4m3(value)))
    inside = (row < rows) & (group < groups)
    tl.store(scale + row.to(tl.int64) * groups + group, byte.to(tl.uint8), mask=inside)
