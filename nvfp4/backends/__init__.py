"""Who serves what: `select` picks the first backend that supports a problem, `explain` shows why."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from nvfp4 import env
from nvfp4.backends.base import FUSED_OPS, OPS, Backend, Desc
from nvfp4.backends.calls import kernel_calls, record, reset_kernel_calls
from nvfp4.backends.cpu import CpuBackend
from nvfp4.backends.cuda import CudaBackend
from nvfp4.backends.reference import ReferenceBackend
from nvfp4.backends.triton import TritonBackend
from nvfp4.checks import ACTIVATIONS
from nvfp4.kinds import check_choice, check_kind
from nvfp4.layout import LAYOUTS

__all__ = [
    "BACKENDS",
    "OPS",
    "Answer",
    "Backend",
    "Desc",
    "Explanation",
    "explain",
    "force",
    "kernel_calls",
    "record",
    "reset_kernel_calls",
    "select",
]

BACKENDS: dict[str, Backend] = {
    backend.name: backend for backend in (CudaBackend(), TritonBackend(), CpuBackend(), ReferenceBackend())
}
"""Every backend, fastest first."""

_log = logging.getLogger("nvfp4")


def _known(name: str, source: str) -> str:
    if name and name not in BACKENDS:
        raise ValueError(f"{source}: got {name!r}, wanted one of {', '.join(BACKENDS)}")
    return name


_forced = _known(env.get("NVFP4_BACKEND"), "NVFP4_BACKEND")


@contextmanager
def force(name: str | None) -> Iterator[None]:
    """Serve everything from one backend inside the `with` block, as `NVFP4_BACKEND` does for a process; None lifts it.

    Raises:
        TypeError: `name` is neither a string nor None.
        ValueError: there is no backend of that name.
    """
    global _forced
    check_kind("force", name, (str, type(None)), f"one of {', '.join(BACKENDS)}, or None")
    previous = _forced
    _forced = _known(name or "", "force")
    select.cache_clear()
    try:
        yield
    finally:
        _forced = previous
        select.cache_clear()


@dataclass(frozen=True)
class Answer:
    """What one backend says to a problem."""

    backend: str
    supported: bool
    reason: str


@dataclass(frozen=True)
class Explanation:
    """Every backend's answer to a problem, and the choice (None when nobody serves it). Prints as a small table."""

    desc: Desc
    answers: tuple[Answer, ...]
    choice: str | None
    forced: bool

    def __str__(self) -> str:
        """One line a backend, the chosen one marked."""
        lines = [f"{self.desc}{'  (NVFP4_BACKEND or force() in effect)' if self.forced else ''}"]
        for answer in self.answers:
            mark = "->" if answer.backend == self.choice else "  "
            lines.append(f" {mark} {answer.backend:<10} {'yes' if answer.supported else 'no ':<4} {answer.reason}")
        return "\n".join(lines)


def _is_device_type(name: str) -> bool:
    """Whether torch knows devices of this type, which has no index."""
    try:
        return torch.device(name).type == name
    except RuntimeError:
        return False


def explain(desc: Desc) -> Explanation:
    """Ask every backend about a problem.

    Raises:
        TypeError: it is no `Desc`, or a field of it is of another kind.
        ValueError: a field of the problem is none of its choices.

    >>> print(nvfp4.backends.explain(nvfp4.backends.Desc("linear", device="cpu")))
    """
    check_kind("explain", desc, (Desc,), "an nvfp4.backends.Desc, such as Desc('linear', device='cpu')")
    check_choice("explain: op", desc.op, OPS)
    check_kind("explain: device", desc.device, (str,), "the type of a device, 'cpu' or 'cuda'")
    if not _is_device_type(desc.device):
        raise ValueError(f"explain: device: got {desc.device!r}, wanted the type of a device, such as 'cpu' or 'cuda'")
    check_kind("explain: dtype", desc.dtype, (torch.dtype,), "a torch.dtype, such as torch.bfloat16")
    check_choice("explain: layout", desc.layout, LAYOUTS[:2] if desc.op in ("quantize", *FUSED_OPS) else LAYOUTS)
    check_choice("explain: activations", desc.activations, ACTIVATIONS)
    answers = tuple(Answer(name, *backend.supports(desc)) for name, backend in BACKENDS.items())
    allowed = [answer.backend for answer in answers if answer.supported and _forced in ("", answer.backend)]
    return Explanation(desc, answers, allowed[0] if allowed else None, bool(_forced))


@lru_cache(maxsize=1024)
def select(op: str, *fields: Any) -> Backend:
    """The backend that serves the problem `Desc(op, *fields)`.

    Takes the fields and not the Desc because building one would cost as much again as the lookup.

    On a device with kernels of its own kind, being served by the reference instead is named once in the log.

    Raises:
        RuntimeError: nobody serves it, or the forced backend does not; the message holds every answer.
    """
    desc = Desc(op, *fields)
    explanation = explain(desc)
    if explanation.choice is None:
        who = f"the forced backend {_forced!r}" if _forced else "any backend"
        remedy = " Unset NVFP4_BACKEND, or leave force(), or call it with what that one serves." if _forced else ""
        raise RuntimeError(f"{desc.op}: not served by {who}.{remedy}\n{explanation}")
    if explanation.choice == "reference" and not _forced:
        _log.warning("nvfp4: %s is served by the slow reference backend.\n%s", desc.op, explanation)
    return BACKENDS[explanation.choice]
