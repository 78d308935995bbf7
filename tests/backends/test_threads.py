"""The core under fork and under two Python threads."""

from __future__ import annotations

import multiprocessing
import threading

import torch

import nvfp4
from helpers import outliers, quantized, same_bits
from nvfp4 import NVFP4Tensor


def _raw(t: torch.Tensor) -> bytes:
    """The bytes without a torch kernel: those may start OpenMP threads, which hangs a forked child."""
    return t.view(torch.uint8).numpy().tobytes()


def _child(x: torch.Tensor, w: NVFP4Tensor, queue: multiprocessing.Queue) -> None:  # type: ignore[type-arg]
    queue.put(_raw(nvfp4.linear(x, w)))


def test_a_forked_child_can_use_the_kernels() -> None:
    """The OpenMP pool does not survive fork; a child that used it would hang."""
    w, x = nvfp4.to_layout(quantized(512, 512), "n16k64"), outliers(64, 512, torch.bfloat16)
    wanted = _raw(nvfp4.linear(x, w))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_child, args=(x, w, queue), daemon=True)
    child.start()
    try:
        assert queue.get(timeout=60) == wanted
        child.join(timeout=60)
        assert child.exitcode == 0
    finally:
        child.kill()


def test_two_python_threads_at_once() -> None:
    w = nvfp4.to_layout(quantized(512, 512), "n16k64")
    inputs = [outliers(m, 512, torch.bfloat16) for m in (1, 64)]
    wanted = [nvfp4.linear(x, w) for x in inputs]
    failures: list[int] = []

    def work(index: int) -> None:
        for _ in range(50):
            if not same_bits(nvfp4.linear(inputs[index], w), wanted[index]):
                failures.append(index)

    threads = [threading.Thread(target=work, args=(i,)) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
