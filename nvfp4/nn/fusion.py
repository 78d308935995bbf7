"""Finding the gated MLPs of a model and putting `GatedMLP`s in their places.

A module is taken for a gated MLP by what it does, not by its name: its own forward is run with stand-ins for its three
Linears, and has to give down(act(gate(x)) * up(x)) with an activation that is known.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from nvfp4 import reference
from nvfp4.nn.gated import GatedMLP
from nvfp4.nn.linear import NVFP4Linear
from nvfp4.nn.replacing import keep_hooks, places_of
from nvfp4.reference import Activation

__all__ = ["fuse_gated_mlps"]

_LEAVES = ("gate_proj", "up_proj", "down_proj")
_PROBES = 256
_TOLERANCE = 1e-5  # of float32 activations; the two GELUs differ by 5e-4


class _Stand(nn.Module):
    """A Linear's stand-in: notes what it is called with, and returns something given, or its input."""

    def __init__(self, result: Tensor | None) -> None:
        super().__init__()
        self.result, self.seen = result, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return x if self.result is None else self.result


def _activation_of(mlp: nn.Module) -> Activation | None:
    """The activation of a module that computes down(act(gate(x)) * up(x)), or None."""
    gate, up = torch.linspace(-9, 9, _PROBES), torch.linspace(3, -2, _PROBES).roll(17)
    x = torch.zeros(1, _PROBES)
    stands = {"gate_proj": _Stand(gate), "up_proj": _Stand(up), "down_proj": _Stand(None)}
    probe = type(mlp).__new__(type(mlp))
    probe.__dict__.update(mlp.__dict__)
    probe._modules = {**mlp._modules, **stands}
    try:
        with torch.no_grad():
            got = type(mlp).forward(probe, x)
    except Exception:  # a foreign forward: whatever it raises, it is none that is known
        return None
    calls = [[s is x for s in stands[leaf].seen] for leaf in ("gate_proj", "up_proj")]
    if not isinstance(got, Tensor) or got.shape != gate.shape or calls != [[True], [True]]:
        return None
    for activation in ("gelu_tanh", "gelu", "silu"):
        wanted = reference.gated_activation(gate, up, activation)
        if torch.allclose(got.float(), wanted, rtol=_TOLERANCE, atol=_TOLERANCE):
            return activation
    return None


def _hooked(module: nn.Module) -> bool:
    return any(
        bool(value) for name, value in vars(module).items() if name.endswith("_hooks") and "state_dict" not in name
    )


def _candidates(model: nn.Module) -> Iterator[tuple[str, nn.Module, list[NVFP4Linear]]]:
    for name, module in model.named_modules():
        linears = [module._modules.get(leaf) for leaf in _LEAVES]
        quantized = [linear for linear in linears if type(linear) is NVFP4Linear]
        if len(quantized) == len(_LEAVES):
            yield name, module, quantized


def _fused(mlp: nn.Module, linears: list[NVFP4Linear], places: dict[int, list[tuple[nn.Module, str]]]) -> GatedMLP:
    """The same as a `GatedMLP`; a ValueError says why it is none."""
    if not places[id(mlp)]:
        raise ValueError("it is the model itself, which cannot be replaced in place; use GatedMLP.from_linears")
    if "forward" in vars(mlp) or any("forward" in vars(linear) for linear in linears):
        raise ValueError("a forward was replaced on the module itself, as accelerate does for offloading")
    if any(map(_hooked, linears)):
        raise ValueError("one of its Linears has hooks, which would not be called")
    if any(len(places[id(linear)]) > 1 for linear in linears):
        raise ValueError("one of its Linears is shared with another module")
    if mlp._parameters or mlp._buffers:
        raise ValueError("it has parameters or buffers beside its Linears")
    activation = _activation_of(mlp)
    if activation is None:
        raise ValueError(f"the forward of {type(mlp).__name__} is not down(act(gate(x)) * up(x)) with GELU or SiLU")
    gate, up, down = linears
    return GatedMLP.from_linears(gate, up, down, activation)


def fuse_gated_mlps(model: nn.Module) -> tuple[list[str], dict[str, str]]:
    """Replace every gated MLP whose three Linears are `NVFP4Linear`s by a `GatedMLP`, in place.

    Args:
        model: the MLPs may be anywhere below it. Shared ones stay shared.

    Returns:
        Names of what was replaced, and the reason by name for every other module with a gate_proj, an up_proj and a
        down_proj in NVFP4.
    """
    places = places_of(model)
    fused, refused = [], dict[str, str]()
    for name, mlp, linears in list(_candidates(model)):
        try:
            replacement = _fused(mlp, linears, places)
        except ValueError as error:
            refused[name] = str(error)
            continue
        keep_hooks(mlp, replacement)
        for parent, attribute in places[id(mlp)]:
            setattr(parent, attribute, replacement)
        fused.append(name)
    return fused, refused
