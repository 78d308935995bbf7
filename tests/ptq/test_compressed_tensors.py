"""Byte equality with the compressed-tensors package: packed codes, block scales and global scale of weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import nvfp4
from nvfp4 import NVFP4Linear, quantize_model

REASON = "compressed-tensors is not there; the test extra installs it only on Python >= 3.11"
quantization = pytest.importorskip("compressed_tensors.quantization", reason=REASON)
base = pytest.importorskip("compressed_tensors.compressors.nvfp4.base", reason=REASON)
helpers = pytest.importorskip("compressed_tensors.quantization.utils.helpers", reason=REASON)

SCHEME = quantization.preset_name_to_scheme("NVFP4", ["Linear"])
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
WEIGHTS_A_DTYPE = 360


@pytest.fixture(autouse=True)
def _eager() -> Iterator[None]:
    """The package compiles its rounding; eager gives the same numbers without a compiler."""
    torch.compiler.set_stance("force_eager")
    yield
    torch.compiler.set_stance("default")


def compressed(w: Tensor, global_scale: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """What llm-compressor writes for a weight: min-max observer, parameters in the weight's dtype, then compress."""
    if global_scale is None:
        global_scale = helpers.generate_gparam(w.amin(), w.amax())
    groups = w.unflatten(-1, (-1, 16))
    scale, _ = helpers.calculate_qparams(groups.amin(-1), groups.amax(-1), SCHEME.weights, global_scale)
    out = base.NVFP4PackedCompressor.compress(
        {"weight": w, "weight_scale": scale.to(w.dtype), "weight_global_scale": global_scale}, SCHEME
    )
    return out["weight_packed"], out["weight_scale"], out["weight_global_scale"]


def ties(n: int, k: int) -> Tensor:
    """Values halfway between neighbours of the e2m1 grid, under scales that are powers of two."""
    midpoints = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0])
    x = midpoints[torch.randint(0, 8, (n, k))] * torch.where(torch.rand(n, k) < 0.5, -1.0, 1.0)
    x[:, ::16] = 6.0
    return x * 2.0 ** torch.randint(-6, 7, (n, k // 16)).repeat_interleave(16, dim=1)


def weight(kind: int, n: int, k: int) -> Tensor:
    """A random float32 weight of one of twelve kinds."""
    x = torch.randn(n, k)
    match kind:
        case 0:
            return x * 0.02
        case 1:
            return x * 1e-30
        case 2:
            return x * 1e4
        case 3:
            return ties(n, k)
        case 4:
            return x.unflatten(1, (-1, 16)).mul(torch.rand(n, k // 16, 1) > 0.5).flatten(1)
        case 5:
            return x * torch.where(torch.rand(n, k) < 0.02, 200.0, 0.05)
        case 6:
            return x * 10.0 ** torch.randint(-7, 3, (n, k // 16)).float().repeat_interleave(16, dim=1)
        case 7:
            return torch.zeros(n, k) if n % 2 else -torch.zeros(n, k)
        case 8:
            return torch.where(torch.rand(n, k) < 0.3, -0.0, x)
        case 9:
            return torch.full((n, k), 2.0 ** (n % 20 - 10))
        case 10:
            return (x * 4).round() / 4
        case _:
            return x * 1e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_random_weights_equal_compressed_tensors_to_the_byte(backend, dtype) -> None:
    sizes = [(1, 16), (3, 48), (7, 64), (16, 128), (20, 80), (33, 256)]
    for index in range(WEIGHTS_A_DTYPE):
        n, k = sizes[index % len(sizes)]
        w = weight(index // len(sizes) % 12, n, k).clamp(-60000, 60000).to(dtype)
        packed, scale, global_scale = compressed(w)
        got = nvfp4.quantize(w, scheme="compressed-tensors")
        assert torch.equal(got.global_scale.view(torch.int32), global_scale.view(torch.int32)), index
        assert torch.equal(got.scale.view(torch.uint8), scale.view(torch.uint8)), index
        assert torch.equal(got.packed, packed), index


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_given_global_scale(backend, dtype) -> None:
    for index in range(40):
        w = weight(index % 12, 8, 64).clamp(-60000, 60000).to(dtype)
        given = torch.tensor([10.0 ** (index % 7 - 2)])
        packed, scale, _ = compressed(w, given)
        got = nvfp4.quantize(w, given, scheme="compressed-tensors")
        assert torch.equal(got.scale.view(torch.uint8), scale.view(torch.uint8)), index
        assert torch.equal(got.packed, packed), index


def test_appendix_a(backend) -> None:
    """The vector of docs/format.md: every tie, the code of -0, a zero block, an underflowing one, both nibbles."""
    row = [6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5, -6]
    w = torch.tensor([row, [0.0] * 16, [3.0, -3.0] * 8, [1e-6] * 16])
    linear = nn.Linear(16, 4, bias=False)
    linear.weight = nn.Parameter(w)
    module = NVFP4Linear.from_linear(linear)
    hexes = [bytes(r.tolist()).hex() for r in module.weight_packed]
    assert hexes == ["07224466a8caecfe", "0" * 16, "f7" * 8, "0" * 16]
    assert module.weight_scale.view(torch.uint8).flatten().tolist() == [0x7E, 0x20, 0x76, 0x20]
    assert module.weight_global_scale.item() == 448.0
    packed, scale, global_scale = compressed(w)
    assert torch.equal(module.weight_packed, packed)
    assert torch.equal(module.weight_scale.view(torch.uint8), scale.view(torch.uint8))
    assert torch.equal(module.weight_global_scale, global_scale)


class MLP(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(64, 48, False, dtype=dtype) for _ in range(2))
        self.down_proj = nn.Linear(48, 64, False, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(torch.relu(self.gate_proj(x)) * self.up_proj(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_siblings_share_the_scale_that_llm_compressor_gives_them(both, dtype) -> None:
    """`observers/base.py`: generate_gparam of the largest amax among the fused weights, in their dtype."""
    mlp = MLP(dtype)
    with torch.no_grad():
        mlp.up_proj.weight.mul_(3)
    gate, up, down = (m.weight.detach().clone() for m in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
    largest = torch.maximum(gate.abs().amax(), up.abs().amax())
    shared = helpers.generate_gparam(-largest, largest)
    quantize_model(nn.ModuleDict({"mlp": mlp}), progress=False)
    for module, w, scale in ((mlp.gate_proj, gate, shared), (mlp.up_proj, up, shared), (mlp.down_proj, down, None)):
        packed, block_scale, global_scale = compressed(w, scale)
        got = module.state_dict()
        assert torch.equal(got["weight_global_scale"], global_scale)
        assert torch.equal(got["weight_packed"], packed)
        assert torch.equal(got["weight_scale"].view(torch.uint8), block_scale.view(torch.uint8))


def test_local_activation_scales_of_float32_inputs_are_the_same(backend) -> None:
    """Static activations: compressed-tensors' dynamic="local" scales of float32 tokens, before the codes."""
    x = torch.randn(5, 64)
    global_scale = helpers.generate_gparam(x.amin(), x.amax())
    scale, _ = helpers.compute_dynamic_scales_and_zp(x, SCHEME.input_activations, nn.Linear(64, 4), global_scale)
    got = nvfp4.quantize(x, global_scale)
    assert torch.equal(got.scale.float(), scale.float().view(5, 4))
