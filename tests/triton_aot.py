"""Triton's kernels compiled ahead of time for GPUs that are not here, and what their machine code holds."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from audit import sass

CAPABILITIES = {80: "sm_80", 86: "sm_86", 89: "sm_89", 90: "sm_90a", 100: "sm_100a", 120: "sm_120a", 121: "sm_121a"}


def compiled(kernel: Any, arguments: dict[str, str], constants: dict[str, Any], capability: int, warps: int = 4) -> Any:
    """A kernel as the backend launches it: pointers and rows aligned, sizes of any value."""
    names = list(kernel.arg_names)
    aligned = [name for name, kind in arguments.items() if kind[0] == "*" or name.endswith("stride")]
    source = ASTSource(
        kernel,
        {**arguments, **dict.fromkeys(constants, "constexpr")},
        constexprs={(names.index(constant),): value for constant, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": warps, "enable_fp_fusion": False}
    code = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    ptx = code.asm["ptx"]
    assert re.findall(r"^\.target (\w+)", ptx, re.MULTILINE) == [CAPABILITIES[capability]]
    assert ".ftz" not in ptx
    assert "e4m3" not in ptx
    assert not re.search(r"div\.(full|approx)", ptx)
    return code


SPILLS = triton.__version__.startswith(("3.6.", "3.7."))
"""Whether spilled registers are a fault: not in other versions, which spill one or two in places."""


def has_no_spills(found: Counter[str]) -> bool:
    """Whether no register goes to local memory and back, where that is asked."""
    return not SPILLS or found["LDL"] == found["STL"] == 0


def waits_before_memory(found: Counter[str]) -> bool:
    """Whether a kernel that is launched early waits for the one ahead before it loads or stores anything.

    `griddepcontrol.wait` is ACQBULK, and instructions are counted in the order in which each kind first appears.
    """
    order = [*found]
    memory = [order.index(name) for name in ("LDG", "LDGSTS", "UTMALDG", "STG", "ATOMG", "RED") if name in found]
    return bool(memory) and order.index("ACQBULK") < min(memory)


def instructions(code: Any) -> Counter[str]:
    """Of the machine code, by the first part of their names, in the order of their first appearance."""
    nvdisasm = sass.tool("nvdisasm")
    if nvdisasm is None:
        pytest.skip("nvdisasm is missing; pip install nvidia-cuda-nvdisasm")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.asm["cubin"])
        file.flush()
        text = subprocess.run([nvdisasm, "-c", file.name], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", text)
    return Counter(found)
