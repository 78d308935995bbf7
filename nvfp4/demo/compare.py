"""Two local model folders compared on a text: what `nvfp4 evaluate` does."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from nvfp4.demo.files import DemoError
from nvfp4.demo.parts import require_extra
from nvfp4.demo.text import read_text, windows_of
from nvfp4.metrics import Evaluation, evaluate

__all__ = ["as_table", "compare_folders"]


def compare_folders(
    reference: Path, candidate: Path, text: Path, recipe: str = "", windows: int = 4, window_tokens: int = 1023
) -> Evaluation:
    """Evaluate the model in one folder against that in another; both are loaded in float32, nothing is downloaded.

    Args:
        reference: a folder in Hugging Face's layout; its tokenizer cuts the text.
        candidate: another, with the same tokenizer; it may be the same folder if a recipe is given.
        text: a UTF-8 file.
        recipe: a preset's name or a YAML file by which the candidate is quantised first; empty for none.
        windows: windows of text to score.
        window_tokens: tokens of text in each, BOS not counted.

    Raises:
        DemoError: a missing extra, a folder without a model, a text that cannot be read or is too short, or tokenizers
            that cut the text differently.
    """
    require_extra()
    from nvfp4.demo.model import load
    from nvfp4.ptq import quantize_model

    source = read_text(text)
    left, right = load(reference, _silent), load(candidate, _silent)
    tokens = windows_of(left, source, windows, window_tokens)
    others = windows_of(right, source, windows, window_tokens)
    if any(not a.equal(b) for a, b in zip(tokens, others, strict=True)):
        raise DemoError(
            f"the tokenizers of {reference} and {candidate} cut the text differently; wanted models that share one, "
            "because positions are compared one by one"
        )
    if recipe:
        quantize_model(right.model, recipe, progress=False)
    return evaluate(left.model, right.model, tokens)


def as_table(evaluation: Evaluation) -> Table:
    """Every figure with its standard error."""
    table = Table(title=f"{evaluation.positions:,} positions in {evaluation.windows} windows", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("standard error", justify="right")
    figures = evaluation.to_dict()
    for name, value in figures.items():
        if name.endswith("_se") or name in ("windows", "positions"):
            continue
        error = figures.get(f"{name}_se")
        shown = "undefined" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.5g}"
        table.add_row(name, shown, "" if error is None else f"{error:.2g}")
    return table


def _silent(_: str) -> None:
    """The sink for progress lines of a command that prints only its result."""
