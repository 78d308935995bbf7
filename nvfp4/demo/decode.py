"""How fast the models generate, measured in turns, and where the time of one quantised layer goes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nvfp4 import _C
from nvfp4.demo.variants import nvfp4_modules

__all__ = ["Continuation", "LayerTime", "decode_in_turns", "layer_time"]

_WARM_UP = 3
_ROUNDS = 15


@dataclass(frozen=True)
class Continuation:
    """What one model generated: token ids, and the median time of a step after the warm-up ones."""

    ids: list[int]
    seconds_per_token: float

    @property
    def tokens_per_second(self) -> float:
        """Decode speed, without the prompt."""
        return 1.0 / self.seconds_per_token


@dataclass(frozen=True)
class LayerTime:
    """Mean time in µs of one Linear of the MLP with one token, over all of them, in the model's order.

    `kernel_us` is None where the serving backend is not the compiled CPU core. The rest of `module_us` is Python: the
    module, the op and its checks, and the allocation of the result.
    """

    module_us: float
    kernel_us: float | None
    float32_us: float
    bfloat16_us: float


def decode_in_turns(models: dict[str, nn.Module], prompt: list[int], tokens: int) -> dict[str, Continuation]:
    """Continue `prompt` greedily with every model, one token of each in turn.

    The machine's moods then reach all of them alike. Generation does not stop at an end-of-text token, so that every
    model takes the same number of steps.

    Args:
        models: `transformers` causal language models by name.
        prompt: token ids, BOS included.
        tokens: how many to generate, at least 1.
    """
    running = {name: _greedy(model, prompt) for name, model in models.items()}
    ids: dict[str, list[int]] = {name: [] for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with torch.no_grad():
        for name, generator in running.items():
            ids[name].append(next(generator))  # The prompt is read here, outside the measured steps.
        for _ in range(tokens):
            for name, generator in running.items():
                start = time.perf_counter()
                ids[name].append(next(generator))
                seconds[name].append(time.perf_counter() - start)
    measured = {name: times[min(_WARM_UP, tokens - 1) :] for name, times in seconds.items()}
    return {name: Continuation(ids[name][:tokens], statistics.median(measured[name])) for name in models}


def _greedy(model: Any, prompt: list[int]) -> Iterator[int]:
    ids, cache = torch.tensor([prompt]), None
    while True:
        output = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache = output.past_key_values
        ids = output.logits[:, -1].argmax(dim=-1, keepdim=True)
        yield int(ids)


def layer_time(candidate: nn.Module, reference: nn.Module, bfloat16: nn.Module) -> LayerTime:
    """Time every quantised Linear with one token, and the Linears it replaced.

    All layers run one after the other, as in a decode step, so that their weights come from where they would then.
    Medians of rounds, the models in turns.

    Args:
        candidate: a model with `NVFP4Linear`s, whose activations are bfloat16.
        reference: the float32 model with the same names.
        bfloat16: the same in bfloat16.
    """
    names = list(nvfp4_modules(candidate))
    rows: dict[str, list[float]] = {"module": [], "kernel": [], "float32": [], "bfloat16": []}
    sides = {"module": candidate, "float32": reference, "bfloat16": bfloat16}
    calls = {side: _calls(model, names, side != "float32") for side, model in sides.items()}
    with torch.no_grad(), _kernel_clock() as kernel_seconds:
        for _ in range(_WARM_UP + _ROUNDS):
            for side, layers in calls.items():
                kernel_seconds.clear()
                start = time.perf_counter()
                for module, x in layers:
                    module(x)
                rows[side].append((time.perf_counter() - start) / len(layers) * 1e6)
                if side == "module":
                    rows["kernel"].append(sum(kernel_seconds) / len(layers) * 1e6)
    median = {side: statistics.median(times[_WARM_UP:]) for side, times in rows.items()}
    return LayerTime(median["module"], median["kernel"] or None, median["float32"], median["bfloat16"])


def _calls(model: nn.Module, names: list[str], bfloat16: bool) -> list[tuple[Callable[..., Any], torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    calls: list[tuple[Callable[..., Any], torch.Tensor]] = []
    for name in names:
        module: Any = model.get_submodule(name)
        x = torch.randn(1, 1, module.in_features, generator=generator)
        calls.append((module, x.bfloat16() if bfloat16 else x))
    return calls


@contextmanager
def _kernel_clock() -> Iterator[list[float]]:
    """Collects the seconds of each W4A4 and W4A16 Linear inside the compiled core, Python left out."""
    core: Any = _C.cpu
    originals = {name: getattr(core, name) for name in ("linear_w4a4", "gemm_w4a16")}
    seconds: list[float] = []

    def timed(kernel: Callable[..., None]) -> Callable[..., None]:
        def run(*args: Any) -> None:
            start = time.perf_counter()
            kernel(*args)
            seconds.append(time.perf_counter() - start)

        return run

    for name, kernel in originals.items():
        setattr(core, name, timed(kernel))
    try:
        yield seconds
    finally:
        for name, kernel in originals.items():
            setattr(core, name, kernel)
