"""Where a figure was measured: the processor, its caches, the versions, the commit."""

from __future__ import annotations

import datetime as dt
import os
import platform
import re
import shlex
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from nvfp4 import _C, env

__all__ = ["Machine", "commit", "cpu_model", "describe", "environment_prefix", "last_level_cache"]

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


@dataclass(frozen=True)
class Machine:
    """What every row of a CSV file says about its origin; `load` is of the minute before the run began."""

    cpu: str
    isa: str
    threads: int
    llc_bytes: int
    load: float
    torch: str
    nvfp4: str
    commit: str
    date: str

    def as_dict(self) -> dict[str, str | int | float]:
        """The fields by name, for CSV."""
        return asdict(self)


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as Linux reports it, or as `platform` does elsewhere."""
    try:
        text = cpuinfo.read_text()
    except OSError:
        text = ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def last_level_cache(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Bytes of the largest cache of the first processor; 32 MiB where the system does not say."""
    sizes = []
    for file in root.glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KMG])", file.read_text().strip())
        if found:
            sizes.append(int(found.group(1)) * _UNITS[found.group(2)])
    return max(sizes, default=32 << 20)


def commit(folder: Path = Path(__file__).parent) -> str:
    """`git describe` of the checkout this package lies in; empty outside of one, or without git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--tags"]
    try:
        tracked = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), "ls-files", "--error-unmatch", "machine.py"],  # noqa: S607
            capture_output=True, timeout=10, check=False,
        )  # fmt: skip
        if tracked.returncode:
            return ""
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""


def environment_prefix() -> str:
    """The `NVFP4_…` variables in effect, as a prefix of a shell command; empty when none is set."""
    set_ = {v.name: env.get(v.name) for v in env.VARIABLES if v.read != "at build" and env.get(v.name) != v.default}
    return "".join(f"{name}={shlex.quote(value)} " for name, value in set_.items())


def describe() -> Machine:
    """This machine, this build, now."""
    return Machine(
        cpu=cpu_model(),
        isa=_C.cpu.isa(),
        threads=env.num_threads() or torch.get_num_threads(),
        llc_bytes=last_level_cache(),
        load=round(os.getloadavg()[0], 2),
        torch=str(torch.__version__),
        nvfp4=_C.build_info()["version"],
        commit=commit(),
        date=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
    )
