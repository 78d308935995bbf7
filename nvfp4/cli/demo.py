"""`nvfp4 demo`: a real model with its MLP in NVFP4, in a few minutes, on any CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["demo"]


def demo(
    text: Annotated[Path | None, typer.Option(help="UTF-8 text to score. Default: a few pages in the package.")] = None,
    model: Annotated[Path | None, typer.Option(help="A local model folder. Default: Gemma 3 270M.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for demo.json and demo.png.")] = Path("nvfp4-demo"),
    windows: Annotated[int, typer.Option(help="Windows of text to score.")] = 4,
    window_tokens: Annotated[int, typer.Option(help="Tokens of text in each, BOS not counted.")] = 1023,
    generate_tokens: Annotated[int, typer.Option(help="Tokens that each model writes.")] = 32,
    prompt: Annotated[str, typer.Option(help="What the models continue. Default: half a sentence.")] = "",
    recipe: Annotated[str, typer.Option(help="Preset or YAML file of the quantisation.")] = "gemma-mlp",
) -> None:
    """Quantise Gemma 3 270M's MLP to NVFP4 and show what that costs in quality and gains in size and time."""
    from nvfp4.demo.run import PROMPT, run_demo

    run_demo(
        text,
        model,
        out,
        windows=windows,
        window_tokens=window_tokens,
        generate_tokens=generate_tokens,
        prompt=prompt or PROMPT,
        recipe=recipe,
    )
