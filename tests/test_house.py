"""The rules of the house (CONTRIBUTING.md) that a machine can check."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE_SUFFIXES = {".cpp", ".h", ".cu", ".cuh", ".py", ".pyi", ".cmake"}
SOURCE_FOLDERS = ("nvfp4", "csrc", "cmake", "bench", "examples", "tests")
LONGEST = 400

ASM_FOLDERS = ("csrc/cuda/ptx/", "csrc/cuda/emulation/")

# Imports every submodule, says what became of the names that were public before, and calls every public function.
IMPORT_EVERYTHING = """
import importlib, json, pkgutil, sys, torch
import nvfp4

before = {name: getattr(nvfp4, name) for name in nvfp4.__all__}
modules = [m.name for m in pkgutil.walk_packages(nvfp4.__path__, "nvfp4.") if not m.name.endswith("__main__")]
for name in modules:
    importlib.import_module(name)
rooms = [name.removeprefix("nvfp4.") for name in modules if name.count(".") == 1]

x = torch.randn(4, 64)
weight = nvfp4.quantize(torch.randn(32, 64))
scales = weight.scale.view(torch.uint8)

def quantize_model():
    model = torch.nn.Sequential(torch.nn.Linear(64, 32))
    report = nvfp4.quantize_model(model, nvfp4.Recipe.preset("all-linear"), progress=False)
    assert isinstance(model[0], nvfp4.NVFP4Linear) and model(x).shape == (4, 32)
    return report

def uniform(ids):
    return torch.zeros(*ids.shape, 7)

calls = {
    "GatedMLP": lambda: nvfp4.GatedMLP(64, 32),
    "NVFP4Linear": lambda: nvfp4.NVFP4Linear.from_linear(torch.nn.Linear(64, 32)),
    "NVFP4Tensor": lambda: nvfp4.NVFP4Tensor(weight.packed, weight.scale, weight.global_scale, weight.shape),
    "Recipe": lambda: nvfp4.Recipe.preset("gemma-mlp"),
    "dequantize": lambda: nvfp4.dequantize(weight),
    "evaluate": lambda: nvfp4.evaluate(uniform, uniform, [torch.tensor([1, 2, 3])], progress=False),
    "gated_quantize": lambda: nvfp4.gated_quantize(x),
    "linear": lambda: nvfp4.linear(x, weight),
    "matmul": lambda: nvfp4.matmul(nvfp4.quantize(x), weight),
    "pack": lambda: nvfp4.pack(torch.zeros(2, 16, dtype=torch.uint8)),
    "prepare": lambda: nvfp4.prepare(nvfp4.NVFP4Linear.from_linear(torch.nn.Linear(64, 32))),
    "quantize": lambda: nvfp4.quantize(x),
    "quantize_dequantize": lambda: nvfp4.quantize_dequantize(x),
    "quantize_model": quantize_model,
    "rms_norm_quantize": lambda: nvfp4.rms_norm_quantize(x, torch.ones(64)),
    "swizzle_scales": lambda: nvfp4.swizzle_scales(scales),
    "to_layout": lambda: nvfp4.to_layout(weight, "n16k64"),
    "unpack": lambda: nvfp4.unpack(weight.packed),
    "unswizzle_scales": lambda: nvfp4.unswizzle_scales(nvfp4.swizzle_scales(scales), *scales.shape),
}
print(json.dumps({
    "modules": modules,
    "replaced": [name for name, value in before.items() if getattr(nvfp4, name) is not value],
    "hidden": [room for room in rooms if getattr(nvfp4, room) is not sys.modules["nvfp4." + room]],
    "uncalled": sorted(set(nvfp4.__all__) - set(rooms) - {"__version__"} - set(calls)),
    "results": {name: type(call()).__name__ for name, call in calls.items()},
}))
"""


def source_files() -> list[Path]:
    files = [ROOT / "setup.py", ROOT / "CMakeLists.txt"]
    for folder in SOURCE_FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in SOURCE_SUFFIXES]
    return files


def test_no_source_file_is_long() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in source_files()}
    assert len(lengths) > 10
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}


def test_assembly_stands_in_ptx_alone() -> None:
    kernels = [path for path in (ROOT / "csrc" / "cuda").rglob("*") if path.suffix in {".cu", ".cuh", ".h"}]
    using = {path.relative_to(ROOT).as_posix() for path in kernels if re.search(r"\basm\b", path.read_text())}
    assert using
    assert {path for path in using if not path.startswith(ASM_FOLDERS)} == set()


def test_imports_point_down() -> None:
    lint = shutil.which("lint-imports", path=sysconfig.get_path("scripts"))
    assert lint is not None, "lint-imports not found; the extra `test` installs it"
    done = subprocess.run([lint, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def names_imported_from_the_roof(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "nvfp4":
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.Import) and any(alias.name == "nvfp4" for alias in node.names):
            names.add("nvfp4")
    return names


def test_nothing_below_imports_from_the_roof() -> None:
    """`from nvfp4 import quantize` inside the package would reach every floor at once: only rooms are imported so."""
    rooms = {path.stem for path in (ROOT / "nvfp4").iterdir()} | {"_C"}
    used = {
        str(path.relative_to(ROOT)): names_imported_from_the_roof(path)
        for path in (ROOT / "nvfp4").rglob("*.py")
        if path != ROOT / "nvfp4" / "__init__.py"
    }
    assert {name: names - rooms for name, names in used.items() if names - rooms} == {}


def test_only_backends_call_kernels() -> None:
    """The rooms above may time kernels and ask how they were built; every floor between goes through the ops."""
    users = [path for path in (ROOT / "nvfp4").rglob("*.py") if "_C" in names_imported_from_the_roof(path)]
    assert users
    rooms = {path.relative_to(ROOT / "nvfp4").parts[0] for path in users}
    assert rooms <= {"__init__.py", "backends", "bench", "cli", "demo"}


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-c", IMPORT_EVERYTHING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_submodule_imports(imported) -> None:
    assert {"nvfp4._C", "nvfp4.formats", "nvfp4.ops", "nvfp4.backends.cpu"} <= set(imported["modules"])


@pytest.mark.parametrize("what", ["replaced", "hidden", "uncalled"])
def test_rooms_and_public_names_do_not_shadow_each_other(imported, what) -> None:
    assert imported[what] == []


def test_every_public_function_works_after_every_import(imported) -> None:
    tensors = {"dequantize", "linear", "matmul", "pack", "quantize_dequantize", "swizzle_scales"}
    tensors |= {"unpack", "unswizzle_scales"}
    coded = ("NVFP4Tensor", "gated_quantize", "quantize", "rms_norm_quantize", "to_layout")
    assert imported["results"] == {
        **dict.fromkeys(tensors, "Tensor"),
        **dict.fromkeys(coded, "NVFP4Tensor"),
        **dict.fromkeys(("NVFP4Linear", "prepare"), "NVFP4Linear"),
        "GatedMLP": "GatedMLP",
        "Recipe": "Recipe",
        "evaluate": "Evaluation",
        "quantize_model": "QuantizationReport",
    }
