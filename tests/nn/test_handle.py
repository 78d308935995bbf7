"""`NVFP4Linear.weight`: facts, never values."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from nvfp4 import NVFP4Linear
from nvfp4.nn import WeightHandle


@pytest.fixture
def handle() -> WeightHandle:
    return NVFP4Linear(32, 48, dtype=torch.float16).weight


def test_facts(handle) -> None:
    assert isinstance(handle, WeightHandle)
    assert handle.dtype == torch.float16
    assert handle.device == torch.device("cpu")
    assert handle.shape == (48, 32)
    assert handle.size() == (48, 32)
    assert handle.size(1) == 32
    assert handle.ndim == handle.dim() == 2
    assert handle.numel() == 48 * 32
    assert handle.requires_grad is False
    assert handle.grad is None
    assert not handle.is_meta
    assert not handle.is_cuda
    assert handle.is_floating_point()
    assert not handle.is_complex()
    assert handle._is_hf_initialized
    assert "NVFP4" in repr(handle)
    assert NVFP4Linear(32, 48, device="meta").weight.is_meta


@pytest.mark.parametrize("name", ["data", "T", "normal_", "copy_", "to", "clone", "untyped_storage"])
def test_values_are_not_there(handle, name) -> None:
    assert not hasattr(handle, name)
    with pytest.raises(AttributeError, match=rf"dequantize\(\).*'{name}'"):
        getattr(handle, name)


@pytest.mark.parametrize(
    "use",
    [
        lambda h: F.linear(torch.zeros(1, 32, dtype=torch.float16), h),
        lambda h: torch.zeros(48, 32) + h,
        lambda h: h @ torch.zeros(32, 1),
        lambda h: torch.nn.init.normal_(h),
        lambda h: h[0],
    ],
    ids=["linear", "add", "matmul", "init", "index"],
)
def test_use_as_a_tensor_says_what_to_do(handle, use) -> None:
    with pytest.raises((TypeError, AttributeError), match=r"dequantize\(\)"):
        use(handle)


def test_read_only(handle) -> None:
    with pytest.raises(AttributeError, match="read-only"):
        handle.requires_grad = True
    with pytest.raises(AttributeError, match="read-only"):
        handle.data = torch.zeros(48, 32)


def test_the_module_refuses_another_weight() -> None:
    module = NVFP4Linear(32, 48)
    for value in (torch.zeros(48, 32), torch.nn.Parameter(torch.zeros(48, 32))):
        with pytest.raises((AttributeError, KeyError), match="weight"):
            module.weight = value
    assert "weight" not in module.state_dict()
