"""The demo's table."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from nvfp4.ptq.report import human_bytes

__all__ = ["render"]


def render(results: dict[str, Any]) -> Group:
    """What `run_demo` found as a table for the terminal, the continuations and the layer's time below it."""
    table = Table(
        title=f"{results['model']}: MLP linears in NVFP4 W4A4 against float32",
        title_justify="left",
        box=box.SIMPLE_HEAD,
    )
    table.add_column("")
    for header in ("float32", "bfloat16", "NVFP4 MLP"):
        table.add_column(header, justify="right")
    sizes, speeds = results["mlp_weight_bytes"], results["decode_tokens_per_second"]
    table.add_row("MLP weights", *(human_bytes(sizes[name]) for name in ("float32", "bfloat16", "nvfp4")))
    table.add_row("perplexity", _with_error(results, "ppl_reference", 2), "", _with_error(results, "ppl_quantized", 2))
    table.add_row("KL divergence, mean", "", "", _with_error(results, "kl_mean", 4))
    table.add_row("  median / 99 %", "", "", f"{results['kl_median']:.4f} / {results['kl_p99']:.3f}")
    table.add_row("  top 20 and tail", "", "", _with_error(results, "kl_top20_mean", 4))
    if results["kl_confident_mean"] is not None:
        table.add_row("  where p(top) >= 0.5", "", "", _with_error(results, "kl_confident_mean", 4))
    table.add_row("same top token", "", "", f"{results['top1_agreement']:.2%}")
    table.add_row("tokens/s, rest float32", _speed(speeds["float32"]), "", _speed(speeds["nvfp4 float32"]))
    row = (_speed(speeds["bfloat16"]), _speed(speeds["nvfp4 bfloat16"]))
    table.add_row("tokens/s, rest bfloat16", "", *row)
    layer = results["layer_us"]
    table.add_row("one MLP linear, 1 token", _us(layer["float32"]), _us(layer["bfloat16"]), _us(layer["nvfp4"]))
    if layer["nvfp4_kernel"] is not None:
        table.add_row("  kernel / Python", "", "", f"{_us(layer['nvfp4_kernel'])} / {_us(layer['nvfp4_python'])}")
    calls = f"{results['kernel_calls']:,} = {results['layers']} layers x {results['forwards']}"
    table.add_row("kernel", "", "", results["kernel"])
    table.add_row("  calls while scoring", "", "", calls)
    parts: list[Table | Text] = [table, Text()]
    for name, text in results["continuations"].items():
        parts.append(Text.assemble((f"{name}: ", "bold"), (results["prompt"], "dim"), text))
    seconds = results["seconds"]
    parts.append(
        Text(
            f"\n{results['positions']:,} positions. Seconds: forward {seconds['reference']:.1f} (float32) and "
            f"{seconds['candidate']:.1f} (NVFP4), statistics {seconds['statistics']:.1f}, all {seconds['total']:.1f}"
        )
    )
    return Group(*parts)


def _with_error(results: dict[str, Any], name: str, digits: int) -> str:
    error = results[f"{name}_se"]
    value = results[name]
    if value is None:
        return "infinite"
    return f"{value:.{digits}f}" if error is None else f"{value:.{digits}f} ± {error:.{digits}f}"


def _speed(value: float) -> str:
    return f"{value:.1f}"


def _us(value: float) -> str:
    return f"{value:.0f} µs"
