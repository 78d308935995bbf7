"""What a recipe does to a model, worked out before anything is touched: which Linears, which not and why."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from nvfp4 import reference
from nvfp4.nn import NVFP4Linear, Recipe
from nvfp4.nn.gated import GateUpLinear
from nvfp4.nn.recipe import matches
from nvfp4.nn.state import weight_amax

__all__ = ["FUSED", "Plan", "Planned", "make_plan", "name_patterns", "shared_scales", "weight_scales"]

FUSED = (("gate_proj", "up_proj"), ("q_proj", "k_proj", "v_proj"), ("q_a_proj", "kv_a_proj_with_mqa"), ("w1", "w3"))
"""Siblings that inference engines fuse into one product and that therefore share global scales (llm-compressor 0.12,
`observers/helpers.py`). Those that are there share: engines fuse a Gemma-4 global layer too, which has no v_proj."""

_LISTED = 8

_FUSED_ALREADY = "quantised and fused already"

_HOW_TO_FUSE = (
    "MLPs are fused in the call that quantises them: pass fuse=True there, with the unquantised model; or replace each "
    "by nvfp4.GatedMLP.from_linears(gate_proj, up_proj, down_proj, activation), then call nvfp4.prepare(model). "
)


@dataclass(frozen=True)
class Planned:
    """One Linear that will be quantised."""

    name: str
    linear: nn.Linear
    target: str
    activations: Literal["nvfp4"] | None

    @property
    def fused_key(self) -> tuple[str, int] | str:
        """Equal for siblings that share global scales."""
        parent, _, leaf = self.name.rpartition(".")
        return next(((parent, i) for i, names in enumerate(FUSED) if leaf in names), self.name)


@dataclass
class Plan:
    """Linears to quantise in the model's order, the others with the reason, and entries that mean nothing here."""

    matched: list[Planned] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    idle_targets: list[str] = field(default_factory=list)
    idle_ignores: list[str] = field(default_factory=list)


def name_patterns(names: Iterable[str]) -> Counter[str]:
    """Names with every number replaced by ``*``, and how many names each pattern stands for; bare numbers stay."""
    return Counter(re.sub(r"(?<![^.])\d+(?![^.])", "*", n) if re.search("[^0-9.]", n) else n for n in names)


def _own_forward(linear: nn.Linear) -> str | None:
    """Why a subclass of Linear cannot be replaced, or None."""
    kind = type(linear)
    if isinstance(linear, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return "its owner (nn.MultiheadAttention) reads the weight without calling it"
    if kind.forward is not nn.Linear.forward:
        return f"{kind.__name__} is a Linear with a forward of its own"
    if "forward" in vars(linear):
        return "its forward was replaced on the module itself, as accelerate does for offloading"
    if nn.utils.parametrize.is_parametrized(linear):
        return "its weight is parametrised; torch.nn.utils.parametrize.remove_parametrizations first"
    if linear._parameters.get("weight") is None:
        return (
            "its weight is no parameter of its own but computed from others, as by torch.nn.utils.weight_norm, "
            "spectral_norm and prune; remove that first"
        )
    return None


def _owners(model: nn.Module) -> dict[int, list[str]]:
    """Names of the modules that hold each parameter themselves, by the parameter's id."""
    owners: dict[int, list[str]] = defaultdict(list)
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[id(parameter)].append(name)
    return owners


def make_plan(model: nn.Module, recipe: Recipe) -> Plan:
    """Ask the recipe about every Linear.

    Raises:
        TypeError: `model` is no module.
        ValueError: nothing matches (the message lists what there is), or the model itself is the Linear.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"quantize_model: got {type(model).__name__}, wanted a torch.nn.Module")
    if isinstance(model, nn.Linear):
        raise ValueError(
            "quantize_model: the model is itself a Linear; use NVFP4Linear.from_linear, it returns a new module"
        )
    plan, owners, busy, done = Plan(), _owners(model), set[str](), 0
    for name, module in model.named_modules():
        busy.update(t for group in recipe.groups() for t in group.targets if matches(name, module, t))
        busy.update(entry for entry in recipe.ignore if matches(name, module, entry))
        if not isinstance(module, nn.Linear):
            continue
        found, ignored, other = recipe.target_of(name, module), recipe.ignored_by(name, module), _own_forward(module)
        if isinstance(module, NVFP4Linear):
            plan.skipped[name] = _FUSED_ALREADY if isinstance(module, GateUpLinear) else "quantised already"
            done += found is not None and ignored is None
        elif ignored is not None:
            plan.skipped[name] = f"ignored by {ignored!r}"
        elif found is None:
            plan.skipped[name] = "no target matches"
        elif other is not None:
            plan.skipped[name] = other
        elif len(owners[id(module.weight)]) > 1:
            tied = next(owner for owner in owners[id(module.weight)] if owner != name)
            plan.skipped[name] = f"its weight is tied to {tied!r}; untie it to quantise it"
        else:
            plan.matched.append(Planned(name, module, found[0], found[1].activations))
    targets = [t for group in recipe.groups() for t in group.targets]
    plan.idle_targets = [t for t in dict.fromkeys(targets) if t not in busy]
    # Patterns, and the head that some models lack, stand in recipes for many models; a name is meant for this one.
    names = (entry for entry in dict.fromkeys(recipe.ignore) if not entry.startswith("re:") and entry != "lm_head")
    plan.idle_ignores = [entry for entry in names if entry not in busy]
    if not plan.matched:
        reasons = [f"{reason}: {_listing(name_patterns(n for n, r in plan.skipped.items() if r == reason))}"
                   for reason in dict.fromkeys(plan.skipped.values())]  # fmt: skip
        what = "matches only what is quantised already in" if done else "matches no Linear of"
        advice = _HOW_TO_FUSE if done and _FUSED_ALREADY not in plan.skipped.values() else ""
        raise ValueError(
            f"quantize_model: the recipe {what} this {type(model).__name__}. {advice}"
            f"Targets: {', '.join(targets)}. Linears: {'; '.join(reasons) or 'none'}"
        )
    return plan


def _listing(items: Iterable[str]) -> str:
    items = list(items)
    more = f" and {len(items) - _LISTED} more" if len(items) > _LISTED else ""
    return ", ".join(items[:_LISTED]) + more


def shared_scales(matched: list[Planned], amax: dict[str, Tensor]) -> dict[str, Tensor]:
    """Global scales 2688 / amax as compressed-tensors computes them (`generate_gparam`: in amax's dtype).

    Args:
        matched: the Linears; those without an entry in `amax` get no scale.
        amax: a scalar a name.

    Returns:
        float32 [1] a name. Siblings get the scale of the largest amax among them.
    """
    largest: dict[tuple[str, int] | str, Tensor] = {}
    for p in matched:
        if p.name in amax:
            key, own = p.fused_key, amax[p.name]
            largest[key] = torch.maximum(largest[key].to(own.device), own) if key in largest else own
    return {
        p.name: reference.global_scale_of(largest[p.fused_key].reshape(1), scheme="compressed-tensors")
        for p in matched
        if p.name in amax
    }


def weight_scales(matched: list[Planned]) -> dict[str, Tensor]:
    """Every matched weight's global scale, after a check of all weights.

    Raises:
        ValueError: some weights cannot be quantised (K no multiple of 16, NaN or Inf, meta device); the message names
            them.
    """
    amax, refused = {}, []
    for p in matched:
        try:
            amax[p.name] = weight_amax(p.linear.weight)
        except (TypeError, ValueError) as error:
            refused.append(f"{p.name}: {error}")
    if refused:
        raise ValueError(
            f"quantize_model: {len(refused)} of {len(matched)} matched Linears cannot be quantised; name them in the "
            f"recipe's ignore, or repair them. {_listing(refused)}"
        )
    return shared_scales(matched, amax)
