"""W4A4 and W4A16 linear beside torch's bf16, fp32 and int4: `pytest bench/test_linear.py --benchmark-only --m 1,16`."""

import pytest

from nvfp4.bench.cases import LINEAR_OPS
from nvfp4.bench.runner import backend_of
from nvfp4.bench.variants import INT4, TORCH_BF16, TORCH_FP32, linear_variants, peer_variants

OPS = LINEAR_OPS


def test_linear(case, weights, rotate):
    operands = weights(case, backend_of(case).weight_layout())
    x = operands.activations(case.m, case.dtype)
    rotate(case, case.op, linear_variants([case], x, operands)[case.op])


@pytest.mark.parametrize("peer", [TORCH_BF16, TORCH_FP32, INT4])
def test_peer(case, peer, weights, rotate):
    if case.op != OPS[0]:
        pytest.skip("the peers do not depend on the op")
    operands = weights(case, backend_of(case).weight_layout())
    variants = peer_variants(operands.activations(case.m, case.dtype), operands)
    if peer not in variants:
        pytest.skip(f"{peer} does not take N,K = {case.n},{case.k}")
    rotate(case, peer, variants[peer], rounds=5)
