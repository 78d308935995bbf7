"""The software model of SM120's FP4 instruction against a second implementation, written by one who had not seen it."""

from __future__ import annotations

import numpy as np
import pytest

from emulation import mma_oracle as oracle
from nvfp4 import _C


def _matrices(random: np.random.Generator, tiles: int, kind: str):
    """Codes, C and scales: of `any` bits, `usual` ones, or `cancelling` ones, of whose sum few bits remain."""
    a, b = random.integers(0, 16, (tiles, 16, 64), np.uint8), random.integers(0, 16, (tiles, 64, 8), np.uint8)
    shape = (tiles, 16, 8)
    if kind == "any":
        scales = random.integers(0, 256, (tiles, 24, 4), np.uint8)
        c = random.integers(0, 1 << 32, shape, np.uint32).view(np.float32)
    elif kind == "usual":
        scales = random.integers(0, 0x7F, (tiles, 24, 4), np.uint8)
        c = (random.standard_normal(shape) * 2.0 ** random.integers(-30, 30, shape)).astype(np.float32)
    else:
        scales = random.integers(0x30, 0x40, (tiles, 24, 4), np.uint8)
        sums = oracle.multiply_add(a, b, np.zeros(shape, np.float32), scales[:, :16], scales[:, 16:].transpose(0, 2, 1))
        c = (-sums * (1 + random.integers(-3, 4, shape) * 2.0**-23)).astype(np.float32)
    return a, b, c, scales[:, :16], scales[:, 16:].transpose(0, 2, 1)


@pytest.mark.parametrize("kind", ["any", "usual", "cancelling"])
@pytest.mark.parametrize("thread_id_a", [0, 1])
@pytest.mark.parametrize("thread_id_b", [0, 1, 2, 3])
def test_bit_equal_to_the_second_implementation(kind, thread_id_a, thread_id_b) -> None:
    """3 kinds x 8 selectors x 4,200 tiles: 100,800 tiles of 128 outputs."""
    random = np.random.default_rng([ord(kind[0]), thread_id_a, thread_id_b])
    with np.errstate(all="ignore"):
        inputs = _matrices(random, 4200, kind)
        registers = oracle.registers(*inputs, thread_id_a, thread_id_b, random)
        wanted = oracle.mma_m16n8k64(*registers, thread_id_a, thread_id_b)
    got = _C.emulation.mma_m16n8k64(*registers, thread_id_a, thread_id_b)
    np.testing.assert_array_equal(got.view(np.uint32), wanted.view(np.uint32))


def test_the_layouts_by_hand() -> None:
    """One value in each matrix, placed by the tables of the PTX ISA."""
    a, b, c = np.zeros((1, 32, 4), np.uint32), np.zeros((1, 32, 2), np.uint32), np.zeros((1, 32, 4), np.float32)
    ones = np.full((1, 32), 0x38383838, np.uint32)
    a[0, 13, 3] = 0x2 << 8  # lane 13: group 3, thread 1; register 3: row 11, k = 32 + 8 + 2; the value 1
    b[0, 21, 1] = 0x4 << 8  # lane 21: column 5, thread 1; register 1: k = 32 + 8 + 2; the value 2
    d = _C.emulation.mma_m16n8k64(a, b, c, ones, ones, 0, 0)
    wanted = np.zeros((32, 4), np.float32)
    wanted[4 * 3 + 2, 3] = 2.0  # row 11 and column 5: lane 4 * 3 + 5 // 2, register 2 + 5 % 2
    np.testing.assert_array_equal(d[0], wanted)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": np.zeros((1, 32, 2), np.uint32)}, r"a: got shape \[1, 32, 2\], wanted \[1, 32, 4\]"),
        ({"sfb": np.zeros((2, 32), np.uint32)}, r"sfb: got shape \[2, 32\], wanted \[1, 32\]"),
        ({"thread_id_a": 2}, "thread_id_a: got 2, wanted 0 or 1"),
        ({"thread_id_b": -1}, "thread_id_b: got -1, wanted 0 to 3"),
    ],
)
def test_bad_arguments(change, message) -> None:
    arguments = {
        "a": np.zeros((1, 32, 4), np.uint32),
        "b": np.zeros((1, 32, 2), np.uint32),
        "c": np.zeros((1, 32, 4), np.float32),
        "sfa": np.zeros((1, 32), np.uint32),
        "sfb": np.zeros((1, 32), np.uint32),
        "thread_id_a": 0,
        "thread_id_b": 0,
    }
    with pytest.raises(ValueError, match=message):
        _C.emulation.mma_m16n8k64(**{**arguments, **change})
