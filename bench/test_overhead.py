"""The price of a call: NVFP4Linear beside nn.Linear on a weight so small that the kernel hardly counts."""

import pytest
import torch

from nvfp4.nn import NVFP4Linear, prepare


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("kind", ["NVFP4Linear", "nn.Linear"])
def test_call(benchmark, kind, bias):
    module = torch.nn.Linear(64, 16, bias=bias, dtype=torch.bfloat16)
    if kind == "NVFP4Linear":
        module = NVFP4Linear.from_linear(module)
        prepare(module)
    x = torch.randn(1, 64, dtype=torch.bfloat16)
    benchmark.group = "call"
    with torch.no_grad():
        benchmark(module, x)
