"""Which kernel ran, how often: one counter a kernel name, so that a demo or a test can show what really happened."""

from __future__ import annotations

from collections import Counter

__all__ = ["kernel_calls", "record", "reset_kernel_calls"]

_calls: Counter[str] = Counter()


def record(kernel: str) -> None:
    """Count one run of a kernel, named ``backend/…``."""
    _calls[kernel] += 1


def kernel_calls() -> dict[str, int]:
    """Runs of every kernel since the last `reset_kernel_calls`, by name: ``{"cpu/avx2/linear/w4a4": 54}``."""
    return dict(_calls)


def reset_kernel_calls() -> None:
    """Forget the counts."""
    _calls.clear()
