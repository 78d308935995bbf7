"""Putting one module in the place of another."""

from __future__ import annotations

from collections import defaultdict

from torch import nn

__all__ = ["keep_hooks", "places_of"]


def places_of(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Every (parent, attribute) a module hangs on, by the module's id."""
    places: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)
    for parent in model.modules():
        for attribute, child in parent._modules.items():
            if child is not None:
                places[id(child)].append((parent, attribute))
    return places


def keep_hooks(old: nn.Module, new: nn.Module) -> None:
    """Hooks that someone registered go on with the module that takes the other's place; their handles still work."""
    for name, value in vars(old).items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_hooks_always_called")) and "state_dict" not in name:
            setattr(new, name, value)
