"""W4A4 and W4A16 linear beside torch's bf16, fp32 and int4: `pytest bench/test_linear.py --benchmark-only --m 1,16`."""

from nvfp4.bench.cases import LINEAR_OPS
from nvfp4.bench.runner import backend_of
from nvfp4.bench.variants import linear_variants, peer_names, peer_variants

OPS = LINEAR_OPS


def test_linear(case, weights, rotate):
    operands = weights(case, backend_of(case).weight_layout())
    x = operands.activations(case.m, case.dtype)
    rotate(case, case.op, linear_variants([case], x, operands)[case.op])


def test_peer(case, name, weights, rotate):
    operands = weights(case, backend_of(case).weight_layout())
    rotate(case, name, peer_variants(operands.activations(case.m, case.dtype), operands)[name], rounds=5)


test_peer.beside = peer_names
