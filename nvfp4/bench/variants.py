"""What takes turns in the interleaved loop: our ops and torch's, each as a call a round with rotated operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nvfp4.bench import direct, refcheck
from nvfp4.bench.cases import Case
from nvfp4.bench.operands import INT4_GROUP, LinearOperands, Peers, RowOperands, takes_int4
from nvfp4.bench.timing import Variant
from nvfp4.tensor import NVFP4Tensor

__all__ = [
    "INT4",
    "MEMCPY",
    "TORCH_BF16",
    "TORCH_FP32",
    "linear_variants",
    "peer_names",
    "peer_variants",
    "row_variants",
]

TORCH_BF16, TORCH_FP32, INT4 = "torch bf16", "torch fp32", "torch int4pack"
MEMCPY = ("memcpy torch", "memcpy libc")

_ops = torch.ops.nvfp4
_ACTIVATIONS = {"linear-w4a4": "row", "linear-w4a16": "none"}


def _linear_call(op: str, x: Tensor, weight: NVFP4Tensor) -> Callable[[], Tensor]:
    return partial(
        _ops.linear.default, x, weight.packed, weight.scale.view(torch.uint8), weight.global_scale, None, None,
        weight.shape[0], weight.layout, _ACTIVATIONS[op],
    )  # fmt: skip


def _rotated(calls: Sequence[Callable[[], object]], tiny: Callable[[], object]) -> Variant:
    """The calls in rotation. A tiny call of the same kind goes before each, outside of the timing.

    A model makes hundreds of these calls a token, so the code of a call is warm there and only its weight is cold. Here
    the other variants have emptied the caches of the interpreter's data as well.
    """

    def variant(round_: int) -> Callable[[], object]:
        tiny()
        return calls[round_ % len(calls)]

    return variant


def linear_variants(cases: Sequence[Case], x: Tensor, operands: LinearOperands) -> dict[str, Variant]:
    """One variant a case of one group, by op; each is compared with the reference here, before anyone times it.

    Raises:
        refcheck.RefcheckError: a result differs.
    """
    variants = {}
    small = LinearOperands(16, 64, operands.layout, cold=0, peers=False)
    small_x = small.activations(1, cases[0].dtype)
    for case in cases:
        calls = [_linear_call(case.op, x, weight) for weight in operands.weights]
        for call in {0: calls[0], len(calls) - 1: calls[-1]}.values():
            refcheck.check_linear(case.op, x, operands, call())
        variants[case.op] = _rotated(calls, _linear_call(case.op, small_x, small.weights[0]))
    return variants


def peer_names(case: Case) -> tuple[str, ...]:
    """The peers that have a case's shape: the keys of its `peer_variants`."""
    return (TORCH_BF16, TORCH_FP32, INT4) if takes_int4(case.n, case.k) else (TORCH_BF16, TORCH_FP32)


def peer_variants(x: Tensor, operands: LinearOperands) -> dict[str, Variant]:
    """torch's linear in bf16 and fp32 and its int4 kernel (bf16 activations, groups of 32) on the same shape."""
    x32, x16 = x.float(), x.bfloat16()
    small = Peers.build(16, 64, 0, torch.Generator().manual_seed(0))
    int4 = torch.ops.aten._weight_int4pack_mm_for_cpu.default

    def calls(peers: Peers, x32: Tensor, x16: Tensor) -> dict[str, list[Callable[[], object]]]:
        return {
            TORCH_BF16: [partial(F.linear, x16, weight) for weight in peers.bf16],
            TORCH_FP32: [partial(F.linear, x32, weight) for weight in peers.fp32],
            INT4: [partial(int4, x16, packed, INT4_GROUP, scale) for packed, scale in peers.int4],
        }

    tiny = calls(small, torch.randn(1, 64), torch.randn(1, 64).bfloat16())
    large = calls(operands.peers, x32, x16)
    return {name: _rotated(large[name], tiny[name][0]) for name in large if large[name]}


def _quantize(operands: RowOperands) -> Variant:
    values = operands.values
    tiny = torch.ones(1, 16, dtype=operands.dtype)

    def variant(round_: int) -> Callable[[], object]:
        _ops.quantize.default(tiny, None, "row", "nvfp4", "plain")
        return partial(_ops.quantize.default, values[round_ % len(values)], None, "row", "nvfp4", "plain")

    refcheck.check_quantize(values[0], *variant(0)())  # type: ignore[misc]
    return variant


def _quantize_kernel(operands: RowOperands) -> Variant:
    values, outputs = operands.values, (operands.packed.clone(), operands.scale.clone(), operands.global_scale.clone())

    def variant(round_: int) -> Callable[[], object]:
        slot = round_ % len(outputs[0])
        return direct.quantize_rows(values[round_ % len(values)], *(part[slot] for part in outputs))

    variant(0)()
    refcheck.check_quantize(values[0], *(part[0] for part in outputs))
    return variant


def _dequantize(operands: RowOperands) -> Variant:
    packed, scale, global_scale = operands.packed, operands.scale, operands.global_scale
    shape = [operands.m, operands.k]
    tiny = packed[0, :1, :8].clone(), scale[0, :1, :1].clone(), global_scale[0, :1].clone(), [1, 16], "plain"

    def variant(round_: int) -> Callable[[], Tensor]:
        _ops.dequantize.default(*tiny, operands.dtype)
        i = round_ % len(packed)
        return partial(_ops.dequantize.default, packed[i], scale[i], global_scale[i], shape, "plain", operands.dtype)

    refcheck.check_dequantize(operands, 0, variant(0)())
    return variant


_ROW_VARIANTS = {"quantize": _quantize, "quantize-kernel": _quantize_kernel, "dequantize": _dequantize}


def _memcpy(operands: RowOperands) -> dict[str, Variant]:
    source, target = operands.copy_source, operands.copy_target
    sources, targets = source.numpy(), target.numpy()

    def torch_copy(round_: int) -> Callable[[], object]:
        i = round_ % len(source)
        return partial(target[i].copy_, source[i])

    def libc_copy(round_: int) -> Callable[[], object]:
        # Half a rotation away from the other copy, whose buffers are in the cache by now.
        i = (round_ + len(source) // 2) % len(source)
        return partial(np.copyto, targets[i], sources[i])

    return dict(zip(MEMCPY, (torch_copy, libc_copy), strict=True))


def row_variants(cases: Sequence[Case], operands: RowOperands) -> dict[str, Variant]:
    """One variant a case of one group, by op, compared with the reference; and two ways to copy as many bytes.

    The copies read half of the bytes that a case reads and writes together, and write half, into memory that is there.

    Raises:
        refcheck.RefcheckError: a result differs.
    """
    return {case.op: _ROW_VARIANTS[case.op](operands) for case in cases} | _memcpy(operands)
