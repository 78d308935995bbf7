"""Finding the gated MLPs of a model and putting `GatedMLP`s in their places.

A module is taken for a gated MLP by what it does, not by its name: its own forward is run with stand-ins for its three
Linears, on numbers of every size and in every dtype, and has to give down(act(gate(x)) * up(x)) with an activation that
is known. What else could change its results, such as hooks, dropout and modules with parameters, is refused unseen.
"""

from __future__ import annotations

import inspect
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


class _Stand(nn.Module):
    """A Linear's stand-in: notes what it is called with, and returns something given."""

    def __init__(self, result: Tensor) -> None:
        super().__init__()
        self.result, self.seen = result, list[Tensor]()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x)
        return self.result


def _probes() -> tuple[Tensor, Tensor]:
    """Gates and ups [rows, 512]: usual ones, and magnitudes at which somebody may clamp, up to where float16 ends."""
    usual = torch.linspace(-9, 9, 384, dtype=torch.float32, device="cpu")
    large = torch.tensor([10.0, 30.0, 100.0, 1e3, 1e4, 6e4], dtype=torch.float32, device="cpu")
    gates = torch.cat((usual, large, -large, torch.ones(116, dtype=torch.float32, device="cpu")))
    ups = torch.cat((usual.roll(100) / 3, -large / 1e4, large / 1e4, torch.ones(104, device="cpu"), large, -large))
    return torch.stack((gates, gates.roll(7))), torch.stack((ups.float(), ups.float().roll(7)))


def _matches(mlp: nn.Module, activation: Activation, dtype: torch.dtype, training: bool) -> bool:
    """Whether the module's own forward is this activation's, in a dtype and a mode."""
    gate, up = (t.to(dtype) for t in _probes())
    x, y = torch.randn_like(gate), torch.randn_like(gate)
    stands = {"gate_proj": _Stand(gate), "up_proj": _Stand(up), "down_proj": _Stand(y)}
    probe = type(mlp).__new__(type(mlp))
    probe.__dict__.update(mlp.__dict__)
    probe._modules = {**mlp._modules, **stands}
    probe.training = training
    try:
        with torch.no_grad():
            got = type(mlp).forward(probe, x)
        hidden = stands["down_proj"].seen
        if got is not y or len(hidden) != 1 or hidden[0].shape != gate.shape or hidden[0].dtype != dtype:
            return False
        if any(len(stands[leaf].seen) != 1 or stands[leaf].seen[0] is not x for leaf in ("gate_proj", "up_proj")):
            return False
        gate, up = gate.float(), up.float()
        wanted, unit = reference.gated_activation(gate, up, activation), torch.finfo(dtype).eps
        # Float32 tells the activations apart: the two GELUs differ by 5e-4. In 16 bits every step may have been
        # rounded, and what is looked for is another computation.
        bound = 2e-6 * up.abs() + 2 * unit * wanted.abs() if dtype == torch.float32 else 8 * unit * (gate * up).abs()
        near = (hidden[0].float() - wanted).abs() <= bound + unit / 64
        return bool((near | (wanted.abs() > torch.finfo(dtype).max)).all())
    except Exception:  # a foreign forward: whatever it raises, it is none that is known
        return False


def _activation_of(mlp: nn.Module) -> Activation | None:
    """The activation of a module that computes down(act(gate(x)) * up(x)), or None."""
    activations: tuple[Activation, ...] = ("gelu_tanh", "gelu", "silu")
    for activation in activations:
        if _matches(mlp, activation, torch.float32, mlp.training):
            others = ((torch.float32, not mlp.training), (torch.bfloat16, False), (torch.float16, False))
            return activation if all(_matches(mlp, activation, *other) for other in others) else None
    return None


def _hooked(module: nn.Module) -> bool:
    return any(bool(value) for name, value in vars(module).items() if name.endswith("_hooks"))


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
    if any(map(_hooked, (m for m in mlp.modules() if m is not mlp))) or mlp._state_dict_hooks:
        raise ValueError("a module in it has hooks, or it has one on its state dict, which would not be called")
    if len(inspect.signature(type(mlp).forward).parameters) != 2:
        raise ValueError("its forward takes more than one argument")
    if any(len(places[id(linear)]) > 1 for linear in linears):
        raise ValueError("one of its Linears is shared with another module")
    rest = [m for m in mlp.modules() if m not in linears]
    if any(m._parameters or m._buffers for m in rest):
        raise ValueError("it has parameters or buffers beside its Linears")
    if any(isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0 for m in rest):
        raise ValueError("it has dropout")
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
    for name in [name for name, _, _ in _candidates(model)]:
        mlp = model.get_submodule(name)
        linears = [mlp._modules[leaf] for leaf in _LEAVES]
        try:
            replacement = _fused(mlp, linears, places)  # type: ignore[arg-type]
        except ValueError as error:
            refused[name] = str(error)
            continue
        keep_hooks(mlp, replacement)
        replacement.training = mlp.training
        for parent, attribute in places.pop(id(mlp)):
            setattr(parent, attribute, replacement)
        # Who still holds the old module need not hold gate and up twice.
        for leaf in _LEAVES:
            places.pop(id(mlp._modules.pop(leaf)), None)
        fused.append(name)
    return fused, refused
