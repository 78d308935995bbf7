"""The build: what the CUDA switch says, what the core may include, and what the package declares."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

from nvfp4 import _C

ROOT = Path(__file__).resolve().parents[1]
CORE = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in {".cpp", ".h", ".cu", ".cuh"}]
WEAK_ISA_FUNCTION = re.compile(r"_(avx2|avx512|avx512vnni|avx512bf16|neon)\.cpp\.o:\S+ W ")


@pytest.fixture(scope="module")
def cmake() -> str:
    found = shutil.which("cmake")
    assert found is not None, "cmake not found; the extra `test` installs it"
    return found


@pytest.fixture
def configure(cmake: str, tmp_path: Path):
    """Runs the CUDA switch alone with nothing on PATH; returns its exit status and what it printed, unwrapped."""

    def run(*options: str, **environment: str) -> tuple[int, str]:
        kept = {name: os.environ[name] for name in ("HOME", "LD_LIBRARY_PATH") if name in os.environ}
        script = str(ROOT / "cmake" / "Nvfp4Cuda.cmake")
        command = [cmake, "-DNVFP4_VERSION=1.2.3", *options, "-P", script]
        done = subprocess.run(
            command, env={"PATH": str(tmp_path), **kept, **environment}, capture_output=True, text=True, check=False
        )
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    return run


def make_nvcc(folder: Path, release: str = "13.0") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    nvcc = folder / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
    nvcc.chmod(0o755)
    return nvcc


@pytest.mark.parametrize("options", [(), ("-DNVFP4_CUDA=AUTO",), ("-DNVFP4_CUDA=auto",)])
def test_auto_without_nvcc_says_so_and_what_to_do(configure, options) -> None:
    status, output = configure(*options)
    assert status == 0
    assert "no nvcc in CUDACXX, CUDA_HOME, PATH or pip's nvcc wheels; building the CPU part" in output
    assert "pip install nvidia-cuda-nvcc" in output


@pytest.mark.parametrize("how", ["option", "variable"])
def test_on_without_nvcc_is_an_error(configure, how) -> None:
    status, output = configure("-DNVFP4_CUDA=ON") if how == "option" else configure(NVFP4_CUDA="ON")
    assert status != 0
    assert "NVFP4_CUDA=ON, but no nvcc" in output
    assert "pip install nvidia-cuda-nvcc" in output


@pytest.mark.parametrize("mode", ["ON", "AUTO"])
@pytest.mark.parametrize("how", ["option", "variable"])
def test_with_nvcc_the_cuda_part_is_built(configure, tmp_path, how, mode) -> None:
    nvcc = make_nvcc(tmp_path)
    status, output = configure(f"-DNVFP4_CUDA={mode}") if how == "option" else configure(NVFP4_CUDA=mode)
    assert status == 0
    assert f"found {nvcc}; building the CUDA part for 90a;120f beside the CPU part" in output


@pytest.mark.parametrize(
    ("release", "archs", "why"),
    [
        ("12.8", "90a;120f", "is release 12.8, and 120f needs 12.9; 12.8 builds 120a (NVFP4_CUDA_ARCHS=90a;120a)"),
        ("12.4", "120a", "is release 12.4, and 120a needs 12.8"),
        ("13.0", "90a;120", 'NVFP4_CUDA_ARCHS holds "120"; wanted an architecture with its suffix'),
        ("of unknown kind", "90a", "does not say its release"),
    ],
)
def test_what_this_nvcc_cannot_build_is_named(configure, tmp_path, release, archs, why) -> None:
    make_nvcc(tmp_path, release)
    status, output = configure(NVFP4_CUDA="ON", NVFP4_CUDA_ARCHS=archs)
    assert status != 0
    assert why in output
    status, output = configure(NVFP4_CUDA_ARCHS=archs)
    assert status == 0
    assert why in output
    assert "building the CPU part" in output


@pytest.mark.parametrize(("release", "archs"), [("12.8", "90a;120a"), ("12.3", "90a"), ("13.1", "121a")])
def test_what_this_nvcc_can_build(configure, tmp_path, release, archs) -> None:
    make_nvcc(tmp_path, release)
    assert f"building the CUDA part for {archs}" in configure(NVFP4_CUDA_ARCHS=archs)[1]


def test_off_does_not_look_for_nvcc(configure, tmp_path) -> None:
    make_nvcc(tmp_path)
    status, output = configure(NVFP4_CUDA="OFF", CUDACXX="/nowhere/nvcc")
    assert status == 0
    assert "switched off by NVFP4_CUDA=OFF" in output
    assert "found" not in output


def test_an_option_wins_over_the_variable(configure) -> None:
    status, output = configure("-DNVFP4_CUDA=OFF", NVFP4_CUDA="ON")
    assert status == 0
    assert "switched off" in output


def test_a_wrong_value_is_named(configure) -> None:
    status, output = configure(NVFP4_CUDA="yes")
    assert status != 0
    assert 'NVFP4_CUDA is "yes"; wanted ON, OFF or AUTO' in output


def test_nvcc_is_looked_for_in_this_order(configure, tmp_path) -> None:
    site = tmp_path / "site-packages"
    in_order = {
        "wheel": make_nvcc(site / "nvidia" / "cu13" / "bin"),
        "path": make_nvcc(tmp_path),
        "home": make_nvcc(tmp_path / "cuda" / "bin"),
        "cxx": make_nvcc(tmp_path / "cxx"),
    }
    wheels = f"-DNVFP4_SITE_PACKAGES=/nowhere;{site}"
    home, cxx = str(tmp_path / "cuda"), str(in_order["cxx"])
    assert f"found {cxx};" in configure(wheels, CUDACXX=cxx, CUDA_HOME=home)[1]
    assert f"found {in_order['home']};" in configure(wheels, CUDA_HOME=home)[1]
    assert f"found {in_order['path']};" in configure(wheels)[1]
    in_order["path"].unlink()
    assert f"found {in_order['wheel']};" in configure(wheels, CUDA_HOME="/nowhere")[1]


def test_nvcc_of_the_cuda_12_wheels_is_found(configure, tmp_path) -> None:
    nvcc = make_nvcc(tmp_path / "nvidia" / "cuda_nvcc" / "bin")
    assert f"found {nvcc};" in configure(f"-DNVFP4_SITE_PACKAGES={tmp_path}")[1]


def test_a_wrong_cudacxx_is_an_error(configure) -> None:
    status, output = configure(CUDACXX="/nowhere/nvcc")
    assert status != 0
    assert 'CUDACXX is "/nowhere/nvcc", which is no program' in output


def test_the_core_includes_neither_torch_nor_python() -> None:
    forbidden = re.compile(r"^\s*#\s*include\s*[<\"](torch|ATen|c10|caffe2|pybind11|Python\.h|numpy)", re.MULTILINE)
    core = [path for path in CORE if "python" not in path.relative_to(ROOT / "csrc").parts]
    assert core
    offenders = [str(path.relative_to(ROOT)) for path in core if forbidden.search(path.read_text())]
    assert offenders == []


def test_code_for_one_instruction_set_is_not_shared() -> None:
    """A weak function may be merged with another file's copy, and then AVX-512 code would run on a CPU without it."""
    libraries = list(ROOT.glob("build/linux-*/libnvfp4_core.a"))
    if not libraries:
        pytest.skip("no static library here: the package was not built from this checkout")
    assert shutil.which("nm"), "nm is not on PATH; install binutils"
    weak = []
    for library in libraries:
        command = ["nm", "-A", "-C", "--defined-only", str(library)]
        symbols = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        weak += [line for line in symbols.splitlines() if WEAK_ISA_FUNCTION.search(line)]
    assert weak == []


def test_setup_needs_no_torch() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    match = re.search(r"^\[build-system\]\nrequires = (\[.*?\])", text, re.MULTILINE | re.DOTALL)
    assert match is not None
    names = {re.split(r"[<>=~!; ]", requirement)[0] for requirement in ast.literal_eval(match[1])}
    assert names == {"setuptools", "pybind11", "cmake", "ninja"}


def test_package_metadata() -> None:
    package = metadata.metadata("nvfp4")
    assert package["License-Expression"] == "Apache-2.0"
    assert package["Requires-Python"] == ">=3.10"
    assert {"demo", "bench", "test", "dev"} <= set(package.get_all("Provides-Extra") or [])
    assert "torch>=2.9" in (metadata.requires("nvfp4") or [])
    (script,) = [entry for entry in metadata.entry_points(group="console_scripts") if entry.name == "nvfp4"]
    assert script.value == "nvfp4.cli:main"
    assert Path(_C.__file__).with_name("py.typed").is_file()
    assert Path(_C.__file__).with_name("_C.pyi").is_file()


def test_module_and_package_have_one_version() -> None:
    info = _C.build_info()
    assert set(info) == {"version", "compiler", "cuda", "nvcc", "build_type"}
    assert bool(info["cuda"]) == bool(info["nvcc"])
    assert info["version"] == metadata.version("nvfp4")


def compiled_signatures(module: ModuleType | object) -> dict[str, list[str]]:
    """Parameter names of a compiled module's functions, read from the first line that pybind11 puts into docstrings."""
    signatures = {}
    for name, function in inspect.getmembers(module, inspect.isbuiltin):
        inside = re.match(rf"{name}\((.*)\) ->", function.__doc__ or "")
        assert inside is not None, f"{name} has no signature in its docstring"
        signatures[name] = [parameter.split(":")[0] for parameter in inside[1].split(", ") if parameter]
    return signatures


def test_stubs_match_the_compiled_module() -> None:
    tree = ast.parse((ROOT / "nvfp4" / "_C.pyi").read_text())

    def stubs(body: list[ast.stmt]) -> dict[str, list[str]]:
        return {
            node.name: [argument.arg for argument in node.args.args if argument.arg != "self"]
            for node in body
            if isinstance(node, ast.FunctionDef)
        }

    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    assert stubs(tree.body) == compiled_signatures(_C)
    for name in ("cpu", "cuda", "dispatch"):
        if hasattr(_C, name):
            assert stubs(classes[f"_{name.capitalize()}"].body) == compiled_signatures(getattr(_C, name)), name


def test_a_number_outside_an_enumeration_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dtype: got 7, wanted 0 to 2"):
        _C.cpu.dequantize(0, 0, 0, 0, False, 0, 16, 0, 7, 1)


def test_a_checkout_that_is_not_compiled_says_so(tmp_path: Path) -> None:
    """As Python sees it that was started in a checkout beside an installed package."""
    shutil.copytree(ROOT / "nvfp4", tmp_path / "nvfp4", ignore=shutil.ignore_patterns("_C*.so", "__pycache__"))
    # An editable install finds its compiled module from anywhere.
    forget = "sys.meta_path[:] = [f for f in sys.meta_path if not f.__module__.startswith('__editable__')]"
    command = [sys.executable, "-c", f"import sys; {forget}; import nvfp4"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"nvfp4: {tmp_path}/nvfp4 has no compiled part (_C)" in done.stderr
    assert "start Python in another folder" in done.stderr
