"""Triton's kernels compiled ahead of time for GPUs that are not here: into code, with IEEE divisions alone."""

from __future__ import annotations

import re
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from nvfp4.backends.triton import kernels

pytestmark = pytest.mark.skipif(
    bool(triton.knobs.runtime.interpret), reason="TRITON_INTERPRET=1: kernels are interpreted, not compiled"
)

CAPABILITIES = {80: "sm_80", 86: "sm_86", 89: "sm_89", 90: "sm_90a", 100: "sm_100a", 120: "sm_120a", 121: "sm_121a"}
BYTES = {"packed": "*u8", "scale": "*u8", "global_scale": "*fp32"}
SIZES = {"rows": "i32", "groups": "i32"}
CASES: list[tuple[str, dict[str, str], dict[str, Any]]] = [
    *(
        (
            "quantize_blocks",
            {"x": dtype, **BYTES, **SIZES, "stride": "i32"},
            {"PER_ROW": per_row, "SWIZZLED": per_row, "EXACT_CT": not per_row, "B": 64},
        )
        for dtype in ("*fp32", "*fp16", "*bf16")
        for per_row in (False, True)
    ),
    ("quantize_rows", {"x": "*bf16", **BYTES, "stride": "i32"}, {"GROUPS": 336, "SWIZZLED": False, "B": 64}),
    ("tensor_amax", {"x": "*fp16", "amax": "*i32", **SIZES, "stride": "i32"}, {"B": 64}),
    *(
        (
            "dequantize_blocks",
            {**BYTES, "out": dtype, **SIZES},
            {"PER_ROW": True, "SWIZZLED": True, "B": 64},
        )
        for dtype in ("*fp32", "*fp16", "*bf16")
    ),
]


@pytest.mark.parametrize("capability", CAPABILITIES)
@pytest.mark.parametrize(("name", "arguments", "constants"), CASES, ids=lambda value: str(value)[:40])
def test_it_compiles(name: str, arguments: dict[str, str], constants: dict[str, Any], capability: int) -> None:
    names = [*arguments, *constants]
    source = ASTSource(
        getattr(kernels, name),
        {**arguments, **dict.fromkeys(constants, "constexpr")},
        constexprs={(names.index(constant),): value for constant, value in constants.items()},
    )
    options = {"num_warps": 4, "enable_fp_fusion": False}
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = code.asm["ptx"]
    assert re.findall(r"^\.target (\w+)", ptx, re.MULTILINE) == [CAPABILITIES[capability]]
    assert code.asm["cubin"]
    assert ".ftz" not in ptx
    assert ("fma" in ptx) == (name in ("quantize_blocks", "quantize_rows") and not constants.get("EXACT_CT"))
    assert "e4m3" not in ptx
    assert ".local" not in ptx
    assert ("div.rn.f32" in ptx) == (name != "tensor_amax")
    assert not re.search(r"div\.(full|approx)", ptx)
