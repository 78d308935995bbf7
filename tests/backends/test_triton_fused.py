"""Triton's fused kernels: values within a unit of the definition, and the bytes that quantising them gives.

The values are never in memory, so they are written by kernels of this file, made of the same functions.
"""
# ruff: noqa: N803 (Triton's constants are in capitals)

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed")

import triton
import triton.language as tl

from fused import ulps
from helpers import uneven
from nvfp4 import layout, reference
from nvfp4.backends.triton import fused, tokens
from triton_interpreter import DEVICE, INTERPRETED, MARKS, numbers_as_bounds

__all__ = ["numbers_as_bounds"]

pytestmark = MARKS

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ACTIVATIONS = list(reference.ACTIVATIONS)
SHAPES = [(1, 16), (2, 656), (1, 2576)]
if DEVICE == "cuda":
    SHAPES += [(1, 5376), (1, 21504), (2, 48), (3, 14336), (5, 16400), (33, 5376), (300, 1040), (3, 28672), (2, 40960)]
EXACT = {"enable_fp_fusion": False}
NAN, INF = float("nan"), float("inf")

# The interpreter reads bfloat16 below the normal ones wrongly too.
HAS_SMALLEST = {dtype: not INTERPRETED or dtype != torch.bfloat16 for dtype in DTYPES}

values = partial(uneven, powers=2, outliers=30, device=DEVICE)


# --- the values -----------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["groups"])
def store_gated(x, out, groups, stride, ACTIVATION: tl.constexpr, INTERLEAVED: tl.constexpr, B: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    for first in tl.range(0, groups, B):
        group = first + tl.arange(0, B)
        rows, valid = row + tl.zeros_like(group), group < groups
        y = fused.gated_blocks(x, rows, group, groups, stride, valid, ACTIVATION, INTERLEAVED)
        at = (rows * groups + group)[:, None] * 16 + tl.arange(0, 16)[None, :]
        tl.store(out + at, y, mask=valid[:, None])


@triton.jit(do_not_specialize=["groups"])
def store_norm(
    x, residual, weight, out, groups, stride, residual_stride, eps: tl.float64,
    RESIDUAL: tl.constexpr, UNIT_OFFSET: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    root = fused.root_of_factor(x, residual, row, groups, stride, residual_stride, eps, RESIDUAL, B)
    for first in tl.range(0, groups, B):
        group = first + tl.arange(0, B)
        rows, valid = row + tl.zeros_like(group), group < groups
        s = fused.summed(x, residual, rows, group, stride, residual_stride, valid, RESIDUAL)
        y = fused.normed(s, weight, group, root, valid, UNIT_OFFSET)
        at = (rows * groups + group)[:, None] * 16 + tl.arange(0, 16)[None, :]
        tl.store(out + at, y, mask=valid[:, None])


def _narrow(out: Tensor, dtype: torch.dtype) -> Tensor:
    """What is rounded to a dtype already, in it; the interpreter writes other bfloat16 below the normal ones."""
    assert torch.equal(out.to(dtype).float().nan_to_num(7), out.nan_to_num(7))
    return out.to(dtype)


def gated_values(x: Tensor, activation: str, interleaved: bool = False, blocks: int = 128) -> Tensor:
    out = x.new_empty(x.shape[0], x.shape[1] // 2, dtype=torch.float32)
    store_gated[(x.shape[0],)](
        x, out, out.shape[1] // 16, x.stride(0), ACTIVATION=activation, INTERLEAVED=interleaved, B=blocks, **EXACT
    )
    out = _narrow(out, x.dtype)
    assert ulps(out, reference.gated_activation(*reference.gated_halves(x, interleaved), activation)) <= 1
    return out


def norm_values(
    x: Tensor, weight: Tensor, eps: float = 1e-6, unit_offset: bool = False, residual: Tensor | None = None
) -> Tensor:
    out, other = torch.empty_like(x, dtype=torch.float32), x if residual is None else residual
    store_norm[(x.shape[0],)](
        x, other, weight, out, x.shape[1] // 16, x.stride(0), other.stride(0), eps, RESIDUAL=residual is not None,
        UNIT_OFFSET=unit_offset, **fused.tile_of_norm(x), **EXACT,
    )  # fmt: skip
    out = _narrow(out, x.dtype)
    assert ulps(out, reference.rms_norm(x, weight, eps, unit_offset, residual)[0]) <= 1
    return out


def assert_quantised(
    got: tuple[Tensor, Tensor, Tensor], y: Tensor, given: Tensor | None = None, layout_name: str = "plain"
) -> None:
    """Codes, scales and global scale are those of values, by the definition."""
    packed, scale, global_scale = got
    wanted = reference.quantize(y, given, "row")
    scales = wanted.scale.view(torch.uint8)
    assert torch.equal(global_scale, wanted.global_scale)
    assert torch.equal(scale, layout.swizzle_scales(scales) if layout_name == "128x4" else scales)
    assert torch.equal(packed, wanted.packed)


def assert_same(got: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert torch.equal(a, b)


def given_scales(rows: int) -> list[Tensor | None]:
    random = torch.Generator().manual_seed(rows)
    per_row = torch.rand(rows, 1, generator=random) * 1000 + 1
    known = [per_row.to(DEVICE)] if INTERPRETED else [torch.tensor([317.25], device=DEVICE), per_row.to(DEVICE)]
    return [None, *known]


def norm(
    x: Tensor, weight: Tensor, eps: float = 1e-6, unit_offset: bool = False, residual: Tensor | None = None,
    global_scale: Tensor | None = None, layout: str = "plain",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return fused.rms_norm_quantize(x, weight, eps, unit_offset, residual, global_scale, layout)


# --- gated ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_gated(shape, interleaved, activation, dtype) -> None:
    rows, k = shape
    x = values(rows, 2 * k, dtype)
    y = gated_values(x, activation, interleaved)
    for given in given_scales(rows):
        assert_quantised(fused.gated_quantize(x, activation, interleaved, given, "plain"), y, given)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_gate_of_16_bits(activation, dtype) -> None:
    """All 65,536, with ups that lift what an activation alone would lose below float32."""
    gate = torch.arange(-32768, 32768, dtype=torch.int32, device=DEVICE).to(torch.int16).view(dtype).view(4, -1)
    if not HAS_SMALLEST[dtype]:
        gate = torch.where(gate.abs() < torch.finfo(dtype).tiny, gate * 0, gate)
    ups = [1.0, -0.7, 1e-3, 6e4, 0.0]
    if dtype is torch.bfloat16:
        ups += [1e20, -1e30, 3e38, 1e-30, *([1e-38] if HAS_SMALLEST[dtype] else [])]
    for up in ups:
        x = torch.cat([gate, torch.full_like(gate, up)], 1)
        y = gated_values(x, activation, blocks=128 if DEVICE == "cuda" else 512)
        if up == -0.7 or DEVICE == "cuda":
            assert_quantised(fused.gated_quantize(x, activation, False, None, "plain"), y)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates_of_float32(activation) -> None:
    rows = 512 if DEVICE == "cuda" else 16
    random = torch.Generator().manual_seed(3)
    size = torch.exp(torch.empty(rows, 2048).uniform_(-90, 6, generator=random))
    gate = size * torch.randint(0, 2, size.shape, generator=random).mul(2).sub(1)
    gate[0] = torch.linspace(-110, 110, 2048)
    gate[1, :6] = torch.tensor([INF, NAN, 0.0, -0.0, 3e38, -3e38])
    gate[2] = torch.linspace(-8, 8, 2048)
    up = torch.randn(rows, 2048, generator=random)
    up[3] = 3e38
    x = torch.cat([gate, up], 1).to(DEVICE)
    assert_quantised(fused.gated_quantize(x, activation, False, None, "plain"), gated_values(x, activation))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates_and_ups_that_are_no_numbers(activation, dtype) -> None:
    special = torch.tensor([INF, -INF, NAN, 0.0, -0.0, 1.5, -1.5, 60.0], dtype=dtype, device=DEVICE)
    x = torch.stack([special.repeat_interleave(8), special.repeat(8)]).T.reshape(1, 8, 8, 2)
    x = x.transpose(2, 3).reshape(1, 128)  # eight gates, their ups, and so on
    y = gated_values(x, activation, True)
    assert_quantised(fused.gated_quantize(x, activation, True, None, "plain"), y)


# --- norm -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("unit_offset", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES, (1, 16400)])
def test_norm(shape, with_residual, unit_offset, dtype) -> None:
    x, weight = values(*shape, dtype), values(1, shape[1], dtype, 1)[0]
    residual = values(*shape, dtype, 2) if with_residual else None
    y = norm_values(x, weight, 1e-6, unit_offset, residual)
    for given in given_scales(shape[0]):
        *got, total = norm(x, weight, 1e-6, unit_offset, residual, given)
        assert_quantised(tuple(got), y, given)
        assert torch.equal(total, x.new_empty(0) if residual is None else x + residual)


SIZES = [(dtype, size) for dtype in DTYPES for size in (0.0, 1e-38, 1e-20, 1e-7, 1e4, 1e19, 1e25, 3e38)]


@pytest.mark.parametrize(("dtype", "size"), [(d, s) for d, s in SIZES if s <= torch.finfo(d).max])
def test_norms_of_tiny_and_huge_rows(dtype, size) -> None:
    """Squares leave float32 long before numbers do."""
    if 0 < size < 1e-37 and not HAS_SMALLEST[dtype]:
        pytest.skip("the interpreter reads them wrongly")
    x = (torch.linspace(-1, 1, 640, device=DEVICE).repeat(2, 1).double() * size).to(dtype)
    weight = values(1, 640, dtype, 1)[0]
    for eps in (1e-6, 1e-30, 1.0, 1e30):
        *got, _ = norm(x, weight, eps)
        assert_quantised(tuple(got), norm_values(x, weight, eps))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tiny_numbers_beside_huge_ones(dtype) -> None:
    """What the factor alone would lose below float32, a weight lifts."""
    x, weight = torch.full((1, 64), 1e-20, device=DEVICE).to(dtype), torch.full((64,), 1e38, device=DEVICE).to(dtype)
    x[0, 0] = 1e27
    *got, _ = norm(x, weight)
    assert_quantised(tuple(got), norm_values(x, weight))


@pytest.mark.parametrize("dtype", DTYPES)
def test_norms_of_nan_and_infinity(dtype) -> None:
    x, weight = values(6, 256, dtype), values(1, 256, dtype, 1)[0]
    x[1, 5], x[2, 20], x[3, 40], x[4] = NAN, INF, -INF, NAN
    *got, _ = norm(x, weight)
    assert_quantised(tuple(got), norm_values(x, weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [512, 9216] if DEVICE == "cpu" else [512, 5376, 14336, 21504, 28672, 40960])
def test_a_row_does_not_depend_on_the_others(k, dtype) -> None:
    rows = 300 if DEVICE == "cuda" else 4
    x, weight, residual = values(rows, k, dtype), values(1, k, dtype, 1)[0], values(rows, k, dtype, 2)
    whole = norm(x, weight, residual=residual)
    gated = fused.gated_quantize(x, "gelu", True, None, "plain")
    for part in (slice(0, 1), slice(1, 3), slice(rows - 1, rows)):
        assert_same(norm(x[part], weight, residual=residual[part]), tuple(t[part] for t in whole))
        assert_same(fused.gated_quantize(x[part], "gelu", True, None, "plain"), tuple(t[part] for t in gated))


# --- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 16), (3, 80), (130, 16), *([(257, 1040)] if DEVICE == "cuda" else [])])
def test_swizzled_scales_are_whole(shape) -> None:
    rows, k = shape
    x, weight = values(min(rows, 3), 2 * k, torch.bfloat16), values(1, k, torch.bfloat16, 1)[0]
    again, given = torch.arange(rows) % x.shape[0], torch.tensor([317.25], device=DEVICE)
    got = fused.gated_quantize(x[again], "silu", True, None, "128x4")
    assert_quantised(got, gated_values(x, "silu", True)[again], None, "128x4")
    *got, _ = norm(x[again, :k], weight, global_scale=given, layout="128x4")
    assert_quantised(tuple(got), norm_values(x[:, :k], weight)[again], given, "128x4")


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_and_misaligned_inputs(dtype) -> None:
    base, other, weight = values(40, 700, dtype), values(40, 700, dtype, 1), values(1, 700, dtype, 2)[0]
    for cut in (
        lambda t: t[:2, 3:323], lambda t: t[::20, :320], lambda t: t[1:3, 4:36], lambda t: t.T[:320].T[:2],
        lambda t: t[:2, :320].view(2, 1, 320), lambda t: t[3, :64],
    ):  # fmt: skip
        x, residual = cut(base), cut(other)
        w = weight[: x.shape[-1]]
        x2, residual2 = (t.clone(memory_format=torch.contiguous_format) for t in (x, residual))
        assert_same(norm(x, w, residual=residual), norm(x2, w, residual=residual2))
        assert_same(
            fused.gated_quantize(x, "silu", False, None, "plain"),
            fused.gated_quantize(x2, "silu", False, None, "plain"),
        )


@pytest.mark.parametrize("shape", [(0, 32), (3, 0), (2, 0, 32), (2, 3, 96)])
def test_empty_and_batched(shape) -> None:
    """The values are whole numbers or nearly, so every rounding is the definition's."""
    x, weight = torch.ones(shape, device=DEVICE), torch.ones(shape[-1], device=DEVICE)
    *got, total = norm(x, weight, residual=x)
    assert_quantised(tuple(got), reference.rms_norm(x, weight, residual=x)[0])
    assert_same((total,), (x + x,))
    y = reference.gated_activation(*reference.gated_halves(x), "silu")
    assert_quantised(fused.gated_quantize(x, "silu", False, None, "plain"), y)


# --- tokens ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("mode", ["row", "static", "none"])
def test_tokens_are_those_of_the_values(mode, activation, dtype) -> None:
    rows, k = 2, 2128
    x = values(rows, 2 * k, dtype).clamp_(min=-6)  # so that nothing is below the normal numbers
    y, units, each = gated_values(x, activation, True), 9, 4
    to = dtype if mode == "none" else torch.bfloat16
    weight_scale = torch.tensor([77.7], device=DEVICE)
    counted = rows if mode == "row" else 1

    def memory() -> tuple[Tensor, Tensor, Tensor]:
        empty = torch.zeros((rows, 256 * units), dtype=to, device=DEVICE)
        scale = torch.full((counted,), 317.25, device=DEVICE)
        return empty, scale, torch.zeros(counted, device=DEVICE)

    got, wanted = memory(), memory()
    grid, options = (rows, triton.cdiv(units, each)), {"EARLY": False, "num_warps": 8, **EXACT}
    fused.gated_tokens[grid](
        x, got[0], got[1], weight_scale, weight_scale, got[2], k // 16, units, x.stride(0), each,
        PER_ROW=mode == "row", UP=False, WIDE=2048, U=4, ACTIVATION=activation, QUANTISED=mode != "none",
        **options,
    )  # fmt: skip
    if mode == "none":
        tokens.permute_tokens[grid](
            y, wanted[0], weight_scale, weight_scale, wanted[2], rows, k // 16, units, k,
            UP=False, PARTS=1, U=4, **options,
        )  # fmt: skip
    else:
        tokens.quantize_tokens[grid](
            y, wanted[0], wanted[1], weight_scale, weight_scale, wanted[2], k // 16, units, k, each,
            PER_ROW=mode == "row", UP=False, WIDE=2048, U=4, **options,
        )  # fmt: skip
    assert_same(got, wanted)
    assert got[0].any()
