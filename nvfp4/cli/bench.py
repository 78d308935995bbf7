"""`nvfp4 bench`: the microbenchmarks as a table, a CSV file and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["bench"]


class _Choice(NamedTuple):
    """What a user chose, of both devices."""

    shapes: Sequence[tuple[int, int]]
    tokens: tuple[int, ...] | None
    ops: Sequence[str]
    dtype: str
    backend: str
    csv: Path | None
    quick: bool


def bench(
    shape: Annotated[list[str] | None, typer.Option(help="N,K of a weight; may be repeated. Default: Gemma's.")] = None,
    m: Annotated[str, typer.Option("--m", help="Numbers of tokens, such as 1,16,256.")] = "",
    op: Annotated[list[str] | None, typer.Option(help="Only this op; may be repeated.")] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or, on the CPU, float32.")] = "bfloat16",
    device: Annotated[str, typer.Option(help="cpu or cuda; default: cpu, cuda for a GPU's own backend.")] = "",
    threads: Annotated[int, typer.Option(help="Threads; 0: as many as torch takes. CPU only.")] = 0,
    backend: Annotated[
        str, typer.Option(help="Force a backend; default: the one a user would get, on a GPU all that serve.")
    ] = "",
    csv: Annotated[Path | None, typer.Option(help="Write every row to this file.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the rows into this file (needs matplotlib). CPU only.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small shapes, few rounds: a minute at most.")] = False,
    first_call: Annotated[
        bool,
        typer.Option("--first-call", help="Also what Triton's first calls cost, and how many kernels they compile."),
    ] = False,
) -> None:
    """Measure the kernels beside torch's bf16, fp32 and int4 ones and beside what the machine can do, in one run.

    With --device cuda: every backend that serves, beside cuBLAS and a copy, cold, by CUDA graphs.
    """
    from nvfp4.bench import cases, results
    from nvfp4.kinds import check_choice

    device = device or ("cuda" if backend in ("cuda", "triton") else "cpu")
    check_choice("--device", device, ("cpu", "cuda"))
    shapes, tokens = [cases.parse_shape(text) for text in shape or ()], cases.parse_tokens(m) if m else None
    choice = _Choice(shapes, tokens, op or (), dtype, backend, csv, quick)
    for path in (csv, png):
        if path is not None:
            results.check_writable(path)
    if device == "cuda":
        if threads or png is not None:
            raise ValueError("bench: --threads and --png are of the CPU; leave them out with --device cuda")
        _on_gpu(choice, first_call)
    else:
        if first_call:
            raise ValueError("bench: --first-call is of Triton's kernels; it needs --device cuda")
        _on_cpu(choice, threads, png)


def _on_cpu(choice: _Choice, threads: int, png: Path | None) -> None:
    from rich.console import Console

    from nvfp4.bench import cases, plot, results
    from nvfp4.bench.report import render
    from nvfp4.bench.runner import Settings, run
    from nvfp4.bench.timing import Budget
    from nvfp4.tables import show

    quick, csv = choice.quick, choice.csv
    shapes = choice.shapes or (cases.QUICK_SHAPES if quick else cases.SHAPES)
    tokens = choice.tokens or (cases.QUICK_TOKENS if quick else None)
    chosen = cases.make_cases(cases.parse_ops(choice.ops), shapes, tokens, cases.parse_dtype(choice.dtype))
    if png is not None:
        plot.check_matplotlib()
    budget = Budget(rounds=5, seconds=0.2, least=2) if quick else Budget()

    console, errors = Console(), Console(stderr=True)
    with errors.status("") as status:
        report = run(chosen, Settings(budget, choice.backend, threads), progress=status.update)
    show(console, render(report))
    if csv is not None:
        results.write_csv(csv, report.rows, report.machine)
        errors.print(f"rows written to {csv}", soft_wrap=True)
    if png is not None:
        plot.plot(png, report)
        errors.print(f"picture written to {png}", soft_wrap=True)


def _on_gpu(choice: _Choice, first_call: bool) -> None:
    from rich.console import Console

    from nvfp4.bench import cases, gpu_bench, gpu_cases, gpu_place, gpu_report, gpu_results, results
    from nvfp4.bench import first_call as first_calls
    from nvfp4.bench.timing import Budget
    from nvfp4.tables import show

    quick, csv = choice.quick, choice.csv
    shapes = choice.shapes or (cases.QUICK_SHAPES if quick else gpu_cases.SHAPES)
    tokens = choice.tokens or (gpu_cases.QUICK_TOKENS if quick else gpu_cases.TOKENS)
    ops = cases.parse_ops(choice.ops, gpu_cases.OPS)
    chosen = gpu_cases.make_cases(ops, shapes, tokens, cases.parse_dtype(choice.dtype, gpu_cases.DTYPES))
    settings = gpu_bench.GpuSettings(backend=choice.backend)
    if quick:
        settings = gpu_bench.GpuSettings(Budget(rounds=5, seconds=0.2, least=2), choice.backend)
    place = gpu_place.gpu()
    if first_call:
        first_calls.check_served()

    console, errors = Console(), Console(stderr=True)
    with errors.status("") as status:
        report = gpu_bench.run(chosen, place, settings, progress=status.update)
    show(console, gpu_report.render(report))
    if csv is not None:
        results.write_csv(csv, report.rows, report.machine, gpu_results.COLUMNS)
        errors.print(f"rows written to {csv}", soft_wrap=True)
    if not first_call:
        return
    with errors.status("first calls, in two processes of their own"):
        steps = first_calls.measure(*shapes[0])
    show(console, first_calls.render(steps))
    if csv is not None:
        beside = csv.with_suffix(".first-call.csv")
        results.write_csv(beside, steps, report.machine, first_calls.COLUMNS)
        errors.print(f"first calls written to {beside}", soft_wrap=True)
