"""`quantize_model`: a recipe applied to a model, in place."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from torch import Tensor, nn
from tqdm import tqdm

from nvfp4.kinds import check_kind
from nvfp4.nn import NVFP4Linear, Recipe, prepare
from nvfp4.nn.fusion import fuse_gated_mlps
from nvfp4.nn.replacing import keep_hooks, places_of
from nvfp4.ptq.calibration import check_tokens, observe_inputs
from nvfp4.ptq.plan import Planned, make_plan, shared_scales, weight_scales
from nvfp4.ptq.report import QuantizationReport, QuantizedModule
from nvfp4.tables import show

__all__ = ["quantize_model"]

_log = logging.getLogger("nvfp4")

_MODES = {"row": "W4A4 per token", "static": "W4A4 static", "none": "W4A16"}


def _model_bytes(model: nn.Module) -> int:
    return sum(t.nbytes for t in model.parameters()) + sum(t.nbytes for t in model.buffers())


def _input_scales(
    model: nn.Module, matched: list[Planned], calibration: Sequence[Tensor] | None, progress: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Static input scales by name, and why a module that was to have one has none."""
    observed = {p.name: p.linear for p in matched if p.activations is not None}
    if calibration is None or not observed:
        return {}, {}
    amax = observe_inputs(model, observed, calibration, progress)
    notes = {name: "no calibration token reached it" for name in observed if name not in amax}
    notes.update({name: "calibration saw only zeros" for name, value in amax.items() if not bool(value > 0)})
    if notes:
        _log.warning("nvfp4: %d of %d modules quantise per token, not static: %s", len(notes), len(observed), notes)
    return shared_scales(matched, {name: value for name, value in amax.items() if name not in notes}), notes


def quantize_model(
    model: nn.Module,
    recipe: Recipe | str | Path = "gemma-mlp",
    calibration: Sequence[Tensor] | None = None,
    progress: bool = True,
    *,
    fuse: bool = False,
) -> QuantizationReport:
    """Replace the Linears that a recipe names by prepared `NVFP4Linear`s, in place.

    Weights get the bytes that llm-compressor writes for them, with one global scale for siblings that engines fuse
    (gate and up; q, k and v). Everything is checked, and calibration is run, before the first module changes; then each
    module is computed first and swapped after, so that a failed run leaves a model that works, partly quantised.

    Args:
        model: a model with values, on any device. Shared modules stay shared.
        recipe: a `Recipe`, a preset's name (``gemma-mlp``, ``all-linear``, ``weight-only``), or a YAML file or text.
        calibration: token tensors [T] or [1, T]. They are run through the unquantised model, and every W4A4 Linear gets
            a static `input_global_scale` from the largest input it saw. None: one scale a token, computed as it comes.
        progress: show progress bars and print the report.
        fuse: put a `GatedMLP` in the place of every MLP that computes down(act(gate(x)) * up(x)) and whose three
            Linears were quantised alike, whatever its class. It pays on SM120 alone. The state dict has the same names;
            the modules gate_proj and up_proj are gone, and with them what looks for them by name (PEFT's adapters). A
            call that has nothing left to quantise does not fuse.

    Returns:
        What was quantised and fused, what was not and why, and the sizes.

    Raises:
        FileNotFoundError: the recipe's file.
        TypeError: an argument of the wrong kind.
        ValueError: the recipe is malformed or matches nothing, a matched weight cannot be quantised (K no multiple of
            16, NaN or Inf, on the meta device), or the calibration tokens are malformed.
    """
    for name, flag in (("progress", progress), ("fuse", fuse)):
        check_kind(f"quantize_model: {name}", flag, (bool,), "True or False")
    rules = Recipe.of(recipe)
    if calibration is not None:
        check_tokens(calibration)
    plan = make_plan(model, rules)
    for target in plan.idle_targets:
        _log.warning("nvfp4: the recipe's target %r matches no module", target)
    for entry in plan.idle_ignores:
        _log.warning("nvfp4: the recipe's ignore %r matches no module", entry)
    if calibration is not None and all(p.activations is None for p in plan.matched):
        _log.warning("nvfp4: calibration is not used: the recipe quantises weights alone (W4A16)")
    scales = weight_scales(plan.matched)
    input_scales, notes = _input_scales(model, plan.matched, calibration, progress)

    before, places, done = _model_bytes(model), places_of(model), []
    matched = deque(plan.matched)
    plan.matched.clear()
    for _ in tqdm(range(len(matched)), desc="quantising", unit="module", disable=not progress):
        # Taken off the queue, so that the original weight is freed as soon as it is replaced.
        planned = matched.popleft()
        name, linear = planned.name, planned.linear
        quantized = NVFP4Linear.from_linear(
            linear,
            activations=planned.activations,
            weight_global_scale=scales[name],
            input_global_scale=input_scales.get(name),
        )
        keep_hooks(linear, quantized)
        for parent, attribute in places[id(linear)]:
            setattr(parent, attribute, quantized)
        shape = (linear.out_features, linear.in_features)
        size = sum(p.nbytes for p in linear.parameters())
        mode = _MODES[quantized.mode]
        done.append(QuantizedModule(name, shape, mode, planned.target, size, quantized.nbytes, notes.get(name, "")))
    fused, unfused = fuse_gated_mlps(model) if fuse else ([], {})
    if fuse and not fused:
        _log.warning(
            "nvfp4: fuse=True found no MLP to fuse: %s", unfused or "none has gate_proj, up_proj and down_proj"
        )
    prepare(model)
    report = QuantizationReport(
        tuple(done), plan.skipped, tuple(plan.idle_targets), before, _model_bytes(model), tuple(fused), unfused
    )
    if progress:
        show(Console(), report)
    return report
