"""Quantise and dequantise: the contract's rules, and the bits of the CPU kernels against the definition."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import nvfp4
from helpers import FLOATS, outliers, same_bits
from nvfp4 import backends, formats, reference

NAN, INF = float("nan"), float("inf")


def assert_same_on_cpu(x: Tensor, **kwargs: object) -> None:
    """The CPU kernels give the reference's bytes."""
    with backends.force("reference"):
        wanted = nvfp4.quantize(x, **kwargs)  # type: ignore[arg-type]
    with backends.force("cpu"):
        got = nvfp4.quantize(x, **kwargs)  # type: ignore[arg-type]
    assert got == wanted, (x.shape, x.dtype, kwargs)


def test_appendix_a_vector(backend: str) -> None:
    ties = [6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, -0.25, -0.75, -1.25, -1.75, -2.5, -3.5, -5, -6]
    x = torch.tensor([ties, [0] * 16, [3, -3] * 8, [1e-6] * 16])
    for scheme in ("nvfp4", "compressed-tensors"):
        t = nvfp4.quantize(x, scheme=scheme)  # type: ignore[arg-type]
        assert t.global_scale.tolist() == [448.0]
        assert t.scale.view(torch.uint8).flatten().tolist() == [0x7E, 0x20, 0x76, 0x20]
        assert [bytes(row.tolist()).hex() for row in t.packed] == [
            "07224466a8caecfe", "0000000000000000", "f7f7f7f7f7f7f7f7", "0000000000000000",
        ]  # fmt: skip


EVERY_BFLOAT16 = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)


def test_every_bfloat16_under_every_scale_code() -> None:
    """Every bf16 value that a block of each of the 126 positive scales can hold: 10 million codes in all.

    A block's scale follows from its amax, so a sixteenth value sets the scale of 15 others: with G = 6 * factor it
    is e4m3(factor * amax). The core's own tests add NaN, Inf, fp16, float32 and every instruction set.
    """
    for factor in (1.0, 1.1754943508222875):
        for code in range(1, 127):
            amax = (formats.decode_e4m3(torch.tensor([code], dtype=torch.uint8)) / factor).to(torch.bfloat16)
            values = EVERY_BFLOAT16[EVERY_BFLOAT16.float().abs() <= amax.float()]
            values = torch.cat((values, values.new_zeros(-len(values) % 15))).view(-1, 15)
            blocks = torch.cat((values, amax.expand(len(values), 1)), dim=1)
            assert_same_on_cpu(blocks, global_scale=torch.tensor([6.0 * factor]))


@pytest.mark.parametrize("global_scale", [1e-30, 1.0, 448.0, 1e30])
def test_every_bfloat16_saturated_infinite_and_nan(global_scale: float) -> None:
    assert_same_on_cpu(EVERY_BFLOAT16.view(-1, 64), global_scale=torch.tensor([global_scale]))
    assert_same_on_cpu(EVERY_BFLOAT16.view(-1, 64), granularity="row")
    assert_same_on_cpu(EVERY_BFLOAT16[torch.randperm(65536)].view(-1, 64), global_scale=torch.tensor([global_scale]))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("granularity", ["tensor", "row"])
@pytest.mark.parametrize("layout", ["plain", "128x4"])
def test_random_shapes(dtype: torch.dtype, granularity: str, layout: str) -> None:
    for rows, k in [(0, 16), (1, 16), (2, 48), (3, 64), (17, 80), (33, 144), (128, 256), (129, 1040), (5, 0)]:
        assert_same_on_cpu(outliers(rows, k, dtype), granularity=granularity, layout=layout)


@pytest.mark.parametrize("dtype", FLOATS)
def test_compressed_tensors_scheme(dtype: torch.dtype) -> None:
    for rows, k in [(1, 16), (48, 320), (7, 48)]:
        x = outliers(rows, k, dtype)
        x[0, :2] = torch.tensor([-0.0, 0.0])
        assert_same_on_cpu(x, scheme="compressed-tensors")
        assert_same_on_cpu(x, scheme="compressed-tensors", global_scale=torch.tensor([137.0]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_ties_and_their_neighbours(dtype: torch.dtype) -> None:
    """x = midpoint * step, where a reciprocal instead of a division would show."""
    midpoints = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    mantissas = 1 + torch.rand(64)
    for scale in (2.0**-20, 0.3, 1.0, 7.0, 1e5):
        steps = mantissas * scale
        ties = (midpoints * steps.unsqueeze(1)).to(dtype)
        rows = torch.stack([ties, torch.nextafter(ties, ties * 2), torch.nextafter(ties, ties * 0)], dim=1).flatten(1)
        x = torch.cat((rows.float(), -rows.float(), (6 * steps).unsqueeze(1).expand(-1, 6)), dim=1).to(dtype)
        for global_scale in (1 / scale, 0.9 / scale, 448 / scale):
            assert_same_on_cpu(x, global_scale=torch.tensor([global_scale]))


@pytest.mark.parametrize("global_scale", [1e-38, 1e-30, 1e-3, 1.0, 3.3e10, 1e30, 3.4e38])
def test_extreme_magnitudes(global_scale: float) -> None:
    exponents = torch.linspace(-149, 127, 40).unsqueeze(1)
    x = torch.randn(40, 64) * 2.0**exponents
    assert_same_on_cpu(x, global_scale=torch.tensor([global_scale]))
    assert_same_on_cpu(x.to(torch.bfloat16), global_scale=torch.tensor([global_scale]))
    assert_same_on_cpu(x)
    assert_same_on_cpu(x, granularity="row")


def test_nan_poisons_its_block_only(backend: str) -> None:
    x = torch.randn(2, 48)
    x[0, 17] = NAN
    x[1, 3] = -torch.tensor(NAN)
    for granularity in ("tensor", "row"):
        t = nvfp4.quantize(x, granularity=granularity)  # type: ignore[arg-type]
        scale = t.scale.view(torch.uint8)
        assert (scale == 0x7F).tolist() == [[False, True, False], [True, False, False]]
        assert set(nvfp4.unpack(t.packed)[0, 16:32].tolist()) == {7}
        assert t.dequantize(torch.float32).isnan().sum() == 32
        assert bool(t.global_scale.isfinite().all())


def test_infinities_saturate(backend: str) -> None:
    x = torch.tensor([[INF, -INF, 1.0, 2.0] + [0.5] * 12])
    t = nvfp4.quantize(x)
    assert t.global_scale.item() == 2688 / 2.0, "amax is over finite values"
    assert t.scale.view(torch.uint8).tolist() == [[0x7E]]
    assert nvfp4.unpack(t.packed)[0, :2].tolist() == [7, 15]


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, 1e-38])
def test_degenerate_amax_gives_global_scale_one(value: float, backend: str) -> None:
    t = nvfp4.quantize(torch.full((3, 32), value))
    assert t.global_scale.item() == 1.0
    assert set(t.scale.view(torch.uint8).flatten().tolist()) == {0x20}
    assert set(nvfp4.unpack(t.packed).flatten().tolist()) == {8 if value == 0 and str(value)[0] == "-" else 0}


def test_the_sign_of_zero(backend: str) -> None:
    x = torch.tensor([[-0.0, 0.0, -1e-9, 1e-9] + [1.0] * 12])
    assert nvfp4.unpack(nvfp4.quantize(x).packed)[0, :4].tolist() == [8, 0, 8, 0]
    assert nvfp4.unpack(nvfp4.quantize(x, scheme="compressed-tensors").packed)[0, :4].tolist() == [0, 0, 8, 0]


def test_strided_transposed_and_batched_inputs(backend: str) -> None:
    x = torch.randn(24, 128)
    assert nvfp4.quantize(x[:, 32:96]) == nvfp4.quantize(x[:, 32:96].contiguous())
    assert nvfp4.quantize(x[::3]) == nvfp4.quantize(x[::3].contiguous())
    assert nvfp4.quantize(x[:16].T) == nvfp4.quantize(x[:16].T.contiguous())
    batched = nvfp4.quantize(x.view(2, 3, 4, 128), granularity="row")
    flat = nvfp4.quantize(x, granularity="row")
    assert batched.global_scale.shape == (2, 3, 4, 1)
    assert torch.equal(batched.packed.view(24, 64), flat.packed)
    assert nvfp4.quantize(x[0]).shape == (128,)
    expanded = x[:1].expand(5, 128)
    assert nvfp4.quantize(expanded) == nvfp4.quantize(expanded.contiguous())


def test_a_row_does_not_depend_on_its_neighbours(backend: str) -> None:
    x = outliers(33, 96)
    t = nvfp4.quantize(x, granularity="row")
    for row in (0, 7, 32):
        one = nvfp4.quantize(x[row : row + 1], granularity="row")
        assert torch.equal(one.packed[0], t.packed[row])
        assert same_bits(one.scale[0], t.scale[row])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("layout", ["plain", "128x4", "n16k64"])
def test_dequantize_every_code_with_every_scale(dtype: torch.dtype, layout: str) -> None:
    codes = torch.arange(16, dtype=torch.uint8).expand(127, 16)
    packed, scale = nvfp4.pack(codes), torch.arange(127).to(torch.uint8).view(127, 1)
    for global_scale in (1.0, 448.0, 1 / 3, 1e30, 1e-30):
        t = nvfp4.NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), torch.tensor([global_scale]), (127, 16))
        wanted = reference.dequantize(t, dtype)
        with backends.force("cpu"):
            assert same_bits(nvfp4.to_layout(t, layout).dequantize(dtype), wanted)


def test_threads_do_not_change_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    x = outliers(300, 512, torch.bfloat16)
    results = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(backends.cpu, "_THREADS", threads)
        results.append(nvfp4.quantize(x, granularity="row", layout="128x4"))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        ((torch.zeros(4, 17),), ValueError, "nearest legal K is 16"),
        ((torch.zeros(4, 16, dtype=torch.float64),), TypeError, "float64"),
        ((torch.zeros(4, 16, dtype=torch.int32),), TypeError, "int32"),
        ((torch.zeros(()),), ValueError, "scalar"),
        ((torch.zeros(4, 16), torch.ones(2)), ValueError, r"global_scale: got shape \(2,\)"),
        ((torch.zeros(4, 16), torch.ones(1, dtype=torch.bfloat16)), TypeError, "bfloat16"),
        ((torch.zeros(4, 16), torch.tensor([0.0])), ValueError, "global"),
        ((torch.zeros(4, 16), torch.tensor([-3.0])), ValueError, "global"),
        ((torch.zeros(4, 16), torch.tensor([NAN])), ValueError, "global"),
        ((torch.zeros(4, 16), torch.tensor([INF])), ValueError, "global"),
        ((torch.zeros(4, 16), None, "column"), ValueError, "granularity: got 'column'"),
    ],
)
def test_malformed_calls(args: tuple[object, ...], error: type[Exception], message: str, backend: str) -> None:
    with pytest.raises(error, match=message):
        nvfp4.quantize(*args)  # type: ignore[arg-type]


def test_malformed_choices() -> None:
    x = torch.zeros(4, 16)
    with pytest.raises(ValueError, match="scheme: got 'mxfp4'"):
        nvfp4.quantize(x, scheme="mxfp4")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layout: got 'n16k64'"):
        nvfp4.quantize(x, layout="n16k64")
    with pytest.raises(ValueError, match="one global scale a tensor"):
        nvfp4.quantize(x, granularity="row", scheme="compressed-tensors")
    with pytest.raises(TypeError, match="wanted an NVFP4Tensor"):
        nvfp4.dequantize(x)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="dtype"):
        nvfp4.dequantize(nvfp4.quantize(x), torch.float64)
