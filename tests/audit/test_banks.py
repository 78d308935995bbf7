"""Bank conflicts of the SM120 kernels, from their address functions (`fragments.cuh`, `epilogue.cuh`).

Shared memory has 32 banks of four bytes, and a wavefront takes one word of each.
"""

from __future__ import annotations

from pathlib import Path

import pytest

LANES = range(32)
SM120 = Path(__file__).resolve().parents[2] / "csrc" / "cuda" / "sm120"


def test_the_formulas_are_the_kernels() -> None:
    """Word for word, so that a change there must come here."""
    fragments, epilogue = ((SM120 / name).read_text() for name in ("fragments.cuh", "epilogue.cuh"))
    assert "down * Tile::kRowAtoms * 512 + lane * 16;" in fragments
    assert "down * (Tile::kRowAtoms / 2) * 128 + lane * 4;" in fragments
    assert "const int chunk = lane / 8 % 2 ^ token / 2 % 4;" in fragments
    assert "+ token * 64 + chunk * 16;" in fragments
    assert "tokens[1] = tokens[0] ^ 32u;" in fragments
    assert "return base + token * kChunks * 16 + (chunk ^ token * kChunks / 8 % kChunks) * 16;" in epilogue


def wavefronts(addresses: list[int], width: int) -> int:
    """Of one warp's access of `width` bytes a lane: lanes go together in groups that move 128 bytes."""
    together = 128 // width if width > 4 else 32
    total = 0
    for first in range(0, 32, together):
        words = {a // 4 + i for a in addresses[first : first + together] for i in range(width // 4)}
        total += max(sum(word % 32 == bank for word in words) for bank in range(32))
    return total


def test_rows_and_scales() -> None:
    assert wavefronts([lane * 16 for lane in LANES], 16) == 4  # 512 bytes
    assert wavefronts([lane * 4 for lane in LANES], 4) == 1


def token_address(token: int, chunk: int) -> int:
    """Where the copy engine puts 16 bytes of a token with the swizzle of 64-byte rows."""
    return token * 64 + (chunk ^ token // 2 % 4) * 16


@pytest.mark.parametrize("step", [0, 1])
@pytest.mark.parametrize("lower", [0, 1])
def test_tokens(step: int, lower: int) -> None:
    """ldmatrix reads eight rows of 16 bytes at a time."""
    addresses = [token_address(token, 2 * step + lower) for token in range(8)]
    assert len({address // 16 % 8 for address in addresses}) == 8


def test_the_kernels_own_formula_is_the_copy_engines() -> None:
    """`LaneAddresses`: the upper half of a token's columns is an exclusive or with 32 away."""
    for token in range(256):
        for lower in (0, 1):
            first = token * 64 + (lower ^ token // 2 % 4) * 16
            assert first == token_address(token, lower)
            assert first ^ 32 == token_address(token, 2 + lower)


@pytest.mark.parametrize("chunks", [4, 8])
def test_staging(chunks: int) -> None:
    def address(token: int, chunk: int) -> int:
        return token * chunks * 16 + (chunk ^ token * chunks // 8 % chunks) * 16

    for chunk in range(chunks):  # stmatrix: eight tokens' rows of 16 bytes at a time
        assert len({address(token, chunk) // 16 % 8 for token in range(8)}) == 8
    read = [address(lane // chunks, lane % chunks) for lane in LANES]  # 16 bytes a lane, one token after the other
    assert wavefronts(read, 16) == 4
