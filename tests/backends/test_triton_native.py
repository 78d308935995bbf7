"""The FP4 product by tl.dot_scaled, compiled ahead of time, each GPU's in a process of its own, which it may end.

Run with a compute capability, such as 120, this file compiles for it and prints what came of it; with 0 Triton's
interpreter computes products.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nvfp4.backends.triton import native, versions

pytestmark = pytest.mark.skipif(
    bool(triton.knobs.runtime.interpret), reason="TRITON_INTERPRET=1: kernels are interpreted, not compiled"
)

VERSION = importlib.metadata.version("triton")
RELEASE = tuple(int(part) for part in VERSION.split(".")[:2])
INSTRUCTIONS = {
    10: r"tcgen05\.mma\.cta_group::1\.kind::mxf4nvf4\.block_scale\.(scale_vec::4X|block16)",  # two names of the same
    12: r"mma\.sync\.aligned\.m16n8k64\.row\.col\.kind::mxf4nvf4\.block_scale\.scale_vec::4X\..+\.ue4m3",
}
SHARED_KIB = {10: 227, 12: 99}
PROVEN = [capability for capability, proven in versions.NATIVE.items() if RELEASE in proven]
REFUSED = [c for c in ((8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0), (12, 1)) if c not in PROVEN]
SIZES = (5376, 5424)  # a multiple of 256, so that nothing or, of 512, the end is masked; and scales of no whole words
SENTENCE = "Triton {} is not known to compile FP4 products for compute capability {}: pip install 'triton>={},<3.10'"


def compiled(tile: native.Tile, capability: int, per_token: bool, bias: bool, dtype: str) -> Any:
    """The kernel as `product` launches it."""
    pointers = ("packed_x", "scale_x", "packed_w", "scale_w", "alpha", "bias", "out")
    types = {**dict.fromkeys(pointers, "*u8"), "alpha": "*fp32", "bias": f"*{dtype}", "out": f"*{dtype}"}
    sizes = {"tokens": "i32", "rows": "i32", "k": "i32"}
    constants = {"N": tile.rows, "M": tile.tokens, "K": tile.columns, "UNIT": tile.unit, "STAGES": tile.stages,
                 "PER_TOKEN": per_token, "BIAS": bias}  # fmt: skip
    at = {name: (place,) for place, name in enumerate((*types, *sizes, *constants))}
    source = ASTSource(
        native.multiply_native,
        {**types, **sizes, **dict.fromkeys(constants, "constexpr")},
        constexprs={at[name]: value for name, value in constants.items()},
        attrs={at[name]: [["tt.divisibility", 16]] for name in (*types, "rows", "k")},
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": tile.warps, "enable_fp_fusion": False})


def local_accesses(cubin: bytes) -> int | None:
    """Instructions on memory that registers are spilled to; None where nothing disassembles."""
    from audit import sass

    nvdisasm = sass.tool("nvdisasm")
    if nvdisasm is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "cubin")
        file.write_bytes(cubin)
        code = subprocess.run([nvdisasm, "-c", file], capture_output=True, text=True, check=True).stdout
    return len(re.findall(r"\b(?:LDL|STL)\b", code))


def report(capability: int) -> list[dict[str, Any]]:
    """Of every tile: what its code multiplies with, and what it takes."""
    variants = cycle([(True, True, "bf16"), (False, False, "fp32"), (False, True, "fp16")])
    cases = [(tokens, k) for tokens in (16, 32, 64, 128, 256) for k in SIZES]
    if capability not in (100, 120):
        cases = cases[::9]  # others are refused, or much like one of these
    tiles = dict.fromkeys(native.tile_for(*case, divmod(capability, 10)) for case in cases)
    found = []
    for tile, variant in zip(tiles, variants, strict=False):
        code = compiled(tile, capability, *variant)
        instructions = re.findall(r"(?:mma\.sync|tcgen05\.mma|wgmma\.mma_async)\.[\w.:]+", code.asm["ptx"])
        target = re.findall(r"^\.target (\w+)", code.asm["ptx"], re.MULTILINE)
        found.append({"tile": tile, "target": target, "instructions": sorted(set(instructions)),
                      "shared": code.metadata.shared, "local": local_accesses(code.asm["cubin"])})  # fmt: skip
    return found


def interpret() -> None:
    """Products by Triton's interpreter, which takes any scale for a power of two; so does what is expected of it."""
    import torch

    from nvfp4 import formats, layout

    def operand(rows: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        packed = torch.randint(0, 256, (rows, k // 2), dtype=torch.uint8)
        scale = torch.randint(125, 130, (rows, k // 16), dtype=torch.uint8)
        values = formats.decode_e2m1(layout.unpack(packed)) * 2.0 ** (scale.int() - 127).repeat_interleave(16, dim=1)
        return packed, scale, values.double()

    for capability in ((10, 0), (12, 0)):
        torch.cuda.get_device_capability = lambda _, found=capability: found
        for tokens, rows, k in ((3, 130, 48), (17, 200, 576), (40, 300, 272), (65, 1100, 256), (129, 140, 80)):
            (packed_x, scale_x, x), (packed_w, scale_w, w) = operand(tokens, k), operand(rows, k)
            alpha, bias = 2.0 ** torch.randint(-2, 3, (tokens,)), torch.randint(-9, 9, (rows,)).half()
            out = torch.empty(tokens, rows)
            native.product(packed_x, scale_x, packed_w, scale_w, alpha, bias, out)
            assert torch.equal(out, (alpha.double()[:, None] * (x @ w.T) + bias.double()).float())


@cache
def apart(capability: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """This file run in a process of its own."""
    return subprocess.run(
        [sys.executable, __file__, capability],
        capture_output=True, text=True, timeout=280, check=False, env={**os.environ, **variables},
    )  # fmt: skip


def reported(capability: tuple[int, int]) -> list[dict[str, Any]]:
    done = apart("{}{}".format(*capability))
    assert done.returncode == 0, done.stderr[-3000:]
    lines: list[dict[str, Any]] = json.loads(done.stdout)
    return lines


@pytest.mark.parametrize("capability", PROVEN, ids=str)
def test_what_is_proven_compiles_to_the_instruction(capability: tuple[int, int]) -> None:
    assert versions.native_refusal(capability, VERSION) == ""
    lines = reported(capability)
    assert len(lines) == (8 if capability[1] == 0 else 2)
    for line in lines:
        assert line["target"] == [f"sm_{capability[0]}{capability[1]}a"]
        assert len(line["instructions"]) == 1, line
        assert re.fullmatch(INSTRUCTIONS[capability[0]], line["instructions"][0]), line
        assert line["shared"] <= SHARED_KIB[capability[0]] << 10, line


@pytest.mark.parametrize("capability", PROVEN, ids=str)
def test_nothing_is_spilled(capability: tuple[int, int]) -> None:
    lines = reported(capability)
    if lines[0]["local"] is None:
        pytest.skip("nvdisasm is missing; pip install nvidia-cuda-nvdisasm")
    assert [line["tile"] for line in lines if line["local"]] == []


@pytest.mark.parametrize("capability", REFUSED, ids=str)
def test_the_rest_is_refused(capability: tuple[int, int]) -> None:
    refusal = versions.native_refusal(capability, VERSION)
    assert "compute capability {}.{}".format(*capability) in refusal
    assert ("pip install 'triton>=" in refusal) == (capability in versions.NATIVE)


def test_what_is_refused_does_not_compile_to_it() -> None:
    assert "mxf4nvf4" not in apart("90").stdout


@pytest.mark.skipif(RELEASE < (3, 8), reason="Triton's interpreter has dot_scaled since 3.8")
def test_interpreted_products() -> None:
    done = apart("0", TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("capability", "version", "refusal"),
    [
        ((12, 0), "3.6.0", ""),
        ((12, 0), "3.9.0+git1234", ""),
        ((9, 0), "3.9.0", "compute capability 9.0 has no FP4 tensor cores"),
        ((11, 0), "3.9.0", "no version of Triton is known to compile FP4 products for compute capability 11.0"),
        ((12, 1), "3.8.0", "no version of Triton is known to compile FP4 products for compute capability 12.1"),
        ((12, 0), "3.5.1", SENTENCE.format("3.5.1", "12.0", "3.6")),
        ((10, 0), "3.10.0", SENTENCE.format("3.10.0", "10.0", "3.6")),
    ],
)
def test_native_refusals(capability: tuple[int, int], version: str, refusal: str) -> None:
    assert versions.native_refusal(capability, version) == refusal


def test_triton_refusals() -> None:
    assert [versions.triton_refusal(version) for version in (VERSION, "3.6.0", "4.0")] == ["", "", ""]
    for version in ("3.4.0", "2.1", "unknown"):
        assert versions.triton_refusal(version) == f"Triton {version} is too old: pip install 'triton>=3.6'"
    flushing = "Triton 3.5.1 takes subnormal numbers for zero where it divides: pip install 'triton>=3.6'"
    assert versions.triton_refusal("3.5.1") == flushing


def test_what_was_never_run_is_said() -> None:
    assert [versions.unproven((9, 0), version) for version in ("3.6.0", "3.7.1", "3.9.0")] == ["", "", ""]
    assert "Triton 3.10.0 was never tried" in versions.unproven((9, 0), "3.10.0")
    for capability in ((8, 0), (8, 9), (10, 0), (12, 1)):
        assert "never run on compute capability {}.{} ".format(*capability) in versions.unproven(capability, "3.6.0")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    print(json.dumps(report(int(sys.argv[1])) if sys.argv[1] != "0" else interpret()))
