"""What takes turns: the right names, rotated operands, results that were checked."""

import torch

from nvfp4.bench.cases import LINEAR_OPS, ROW_OPS, Case
from nvfp4.bench.operands import LinearOperands, RowOperands
from nvfp4.bench.variants import INT4, MEMCPY, TORCH_BF16, TORCH_FP32, linear_variants, peer_variants, row_variants


def test_linear_variants_rotate_over_the_copies(backend):
    operands = LinearOperands(16, 64, "n16k64", cold=2000, peers=False)
    x = operands.activations(2, "bfloat16")
    variants = linear_variants([Case(op, 2, 16, 64) for op in LINEAR_OPS], x, operands)
    assert tuple(variants) == LINEAR_OPS
    for variant in variants.values():
        calls = [variant(round_) for round_ in range(len(operands.weights) + 1)]
        assert len(operands.weights) > 1
        assert calls[0] is calls[-1]
        assert calls[0] is not calls[1]
        assert torch.equal(calls[0](), calls[1]())


def test_peers_compute_the_same_shape():
    operands = LinearOperands(32, 64, "plain", cold=0)
    variants = peer_variants(operands.activations(3, "float32"), operands)
    assert tuple(variants) == (TORCH_BF16, TORCH_FP32, INT4)
    assert all(variant(0)().shape == (3, 32) for variant in variants.values())


def test_row_variants_and_the_copies(backend):
    operands = RowOperands(3, 32, "bfloat16", cold=500)
    ops = ROW_OPS if backend == "cpu" else ("quantize", "dequantize")
    variants = row_variants([Case(op, 3, 0, 32) for op in ops], operands)
    assert tuple(variants) == (*ops, *MEMCPY)
    for name in MEMCPY:
        operands.copy_target.zero_()
        for round_ in range(len(operands.copy_source)):
            variants[name](round_)()
        assert torch.equal(operands.copy_target, operands.copy_source)
