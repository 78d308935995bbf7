"""The launches of products: tokens, the product, and the sum of what several programs wrote."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from nvfp4.backends.arguments import as_rows
from nvfp4.backends.triton import finish, fused, gemm, plan, quantize, tokens, tuned
from nvfp4.backends.triton.fused import PROGRAMS
from nvfp4.backends.triton.quantize import DTYPES
from nvfp4.formats import GROUP_SIZE
from nvfp4.tuning import Problem

__all__ = [
    "Tokens",
    "Weight",
    "as_tokens",
    "decoded_tokens",
    "force_plan",
    "gated_tokens",
    "linear",
    "product",
    "quantized_tokens",
    "tile_of_tokens",
]

_EXACT = {"num_warps": 8, "enable_fp_fusion": False}
_UNITS = 8  # a program of tokens takes at a time
_WIDE = 8192  # values of a row that are looked at together for its largest
_SOME = 16  # tokens of a tile that a program of `finish_shared` writes
_EARLY = 32  # tokens of a tile whose programs are launched early
_MANY = 8  # programs a multiprocessor: fewer are not launched early, they would lie unevenly beside what ran before
_FINISHED = 512  # rows of the weight whose results a program of `finish` writes


class Weight(NamedTuple):
    """The left operand of a product.

    Attributes:
        tiles: in the layout n64k256.
        rows: of the weight.
        global_scale: float32 [1]; that of the rows of gate, where `up_scale` is given; or one a row, [rows, 1].
        up_scale: float32 [1] or None: rows of gate and up alternate by eight.
        bias: [rows] or None.
    """

    tiles: Tensor
    rows: int
    global_scale: Tensor
    bias: Tensor | None = None
    up_scale: Tensor | None = None

    @property
    def has_many_scales(self) -> bool:
        """Whether there is a global scale a row."""
        return self.global_scale.numel() > 1

    def of_rows(self, rows: slice) -> Weight:
        """Some rows' scales and bias, for a product whose operand is elsewhere."""
        scale = self.global_scale[rows] if self.has_many_scales else self.global_scale
        bias = None if self.bias is None else self.bias[rows]
        return self._replace(rows=rows.stop - rows.start, global_scale=scale, bias=bias)


class Tokens(NamedTuple):
    """The right operand of a product.

    Attributes:
        values: 16 bits, [parts * rows, 256 * units], columns in the order of `tokens.py`.
        rows: tokens.
        parts: 3 where a token is the sum of three.
        alpha: float32 [1] or [rows], and as many again for the rows of up.
        global_scale: as many, or None where they are not quantised.
    """

    values: Tensor
    rows: int
    parts: int
    alpha: Tensor
    global_scale: Tensor | None

    @classmethod
    def empty(
        cls, rows: int, k: int, dtype: torch.dtype, global_scale: Tensor | None, weight: Weight, parts: int = 1
    ) -> Tokens:
        """Memory for them."""
        device = weight.tiles.device
        values = torch.empty((parts * rows, plan.units_of(k) * 256), dtype=dtype, device=device)
        count = (1 if global_scale is None else global_scale.numel()) * (1 if weight.up_scale is None else 2)
        return cls(values, rows, parts, torch.empty(count, dtype=torch.float32, device=device), global_scale)

    @property
    def has_many_scales(self) -> bool:
        """Whether there is a global scale a token."""
        return self.global_scale is not None and self.global_scale.numel() > 1

    @property
    def units(self) -> int:
        """Of 256 columns."""
        return self.values.shape[1] // 256


def _scales(weight: Weight) -> tuple[Tensor, Tensor, bool]:
    """As kernels take them: the weight's global scale, that of up, and whether there is one of up."""
    up = weight.up_scale
    return weight.global_scale, weight.global_scale if up is None else up, up is not None


def _early(x: Tensor) -> bool:
    """Whether on x's GPU the next kernel may be launched before this one has ended."""
    return tuned.gpu_of(x.device.index if x.device.type == "cuda" else None).has_early_launch


def _units_each(made: Tokens, per_row: bool) -> int:
    """Units of a program, whole `_UNITS`; few rows are shared by several, each of which looks at all of a row first."""
    if not per_row:
        return _UNITS
    return -(-made.units // (max(1, PROGRAMS // made.rows) * _UNITS)) * _UNITS


def tile_of_tokens(units: int, each: int, per_row: bool) -> dict[str, int]:
    """Units and values that a program of quantised tokens takes at a time, `each` in all, and its warps."""
    if not per_row or each < units:
        return {"U": _UNITS, "WIDE": _WIDE, "num_warps": 4}
    # One program has all of a row, and many rows keep memory busy: those of 2^13 columns and more by twice the warps.
    times = 1 if units <= 32 else 2
    return {"U": times * _UNITS, "WIDE": 2048, "num_warps": times * 4}


def as_tokens(x: Tensor, weight: Weight) -> Tokens:
    """Activations of W4A16: bfloat16 and float16 as they are, float32 as three bfloat16."""
    x, rows, stride = as_rows(x)
    k = x.shape[-1]
    wide = x.dtype == torch.float32
    made = Tokens.empty(rows, k, torch.bfloat16 if wide else x.dtype, None, weight, 3 if wide else 1)
    scale, up_scale, has_up = _scales(weight)
    tokens.permute_tokens[(rows, triton.cdiv(made.units, _UNITS))](
        x, made.values, scale, up_scale, made.alpha, rows, k // GROUP_SIZE, made.units, stride,
        UP=has_up, PARTS=made.parts, U=_UNITS, EARLY=_early(x), **_EXACT,
    )  # fmt: skip
    return made


def quantized_tokens(x: Tensor, global_scale: Tensor | None, per_row: bool, weight: Weight) -> Tokens:
    """Activations of W4A4, by a given global scale [1], one a row, or one of the tensor."""
    x, rows, stride = as_rows(x)
    k = x.shape[-1]
    per_row = per_row and global_scale is None
    if global_scale is None:
        global_scale = torch.empty(rows if per_row else 1, dtype=torch.float32, device=x.device)
        if not per_row:
            quantize.tensor_scale(x, global_scale, rows, k // GROUP_SIZE, stride, exact_ct=False)
    made = Tokens.empty(rows, k, torch.bfloat16, global_scale, weight)
    each = _units_each(made, per_row)
    scale, up_scale, has_up = _scales(weight)
    tokens.quantize_tokens[(rows, triton.cdiv(made.units, each))](
        x, made.values, global_scale, scale, up_scale, made.alpha, k // GROUP_SIZE, made.units, stride, each,
        PER_ROW=per_row, UP=has_up, EARLY=_early(x), **tile_of_tokens(made.units, each, per_row),
        enable_fp_fusion=False,
    )  # fmt: skip
    return made


def gated_tokens(
    both: Tensor, global_scale: Tensor | None, activation: str, activations: str, weight: Weight
) -> Tokens:
    """act(gate) * up of [rows, 2 * K], eight columns of each in turn: quantised, or in 16 bits as they are."""
    rows, k = both.shape[0], both.shape[1] // 2
    quantised = activations != "none"
    per_row = quantised and global_scale is None
    if per_row:
        global_scale = torch.empty(rows, dtype=torch.float32, device=both.device)
    made = Tokens.empty(rows, k, torch.bfloat16 if quantised else both.dtype, global_scale, weight)
    each = _units_each(made, per_row)
    scale, up_scale, has_up = _scales(weight)
    fused.gated_tokens[(rows, triton.cdiv(made.units, each))](
        both, made.values, scale if global_scale is None else global_scale, scale, up_scale, made.alpha,
        k // GROUP_SIZE, made.units, 2 * k, each,
        QUANTISED=quantised, ACTIVATION=activation, PER_ROW=per_row, UP=has_up, WIDE=_WIDE, U=_UNITS,
        EARLY=_early(both), **_EXACT,
    )  # fmt: skip
    return made


def decoded_tokens(packed: Tensor, scale: Tensor, global_scale: Tensor, weight: Weight) -> Tokens:
    """What is quantised already: plain bytes [..., K/2]."""
    rows, k = packed.shape[:-1].numel(), packed.shape[-1] * 2
    global_scale = global_scale.contiguous()
    made = Tokens.empty(rows, k, torch.bfloat16, global_scale, weight)
    tokens.decode_tokens[(rows, triton.cdiv(made.units, _UNITS))](
        packed.contiguous(), scale.contiguous(), made.values, global_scale, weight.global_scale, made.alpha,
        k // GROUP_SIZE, made.units, PER_ROW=made.has_many_scales, U=_UNITS, EARLY=_early(packed), **_EXACT,
    )  # fmt: skip
    return made


_forced: list[plan.Plan] = []


@contextmanager
def force_plan(how: plan.Plan) -> Iterator[None]:
    """Run every product in this block by one plan."""
    _forced.append(how)
    try:
        yield
    finally:
        _forced.pop()


_SUMS_BYTES = 1 << 30
"""Most that the sums of a float32 token's three parts take in memory."""


def linear(x: Tensor, weight: Weight, input_global_scale: Tensor | None, activations: str, out: Tensor) -> None:
    """out [rows, n] of x [..., K]."""
    if activations == "none":
        at_once = out.shape[0]
        if x.dtype == torch.float32:
            at_once = max(1, _SUMS_BYTES // (12 * weight.rows))
            x = x.reshape(out.shape[0], x.shape[-1])
        for some, to in zip(x.split(at_once) if at_once < out.shape[0] else (x,), out.split(at_once), strict=True):
            product(as_tokens(some, weight), weight, to)
    else:
        product(quantized_tokens(x, input_global_scale, activations == "row", weight), weight, out)


def product(x: Tokens, weight: Weight, out: Tensor) -> None:
    """out [rows, n] of tokens and a weight."""
    index = out.device.index if out.device.type == "cuda" else None
    how = _forced[-1] if _forced else tuned.plan_of(Problem(x.parts * x.rows, weight.rows, 256 * x.units), index)
    gpu = tuned.gpu_of(index)
    if how.route == "fused":
        _fused(x, weight, out, how, gpu)
    else:
        _by_library(x, weight, out)


def _operand(values: Tensor, *block: int) -> TensorDescriptor:
    """What the copy engine is told of a matrix."""
    return TensorDescriptor(values, [*values.shape], [values.shape[1], 1], list(block))


def _fused(x: Tokens, weight: Weight, out: Tensor, how: plan.Plan, gpu: plan.Gpu) -> None:
    n, units, count = weight.rows, x.units, x.parts * x.rows
    tile, rows = how.tile, 64 * how.tile.panels
    tiles = triton.cdiv(n, rows) * triton.cdiv(count, tile.tokens)
    alike = x.parts > 1 or weight.has_many_scales  # which only `finish` can make results of
    splits, shared = plan.cut_of(how, tiles, units, alike, gpu)
    partial = splits > 1 or alike
    early = gpu.has_early_launch and tile.tokens <= _EARLY and tiles * splits >= _MANY * gpu.processors
    copied = tile.copied and gpu.has_warpgroups
    operand: Any = _operand(x.values, tile.tokens, 128) if copied else x.values
    has_up, given = weight.up_scale is not None, weight.bias is not None
    target = torch.empty((splits, count, n), dtype=torch.float32, device=out.device) if partial else out
    bias = x.alpha if weight.bias is None else weight.bias
    shape = (shared.tiles * shared.parts, tile.tokens, rows)
    sums = torch.empty(shape, dtype=torch.float32, device=out.device)
    whole = tiles - shared.tiles
    gemm.multiply[(whole + shared.tiles * shared.parts, splits)](
        weight.tiles.view(torch.int16), weight.tiles, operand, x.alpha, bias, target, sums, count, n, units,
        shared.columns // 256, whole, shared.parts,
        TO=DTYPES[x.values.dtype], PANELS=tile.panels, M=tile.tokens, STAGES=tile.stages,
        WARPGROUPS=gpu.has_warpgroups, COPIED=copied, PARTIAL=partial, SHARED=how.shares_last_tiles and not partial,
        PER_TOKEN=x.has_many_scales and not partial, UP=has_up and not partial, BIAS=given and not partial,
        EARLY=early, launch_pdl=early, num_warps=tile.warps, enable_fp_fusion=False,
    )  # fmt: skip
    if partial:
        _finish(x, weight, target, splits * x.parts, out, early)
    elif shared.tiles:
        finish.finish_shared[(shared.tiles, triton.cdiv(tile.tokens, _SOME))](
            sums, x.alpha, bias, out, count, n, whole, shared.parts,
            M=tile.tokens, N=rows, SOME=_SOME, PER_TOKEN=x.has_many_scales, UP=has_up, BIAS=given, **_EXACT,
        )  # fmt: skip


def _finish(x: Tokens, weight: Weight, sums: Tensor, partials: int, out: Tensor, early: bool) -> None:
    """Float32 sums [partials, rows, n], added and finished."""
    token_scale = x.alpha if x.global_scale is None else x.global_scale
    bias = x.alpha if weight.bias is None else weight.bias
    finish.finish[(x.rows, triton.cdiv(weight.rows, _FINISHED))](
        sums, x.alpha, token_scale, weight.global_scale, bias, out, x.rows, weight.rows, partials, out.stride(0),
        PER_TOKEN=x.has_many_scales, UP=weight.up_scale is not None, PER_ROW=weight.has_many_scales,
        QUANTISED=x.global_scale is not None, BIAS=weight.bias is not None, N=_FINISHED, EARLY=early, launch_pdl=early,
        **_EXACT,
    )  # fmt: skip


def _by_library(x: Tokens, weight: Weight, out: Tensor) -> None:
    """The weight's numbers into memory, some of its rows at a time, a product of two matrices there, and its sums."""
    columns, panels = 256 * x.units, weight.tiles.shape[0]
    row_bytes = max(2 * columns, 4 * x.values.shape[0])  # of the weight's numbers, of sums
    at_once = min(panels, max(4, plan.WORKSPACE_BYTES // (64 * row_bytes) // 4 * 4))
    space = torch.empty((64 * at_once, columns), dtype=x.values.dtype, device=out.device)
    for first in range(0, panels, at_once):
        tiles = weight.tiles[first : first + at_once]
        gemm.unpack_weight[(x.units, tiles.shape[0])](tiles.view(torch.int16), tiles, space, x.units, num_warps=8)
        rows = slice(64 * first, min(64 * (first + at_once), weight.rows))
        part = weight.of_rows(rows)
        sums = torch.mm(x.values, space[: part.rows].T, out_dtype=torch.float32)
        _finish(x, part, sums, x.parts, out[:, rows], early=False)
