"""Triton's kernels compiled ahead of time for GPUs that are not here, and what their machine code holds."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
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


_PLACE = re.compile(r"^(\.L_x_\d+):|/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", re.MULTILINE)
_GUARD = re.compile(r"^@!?U?P\w+ ")
_WRITTEN = re.compile(r"^(\S+) (?:U?P[T\d], )*R(\d+)\b")
_READS_ONLY = ("ST", "RED", "BAR", "HGMMA", "LDGSTS", "SYNCS", "R2UR", "ISETP", "FSETP", "PLOP3")
_FOUR = re.compile(r"\.128|\.MT?88\.4|^HMMA")
_TWO = re.compile(r"\.64|\.F64|WIDE|\.MT?88\.2|^D[A-Z]+|^CS2R(?!\.32)")


def _loops(text: str) -> Iterator[list[str]]:
    """The instructions from every label to a branch back to it, in the order in which they lie."""
    lines: list[str] = []
    labels: dict[str, int] = {}
    for label, line in _PLACE.findall(text):
        if label:
            labels[label] = len(lines)
            continue
        lines.append(_GUARD.sub("", line))
        back = re.match(r"BRA.*`\((\.L_x_\d+)\)", lines[-1])
        if back and back[1] in labels:
            yield lines[labels[back[1]] :]


def _written(line: str) -> set[int]:
    """Registers that an instruction writes."""
    found = _WRITTEN.match(line)
    if not found or found[1].startswith(_READS_ONLY):
        return set()
    count = 4 if _FOUR.search(found[1]) else 2 if _TWO.search(found[1]) else 1
    return {int(found[2]) + i for i in range(count)}


def in_flight(text: str) -> tuple[int, list[str]]:
    """Products of warpgroups in loops whose operand is in registers, and what is written to these too early.

    A product is in flight until a wait leaves no more groups than were issued after it; twice around each loop, so that
    what one iteration issues is seen in the next.

    Returns:
        How many such products the first of these loops has, and the instructions that write to registers which one in
        flight may still read.
    """
    counts, found = [], []
    for loop in _loops(text):
        products = 0
        groups: list[set[int]] = []
        current: set[int] = set()
        for line in loop * 2:
            if line.startswith("HGMMA"):
                operand = re.match(r"HGMMA\S+ R\d+, R(\d+)\b", line)
                if operand:
                    products += 1
                    current |= {int(operand[1]) + i for i in range(4)}
                if "gsb0" in line:
                    groups, current = [*groups, current], set()
            elif line.startswith("WARPGROUP.DEPBAR"):
                left = int(line.rsplit(" ", 1)[1], 16)
                groups = groups[len(groups) - left :] if left < len(groups) else groups
            elif _written(line) & current.union(*groups):
                found.append(line)
        counts.append(products // 2)
    return next(filter(None, counts), 0), found


def disassembled(code: Any) -> str:
    """The machine code, as text."""
    nvdisasm = sass.tool("nvdisasm")
    if nvdisasm is None:
        pytest.skip("nvdisasm is missing; pip install nvidia-cuda-nvdisasm")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code.asm["cubin"])
        file.flush()
        return subprocess.run([nvdisasm, "-c", file.name], capture_output=True, text=True, check=True).stdout


def instructions(code: Any) -> Counter[str]:
    """Of the machine code, by the first part of their names, in the order of their first appearance."""
    text = disassembled(code)
    found = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", text)
    return Counter(found)
