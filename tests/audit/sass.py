"""Reads the SM120 machine code of the matrix products: what the main loop issues beside its tensor instruction.

Run as a script it prints a table: ``python tests/audit/sass.py``. cuobjdump and nvdisasm come from PyPI
(``nvidia-cuda-cuobjdump``, ``nvidia-cuda-nvdisasm``) or from the CUDA toolkit.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from nvfp4 import _C

LINE = re.compile(r"\s+/\*([0-9a-f]{4,})\*/\s+((?:@!?U?P\w+\s+)?)([A-Z][\w.]*)(.*?);")
TILE = re.compile(r"4TileILi(\d+)ELi(\d+)ELi(\d+)ELi(\d+)ELi(\d+)ELi(\d+)E")
NAMES = {(8, 1): "stream-8", (16, 1): "stream-16", (32, 1): "stream-32", (64, 1): "stream-64",
         (128, 1): "128x128x128", (128, 2): "128x128x256", (256, 1): "256x128x128"}  # fmt: skip


@dataclass
class Instruction:
    address: int
    guard: str
    name: str
    operands: str

    @property
    def is_filler(self) -> bool:
        """ptxas puts one of these between two tensor instructions that would else follow each other."""
        return self.name == "NOP" or (self.guard == "@!UPT" and self.name == "UIADD3")

    def registers(self) -> list[list[int]]:
        """The register ranges of every operand, the destination first."""
        widths = {"OMMA": (4, 4, 2, 4, 1, 1), "LDSM": (4 if self.name.endswith(".4") else 2,)}
        wide = 4 if "128" in self.name else 2 if "64" in self.name else 1
        given = widths.get(self.name.split(".")[0], (wide,))
        found = [int(n) for n in re.findall(r"\bR(\d+)\b", self.operands.split("[")[0])]
        return [list(range(r, r + given[min(i, len(given) - 1)])) for i, r in enumerate(found)]


@dataclass
class Kernel:
    """What the audit says of one kernel; instructions are those of its main loop."""

    name: str
    code: list[Instruction]
    loop: list[Instruction] = field(default_factory=list)

    def count(self, what: str, code: list[Instruction] | None = None) -> int:
        return sum(i.name.split(".")[0] == what for i in (self.code if code is None else code))

    @property
    def ommas(self) -> int:
        return self.count("OMMA", self.loop)

    @property
    def per_omma(self) -> float:
        """Instructions a tensor instruction, fillers left out."""
        return sum(not i.is_filler for i in self.loop) / self.ommas

    @property
    def per_omma_with_fillers(self) -> float:
        return len(self.loop) / self.ommas

    @property
    def local_accesses(self) -> int:
        return self.count("LDL") + self.count("STL")

    @property
    def registers(self) -> int:
        """The highest register used, and one."""
        return 1 + max(int(n) for i in self.code for n in re.findall(r"\bR(\d+)\b", i.operands))

    @property
    def load_to_use(self) -> int:
        """The fewest tensor instructions between a load from shared memory and the first that reads what it brought."""
        least = self.ommas
        twice = [*self.loop, *self.loop]
        for start, load in enumerate(self.loop):
            if load.name.split(".")[0] not in ("LDS", "LDSM"):
                continue
            brought = set(load.registers()[0])
            passed = 0
            for other in twice[start + 1 :]:
                if other.name.split(".")[0] != "OMMA":
                    continue
                if any(brought & set(read) for read in other.registers()[1:]):
                    least = min(least, passed)
                    break
                passed += 1
        return least

    def classes(self) -> str:
        named = Counter(i.name.split(".")[0] for i in self.loop if not i.is_filler)
        return ", ".join(f"{name} {n}" for name, n in named.most_common())


def tool(name: str) -> str | None:
    """Path of a CUDA binary tool, from pip's wheels or from PATH."""
    for site in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        found = sorted(Path(site).glob(f"nvidia/*/bin/{name}"))
        if found:
            return str(found[-1])
    return shutil.which(name)


def missing() -> str:
    """Why the audit cannot run here, or an empty string."""
    if not any(arch.startswith("12") for arch in _C.build_info()["cuda"].split(",")):
        return "this build has no code for the SM120 family"
    if tool("cuobjdump") is None or tool("nvdisasm") is None:
        return "cuobjdump or nvdisasm is missing; pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
    return ""


def _main_loop(code: list[Instruction]) -> list[Instruction]:
    """The shortest backward branch around the most tensor instructions of any innermost loop."""
    at = {i.address: n for n, i in enumerate(code)}
    loops = []
    for n, i in enumerate(code):
        target = re.search(r"0x([0-9a-f]+)", i.operands) if i.name.startswith("BRA") else None
        start = at.get(int(target[1], 16)) if target else None
        if start is not None and start < n:
            body = code[start : n + 1]
            if any(j.name.startswith("OMMA") for j in body):
                loops.append(body)
    return min(loops, key=len) if loops else []


@lru_cache(maxsize=1)
def kernels() -> dict[str, Kernel]:
    """The matrix products in the compiled module, by their names."""
    cuobjdump, nvdisasm = tool("cuobjdump"), tool("nvdisasm")
    assert cuobjdump is not None
    assert nvdisasm is not None
    path = os.pathsep.join((str(Path(nvdisasm).parent), os.environ.get("PATH", "")))
    archs = [f"sm_{arch}" for arch in _C.build_info()["cuda"].split(",") if arch.startswith("12")]
    command = [cuobjdump, "--dump-sass", "--gpu-architecture", archs[0], _C.__file__]
    dump = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}).stdout
    result = {}
    for function in re.split(r"\n\s*Function : ", dump)[1:]:
        symbol, _, body = function.partition("\n")
        tile = TILE.search(symbol)
        if "4gemmI" not in symbol or tile is None:
            continue
        code = [Instruction(int(m[1], 16), m[2].strip(), m[3], m[4]) for m in map(LINE.match, body.splitlines()) if m]
        name = NAMES[int(tile[1]), int(tile[2])]
        result[name] = Kernel(name, code, _main_loop(code))
    return result


def table() -> str:
    """One row a kernel, in Markdown."""
    heads = "kernel", "OMMA", "instructions an OMMA", "with fillers", "load to use", "registers", "local memory"
    rows = [heads, ("---",) * len(heads)]
    for name in NAMES.values():
        k = kernels()[name]
        counts = (k.ommas, f"{k.per_omma:.2f}", f"{k.per_omma_with_fillers:.2f}", k.load_to_use, k.registers)
        rows.append((name, *map(str, counts), str(k.local_accesses)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(missing() or table())
