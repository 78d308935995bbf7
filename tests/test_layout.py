"""Every layout is a bijection and lies where its formula says; the core's layouts equal the plain-torch ones."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import nvfp4
from nvfp4 import backends, layout

sizes = st.integers(min_value=0, max_value=300)


@given(rows=st.integers(0, 20), half=st.integers(0, 40))
def test_pack_is_a_bijection(rows: int, half: int) -> None:
    codes = torch.randint(0, 16, (rows, 2 * half), dtype=torch.uint8)
    packed = nvfp4.pack(codes)
    assert packed.shape == (rows, half)
    assert torch.equal(nvfp4.unpack(packed), codes)


def test_low_nibble_is_the_even_column() -> None:
    assert nvfp4.pack(torch.tensor([[1, 2, 15, 0]], dtype=torch.uint8)).tolist() == [[0x21, 0x0F]]


@given(rows=sizes, groups=st.integers(0, 40))
def test_swizzle_is_a_bijection_with_zero_padding(rows: int, groups: int) -> None:
    scale = torch.randint(1, 127, (rows, groups), dtype=torch.uint8)
    for name in ("cpu", "reference"):
        with backends.force(name):
            swizzled = nvfp4.swizzle_scales(scale)
            assert swizzled.shape == layout.swizzled_shape(rows, groups)
            assert int((swizzled != 0).sum()) == rows * groups
            assert torch.equal(nvfp4.unswizzle_scales(swizzled, rows, groups), scale)
            assert torch.equal(swizzled, layout.swizzle_scales(scale))


def test_swizzle_follows_the_published_offsets() -> None:
    rows, groups = 300, 10
    scale = torch.randint(0, 127, (rows, groups), dtype=torch.uint8)
    flat = nvfp4.swizzle_scales(scale.view(torch.float8_e4m3fn)).view(torch.uint8).flatten()
    tiles = -(-groups // 4)
    for row in range(rows):
        for group in range(groups):
            offset = ((row >> 7) * tiles + (group >> 2)) * 512 + (row & 31) * 16 + ((row >> 5) & 3) * 4 + (group & 3)
            assert flat[offset] == scale[row, group]


@given(n=st.integers(0, 150), groups=st.integers(0, 20), tiled=st.sampled_from(layout.TILED_LAYOUTS))
def test_tiles_are_a_bijection(n: int, groups: int, tiled: str) -> None:
    packed = torch.randint(0, 256, (n, groups * 8), dtype=torch.uint8)
    scale = torch.randint(0, 128, (n, groups), dtype=torch.uint8)
    wanted = layout.to_tiles(packed, scale, tiled)
    for name in ("cpu", "reference") if tiled == "n16k64" else ("reference",):
        with backends.force(name):
            tiles = torch.ops.nvfp4.to_tiles.default(packed, scale, tiled)
            assert torch.equal(tiles, wanted)
            back = torch.ops.nvfp4.from_tiles.default(tiles, n, groups * 16, tiled)
            assert torch.equal(back[0], packed)
            assert torch.equal(back[1], scale)


def test_tiles_follow_their_formula() -> None:
    n, k = 40, 144
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8)
    scale = torch.randint(0, 127, (n, k // 16), dtype=torch.uint8)
    tiles = torch.ops.nvfp4.to_tiles.default(layout.pack(codes), scale, "n16k64")
    for row in range(n):
        for col in range(k):
            tile = tiles[row // 16, col // 64]
            group, half, nibble, byte = col % 64 // 16, col % 16 // 8, col % 8 // 4, col % 4
            code = tile[((group * 2 + half) * 16 + row % 16) * 4 + byte] >> (4 * nibble) & 15
            assert code == codes[row, col]
            assert tile[512 + group * 16 + row % 16] == scale[row, col // 16]


def test_units_follow_their_formula() -> None:
    """As `csrc/include/nvfp4/layout.h` says it."""
    n, k = 136, 144
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8)
    scale = torch.randint(0, 127, (n, k // 16), dtype=torch.uint8)
    units = layout.to_tiles(layout.pack(codes), scale, "n128k128")
    for row in range(0, n, 3):
        for col in range(k):
            half = units[row // 128, col // 128, col % 128 // 64 * 4608 :]
            lane, word = row % 8 * 4 + col % 32 // 8, row % 16 // 8 + col % 64 // 32 * 2
            code = half[row % 128 // 16 * 512 + lane * 16 + word * 4 + col % 8 // 2] >> (col % 2 * 4) & 15
            assert code == codes[row, col]
            octet, inside = row % 32 // 8, row % 8
            assert (
                half[4096 + row % 128 // 32 * 128 + (4 * inside + octet) * 4 + col % 64 // 16] == scale[row, col // 16]
            )


def test_fragments_follow_their_formula() -> None:
    """As `docs/format.md` says it."""
    n, k = 72, 272
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8)
    scale = torch.randint(0, 128, (n, k // 16), dtype=torch.uint8)
    tiles = torch.ops.nvfp4.to_tiles.default(layout.pack(codes), scale, "n64k256")
    places = ((6, 7, 8, 15), (3, 4, 5, 12), (0, 1, 2, 9), (13, 10, 11, 14))
    for row in range(0, n, 3):
        for col in range(k):
            unit = tiles[row // 64, col // 256]
            step, group, half, pair = col % 256 // 64, col % 64 // 16, col % 16 // 8, col % 8 // 4
            warp, upper, inside = row % 64 // 16, row % 16 // 8, row % 8
            word = (((step * 4 + warp) * 8 + inside) * 4 + group) * 8 + half * 4 + upper * 2 + pair
            bits = int(unit[2 * word]) | int(unit[2 * word + 1]) << 8
            assert sum((bits >> place & 1) << i for i, place in enumerate(places[col % 4])) == codes[row, col]
            coded = int(unit[8192 + ((warp * 8 + inside) * 4 + group) * 8 + step * 2 + upper])
            value = torch.tensor([coded << 7], dtype=torch.int16).view(torch.float16).float() / 128
            wanted = scale[row, col // 16].view(torch.float8_e4m3fn).float()
            assert torch.equal(value.nan_to_num(-1), wanted.reshape(1).nan_to_num(-1))


@pytest.mark.parametrize("name", ["cpu", "reference"])
def test_tiles_refuse_negative_scales(name: str) -> None:
    packed, scale = torch.zeros(16, 8, dtype=torch.uint8), torch.full((16, 1), 0x38, dtype=torch.uint8)
    scale[3] = 0xB8
    with backends.force(name), pytest.raises(ValueError, match=r"negative|sign"):
        torch.ops.nvfp4.to_tiles.default(packed, scale, "n16k64")


@pytest.mark.parametrize("source", layout.LAYOUTS)
@pytest.mark.parametrize("target", layout.LAYOUTS)
def test_layouts_convert_into_each_other(source: str, target: str) -> None:
    plain = nvfp4.quantize(torch.randn(50, 96))
    t = nvfp4.to_layout(nvfp4.to_layout(plain, source), target)
    assert t.layout == target
    assert nvfp4.to_layout(t, "plain") == plain
    assert torch.equal(t.dequantize(torch.float32), plain.dequantize(torch.float32))


def test_a_leading_batch_is_kept_by_the_swizzle() -> None:
    x = torch.randn(3, 5, 64)
    t = nvfp4.quantize(x, layout="128x4")
    assert t.scale.shape == (128, 4)
    assert nvfp4.to_layout(t, "plain") == nvfp4.quantize(x)
