"""`nvfp4 evaluate`: one local model against another on a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["evaluate"]


def evaluate(
    reference: Annotated[Path, typer.Argument(metavar="REF", help="Folder of the reference model.")],
    candidate: Annotated[Path, typer.Argument(metavar="CAND", help="Folder of the candidate, same tokenizer.")],
    text: Annotated[Path, typer.Option(help="UTF-8 text to score.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON to this file too.")] = None,
    recipe: Annotated[str, typer.Option(help="Quantise the candidate with this preset or YAML file first.")] = "",
    windows: Annotated[int, typer.Option(help="Windows of text to score.")] = 4,
    window_tokens: Annotated[int, typer.Option(help="Tokens of text in each, BOS not counted.")] = 1023,
) -> None:
    """Perplexity of both models, KL divergence and top-1 agreement of CAND against REF, in float32 and read locally."""
    from rich.console import Console

    from nvfp4.demo.compare import as_table, compare_folders
    from nvfp4.demo.files import file_beside
    from nvfp4.tables import show

    evaluation = compare_folders(reference, candidate, text, recipe, windows, window_tokens)
    if out is not None:
        with file_beside(out) as path:
            path.write_text(evaluation.to_json() + "\n", encoding="utf-8")
    if json:
        typer.echo(evaluation.to_json())
    else:
        show(Console(), as_table(evaluation))
