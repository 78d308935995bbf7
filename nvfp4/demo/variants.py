"""The demo's models, which share every tensor that quantisation does not touch."""

from __future__ import annotations

import copy

import torch
from torch import nn

from nvfp4.nn import NVFP4Linear
from nvfp4.ptq import QuantizationReport, quantize_model

__all__ = ["as_bfloat16", "nvfp4_modules", "quantized_copy", "weight_bytes"]


def quantized_copy(model: nn.Module, recipe: str) -> tuple[nn.Module, QuantizationReport]:
    """A copy of `model` quantised by `recipe`, and what was done; parameters outside the recipe are shared with it."""
    tensors = (*model.parameters(), *model.buffers())
    candidate = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    report = quantize_model(candidate, recipe, progress=False)
    return candidate, report


def as_bfloat16(model: nn.Module, twin: nn.Module | None = None) -> nn.Module:
    """A copy whose float32 parameters are bfloat16; packed weights and their scales stay as they are, and shared.

    Args:
        model: the model to copy. Buffers stay float32, as after `from_pretrained(dtype=torch.bfloat16)`.
        twin: a bfloat16 copy of another model with the same names, whose parameters are taken where the model shares
            them with that one.
    """
    twins = dict(twin.named_parameters()) if twin is not None else {}
    kept = {id(tensor) for module in nvfp4_modules(model).values() for tensor in module.parameters()}
    replaced: dict[int, torch.Tensor] = {id(buffer): buffer for buffer in model.buffers()}
    for name, parameter in model.named_parameters():
        if id(parameter) in kept or parameter.dtype != torch.float32:
            replaced[id(parameter)] = parameter
        else:
            replaced[id(parameter)] = _twin_of(name, parameter, twins)
    return copy.deepcopy(model, replaced)


def _twin_of(name: str, parameter: nn.Parameter, twins: dict[str, nn.Parameter]) -> nn.Parameter:
    return twins[name] if name in twins else nn.Parameter(parameter.detach().bfloat16(), requires_grad=False)


def nvfp4_modules(model: nn.Module) -> dict[str, NVFP4Linear]:
    """The quantised modules of `model` by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, NVFP4Linear)}


def weight_bytes(model: nn.Module, names: list[str]) -> int:
    """Bytes of every parameter of the modules in `names`, in the layout they are held in."""
    return sum(tensor.nbytes for name in names for tensor in model.get_submodule(name).parameters())
