"""Calibration: the largest magnitude that enters each Linear while the unquantised model reads some tokens.

llm-compressor's observer `static_minmax`: a running maximum over all tokens, in the activations' own dtype.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

__all__ = ["check_tokens", "observe_inputs"]


def check_tokens(calibration: Sequence[Tensor]) -> list[Tensor]:
    """Calibration data as [1, T] (or [B, T]) tensors.

    Raises:
        TypeError: not a sequence of integer tensors.
        ValueError: it is empty, or a tensor is empty or has not one or two dimensions.
    """
    if isinstance(calibration, Tensor | str | Mapping) or not isinstance(calibration, Sequence):
        raise TypeError(f"calibration: got {type(calibration).__name__}, wanted a list of token tensors [T] or [1, T]")
    if not calibration:
        raise ValueError("calibration: got an empty list, wanted token tensors, or None for one scale a token")
    batches = []
    for index, tokens in enumerate(calibration):
        if not isinstance(tokens, Tensor) or tokens.dtype not in (torch.int64, torch.int32):
            got = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
            raise TypeError(f"calibration[{index}]: got {got}, wanted an int64 tensor of token ids")
        if tokens.dim() not in (1, 2) or not tokens.numel():
            raise ValueError(f"calibration[{index}]: got shape {tuple(tokens.shape)}, wanted [T] or [1, T] with T > 0")
        batches.append(tokens.reshape(-1, tokens.shape[-1]))
    return batches


def _check_vocabulary(model: nn.Module, batches: list[Tensor]) -> None:
    """Refuse token ids that the model's embedding does not have, where it can be asked for one."""
    get = getattr(model, "get_input_embeddings", None)
    embedding = get() if callable(get) else None
    if not isinstance(embedding, nn.Embedding):
        return
    low, high = min(int(b.min()) for b in batches), max(int(b.max()) for b in batches)
    if low < 0 or high >= embedding.num_embeddings:
        raise ValueError(
            f"calibration: got token ids from {low} to {high}, wanted 0 to {embedding.num_embeddings - 1}; "
            "they were made with another tokenizer"
        )


def _forward_options(model: nn.Module, observed: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Options of transformers' models that save memory: no cache, and one logit row unless the head is observed."""
    parameters = inspect.signature(model.forward).parameters
    options: dict[str, Any] = {}
    if "use_cache" in parameters:
        options["use_cache"] = False
    get = getattr(model, "get_output_embeddings", None)
    head = get() if callable(get) else None
    if "logits_to_keep" in parameters and not any(module is head for module in observed.values()):
        options["logits_to_keep"] = 1
    return options


def observe_inputs(
    model: nn.Module, observed: Mapping[str, nn.Module], calibration: Sequence[Tensor], progress: bool
) -> dict[str, Tensor]:
    """Run the model over the tokens and return the largest |input| of every observed module that was reached.

    Args:
        model: called as `model(tokens)` in eval mode without gradients; its training flags are restored.
        observed: modules by name.
        calibration: token tensors, [T] or [1, T].
        progress: whether to show a bar.

    Returns:
        A scalar in the activations' dtype by name; modules that no token reached are missing.

    Raises:
        TypeError, ValueError: the tokens are malformed (`check_tokens`), or an input held NaN or Inf.
    """
    batches = check_tokens(calibration)
    _check_vocabulary(model, batches)
    amax: dict[str, Tensor] = {}

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x: Tensor = args[0] if args else kwargs["input"]
            if x.numel():
                low, high = torch.aminmax(x.detach())
                largest = torch.maximum(low.abs(), high.abs())
                amax[name] = torch.maximum(amax[name], largest) if name in amax else largest

        return hook

    device = next(model.parameters()).device
    options = _forward_options(model, observed)
    training = [module for module in model.modules() if module.training]
    handles = [module.register_forward_pre_hook(watch(name), with_kwargs=True) for name, module in observed.items()]
    try:
        model.eval()
        with torch.no_grad():
            for tokens in tqdm(batches, desc="calibrating", unit="text", disable=not progress):
                model(tokens.to(device), **options)
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    spoilt = [name for name, value in amax.items() if not bool(value.isfinite())]
    if spoilt:
        raise ValueError(
            f"calibration: got NaN or Inf entering {', '.join(spoilt[:8])} ({len(spoilt)} modules), wanted finite "
            "activations; run the unquantised model in bfloat16 or float32"
        )
    return amax
