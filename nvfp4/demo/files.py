"""Files and folders that appear whole or not at all: written beside their target, then renamed."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DemoError", "file_beside", "folder_beside", "make_folder"]

_STALE_SECONDS = 3600.0
_PARTIAL = ".partial-"


class DemoError(RuntimeError):
    """Something the user can put right; the message says what, got, wanted and what to do."""


def make_folder(path: Path, what: str, remedy: str) -> None:
    """Create `path` with its parents and make sure that files can be made in it.

    Raises:
        DemoError: it cannot be created or written; `what` names the folder's purpose, `remedy` what to do.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise DemoError(f"{what} {path}: {error.strerror or error}; wanted a folder to write to. {remedy}") from error


@contextmanager
def file_beside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed to `path` on success, removed on any exception.

    The temporary name keeps the suffix, because writers such as matplotlib choose the format by it.

    Raises:
        DemoError: the file cannot be written or renamed.
    """
    partial = path.with_name(f"{_PARTIAL}{os.getpid()}-{path.name}")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise DemoError(f"cannot write {path}: {error.strerror or error}; give another --out folder") from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """An empty folder beside `path` to fill; renamed to `path` on success, removed on any exception.

    If another process finished `path` meanwhile, its folder stays and this one is dropped. What a killed run left
    of `path` more than an hour ago is removed first.

    Raises:
        DemoError: the folder cannot be made, filled or renamed.
    """
    try:
        _remove_stale(path)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f"{_PARTIAL}{path.name}-"))
    except OSError as error:
        raise DemoError(_unwritable(path, error)) from error
    try:
        yield partial
        if not path.exists():
            partial.rename(path)
    except OSError as error:
        if not path.exists():
            raise DemoError(_unwritable(path, error)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _unwritable(path: Path, error: OSError) -> str:
    return (
        f"cannot write {path}: {error.strerror or error}; wanted a folder with room for it. "
        "Set NVFP4_CACHE to another folder or free some space"
    )


def _remove_stale(path: Path) -> None:
    """Only what was meant to become `path`: the folder may be shared with others."""
    for entry in path.parent.glob(f"{_PARTIAL}{glob.escape(path.name)}-*"):
        if time.time() - entry.stat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(entry, ignore_errors=True)
