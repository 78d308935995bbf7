"""When the build asks pip for nvcc."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).resolve().parents[1] / "build_backend" / "nvfp4_build.py"


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module, on a machine with no nvcc, no driver and no settings."""
    spec = importlib.util.spec_from_file_location("nvfp4_build", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("NVFP4_CUDA", "CUDACXX", "CUDA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(module, "_has_driver", lambda: False)
    return module


def test_nothing_is_asked_for_without_a_driver(backend) -> None:
    assert backend.wheels_for_cuda() == []
    assert backend.get_requires_for_build_wheel() == []


@pytest.mark.parametrize("why", ["driver", "ON", "on"])
def test_nvcc_is_asked_for_where_cuda_is_wanted(backend, monkeypatch, why) -> None:
    if why == "driver":
        monkeypatch.setattr(backend, "_has_driver", lambda: True)
    else:
        monkeypatch.setenv("NVFP4_CUDA", why)
    assert "nvidia-cuda-nvcc==13.0.*" in backend.get_requires_for_build_wheel()
    assert backend.get_requires_for_build_editable() == backend.NVCC_WHEELS
    releases = {wheel.partition("==")[2] for wheel in backend.NVCC_WHEELS}
    assert len(releases) == 1


def test_off_and_an_nvcc_of_ones_own_come_first(backend, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(backend, "_has_driver", lambda: True)
    monkeypatch.setenv("NVFP4_CUDA", "OFF")
    assert backend.wheels_for_cuda() == []
    monkeypatch.setenv("NVFP4_CUDA", "ON")
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    assert backend.wheels_for_cuda() == []
    nvcc.unlink()
    monkeypatch.setenv("CUDACXX", "/somewhere/nvcc")
    assert backend.wheels_for_cuda() == []


@pytest.mark.parametrize(
    ("version", "served"), [("580.95.05", True), ("570.124.06", False), ("no version at all", False)]
)
def test_an_old_driver_gets_no_new_nvcc(monkeypatch, tmp_path, version, served) -> None:
    """CUDA 13 wants driver 580."""
    spec = importlib.util.spec_from_file_location("nvfp4_build", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    said = tmp_path / "version"
    said.write_text(f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {version}  Release Build\n")
    monkeypatch.setattr(module, "Path", lambda path: said if path == "/proc/driver/nvidia/version" else Path(path))
    assert module._has_driver() is served
