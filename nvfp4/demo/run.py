"""The demo from beginning to end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import nn

from nvfp4 import backends
from nvfp4.demo.files import DemoError, file_beside, make_folder
from nvfp4.demo.parts import require_extra
from nvfp4.metrics import Evaluation, evaluate
from nvfp4.tables import show

if TYPE_CHECKING:
    from nvfp4.demo.decode import Continuation
    from nvfp4.demo.model import DemoModel

__all__ = ["PROMPT", "run_demo"]

PROMPT = "The old lighthouse keeper climbed the stairs every evening to"
_PROMPT_TOKENS = 256


def run_demo(
    text: Path | None = None,
    model: Path | None = None,
    out: Path = Path("nvfp4-demo"),
    *,
    windows: int = 4,
    window_tokens: int = 1023,
    generate_tokens: int = 32,
    prompt: str = PROMPT,
    recipe: str = "gemma-mlp",
    console: Console | None = None,
) -> dict[str, Any]:
    """Quantise a model, compare it with itself in float32, let both write; leaves `demo.json` and `demo.png` in `out`.

    Args:
        text: a UTF-8 file to score; None takes the pages that come with the package.
        model: a local folder in Hugging Face's layout; None takes Gemma 3 270M from the extra `demo`.
        out: folder for the results; made if it is not there.
        windows: windows of text to score.
        window_tokens: tokens of text in each, BOS not counted.
        generate_tokens: tokens that each model writes, at least 1.
        prompt: what they continue.
        recipe: a preset's name or a YAML file, as for `nvfp4.quantize_model`.
        console: where to report; None takes the terminal.

    Returns:
        What `demo.json` holds: every figure of `nvfp4.Evaluation` (the candidate's perplexity as `ppl_quantized`),
        sizes, speeds, `backend`, `kernel`, `kernel_calls`, the continuations and the seconds of every step.

    Raises:
        DemoError: a missing extra, unreadable or too short text, a folder without a model, an unwritable folder, or a
            kernel that did not run as often as the layers imply.
    """
    started = time.perf_counter()
    console = console or Console()
    seconds: dict[str, float] = {}
    if generate_tokens < 1:
        raise DemoError(f"got {generate_tokens} tokens to generate; wanted at least 1")
    require_extra()
    make_folder(out, "the results folder", "Give another --out folder")

    from nvfp4.demo.model import load
    from nvfp4.demo.picture import draw
    from nvfp4.demo.report import render
    from nvfp4.demo.text import read_text, windows_of
    from nvfp4.demo.variants import quantized_copy

    source = read_text(text)
    with _Step(console, seconds, "load", "Loading the model"):
        loaded = load(model, lambda line: console.print(f"  {line}", highlight=False, soft_wrap=True))
    tokens = windows_of(loaded, source, windows, window_tokens)
    with _Step(console, seconds, "quantize", f"Quantising a copy with the recipe {recipe}"):
        candidate, report = quantized_copy(loaded.model, recipe)
    show(console, report)
    with _Step(console, seconds, "evaluate", f"Comparing both on {windows} windows of {window_tokens} tokens"):
        backends.reset_kernel_calls()
        evaluation = evaluate(loaded.model, candidate, tokens)
        calls = backends.kernel_calls()
    results: dict[str, Any] = {
        "model": loaded.name,
        "recipe": recipe,
        "text": "built in" if text is None else str(text),
    }
    results |= _quality(evaluation) | _kernel(calls, len(report.quantized), len(tokens))
    results |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    with _Step(console, seconds, "generate", f"Writing {generate_tokens} tokens with each"):
        ids = [*loaded.bos, *loaded.encode(prompt)][:_PROMPT_TOKENS]
        results |= _speed(loaded, candidate, ids, generate_tokens)
    results["prompt"] = prompt

    with _Step(console, seconds, "picture", "Drawing"), file_beside(out / "demo.png") as path:
        draw(_finite(results), evaluation.kl_per_position.numpy(), path)
    seconds |= {
        "reference": evaluation.seconds_reference,
        "candidate": evaluation.seconds_candidate,
        "statistics": evaluation.seconds_statistics,
        "total": time.perf_counter() - started,
    }
    results["seconds"] = seconds
    with file_beside(out / "demo.json") as path:
        path.write_text(json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    show(console, render(results))
    console.print(f"Wrote {out / 'demo.json'} and {out / 'demo.png'}", highlight=False, soft_wrap=True)
    return results


class _Step:
    """Says what begins, and keeps how long it took."""

    def __init__(self, console: Console, seconds: dict[str, float], name: str, text: str) -> None:
        self._seconds = seconds
        self._name = name
        console.print(f"[bold]{text}[/bold]", highlight=False, soft_wrap=True)

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._seconds[self._name] = time.perf_counter() - self._start


def _quality(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation's figures under the demo's names; its times go with the others."""
    figures = evaluation.to_dict()
    names = {"ppl_candidate": "ppl_quantized", "ppl_candidate_se": "ppl_quantized_se"}
    return {names.get(name, name): value for name, value in figures.items() if not name.startswith("seconds_")}


def _finite(results: dict[str, Any]) -> dict[str, Any]:
    return {name: float("nan") if value is None else value for name, value in results.items()}


def _kernel(calls: dict[str, int], layers: int, forwards: int) -> dict[str, Any]:
    """Which kernel served the linears; it must have run once a layer and forward."""
    linear = {name: count for name, count in calls.items() if "/linear/" in name}
    total, expected = sum(linear.values()), layers * forwards
    if total != expected or not total:
        raise DemoError(
            f"the NVFP4 linear kernels ran {total} times ({calls}); wanted {expected} = {layers} layers x {forwards} "
            "forwards. Something bypassed the quantised layers: please report it with the output of `nvfp4 info`"
        )
    return {
        "backend": "+".join(sorted({name.split("/")[0] for name in linear})),
        "kernel": "+".join(sorted(linear)),
        "kernel_calls": total,
        "kernel_calls_expected": expected,
        "kernel_calls_by_name": calls,
        "layers": layers,
        "forwards": forwards,
    }


def _speed(loaded: DemoModel, candidate: nn.Module, prompt: list[int], tokens: int) -> dict[str, Any]:
    """Sizes, decode speeds, one layer's time and the texts of all four models."""
    from nvfp4.demo.decode import decode_in_turns, layer_time
    from nvfp4.demo.variants import as_bfloat16, nvfp4_modules, weight_bytes

    half = as_bfloat16(loaded.model)
    quantized_half = as_bfloat16(candidate, half)
    models = {
        "float32": loaded.model,
        "bfloat16": half,
        "nvfp4 float32": candidate,
        "nvfp4 bfloat16": quantized_half,
    }
    written: dict[str, Continuation] = decode_in_turns(models, prompt, tokens)
    layer = layer_time(quantized_half, loaded.model, half)
    names = list(nvfp4_modules(candidate))
    sizes = {"float32": loaded.model, "bfloat16": half, "nvfp4": candidate}
    python_us = None if layer.kernel_us is None else layer.module_us - layer.kernel_us
    return {
        "mlp_weight_bytes": {name: weight_bytes(model, names) for name, model in sizes.items()},
        "decode_tokens_per_second": {name: result.tokens_per_second for name, result in written.items()},
        "generated_tokens": tokens,
        "layer_us": {
            "float32": layer.float32_us,
            "bfloat16": layer.bfloat16_us,
            "nvfp4": layer.module_us,
            "nvfp4_kernel": layer.kernel_us,
            "nvfp4_python": python_us,
        },
        "continuations": {name: loaded.decode(result.ids) for name, result in written.items()},
    }
