"""The tables, the rounding rule and the constants, against independent definitions."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from nvfp4 import formats


def nearest_even_code(value: Fraction) -> int:
    """Round |value| to e2m1 by the textbook: nearest, ties to the code with an even mantissa bit."""
    grid = [Fraction(v) for v in formats.E2M1_VALUES]
    best = min(abs(g - value) for g in grid)
    candidates = [i for i, g in enumerate(grid) if abs(g - value) == best]
    return next(i for i in candidates if i % 2 == 0) if len(candidates) > 1 else candidates[0]


def test_e2m1_every_bfloat16() -> None:
    x = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    codes = formats.encode_e2m1(x)
    finite = x.float().isfinite()
    for value, code in zip(x[finite].float().tolist(), codes[finite].tolist(), strict=True):
        if abs(value) <= 8 and code & 7 != nearest_even_code(Fraction(abs(value))):
            pytest.fail(f"{value} -> {code}")
        assert abs(value) <= 8 or code & 7 == 7
    assert torch.equal(codes[finite] >> 3 == 1, torch.signbit(x[finite]))
    assert set(codes[x.isnan()].tolist()) == {7}
    assert codes[x == float("inf")].item() == 7
    assert codes[x == -float("inf")].item() == 15


@pytest.mark.parametrize("midpoint", [0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
def test_e2m1_neighbours_of_every_tie(midpoint: float) -> None:
    tie = torch.tensor(midpoint)
    below, above = (torch.nextafter(tie, torch.tensor(v)) for v in (0.0, 9.0))
    codes = formats.encode_e2m1(torch.stack((below, tie, above)))
    assert codes[2] == codes[0] + 1
    assert codes[1] % 2 == 0


def test_e2m1_round_trip() -> None:
    codes = torch.arange(16, dtype=torch.uint8)
    values = formats.decode_e2m1(codes)
    assert torch.equal(formats.encode_e2m1(values), codes)
    assert values[:8].tolist() == list(formats.E2M1_VALUES)
    assert torch.signbit(values[8])


def test_e4m3_round_trip_of_every_byte() -> None:
    codes = torch.arange(256).to(torch.uint8)
    values = formats.decode_e4m3(codes)
    number = ~values.isnan()
    assert number.sum() == 254
    assert torch.equal(formats.encode_e4m3(values)[number], codes[number])


def test_e4m3_decodes_by_its_definition() -> None:
    for code in range(127):
        exponent, mantissa = code >> 3, code & 7
        value = mantissa * 2.0**-9 if exponent == 0 else (1 + mantissa / 8) * 2.0 ** (exponent - 7)
        assert formats.decode_e4m3(torch.tensor([code], dtype=torch.uint8)).item() == value


def test_e4m3_rounds_to_nearest_even_and_saturates() -> None:
    grid = formats.decode_e4m3(torch.arange(127).to(torch.uint8)).double()
    middle = (grid[1:] + grid[:-1]) / 2
    got = formats.encode_e4m3(middle.float())
    assert torch.equal(got % 2, torch.zeros_like(got)), "ties go to the even code"
    assert torch.equal(
        formats.encode_e4m3(torch.nextafter(middle.float(), torch.tensor(1e9))).long(), torch.arange(1, 127)
    )
    special = torch.tensor([1e9, float("inf"), float("nan"), -float("nan")])
    assert formats.encode_e4m3(special).tolist() == [0x7E, 0x7E, 0x7F, 0x7F]


@pytest.mark.parametrize(("k", "nearest"), [(1, 16), (15, 16), (17, 16), (24, 16), (25, 32), (5380, 5376)])
def test_k_must_be_a_multiple_of_sixteen(k: int, nearest: int) -> None:
    with pytest.raises(ValueError, match=rf"K = {k}.*nearest legal K is {nearest}\b"):
        formats.check_group_multiple(k, "x")
