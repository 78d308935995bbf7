"""setuptools' build backend, which also asks pip for nvcc where the CUDA part is wanted and no nvcc is there.

So `pip install` compiles the kernels on a machine that has an NVIDIA driver and nothing else. The wheels go into pip's
own build environment and are gone after the build. Which nvcc is used, and why, is said by cmake/Nvfp4Cuda.cmake.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

from setuptools import build_meta as _setuptools
from setuptools.build_meta import *  # noqa: F403  (the hooks that stay as they are)

# One release for all: nvcc, its headers and its libraries refuse or miscompile each other's. 13.0 serves every driver
# that CUDA 13 serves.
_RELEASE = "13.0.*"
_LEAST_DRIVER = 580
NVCC_WHEELS = [
    f"nvidia-cuda-nvcc=={_RELEASE}",
    f"nvidia-cuda-crt=={_RELEASE}",
    f"nvidia-cuda-runtime=={_RELEASE}",
    f"nvidia-cuda-cccl=={_RELEASE}",
    f"nvidia-nvvm=={_RELEASE}",
]


def _has_driver() -> bool:
    """Whether there is a driver that serves what these wheels build: version 580 for CUDA 13."""
    try:
        said = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8")
    except OSError:
        return Path("/usr/lib/wsl/lib/libcuda.so.1").exists()
    version = re.search(r"Kernel Module.*?\s(\d+)\.\d", said)
    return version is not None and int(version[1]) >= _LEAST_DRIVER


def _has_nvcc() -> bool:
    """As cmake/Nvfp4Cuda.cmake looks for it, without pip's wheels: those of another environment cannot be relied on."""
    home = os.environ.get("CUDA_HOME")
    path = os.pathsep.join(([f"{home}/bin"] if home else []) + [os.environ.get("PATH", "")])
    return bool(os.environ.get("CUDACXX")) or shutil.which("nvcc", path=path) is not None


def wheels_for_cuda() -> list[str]:
    """What the build needs from PyPI to compile the CUDA part."""
    mode = os.environ.get("NVFP4_CUDA", "AUTO").upper() or "AUTO"
    wanted = mode == "ON" or (mode == "AUTO" and _has_driver())
    if not wanted or _has_nvcc() or not sys.platform.startswith("linux"):
        return []
    return list(NVCC_WHEELS)


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """setuptools' answer (PEP 517), and nvcc."""
    return [*_setuptools.get_requires_for_build_wheel(config_settings), *wheels_for_cuda()]


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """setuptools' answer (PEP 660), and nvcc."""
    return [*_setuptools.get_requires_for_build_editable(config_settings), *wheels_for_cuda()]
