"""A kernel that computes something else is not timed."""

import pytest
import torch

import nvfp4
from nvfp4.bench import refcheck
from nvfp4.bench.operands import LinearOperands, RowOperands


@pytest.mark.parametrize(("op", "activations"), [("linear-w4a4", "nvfp4"), ("linear-w4a16", None)])
@pytest.mark.parametrize("m", [1, 5])
def test_linear_is_compared_to_the_bit(op, activations, m, backend):
    operands = LinearOperands(72, 2048, "n16k64", cold=0, peers=False)
    x = operands.activations(m, "bfloat16")
    y = nvfp4.linear(x, operands.weights[0], activations=activations)
    refcheck.check_linear(op, x, operands, y)
    y[-1, -1] = torch.nextafter(y[-1, -1], torch.tensor(1e3, dtype=y.dtype))
    with pytest.raises(refcheck.RefcheckError, match=r"1 of .* nothing was timed"):
        refcheck.check_linear(op, x, operands, y)
    with pytest.raises(refcheck.RefcheckError, match="float32"):
        refcheck.check_linear(op, x, operands, y.float())


def test_quantize_is_compared_to_the_byte(backend):
    x = torch.randn(70, 64, dtype=torch.bfloat16)
    t = nvfp4.quantize(x, granularity="row")
    parts = t.packed, t.scale.view(torch.uint8), t.global_scale
    refcheck.check_quantize(x, *parts)
    parts[0][-1, 0] ^= 1
    with pytest.raises(refcheck.RefcheckError, match="packed"):
        refcheck.check_quantize(x, *parts)


def test_dequantize_is_compared_to_the_bit(backend):
    operands = RowOperands(4, 32, "float16", cold=0)
    y = torch.ops.nvfp4.dequantize(
        operands.packed[0], operands.scale[0], operands.global_scale[0], [4, 32], "plain", torch.float16
    )
    refcheck.check_dequantize(operands, 0, y)
    with pytest.raises(refcheck.RefcheckError):
        refcheck.check_dequantize(operands, 0, y + 1)


def test_the_sample_has_both_ends():
    chosen = refcheck.sample(1000)
    assert chosen[0] == 0
    assert chosen[-1] == 999
    assert len(chosen) <= 48
    assert refcheck.sample(1).tolist() == [0]


def test_calibrated_and_tensor_scales_are_compared_too(backend):
    operands = LinearOperands(72, 256, "n16k64", cold=0, peers=False)
    x, given = operands.activations(3, "bfloat16"), torch.tensor([448.0])
    y = nvfp4.linear(x, operands.weights[0], input_global_scale=given)
    refcheck.check_linear("linear-w4a4", x, operands, y, given)
    values = torch.randn(70, 64, dtype=torch.bfloat16)
    t = nvfp4.quantize(values)
    refcheck.check_quantize(values, t.packed, t.scale.view(torch.uint8), t.global_scale, t.global_scale.clone())
    with pytest.raises(refcheck.RefcheckError):
        refcheck.check_quantize(values, t.packed, t.scale.view(torch.uint8), t.global_scale, 2 * t.global_scale)
