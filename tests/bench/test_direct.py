"""The bare kernels give the ops' bits, and keep their operands alive."""

import gc

import pytest
import torch

import nvfp4
from nvfp4 import backends
from nvfp4.bench import direct
from nvfp4.bench.operands import LinearOperands


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_quantize_rows(dtype):
    x = torch.randn(5, 48, dtype=dtype)
    packed, scale = torch.empty(5, 24, dtype=torch.uint8), torch.empty(5, 3, dtype=torch.uint8)
    global_scale = torch.empty(5, 1)
    direct.quantize_rows(x, packed, scale, global_scale)()
    wanted = nvfp4.quantize(x, granularity="row")
    assert torch.equal(packed, wanted.packed)
    assert torch.equal(scale, wanted.scale.view(torch.uint8))
    assert torch.equal(global_scale, wanted.global_scale)


def test_linear_w4a4():
    weight = LinearOperands(24, 64, "n16k64", cold=0, peers=False).weights[0]
    x, out = torch.randn(3, 64, dtype=torch.bfloat16), torch.empty(3, 24, dtype=torch.bfloat16)
    direct.linear_w4a4(x, weight, out)()
    with backends.force("cpu"):
        assert torch.equal(out, nvfp4.linear(x, weight))


def test_a_call_owns_its_operands():
    def make():
        x = torch.ones(4, 16)
        parts = torch.empty(4, 8, dtype=torch.uint8), torch.empty(4, 1, dtype=torch.uint8), torch.empty(4, 1)
        return direct.quantize_rows(x, *parts), parts[2]

    call, global_scale = make()
    gc.collect()
    call()
    assert global_scale.flatten().tolist() == [2688.0] * 4
