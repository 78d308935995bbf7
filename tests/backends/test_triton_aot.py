"""Triton's kernels compiled ahead of time for GPUs that are not here: what they multiply with, and what they do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import triton
import triton.language as tl

from nvfp4.backends.triton import dequantize, finish, fused, gemm, plan, products, quantize, tiles, tokens
from nvfp4.backends.triton.plan import Gpu
from triton_aot import (
    CAPABILITIES,
    compiled,
    disassembled,
    has_no_spills,
    in_flight,
    instructions,
    waits_before_memory,
)

pytestmark = pytest.mark.skipif(
    bool(triton.knobs.runtime.interpret), reason="TRITON_INTERPRET=1: kernels are interpreted, not compiled"
)

SHARED_KIB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99, 121: 99}
BYTES = {"packed": "*i32", "scale": "*u8", "global_scale": "*fp32"}
SIZES = {"rows": "i32", "groups": "i32"}
ALPHA = {"weight_scale": "*fp32", "up_scale": "*fp32", "alpha": "*fp32"}
QUANTIZE: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    *(
        (
            "quantize_blocks",
            {"x": dtype, **BYTES, **SIZES, "stride": "i32"},
            {"PER_ROW": per_row, "SWIZZLED": per_row, "EXACT_CT": not per_row, "ENDS": int(per_row), "B": 64},
        )
        for dtype in ("*fp32", "*fp16", "*bf16")
        for per_row in (False, True)
    ),
    *(
        ("quantize_rows", {"x": dtype, **BYTES, "stride": "i32"}, {"GROUPS": groups, "SWIZZLED": dtype == "*fp32"})
        for dtype, groups in (("*bf16", 1), ("*bf16", 336), ("*bf16", 1344), ("*fp32", 1344))
    ),
    (
        "_tensor_amax",
        {"x": "*fp16", "amax": "*i32", **SIZES, "stride": "i32"},
        {"ENDS": 1, "B": quantize.AMAX_BLOCKS},
    ),
]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(("name", "arguments", "constants"), QUANTIZE, ids=lambda value: str(value)[:40])
def test_quantize(name: str, arguments: dict[str, str], constants: dict[str, Any], capability: int) -> None:
    """IEEE divisions, and no multiplication fused with an addition but where that is written."""
    tile = {"num_warps": 8 if name == "_tensor_amax" else 2}
    if name == "quantize_rows":
        tile = quantize.tile_of_row(constants["GROUPS"], 4 if arguments["x"] == "*fp32" else 2)
    warps = tile.pop("num_warps")
    code = compiled(getattr(quantize, name), arguments, {**constants, **tile}, capability, warps)
    ptx = code.asm["ptx"]
    found = instructions(code)
    assert has_no_spills(found)
    # A thread has whole blocks, so warps only look together whether all are usual.
    assert found["SHFL"] <= 1 or name != "quantize_blocks"
    assert ("fma" in ptx) == (name in ("quantize_blocks", "quantize_rows") and not constants.get("EXACT_CT"))
    assert ("div.rn.f32" in ptx) == (name != "_tensor_amax")
    assert ".local" not in ptx


@pytest.mark.parametrize("ends", [0, 2])
def test_sizes_of_one(ends: int) -> None:
    """Triton makes constants of arguments that are 1, and its interpreter does not."""
    one = {"rows": 1, "groups": 1}
    x, kinds = {"x": "*bf16", "stride": "i32"}, {"PER_ROW": False, "SWIZZLED": False, "ENDS": ends, "B": 64}
    for kernel, arguments, constants in (
        (quantize.quantize_blocks, {**x, **BYTES}, {**kinds, "EXACT_CT": False}),
        (quantize._tensor_amax, {**x, "amax": "*i32"}, {"ENDS": ends, "B": 64}),
        (dequantize.dequantize_blocks, {**BYTES, "packed": "*u8", "out": "*bf16"}, kinds),
    ):
        assert compiled(kernel, arguments, {**one, **constants}, 90).asm["cubin"]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("dtype", ["*fp32", "*fp16", "*bf16"])
def test_dequantize(dtype: str, capability: int) -> None:
    constants = {"PER_ROW": True, "SWIZZLED": True, "ENDS": 2, "B": 64}
    ptx = compiled(
        dequantize.dequantize_blocks, {**BYTES, "packed": "*u8", "out": dtype, **SIZES}, constants, capability
    ).asm["ptx"]
    assert "div.rn.f32" in ptx
    assert "fma" not in ptx
    assert ".local" not in ptx


def tiles_of_tokens() -> Iterator[tuple[dict[str, int], int]]:
    """Those of a row that several programs share, of a short one and of a long one, and their warps."""
    for units, each in ((84, 8), (21, 21), (84, 84)):
        tile = products.tile_of_tokens(units, each, per_row=True)
        warps = tile.pop("num_warps")
        yield tile, warps


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_tiles_and_tokens(capability: int) -> None:
    words = {"words": "*i16", "halves": "*u8"}
    plain = {"packed": "*u8", "scale": "*u8"}
    sizes = {**SIZES, "units": "i32"}
    x = {"x": "*bf16", "tokens": "*bf16"}
    early = Gpu(divmod(capability, 10), 132, 0).has_early_launch
    for code in (
        compiled(tiles.pack_tiles, {**plain, **words, **sizes}, {}, capability, 8),
        compiled(tiles.unpack_tiles, {**words, **plain, **sizes}, {}, capability, 8),
        compiled(
            gemm.unpack_weight, {**words, "out": "*bf16", "units": "i32"}, {}, capability, 8
        ),
        compiled(
            tokens.permute_tokens, {**x, "x": "*fp32", **ALPHA, **sizes, "stride": "i32"},
            {"UP": True, "PARTS": 3, "U": 8, "EARLY": early}, capability, 8,
        ),
        *(
            compiled(
                tokens.quantize_tokens,
                {**x, "global_scale": "*fp32", **ALPHA, "groups": "i32", "units": "i32", "stride": "i32",
                 "each": "i32"},
                {"PER_ROW": True, "UP": True, "EARLY": early, **tile}, capability, warps,
            )
            for tile, warps in tiles_of_tokens()
        ),
    ):  # fmt: skip
        assert has_no_spills(instructions(code))


def tiles_of(capability: int) -> list[plan.Tile]:
    """Those that products of any number of tokens take on such a GPU."""
    gpu = Gpu(divmod(capability, 10), 132, SHARED_KIB[capability] << 10)
    return [*dict.fromkeys(plan.tile_for(tokens, gpu) for tokens in (1, 16, 32, 64, 128, 256))]


WHOLE, PARTIAL, EARLY, HALF = "whole", "partial", "early", "float16"
KINDS = {90: (WHOLE, PARTIAL, EARLY, HALF)}
CASES = [
    (capability, tile, kind)
    for capability in CAPABILITIES
    for tile in tiles_of(capability)
    for kind in KINDS.get(capability, (PARTIAL if tile.tokens == 16 else WHOLE,))
    if not (kind == EARLY and tile.tokens > 32) and not (kind == PARTIAL and tile.is_alone)
]


@pytest.mark.parametrize(("capability", "tile", "kind"), CASES, ids=lambda value: str(value).replace(" ", ""))
def test_products(capability: int, tile: plan.Tile, kind: str) -> None:
    """By tensor cores on 16-bit numbers, out of registers that suffice; and as many at once as Hopper's can be."""
    copied = tile.copied and capability == 90
    is_early = kind == EARLY or (capability > 90 and tile.tokens <= 32)
    operand, to = ("fp16", tl.float16) if kind == HALF else ("bf16", tl.bfloat16)
    x = f"tensordesc<{operand}[{tile.tokens},128]>" if copied else f"*{operand}"
    partial = kind == PARTIAL
    code = compiled(
        gemm.multiply,
        {"words": "*i16", "halves": "*u8", "x": x, "alpha": "*fp32", "bias": "*bf16",
         "out": "*fp32" if partial else "*bf16", "sums": "*fp32", "tokens": "i32", "rows": "i32", "units": "i32",
         "each": "i32", "whole": "i32", "parts": "i32"},
        {"TO": to, "PANELS": tile.panels, "M": tile.tokens, "STAGES": tile.stages,
         "WARPGROUPS": capability == 90, "COPIED": copied, "PARTIAL": partial, "SHARED": tile.is_alone,
         "PER_TOKEN": not partial, "UP": tile.is_alone, "BIAS": not partial, "EARLY": is_early},
        capability, tile.warps,
    )  # fmt: skip
    ptx, found = code.asm["ptx"], instructions(code)
    assert not is_early or waits_before_memory(found)
    assert code.metadata.shared <= SHARED_KIB[capability] << 10
    assert "mxf4" not in ptx
    # Triton 3.6's ptxas spills one register of it on 12.0 and 12.1.
    is_known = capability >= 120 and tile.tokens == 16 and partial and triton.__version__.startswith("3.6.")
    assert is_known or has_no_spills(found)
    if capability == 90 and (tile.tokens >= 16 or found["HGMMA"]):  # which 8 tokens take is Triton's choice
        assert "wgmma.mma_async.sync.aligned" in ptx
        text = disassembled(code)
        # The kernel waits before it unpacks, Triton after the loop; ptxas would for each product that it serialises.
        assert text.count("WARPGROUP.DEPBAR.LE gsb0, 0x0") == 2
        products, overwritten = in_flight(text)
        assert products == found["HGMMA"] == 8 * tile.panels * 4 // tile.warps
        assert overwritten == []
    elif capability == 100 and tile.tokens >= 16:
        assert "tcgen05.mma" in ptx
        assert found["UTCHMMA"]
    else:
        sixteen = "f16.f16" if kind == HALF else "bf16.bf16"
        assert f"mma.sync.aligned.m16n8k16.row.col.f32.{sixteen}.f32" in ptx
        assert found["HMMA"]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize("per_row", [False, True])
def test_finish(per_row: bool, capability: int) -> None:
    early = capability >= 90
    found = instructions(
        compiled(
            finish.finish,
            {"sums": "*fp32", "alpha": "*fp32", "token_scale": "*fp32", "weight_scale": "*fp32", "bias": "*bf16",
             "out": "*bf16", "tokens": "i32", "rows": "i32", "partials": "i32", "width": "i32"},
            {"PER_TOKEN": True, "UP": not per_row, "PER_ROW": per_row, "QUANTISED": True, "BIAS": True, "N": 512,
             "EARLY": early},
            capability, 8,
        )
    )  # fmt: skip
    assert has_no_spills(found)
    assert not early or waits_before_memory(found)


def test_sums_of_the_last_tiles() -> None:
    tile = tiles_of(90)[-1]
    code = compiled(
        finish.finish_shared,
        {"sums": "*fp32", "alpha": "*fp32", "bias": "*bf16", "out": "*bf16", "tokens": "i32", "rows": "i32",
         "whole": "i32", "parts": "i32"},
        {"M": tile.tokens, "N": 64 * tile.panels, "SOME": 16, "PER_TOKEN": True, "UP": True, "BIAS": True}, 90, 8,
    )  # fmt: skip
    assert has_no_spills(instructions(code))


def test_operands_that_are_overwritten_are_found() -> None:
    """A loop whose product is still to be done when its operand's registers get something else."""
    loop = """.L_x_1:
        /*0010*/ {early} ;
        /*0020*/ WARPGROUP.DEPBAR.LE gsb0, 0x0 ;
        /*0030*/ HMUL2.BF16_V2 R10, R1, R2 ;
        /*0040*/ HGMMA.64x256x16.F32.BF16 R24, R8.reuse, gdesc[UR4], R24, gsb0 ;
        /*0050*/ LDS.128 R4, [R1] ;
        /*0060*/ @P0 BRA `(.L_x_1) ;
"""
    for early in (
        "IMAD.U32 R12, RZ, RZ, UR4",
        "ISETP.GT.AND P0, PT, R9, RZ, PT",
        "STS.128 [R9], R8",
        "CS2R.32 R7, SRZ",
    ):
        assert in_flight(loop.format(early=early)) == (1, [])
    for early in (
        "IMAD.U32 R9, RZ, RZ, UR4", "LDS.128 R8, [R1+UR4]", "@P1 IADD3 R11, P0, R1, R2, RZ", "CS2R R7, SRZ",
        "LDSM.16.MT88.4 R6, [R1]", "HMMA.16816.F32.BF16 R5, R40, R44, R5", "DADD R7, R2, R4",
    ):  # fmt: skip
        products, (line,) = in_flight(loop.format(early=early))
        assert products == 1
        assert line in early


@pytest.mark.parametrize("capability", [80, 90, 120])
@pytest.mark.parametrize("dtype", ["*fp32", "*bf16"])
def test_fused(dtype: str, capability: int) -> None:
    wide, blocks = (2048, 256) if dtype == "*fp32" else (8192, 512)
    row = {"groups": "i32", "stride": "i32"}
    each = {**row, "each": "i32"}
    norm = {"x": dtype, "residual": dtype, "weight": dtype, "total": dtype, **BYTES, **row, "residual_stride": "i32",
            "eps": "fp64"}  # fmt: skip
    kinds = {"COMPUTED": True, "PER_ROW": True, "SWIZZLED": True}
    tokens_of = {"x": dtype, "tokens": "*bf16", "global_scale": "*fp32", **ALPHA, "groups": "i32", "units": "i32",
                 "stride": "i32", "each": "i32"}  # fmt: skip
    for code in (
        compiled(
            fused.quantize_norm, norm, {"RESIDUAL": True, "UNIT_OFFSET": True, **kinds, "B": blocks}, capability, 16
        ),
        compiled(
            fused.quantize_gated, {"x": dtype, **BYTES, **each},
            {**kinds, "ACTIVATION": "gelu", "INTERLEAVED": True, "WIDE": wide // 16, "B": 128}, capability, 8,
        ),
        compiled(
            fused.gated_tokens, tokens_of,
            {"PER_ROW": True, "UP": False, "WIDE": wide, "U": 8, "ACTIVATION": "gelu_tanh", "QUANTISED": True,
             "EARLY": capability >= 90},
            capability, 8,
        ),
    ):  # fmt: skip
        # Triton 3.7's ptxas spills some of a float32 row's on 12.0, where a compiled kernel serves.
        is_known = dtype == "*fp32" and capability == 120 and triton.__version__.startswith("3.7.")
        assert is_known or has_no_spills(instructions(code))
