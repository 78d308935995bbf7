"""`nvfp4 selftest`: whether this machine computes what the package promises."""

from __future__ import annotations

import typer

__all__ = ["selftest"]


def selftest() -> None:
    """Compare what quantises and multiplies here with its definition, bit for bit; then time it, if on a GPU.

    Exit code 0: all that ran is equal. 1: something differs. 2: nothing ran, so nothing is known.
    """
    import torch
    from rich.console import Console

    from nvfp4 import _C, env
    from nvfp4.bench import gpu
    from nvfp4.selftest import run
    from nvfp4.tables import show

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    build = _C.build_info()
    code = f"CUDA code for {build['cuda']}" if build["cuda"] else "no CUDA code"
    forced = f", NVFP4_BACKEND={env.get('NVFP4_BACKEND')}" if env.get("NVFP4_BACKEND") else ""
    typer.echo(f"nvfp4 {build['version']}, {code}, torch {torch.__version__}, GPU {name}{forced}")
    checks = run()
    for check in checks:
        typer.echo(f"  {check.state:<8} {check.name}: {check.detail}")
    failed = sum(check.state == "FAILED" for check in checks)
    passed = sum(check.state == "passed" for check in checks)
    typer.echo(f"{passed} passed, {failed} failed, {len(checks) - passed - failed} skipped")
    timed = gpu.run() if torch.cuda.is_available() and not failed else []
    if timed:
        show(Console(), gpu.render(timed))
    if torch.cuda.is_available() and (why := gpu.refusal("linear", "n128k128")):
        typer.echo(f"matrix products are not timed: {why}")
    if failed:
        raise typer.Exit(1)
    if not passed:
        typer.echo("nothing was compared, so this says nothing about the machine", err=True)
        raise typer.Exit(2)
