"""What `nvfp4 tune` measured, kept in the cache folder: microseconds of each candidate of a problem, by kernel family.

One file for each GPU, driver and version of the package. A file that is damaged or made for something else is never
used in part: it is named once in the log, and kernels are chosen as if it were not there.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from nvfp4 import env

__all__ = [
    "Key", "Measurements", "Problem", "Store", "Times", "candidates_refusal", "driver_version", "key_of", "nearest",
    "note", "stored_files",
]  # fmt: skip

_log = logging.getLogger("nvfp4")

_REACH = 2.0  # what was measured speaks for half and for twice as many tokens


class Problem(NamedTuple):
    """The product of m tokens and a weight [n, k]."""

    m: int
    n: int
    k: int

    def __str__(self) -> str:
        """As in the file: ``2048x5376x21504``."""
        return f"{self.m}x{self.n}x{self.k}"

    @classmethod
    def parse(cls, text: str) -> Problem:
        """The inverse of `str`."""
        return cls(*map(int, text.split("x")))


Times = Mapping[str, float]
"""Microseconds by the candidate's name, which its kernel family gives."""

Measurements = Mapping[Problem, Times]


def nearest(problem: Problem, measured: Iterable[Problem]) -> Problem | None:
    """Of what was measured of a weight, that with the nearest number of tokens, from half to twice as many."""

    def distance(other: Problem) -> float:
        return max(other.m / problem.m, problem.m / other.m)

    return min((other for other in measured if distance(other) <= _REACH), key=distance, default=None)


def candidates_refusal(times: Times, wanted: Collection[str]) -> str:
    """Why these are not the times of a problem with the candidates wanted, or an empty string."""
    if len(wanted) < 2:
        return f"got times of {', '.join(sorted(times))}, but there is nothing to choose"
    if times.keys() != set(wanted):
        return f"got times of {', '.join(sorted(times)) or 'nothing'}, wanted {', '.join(sorted(wanted))}"
    return ""


def note(measured: Measurements) -> str:
    """What a backend's answer says of measurements; nothing where there are none."""
    return f"; plans near {len(measured)} measured problems are tuned on this GPU" if measured else ""


class Key(NamedTuple):
    """What timings depend on and a user may change."""

    gpu: str
    driver: str
    version: str

    @property
    def path(self) -> Path:
        """Where timings for it are kept."""
        name = "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part) for part in ("tuning", *self))
        return env.cache_dir() / f"{name}.json"


def driver_version() -> str:
    """The NVIDIA driver's version, such as ``580.65.06``; ``unknown`` where NVML does not say."""
    text = ctypes.create_string_buffer(96)
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if nvml.nvmlInit_v2() == 0:
            nvml.nvmlSystemGetDriverVersion(text, len(text))
            nvml.nvmlShutdown()
    except (OSError, AttributeError):
        pass
    return text.value.decode(errors="replace") or "unknown"


def key_of(index: int, version: str) -> Key:
    """The key of the GPU of this index and this version of the package."""
    return Key(torch.cuda.get_device_name(index), driver_version(), version)


_Name = Annotated[str, StringConstraints(min_length=1, max_length=100)]
_Problem = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,6}x[1-9]\d{0,6}x[1-9]\d{0,6}$")]
_Microseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal[1] = 1
    gpu: str
    driver: str
    version: str
    microseconds: dict[_Name, dict[_Problem, dict[_Name, _Microseconds]]]


def _parsed(path: Path) -> _File:
    try:
        return _File.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{path}: {place + ': ' if place else ''}{first['msg']}") from error


def stored_files() -> dict[Path, str]:
    """Every tuning file in the cache folder, for whatever GPU, and what it holds or what is wrong with it."""
    found = {}
    for path in sorted(env.cache_dir().glob("tuning-*.json")):
        try:
            file = _parsed(path)
        except (OSError, ValueError) as error:
            found[path] = str(error).removeprefix(f"{path}: ")
            continue
        count = sum(map(len, file.microseconds.values()))
        found[path] = f"{file.gpu}, driver {file.driver}, nvfp4 {file.version}, problems: {count}"
    return found


def _read(key: Key) -> dict[str, dict[Problem, Times]]:
    """Everything that is stored for a key, by family; nothing where there is no file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or for another key.
    """
    path = key.path
    try:
        file = _parsed(path)
    except FileNotFoundError:
        return {}
    found = Key(file.gpu, file.driver, file.version)
    for name, got, wanted in zip(key._fields, found, key, strict=True):
        if got != wanted:
            raise ValueError(f"{path}: got {name} {got!r}, wanted {wanted!r}: it was made for something else")
    return {
        family: {Problem.parse(text): times for text, times in problems.items()}
        for family, problems in file.microseconds.items()
    }


def _write(key: Key, families: Mapping[str, Measurements]) -> None:
    """Replace the file: whoever reads meanwhile, or after an interruption, finds the old one or the new one."""
    microseconds = {
        family: {str(problem): dict(times) for problem, times in sorted(found.items())}
        for family, found in sorted(families.items())
    }
    text = _File(**key._asdict(), microseconds=microseconds).model_dump_json(indent=2)
    partial = key.path.with_name(f".partial-{key.path.name}")  # one writer at a time has the lock
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(key.path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time: what another one adds between reading and writing would be lost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@cache
def _warn_once(message: str) -> None:
    _log.warning("%s", message)


@dataclass(frozen=True)
class Store:
    """What is stored of one kernel family on one kind of GPU.

    Attributes:
        key: the GPU, the driver, the package.
        family: such as ``sm120``.
        refusal: why the family cannot use what is stored of a problem, or an empty string.
    """

    key: Key
    family: str
    refusal: Callable[[Problem, Times], str]

    def load(self) -> Measurements:
        """What is stored; nothing where there is no file.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is damaged, or for something else, or the family refuses something in it.
        """
        found = _read(self.key).get(self.family, {})
        for problem, times in found.items():
            refusal = self.refusal(problem, times)
            if refusal:
                raise ValueError(f"{self.key.path}: {self.family}: {problem}: {refusal}")
        return found

    def usable(self) -> Measurements:
        """The same for a forward pass, which does not fail because of it: a warning, once, and nothing is used."""
        try:
            return self.load()
        except (OSError, RuntimeError, ValueError) as error:
            _warn_once(
                f"nvfp4: the tuning file is ignored, kernels are chosen by predicted times: {error}. "
                "Run `nvfp4 tune` again, or remove the file by `nvfp4 tune --clear`."
            )
            return {}

    def add(self, measurements: Measurements) -> None:
        """Store measurements beside what is there, in the place of older ones of the same problems.

        What cannot be used goes: a damaged file, and what the family refuses.

        Raises:
            OSError: the file cannot be written.
        """
        with _locked(self.key.path):
            try:
                families = _read(self.key)
            except ValueError as error:
                _log.warning("nvfp4: the tuning file is replaced: %s", error)
                families = {}
            old = families.get(self.family, {})
            kept = {problem: times for problem, times in old.items() if not self.refusal(problem, times)}
            _write(self.key, families | {self.family: kept | dict(measurements)})

    def clear(self) -> bool:
        """Remove the file, every family's measurements with it. Whether there was one.

        Raises:
            OSError: it cannot be removed.
        """
        try:
            self.key.path.unlink()
        except FileNotFoundError:
            return False
        return True
