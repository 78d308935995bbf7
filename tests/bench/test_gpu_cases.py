"""The problems of a GPU, and their arithmetic."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from nvfp4.bench.gpu_cases import OPS, GpuCase, make_cases


def test_cases_of_one_group_stand_together() -> None:
    cases = make_cases(shapes=[(64, 32), (48, 32), (64, 32)], tokens=[1, 4])
    groups = [case.group for case in cases]
    assert len(cases) == 2 * 2 * 3 + 2 * 3  # a quantiser has no N
    assert len(dict.fromkeys(groups)) == sum(a != b for a, b in pairwise(groups)) + 1
    assert {case.op for case in cases} == set(OPS)
    assert [case.m for case in make_cases(["linear-w4a16"], [(16, 16)], [8, 2])] == [8, 2]


def test_bytes_and_operations_of_a_product() -> None:
    case = GpuCase("linear-w4a4-row", 3, 64, 32)
    assert case.flops == 2 * 3 * 64 * 32
    assert case.bytes == 64 * (16 + 2) + 3 * 32 * 2 + 3 * 64 * 2
    gate_up = GpuCase("linear-w4a16", 1, 43008, 5376)
    assert gate_up.bytes / 4.55e6 == pytest.approx(28.6, abs=0.05)  # the floor that was published for an H200


def test_bytes_of_a_quantiser() -> None:
    row, tensor = GpuCase("quantize-row", 8, 0, 64), GpuCase("quantize-tensor", 8, 0, 64)
    assert row.flops == 0
    assert row.bytes == 8 * (128 + 32 + 4) + 8 * 4
    assert tensor.bytes == 8 * (128 + 32 + 4) + 4


def test_what_backends_are_asked_and_what_repeats_a_case() -> None:
    case = GpuCase("linear-w4a4-static", 3, 64, 32, "float16")
    assert case.desc("cuda") == ("linear", "cuda", torch.float16, "plain", "static", "nvfp4")
    assert case.command == "nvfp4 bench --device cuda --op linear-w4a4-static --shape 64,32 --m 3 --dtype float16"
    assert str(case) == "linear-w4a4-static 3x64x32"
    quantised = GpuCase("quantize-tensor", 3, 0, 32)
    assert quantised.desc("cpu")[:5] == ("quantize", "cpu", torch.bfloat16, "plain", "tensor")
    assert "--shape 16,32" in quantised.command
    assert str(quantised) == "quantize-tensor 3x32"
