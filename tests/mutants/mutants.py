"""Seeded faults in the SM120 matrix products: each is one change of text, and the suites must catch every one.

    python tests/mutants/mutants.py build OUT     # compiles every mutant: half a minute each on 2 cores, no GPU
    python tests/mutants/mutants.py run OUT       # on a Hopper GPU: runs its suite over each and prints who caught it

OUT holds one compiled module a mutant, and one without a fault a kind of build, which has to pass: else whatever
happens to the mutants says nothing. `run` takes everything but the module from the checkout.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_SURROGATE = "tests/backends/test_sm120_surrogate.py"
SUITES = {"model": "tests/backends/test_sm120.py", "surrogate": _SURROGATE, "disturbed": _SURROGATE}
SECONDS = 60  # a mutant that hangs is caught


class Mutant(NamedTuple):
    """`old` becomes `new` in `path`, in a build with NVFP4_EMULATE_SM120=`build`."""

    name: str
    build: str
    path: str
    old: str
    new: str


MUTANTS = [
    Mutant(
        "full-wait-dropped",
        "disturbed",
        "csrc/cuda/sm120/gemm.cuh",
        "  for (int stage = 1; stage < stages; ++stage) {\n    ptx::mbarrier_wait(pipeline.full(), pipeline.parity);\n",
        "  for (int stage = 1; stage < stages; ++stage) {\n",
    ),
    Mutant(
        "empty-wait-dropped",
        "disturbed",
        "csrc/cuda/sm120/gemm.cuh",
        "        ptx::mbarrier_wait(pipeline.empty(), pipeline.parity ^ 1);\n",
        "",
    ),
    Mutant(
        "early-release",
        "disturbed",
        "csrc/cuda/sm120/gemm.cuh",
        "  const auto use_stage = [&] {\n",
        "  const auto use_stage = [&] {\n    if (first_lane) ptx::mbarrier_arrive(pipeline.empty());\n",
    ),
    Mutant(
        "wrong-parity",
        "disturbed",
        "csrc/cuda/sm120/pipeline.cuh",
        "    if (last) parity ^= 1;\n",
        "    if (last && Tile::kStages > 2) parity ^= 1;\n    if (Tile::kStages == 3) parity ^= 1;\n",
    ),
    Mutant(
        "row-selector",
        "model",
        "csrc/cuda/sm120/fragments.cuh",
        "ptx::mma_m16n8k64<kRowAtom % 2, kTokenAtom % 4>",
        "ptx::mma_m16n8k64<0, kTokenAtom % 4>",
    ),
    Mutant(
        "token-selector",
        "model",
        "csrc/cuda/sm120/fragments.cuh",
        "ptx::mma_m16n8k64<kRowAtom % 2, kTokenAtom % 4>",
        "ptx::mma_m16n8k64<kRowAtom % 2, kTokenAtom % 2>",
    ),
    Mutant(
        "token-swizzle",
        "model",
        "csrc/cuda/sm120/fragments.cuh",
        "lane / 8 % 2 ^ token / 2 % 4",
        "lane / 8 % 2 ^ token % 4",
    ),
    Mutant(
        "scale-half",
        "model",
        "csrc/cuda/sm120/fragments.cuh",
        "lane.token_scales + unit + half * 128u",
        "lane.token_scales + unit",
    ),
    Mutant(
        "arrivals-not-zeroed",
        "model",
        "csrc/cuda/quantize/arguments.cuh",
        "    p.gemm.zeros[unit - p.padding] = 0;\n",
        "    if (unit != p.padding) p.gemm.zeros[unit - p.padding] = 0;\n",
    ),
    Mutant(
        "part-order",
        "model",
        "csrc/cuda/sm120/partials.cuh",
        "const float4* from = part(is_part ? first + index : first) + begin * kWarp;",
        "const float4* from = part(segment.parts - 1 - (is_part ? first + index : first)) + begin * kWarp;",
    ),
    Mutant(
        "last-part-not-waited",
        "surrogate",
        "csrc/cuda/sm120/partials.cuh",
        "if (__shfl_sync(0xFFFFFFFFu, before, 0) + 1 != segment.parts) return false;",
        "if (__shfl_sync(0xFFFFFFFFu, before, 0) != segment.part || segment.part + 1 != segment.parts) return false;",
    ),
    Mutant(
        "slot-shared",
        "surrogate",
        "csrc/cuda/sm120/schedule.cuh",
        "return 2 * int64_t{block} + (s_.piece_begin(block) <= first ? 1 : 0);",
        "return 2 * int64_t{block};",
    ),
    Mutant(
        "piece-boundary",
        "surrogate",
        "csrc/cuda/sm120/schedule.cuh",
        "return block * piece + min(block, longer);",
        "return block * piece + min(block + 1, longer);",
    ),
    Mutant(
        "padding-unwritten",
        "model",
        "csrc/cuda/sm120/prepare.cu",
        "if (row < n && column < k) value =",
        "if (row < n) value =",
    ),
    Mutant(
        "up-alpha",
        "model",
        "csrc/cuda/sm120/epilogue.cuh",
        "high[i] = __ldcg(up + index);",
        "high[i] = __ldcg(p.alpha + index);",
    ),
    Mutant(
        "token-tail",
        "model",
        "csrc/cuda/sm120/epilogue.cuh",
        "if (token < kTokens && first_token + token < p.m) {",
        "if (token < kTokens && first_token + token <= p.m) {",
    ),
    Mutant(
        "alpha-of-neighbour",
        "model",
        "csrc/cuda/sm120/epilogue.cuh",
        "min(first_token + i * kWarp + lane, p.m - 1)",
        "min(first_token + i * kWarp + (lane ^ 1), p.m - 1)",
    ),
    Mutant(
        "dependency-wait-dropped",
        "model",
        "csrc/cuda/sm120/gemm.cuh",
        "  ptx::wait_for_dependencies();\n  int first = Tile::kStages;",
        "  int first = Tile::kStages;",
    ),
]


CONTROLS = [Mutant("no fault", kind, "", "", "") for kind in SUITES]


def _module_of(out: Path, mutant: Mutant) -> Path:
    return out / f"{mutant.build}-{mutant.name.replace(' ', '-')}.so"


def build(out: Path) -> None:
    """Compile every mutant, one build folder a kind, so that only what changed is compiled again."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for kind in SUITES:
            copy = Path(scratch, kind)
            shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "build", "_C*.so", "__pycache__", ".*"))
            for mutant in (m for m in CONTROLS + MUTANTS if m.build == kind):
                source = copy / (mutant.path or "setup.py")
                text = source.read_text()
                if mutant.old not in text:
                    raise SystemExit(
                        f"{mutant.name}: {mutant.path} no longer holds the text to change; mend the mutant"
                    )
                if mutant.path:
                    source.write_text(text.replace(mutant.old, mutant.new))
                command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
                subprocess.run(command, cwd=copy, env={**os.environ, "NVFP4_EMULATE_SM120": kind}, check=True)
                (module,) = (copy / "nvfp4").glob("_C*.so")
                shutil.copy(module, _module_of(out, mutant))
                source.write_text(text)


def caught_by(out: Path, mutant: Mutant) -> str:
    """The test that failed over a mutant, ``hung``, or an empty string when its suite passed."""
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(ROOT / "nvfp4", Path(scratch, "nvfp4"), ignore=shutil.ignore_patterns("_C*.so"))
        module = "_C" + sysconfig.get_config_var("EXT_SUFFIX")
        shutil.copy(_module_of(out, mutant), Path(scratch, "nvfp4", module))
        tests, suite = str(ROOT / "tests"), str(ROOT / SUITES[mutant.build])
        paths = os.pathsep.join((tests, os.environ.get("PYTHONPATH", "")))
        # Python looks for nvfp4 in the folder that it starts in before all others.
        command = [sys.executable, "-m", "pytest", "-c", os.devnull, "-qx", "--rootdir", tests, suite]
        try:
            done = subprocess.run(
                command, cwd=scratch, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
                timeout=SECONDS, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "hung"
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    if not failed:
        raise SystemExit(f"{mutant.name}: its suite did not run:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return failed[0].removeprefix("FAILED ")[:100]


def run(out: Path) -> None:
    """Print a table of the mutants and what caught them; end with an error when one was not."""
    for control in CONTROLS:
        if caught := caught_by(out, control):
            raise SystemExit(f"the {control.build} build without a fault does not pass its suite: {caught}")
    escaped = 0
    for mutant in MUTANTS:
        caught = caught_by(out, mutant)
        escaped += not caught
        print(f"| {mutant.name} | {mutant.build} | {caught or 'NOT CAUGHT'} |", flush=True)
    if escaped:
        raise SystemExit(f"{escaped} mutants were not caught")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("build", "run"):
        raise SystemExit(__doc__)
    {"build": build, "run": run}[sys.argv[1]](Path(sys.argv[2]))
