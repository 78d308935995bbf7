"""What the first calls of Triton's kernels cost, and how many of them a growing number of tokens compiles.

Each time a process of its own, since what one process has compiled it keeps: first with an empty cache of Triton's,
then with what the first process left there. A compilation is a .cubin file in that folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import torch
from rich.console import Group, RenderableType
from rich.text import Text

from nvfp4 import backends, functional
from nvfp4.bench.gpu_results import GpuMachine
from nvfp4.bench.operands import LinearOperands
from nvfp4.bench.report import make_table, number
from nvfp4.tensor import NVFP4Tensor

__all__ = ["COLUMNS", "LOOP", "TOKENS", "Step", "calls", "check_served", "measure", "render", "take"]

TOKENS = (1, 16, 2048)
"""Of the first calls, in this order: the second finds what the first has compiled."""

LOOP = (*range(1, 66), 96, 127, 128, 129, 200, 255, 256, 257, 333, 500, 511, 512, 513, 777, 1000, 1023, 1024)
"""A loop that generates: every small number of tokens, then powers of two, what is beside them, and others."""


@dataclass(frozen=True)
class Step:
    """One call.

    Attributes:
        cache: ``empty`` or ``filled``, before the process began.
        step: ``prepare`` (the weight into Triton's layout), ``first`` (of `TOKENS`) or ``loop`` (of `LOOP`).
        m: tokens; 0 where there are none.
        n: rows of the weight.
        k: columns.
        seconds: that it took, until the GPU was done.
        kernels: that it compiled.
    """

    cache: str
    step: str
    m: int
    n: int
    k: int
    seconds: float
    kernels: int


COLUMNS = (*(field.name for field in fields(Step)), *(field.name for field in fields(GpuMachine)))
"""Of the CSV file, in this order."""


def check_served() -> None:
    """Make sure that Triton's products run here.

    Raises:
        RuntimeError: they do not; the message says why.
    """
    supported, reason = backends.BACKENDS["triton"].supports(backends.Desc("linear", "cuda"))
    if not supported:
        raise RuntimeError(f"bench: --first-call is of the Triton backend, which serves nothing here: {reason}")


def calls(
    n: int, k: int, device: str = "cuda", name: str = "triton"
) -> Iterator[tuple[str, int, Callable[[], object]]]:
    """Steps, tokens and calls of a linear (W4A4, a scale a row), the weight's way into the backend's layout first."""
    layout = backends.BACKENDS[name].weight_layout("row")
    plain = LinearOperands(n, k, "plain", cold=0, peers=False).plain.to(device)
    weights: list[NVFP4Tensor] = []
    yield "prepare", 0, lambda: weights.append(functional.to_layout(plain, layout))
    for step, sizes in (("first", TOKENS), ("loop", LOOP)):
        for m in sizes:
            x = torch.randn(m, k, device=device, dtype=torch.bfloat16)
            yield step, m, partial(functional.linear, x, weights[0])


def _compiled(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*.cubin"))


def take(
    steps: Iterable[tuple[str, int, Callable[[], object]]],
    folder: Path,
    wait: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[tuple[str, int, float, int]]:
    """Make calls: steps, tokens, seconds, and kernels that came into the folder.

    Args:
        steps: what `calls` gives.
        folder: of Triton's cache.
        wait: for the GPU.
        clock: seconds.
    """
    for step, m, call in steps:
        before = _compiled(folder)
        wait()
        start = clock()
        call()
        wait()
        yield step, m, clock() - start, _compiled(folder) - before


def _in_a_process(folder: Path, n: int, k: int) -> list[tuple[str, int, float, int]]:
    command = [sys.executable, "-m", "nvfp4.bench.first_call", str(folder), str(n), str(k)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-5:])
        raise RuntimeError(f"bench: --first-call: the process that measures ended with {done.returncode}:\n{last}")
    return [tuple(step) for step in json.loads(done.stdout.splitlines()[-1])]


def measure(
    n: int, k: int, process: Callable[[Path, int, int], list[tuple[str, int, float, int]]] = _in_a_process
) -> list[Step]:
    """The steps of two processes, with an empty cache and with what the first left there.

    Args:
        n: rows of the weight.
        k: columns.
        process: makes the steps; the tests have one of their own.

    Raises:
        RuntimeError: a process failed; the message holds its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="nvfp4-first-call-") as folder:
        return [
            Step(cache, step, m, n, k, seconds, kernels)
            for cache in ("empty", "filled")
            for step, m, seconds, kernels in process(Path(folder), n, k)
        ]


def _count(steps: Iterable[Step]) -> int:
    return sum(step.kernels for step in steps)


def render(steps: Sequence[Step]) -> RenderableType:
    """Times with an empty and a filled cache, and what the loop compiled."""
    runs = {cache: [step for step in steps if step.cache == cache] for cache in ("empty", "filled")}
    loops = {cache: [step for step in run if step.step == "loop"] for cache, run in runs.items()}
    empty = runs["empty"]
    title = f"first calls of Triton's linear W4A4 (a scale a row)  N {empty[0].n}  K {empty[0].k}"
    table = make_table(title, ("a process each", "empty cache, ms", "compiled", "filled cache, ms", "compiled"))
    for cold, warm in zip(empty, runs["filled"], strict=True):
        if cold.step != "loop":
            name = f"M = {cold.m}" if cold.m else "Triton's import, and the weight into its layout"
            table.add_row(
                name, number(1e3 * cold.seconds), str(cold.kernels), number(1e3 * warm.seconds), str(warm.kernels)
            )
    sizes = [step.m for step in loops["empty"]]
    figures = [
        text
        for loop in loops.values()
        for text in (number(1e3 * sum(step.seconds for step in loop)), str(_count(loop)))
    ]  # fmt: skip
    table.add_row(f"then {len(sizes)} numbers of tokens from {min(sizes)} to {max(sizes)}", *figures)
    grown = [step.m for step in loops["empty"] if step.kernels]
    last = f"at M = {', '.join(map(str, grown))} and no other" if grown else "none"
    text = f"distinct kernels: {_count(empty)}, of which the growing loop compiled {_count(loops['empty'])}: {last}"
    return Group(table, Text(text))


def main() -> None:
    """The process that measures: a folder, N and K; prints the steps as JSON."""
    folder, n, k = sys.argv[1:]
    os.environ["TRITON_CACHE_DIR"] = folder  # read when Triton is imported, by the first call
    with torch.no_grad(), backends.force("triton"):
        steps = list(take(calls(int(n), int(k)), Path(folder), torch.cuda.synchronize))
    sys.stdout.write(json.dumps(steps) + "\n")


if __name__ == "__main__":
    main()
