"""`nvfp4 bench`: the microbenchmarks as a table, a CSV file and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["bench"]


def bench(
    shape: Annotated[list[str] | None, typer.Option(help="N,K of a weight; may be repeated. Default: Gemma's.")] = None,
    m: Annotated[str, typer.Option("--m", help="Numbers of tokens, such as 1,16,256.")] = "",
    op: Annotated[list[str] | None, typer.Option(help="Only this op; may be repeated.")] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, float16 or float32.")] = "bfloat16",
    threads: Annotated[int, typer.Option(help="Threads; 0: as many as torch takes.")] = 0,
    backend: Annotated[str, typer.Option(help="Force a backend; default: the one a user would get.")] = "",
    csv: Annotated[Path | None, typer.Option(help="Write every row to this file.")] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the rows into this file (needs matplotlib).")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Small shapes, few rounds: a minute at most.")] = False,
) -> None:
    """Measure the kernels beside torch's bf16, fp32 and int4 ones and beside what the machine can do, in one run."""
    from rich.console import Console

    from nvfp4.bench import cases, plot, results
    from nvfp4.bench.report import render
    from nvfp4.bench.runner import Settings, run
    from nvfp4.bench.timing import Budget
    from nvfp4.tables import show

    shapes = [cases.parse_shape(text) for text in shape or ()] or (cases.QUICK_SHAPES if quick else cases.SHAPES)
    tokens = cases.parse_tokens(m) if m else cases.QUICK_TOKENS if quick else None
    chosen = cases.make_cases(cases.parse_ops(op or ()), shapes, tokens, cases.parse_dtype(dtype))
    for path in (csv, png):
        if path is not None:
            results.check_writable(path)
    if png is not None:
        plot.check_matplotlib()
    budget = Budget(rounds=5, seconds=0.2, least=2) if quick else Budget()

    console, errors = Console(), Console(stderr=True)
    with errors.status("") as status:
        report = run(chosen, Settings(budget, backend, threads), progress=status.update)
    show(console, render(report))
    if csv is not None:
        results.write_csv(csv, report.rows, report.machine)
        errors.print(f"rows written to {csv}", soft_wrap=True)
    if png is not None:
        plot.plot(png, report)
        errors.print(f"picture written to {png}", soft_wrap=True)
