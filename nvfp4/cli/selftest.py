"""`nvfp4 selftest`: whether this machine computes what the package promises."""

from __future__ import annotations

import typer

__all__ = ["selftest"]


def selftest() -> None:
    """Compare what quantises and multiplies here with its definition, bit for bit; exit code 1 when it differs."""
    import torch

    from nvfp4 import _C
    from nvfp4.selftest import run

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    build = _C.build_info()
    code = f"CUDA code for {build['cuda'] or 'nothing'}"
    typer.echo(f"nvfp4 {build['version']}, {code}, torch {torch.__version__}, GPU {gpu}")
    checks = run()
    for check in checks:
        typer.echo(f"  {check.state:<8} {check.name}: {check.detail}")
    failed = sum(check.state == "FAILED" for check in checks)
    passed = sum(check.state == "passed" for check in checks)
    typer.echo(f"{passed} passed, {failed} failed, {len(checks) - passed - failed} skipped")
    if failed:
        raise typer.Exit(1)
