"""Builds nvfp4/_C by driving CMakeLists.txt with Ninja. Everything else about the package is in pyproject.toml."""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def program(name: str) -> str:
    """The path of a build tool: the one beside this interpreter (build isolation puts it on PATH), or the system's."""
    beside = Path(sys.executable).with_name(name)
    found = shutil.which(name) or (str(beside) if beside.exists() else None)
    if found is None:
        raise SystemExit(
            f"nvfp4: {name} not found, wanted on PATH or beside {sys.executable}; run `pip install {name}`."
        )
    return found


def run(*command: str) -> None:
    """Runs a build tool; its own output is the explanation when it fails."""
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        raise SystemExit(f"nvfp4: {Path(command[0]).name} failed with status {status}; the lines above say why.")


class CMakeBuild(build_ext):
    """Configures and builds the CMake target `_C`, then puts the module where setuptools expects it."""

    def build_extension(self, ext: Extension) -> None:
        import pybind11

        # One folder for every way to build from this checkout, so that only what changed is compiled.
        tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}{'-debug' if self.debug else ''}"
        build = ROOT / "build" / tag
        build.mkdir(parents=True, exist_ok=True)
        folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path}
        configure = [
            program("cmake"),
            *("-S", str(ROOT), "-B", str(build), "-G", "Ninja"),
            f"-DCMAKE_BUILD_TYPE={'Debug' if self.debug else 'Release'}",
            f"-DCMAKE_MAKE_PROGRAM={program('ninja')}",
            f"-DNVFP4_SITE_PACKAGES={';'.join(sorted(f for f in folders if Path(f, 'nvidia').is_dir()))}",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            "-DNVFP4_BUILD_PYTHON=ON",
        ]
        with open(build / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # Two Ninjas in one folder would spoil each other's log.
            run(*configure)
            run(program("cmake"), "--build", str(build), "--target", "_C")
            target = Path(self.get_ext_fullpath(ext.name)).resolve()
            target.parent.mkdir(parents=True, exist_ok=True)
            beside = target.with_suffix(f".{os.getpid()}")
            shutil.copy(build / target.name, beside)
            os.replace(beside, target)  # A running Python keeps the module it has loaded.


setup(ext_modules=[Extension("nvfp4._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
