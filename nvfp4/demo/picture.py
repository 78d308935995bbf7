"""`demo.png`: where the divergence lies, what the weights take, and how fast the models decode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_COLOURS = {"float32": "#9aa5b1", "bfloat16": "#5b7083", "nvfp4 float32": "#7fb4a2", "nvfp4 bfloat16": "#1f7a5c"}
_LABELS = {
    "float32": "float32",
    "bfloat16": "bfloat16",
    "nvfp4 float32": "NVFP4 MLP,\nrest float32",
    "nvfp4 bfloat16": "NVFP4 MLP,\nrest bfloat16",
}
_SMALLEST_KL = 1e-5


def draw(results: dict[str, Any], kl: np.ndarray, path: Path) -> None:
    """Write the picture.

    Args:
        results: what `run_demo` returns.
        kl: KL divergence of every position, 1-D.
        path: a PNG file to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.5, 4.8), layout="constrained")
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.5, 0.9, 1.2))
    _divergence(left, results, kl)
    sizes = {name: value / 1e6 for name, value in results["mlp_weight_bytes"].items()}
    labels = {"float32": "float32", "bfloat16": "bfloat16", "nvfp4": "NVFP4"}
    colours = {**_COLOURS, "nvfp4": _COLOURS["nvfp4 bfloat16"]}
    _bars(middle, {labels[name]: (value, colours[name]) for name, value in sizes.items()}, "{:.0f} MB")
    middle.set_title("MLP weights in memory")
    middle.set_ylabel("MB")
    speeds = results["decode_tokens_per_second"]
    _bars(right, {_LABELS[name]: (value, _COLOURS[name]) for name, value in speeds.items()}, "{:.1f}")
    right.set_title("Greedy decoding, one sequence")
    right.set_ylabel("tokens/s")
    figure.suptitle(
        f"{results['model']}: MLP linears in W4A4 NVFP4 against float32  "
        f"({results['kernel']}, threads: {results['threads']})"
    )
    figure.savefig(path, dpi=130)


def _divergence(axes: Axes, results: dict[str, Any], kl: np.ndarray) -> None:
    shown = np.maximum(kl, _SMALLEST_KL)
    bins = np.geomspace(_SMALLEST_KL, max(float(shown.max()), 10 * _SMALLEST_KL), 61)
    axes.hist(shown, bins=bins.tolist(), color=_COLOURS["nvfp4 bfloat16"], alpha=0.85)
    axes.set_xscale("log")
    lines = {
        f"median {results['kl_median']:.3f}": (results["kl_median"], ":"),
        f"mean {results['kl_mean']:.3f}": (results["kl_mean"], "-"),
        f"99 % {results['kl_p99']:.2f}": (results["kl_p99"], "--"),
    }
    for label, (value, style) in lines.items():
        axes.axvline(max(value, _SMALLEST_KL), color="#222222", linestyle=style, linewidth=1.4, label=label)
    axes.set_title("KL(float32 ‖ NVFP4) of the next token")
    axes.set_xlabel("nats, log scale")
    axes.set_ylabel(f"positions of {kl.size:,}")
    axes.legend(
        loc="upper left",
        frameon=False,
        title=f"perplexity {results['ppl_reference']:.2f} → {results['ppl_quantized']:.2f}\n"
        f"same top token {results['top1_agreement']:.1%}",
        alignment="left",
    )
    axes.spines[["top", "right"]].set_visible(False)


def _bars(axes: Axes, bars: dict[str, tuple[float, str]], text: str) -> None:
    drawn = axes.bar(list(bars), [value for value, _ in bars.values()], color=[colour for _, colour in bars.values()])
    axes.bar_label(drawn, labels=[text.format(value) for value, _ in bars.values()], padding=2)
    axes.margins(y=0.12)
    axes.tick_params(axis="x", labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
