"""Seeded fuzz: valid problems against the definition, and malformed calls, of which each must end in a clean exception.

The seed is printed; `NVFP4_FUZZ_SEED=<seed> pytest tests/test_fuzz.py` repeats a run.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import nvfp4
from helpers import FLOATS, exact_operand, outliers, same_bits
from nvfp4 import backends, ops, reference
from test_ops import samples

MALFORMED_CALLS = 12_000
CLEAN = (TypeError, ValueError, RuntimeError)


@pytest.fixture
def rng() -> random.Random:
    seed = int(os.environ.get("NVFP4_FUZZ_SEED", time.time_ns() % 2**32))
    print(f"NVFP4_FUZZ_SEED={seed}")
    torch.manual_seed(seed)
    return random.Random(seed)


def test_valid_problems(rng: random.Random) -> None:
    for _ in range(150):
        m, n, k = rng.randrange(40), rng.randrange(1, 100), 16 * rng.randrange(1, 40)
        dtype = rng.choice(FLOATS)
        granularity = rng.choice(("tensor", "row"))
        x = outliers(m, k, dtype) * 2.0 ** rng.randrange(-20, 8)
        with backends.force("reference"):
            wanted = nvfp4.quantize(x, granularity=granularity, layout=(where := rng.choice(("plain", "128x4"))))
        assert nvfp4.quantize(x, granularity=granularity, layout=where) == wanted
        assert same_bits(wanted.dequantize(dtype), reference.dequantize(wanted, dtype))
        a, b = exact_operand(m, k, granularity), exact_operand(n, k, rng.choice(("tensor", "row")))
        bias = torch.randint(-8, 8, (n,)).to(dtype) if rng.random() < 0.5 else None
        got = nvfp4.matmul(a, nvfp4.to_layout(b, rng.choice(("plain", "128x4", "n16k64"))), bias, out_dtype=dtype)
        assert same_bits(got, reference.matmul(a, b, bias, dtype)), (m, n, k, dtype)


def damaged_tensor(t: Tensor, rng: random.Random) -> Any:
    """One tensor argument, made wrong (or, now and then, only different)."""
    kind = rng.randrange(11)
    if kind == 0:
        return t.to(rng.choice([torch.float64, torch.int32, torch.int8, torch.bool, torch.complex64]))
    if kind == 1:
        return t[..., :-1] if t.dim() and t.shape[-1] else t.new_empty((*t.shape, 3))
    if kind == 2:
        return torch.cat((t, t)) if t.dim() else t.expand(3)
    if kind == 3:
        return t.unsqueeze(0)
    if kind == 4:
        return t.to("meta")
    if kind == 5:
        return t.new_empty(())
    if kind == 6:
        return None
    if kind == 7:
        return rng.choice(["x", 3, 1.5, [1], torch.float32])
    if kind == 8:
        return t.new_empty((0,) * max(t.dim(), 1))
    if kind == 9 and t.dim() >= 2:
        return t.transpose(0, -1)
    return torch.stack((t, t), dim=-1)[..., 0] if t.numel() > 1 else t.new_empty((2, 3, 5))


def damaged(value: Any, rng: random.Random) -> Any:
    if isinstance(value, Tensor):
        return damaged_tensor(value.detach(), rng)
    if isinstance(value, bool) or value is None:
        return rng.choice([torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64), "x", -1])
    if isinstance(value, int):
        return rng.choice([-1, -(2**62), 2**62, value + 1, value * 7 + 3, None, "7", 1.5])
    if isinstance(value, str):
        return rng.choice(["", "Plain", "rows", "n16k32", None, 3, value + " ", "128x4", "n16k64", "static"])
    if isinstance(value, torch.dtype):
        return rng.choice([torch.int8, torch.float64, torch.float8_e4m3fn, torch.uint8, None, "float32"])
    return rng.choice([[], [-1, 64], [5, 48], [5, 64, 1], None, "x", [2**40, 2**40]])


def test_malformed_calls_end_in_a_clean_exception(rng: random.Random) -> None:
    refused = 0
    messages: set[str] = set()
    cases = samples()
    while refused < MALFORMED_CALLS:
        name, args = rng.choice(cases)
        broken = list(args)
        for index in rng.sample(range(len(args)), rng.randrange(1, min(3, len(args)) + 1)):
            broken[index] = damaged(broken[index], rng)
        try:
            getattr(torch.ops.nvfp4, name).default(*broken)
        except CLEAN as error:
            messages.add(str(error))
            refused += 1
    assert "" not in messages
    print(f"{refused} malformed calls refused")


def public_calls() -> list[tuple[Callable[..., Any], list[Any], dict[str, Any]]]:
    """What a user calls, with good arguments to damage: functions and a prepared module, by the eager path."""
    x, bias, scale = torch.randn(4, 64), torch.randn(48), torch.tensor([31.0])
    w = nvfp4.quantize(torch.randn(48, 64))
    tiles, a = nvfp4.to_layout(w, "n16k64"), nvfp4.quantize(x, granularity="row")
    module = nvfp4.prepare(nvfp4.NVFP4Linear.from_linear(torch.nn.Linear(64, 48)))
    raw = (tiles.packed, tiles.scale.view(torch.uint8), tiles.global_scale)
    return [
        (nvfp4.linear, [x, tiles, bias], {"input_global_scale": scale}),
        (nvfp4.linear, [x, w, None], {"activations": None}),
        (ops.linear, [x, *raw, None, bias, 48, "n16k64", "row"], {}),
        (ops.linear, [x, *raw, scale, None, 48, "n16k64", "static"], {}),
        (module, [x], {}),
        (nvfp4.matmul, [a, tiles, bias], {"out_dtype": torch.float32}),
        (nvfp4.quantize, [x, scale, "tensor"], {"scheme": "nvfp4", "layout": "128x4"}),
        (nvfp4.dequantize, [a, torch.float16], {}),
        (nvfp4.to_layout, [a, "128x4"], {}),
        (nvfp4.pack, [torch.zeros(4, 64, dtype=torch.uint8)], {}),
        (nvfp4.swizzle_scales, [a.scale], {}),
        (nvfp4.unswizzle_scales, [nvfp4.swizzle_scales(a.scale), 4, 4], {}),
    ]


def test_malformed_public_calls_end_in_a_clean_exception(rng: random.Random) -> None:
    refused = 0
    calls = public_calls()
    for _ in range(12_000):
        function, args, kwargs = rng.choice(calls)
        args, kwargs = list(args), dict(kwargs)
        where = rng.choice([*range(len(args)), *kwargs])
        target: Any = args if isinstance(where, int) else kwargs
        target[where] = damaged(target[where], rng)
        try:
            function(*args, **kwargs)
        except CLEAN as error:
            assert str(error)  # noqa: PT017
            refused += 1
    print(f"{refused} malformed public calls refused")
    assert refused > 6_000
