"""Operands: cold enough, never zeros, and on the exact grid that the refcheck relies on."""

import pytest
import torch

from nvfp4 import reference
from nvfp4.bench import operands
from nvfp4.bench.operands import LinearOperands, Peers, RowOperands


def test_rotation_exceeds_the_cache():
    assert operands.cold_bytes(1 << 20) == 64 << 20
    assert operands.cold_bytes(96 << 20) == 192 << 20
    assert operands.cold_bytes(1 << 40) == 1 << 30
    for nbytes in (1, 576, 100 << 20):
        assert operands.copies(nbytes, 64 << 20) * nbytes > 64 << 20


@pytest.mark.parametrize("layout", ["plain", "n16k64"])
def test_copies_are_equal_bytes_at_different_addresses(layout):
    made = LinearOperands(32, 64, layout, cold=4000, peers=False)
    assert len(made.weights) * made.weights[0].packed.nbytes > 2000
    assert len({weight.packed.data_ptr() for weight in made.weights}) == len(made.weights) > 1
    assert all(weight == made.weights[0] for weight in made.weights)
    assert torch.equal(made.weights[-1].dequantize(torch.float32), made.plain.dequantize(torch.float32))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_activations_are_exact_in_nvfp4_and_not_zero(dtype):
    x = LinearOperands(16, 128, "plain", cold=0, peers=False).activations(5, dtype)
    assert torch.equal(reference.dequantize(reference.quantize(x, None, "row"), x.dtype), x)
    assert (x != 0).float().mean() > 0.8
    assert reference.quantize(x, None, "row").scale.float().eq(448).all()


def test_peers_have_the_shape_of_the_weight():
    peers = Peers.build(32, 64, 0, torch.Generator().manual_seed(0))
    assert peers.fp32[0].shape == peers.bf16[0].shape == (32, 64)
    assert len(peers.int4) == 1


def test_int4_is_left_out_where_torch_cannot_hold_it():
    assert Peers.build(32, 48, 0, torch.Generator()).int4 == []
    assert Peers.build(24, 64, 0, torch.Generator()).int4 == []


def test_row_operands():
    made = RowOperands(3, 32, "float16", cold=1000)
    assert made.values.dtype == torch.float16
    assert made.values.shape[1:] == (3, 32)
    assert made.values.nbytes > 1000
    assert made.packed.nbytes + made.scale.nbytes + made.global_scale.nbytes > 1000
    assert made.copy_source[0].nbytes == (3 * (32 * 2 + 16 + 2 + 4)) // 2


def test_cold_copies_rotate_over_what_they_are_told():
    made = torch.arange(100, dtype=torch.uint8)
    copied = operands.cold_copies(made, 250)
    assert len(copied) == 3
    assert copied[0] is made
    assert all(torch.equal(one, made) for one in copied)
