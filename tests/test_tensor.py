"""The container: its checks, its equality, what it registers."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch.utils import _pytree as pytree

import nvfp4
from nvfp4 import NVFP4Tensor


def parts(rows: int = 4, k: int = 32) -> dict[str, object]:
    return {
        "packed": torch.zeros(rows, k // 2, dtype=torch.uint8),
        "scale": torch.zeros(rows, k // 16, dtype=torch.uint8).view(torch.float8_e4m3fn),
        "global_scale": torch.ones(1),
        "shape": (rows, k),
    }


def test_repr_and_nbytes() -> None:
    t = nvfp4.quantize(torch.randn(4, 32), granularity="row")
    assert t.nbytes == 4 * 16 + 4 * 2 + 4 * 4
    assert repr(t) == "NVFP4Tensor(shape=(4, 32), granularity='row', layout='plain', device='cpu', nbytes=88)"


def test_is_frozen_and_unhashable() -> None:
    t = nvfp4.quantize(torch.randn(4, 32))
    with pytest.raises(dataclasses.FrozenInstanceError):
        t.layout = "128x4"  # type: ignore[misc]
    with pytest.raises(TypeError, match="unhashable"):
        hash(t)


def test_equality_is_of_bytes() -> None:
    x = torch.randn(4, 32)
    t = nvfp4.quantize(x)
    assert t == nvfp4.quantize(x)
    assert t == copy.deepcopy(t)
    assert t != nvfp4.quantize(x, layout="128x4")
    assert t != nvfp4.quantize(x, granularity="row")
    assert t != dataclasses.replace(t, packed=t.packed ^ 1)
    assert t != "something else"
    nan = nvfp4.quantize(torch.full((1, 16), float("nan")))
    assert nan == nvfp4.quantize(torch.full((1, 16), float("nan")))


def test_pytree_round_trip() -> None:
    t = nvfp4.quantize(torch.randn(4, 32))
    leaves, spec = pytree.tree_flatten(t)
    assert pytree.tree_unflatten(leaves, spec) == t
    assert pytree.tree_map_only(torch.Tensor, torch.clone, t) == t


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"packed": torch.zeros(4, 16)}, TypeError, "packed: got torch.float32, wanted torch.uint8"),
        ({"scale": torch.zeros(4, 2, dtype=torch.uint8)}, TypeError, "view"),
        ({"global_scale": torch.ones(1, dtype=torch.float64)}, TypeError, "float64"),
        (
            {"packed": torch.zeros(4, 15, dtype=torch.uint8)},
            ValueError,
            r"packed: got shape \(4, 15\), wanted \(4, 16\)",
        ),
        ({"global_scale": torch.ones(3, 1)}, ValueError, r"global_scale: got shape \(3, 1\)"),
        ({"global_scale": torch.ones(())}, ValueError, r"wanted \(1,\)"),
        ({"shape": (4, 40)}, ValueError, "nearest legal K is"),
        ({"shape": ()}, ValueError, "scalar"),
        ({"layout": "4x128"}, ValueError, "wanted one of plain, 128x4, n16k64"),
        ({"layout": "n16k64", "shape": (2, 2, 32)}, ValueError, "matrices"),
        ({"packed": torch.zeros(4, 16, dtype=torch.uint8, device="meta")}, ValueError, "one device"),
    ],
)
def test_malformed_parts(change: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        NVFP4Tensor(**{**parts(), **change})  # type: ignore[arg-type]


def test_validate() -> None:
    good = nvfp4.quantize(torch.randn(4, 32))
    assert good.validate() is good
    with pytest.raises(ValueError, match="1 NaN and 0 negative"):
        nvfp4.quantize(torch.tensor([[float("nan")] * 16])).validate()
    negative = dataclasses.replace(good, scale=(good.scale.view(torch.uint8) | 0x80).view(torch.float8_e4m3fn))
    with pytest.raises(ValueError, match="0 NaN and 8 negative"):
        negative.validate()
    for bad in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="global_scale"):
            dataclasses.replace(good, global_scale=torch.tensor([bad])).validate()


def test_meta_device() -> None:
    t = nvfp4.quantize(torch.randn(4, 32)).to("meta")
    assert t.device.type == "meta"
    assert t.dequantize().shape == (4, 32)
