"""The command line: `nvfp4 …` and `python -m nvfp4`. Thin: each command parses, calls a lower room, and prints.

Commands are imported here, so their modules may import nothing heavy at the top.
"""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from nvfp4.cli.bench import bench
from nvfp4.cli.demo import demo
from nvfp4.cli.evaluate import evaluate
from nvfp4.cli.info import info
from nvfp4.cli.selftest import selftest
from nvfp4.cli.tune import tune

__all__ = ["app", "main"]

app = typer.Typer(
    name="nvfp4",
    help="NVFP4 (4-bit floating point) for PyTorch: what this machine can do, how fast, and at what cost in quality.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(asked: bool) -> None:
    if asked:
        from nvfp4 import _C

        typer.echo(f"nvfp4 {_C.build_info()['version']}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say it and end.")
    ] = False,
) -> None:
    """What is said to the program itself and not to a command."""


for _command in (info, bench, demo, evaluate, selftest, tune):
    app.command()(_command)


def main() -> None:
    """Run a command. An expected error is one line on stderr and exit code 1; NVFP4_LOG=debug shows its traceback."""
    try:
        app()
    except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
        if logging.getLogger("nvfp4").isEnabledFor(logging.DEBUG):
            raise
        typer.echo(f"nvfp4: error: {error}", err=True)
        sys.exit(1)
