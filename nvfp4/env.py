"""Every environment variable of the package, in one table.

`VARIABLES` is what the documentation and `nvfp4 info` print; `get` is the only place that reads `os.environ`.
The two build variables are read by `setup.py` and `CMakeLists.txt`, which cannot import the package they build.
"""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

__all__ = ["VARIABLES", "Variable", "cache_dir", "configure_logging", "end_command_line", "get", "num_threads"]


@dataclass(frozen=True)
class Variable:
    """One environment variable: its name, what an unset value means, when it is read, and what it does."""

    name: str
    default: str
    read: str
    doc: str


VARIABLES: tuple[Variable, ...] = (
    Variable(
        "NVFP4_BACKEND",
        "",
        "at import",
        "Force one backend (reference, cpu, cuda, triton); what it cannot serve is an error.",
    ),
    Variable(
        "NVFP4_CPU_ISA",
        "",
        "at import",
        "Force one CPU kernel variant: portable, avx2, avx512, avx512vnni, avx512bf16, neon.",
    ),
    Variable("NVFP4_NUM_THREADS", "", "at import", "Threads of the CPU kernels; unset: torch.get_num_threads()."),
    Variable("NVFP4_LOG", "warning", "at import", "Level of the `nvfp4` logger: debug, info, warning, error."),
    Variable(
        "NVFP4_CACHE", "~/.cache/nvfp4", "when used", "Folder for what is made once: the demo model, tuning results."
    ),
    Variable("NVFP4_CUDA", "AUTO", "at build", "ON, OFF or AUTO: whether to compile the CUDA kernels."),
    Variable("NVFP4_CUDA_ARCHS", "90a;120f", "at build", "CUDA architectures to compile for."),
    Variable("NVFP4_EMULATE_SM120", "", "at build", "model, surrogate or disturbed: SM120's products on a Hopper GPU."),
)

_MOST_THREADS = 1024

_BY_NAME = {variable.name: variable for variable in VARIABLES}


def get(name: str) -> str:
    """The value of a variable of `VARIABLES`, or its default when it is unset or empty.

    Raises:
        KeyError: `name` is not in the table.
    """
    return os.environ.get(name, "").strip() or _BY_NAME[name].default


def num_threads() -> int:
    """`NVFP4_NUM_THREADS` as an integer; 0 when unset, which means: as many as torch uses.

    Raises:
        ValueError: the value is no integer from 1 to 1024.
    """
    text = get("NVFP4_NUM_THREADS")
    if not text:
        return 0
    # The length comes first because int() refuses very long texts with an error of its own.
    if not text.isdecimal() or len(text) > 4 or not 1 <= int(text) <= _MOST_THREADS:
        raise ValueError(
            f"NVFP4_NUM_THREADS: got {text!r}, wanted an integer from 1 to {_MOST_THREADS}; unset it to follow torch"
        )
    return int(text)


def cache_dir() -> Path:
    """The cache folder (`NVFP4_CACHE`), not created here."""
    return Path(get("NVFP4_CACHE")).expanduser()


def configure_logging() -> logging.Logger:
    """Set the level of the `nvfp4` logger from `NVFP4_LOG` and return the logger.

    Raises:
        ValueError: the value names no logging level.
    """
    logger = logging.getLogger("nvfp4")
    level = get("NVFP4_LOG").upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise ValueError(f"NVFP4_LOG: got {level.lower()!r}, wanted debug, info, warning or error")
    logger.setLevel(level)
    return logger


def end_command_line(error: ValueError) -> None:
    """Where the program is `nvfp4 …` or `python -m nvfp4 …`, end it: one line on stderr and exit code 2.

    A variable is read when the package is imported, before the command line has begun and could catch anything.
    """
    program, words = sys.argv[0] if sys.argv else "", sys.orig_argv
    # While `python -m` imports a package, it has not said yet which.
    is_module = program == "-m" and (("-m", "nvfp4") in pairwise(words) or "-mnvfp4" in words)
    if is_module or Path(program).name == "nvfp4":
        sys.stderr.write(f"nvfp4: error: {error}\n")
        sys.exit(2)
