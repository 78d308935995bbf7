"""Logits of a window, a slice of positions at a time.

The logits of 1,023 positions over Gemma's vocabulary are 1 GB in float32, so they are made a slice at a time from
the hidden states whenever the model lets its head be applied apart; any other module or callable is asked for all of
them at once.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["LogitSource", "Model", "inference"]

Model = nn.Module | Callable[[torch.Tensor], Any]
"""A module or callable from token ids int64 [1, T] to logits [1, T, vocabulary], or to an object with `.logits`."""

_log = logging.getLogger("nvfp4.metrics")


class LogitSource:
    """Runs one model window by window and hands out its logits by slices of positions.

    Args:
        model: a `transformers` causal language model, another module, or a callable (see `Model`).
        name: what error messages call it, "reference" or "candidate".
    """

    def __init__(self, model: Model, name: str) -> None:
        self.model = model
        self.name = name
        self._head = _separable_head(model)
        self._cap = _softcap(model)

    def run(self, window: torch.Tensor) -> Callable[[int, int], torch.Tensor]:
        """Run the model on one window.

        Args:
            window: int64 [T], token ids.

        Returns:
            `slice_logits(start, stop)`, which gives logits [stop - start, vocabulary] of those positions.

        Raises:
            TypeError: the model returned something without logits.
            ValueError: the logits have the wrong shape.
        """
        ids = window.unsqueeze(0).to(_device(self.model))
        if self._head is not None:
            hidden = self._hidden_states(ids)
            if hidden is not None:
                return lambda start, stop: self._apply_head(hidden[start:stop])
            _log.info("evaluate: the %s changes its head's output; its full logits are kept in memory", self.name)
            self._head = None
        logits = self._logits_of(self.model(ids), len(window))
        return lambda start, stop: logits[start:stop]

    def _hidden_states(self, ids: torch.Tensor) -> torch.Tensor | None:
        """Hidden states [T, hidden] before the head, or None if head(hidden) is not what the model answers.

        The decoder's output is caught during the model's own forward, which is asked for the last position only and
        so also tells what that position's logits should be.
        """
        model: Any = self.model
        caught: list[torch.Tensor] = []

        def catch(module: nn.Module, args: Any, output: Any) -> None:
            caught.append(output.last_hidden_state if hasattr(output, "last_hidden_state") else output[0])

        handle = model.get_decoder().register_forward_hook(catch)
        try:
            last = self._logits_of(model(input_ids=ids, use_cache=False, logits_to_keep=1), 1)
        finally:
            handle.remove()
        if len(caught) != 1 or caught[0].shape[:2] != ids.shape:
            return None
        hidden = caught[0][0]
        return hidden if torch.equal(self._apply_head(hidden[-1:]), last) else None

    def _apply_head(self, hidden: torch.Tensor) -> torch.Tensor:
        assert self._head is not None
        logits: torch.Tensor = self._head(hidden.unsqueeze(0))[0]
        if self._cap is not None:
            logits = torch.tanh(logits / self._cap) * self._cap
        return logits

    def _logits_of(self, output: Any, length: int) -> torch.Tensor:
        logits = getattr(output, "logits", output)
        if not isinstance(logits, torch.Tensor):
            raise TypeError(
                f"evaluate: the {self.name} returned {type(output).__name__}; wanted a tensor [1, {length}, "
                "vocabulary] or an object with .logits"
            )
        if logits.ndim != 3 or logits.shape[0] != 1 or logits.shape[1] != length:
            raise ValueError(
                f"evaluate: the {self.name} returned logits {list(logits.shape)}; wanted [1, {length}, vocabulary]"
            )
        return logits[0]


@contextmanager
def inference(*models: Model) -> Iterator[None]:
    """No gradients, and modules in eval mode; each submodule's own training flag is restored on leaving."""
    modules = [module for model in models if isinstance(model, nn.Module) for module in model.modules()]
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _separable_head(model: Model) -> nn.Module | None:
    """The output layer of a `transformers` causal model that can be asked for its last logits only, else None."""
    if not isinstance(model, nn.Module) or not hasattr(model, "get_output_embeddings"):
        return None
    if not hasattr(model, "get_decoder") or "logits_to_keep" not in inspect.signature(model.forward).parameters:
        return None
    transformers_model: Any = model
    head = transformers_model.get_output_embeddings()
    return head if isinstance(head, nn.Module) else None


def _softcap(model: Model) -> float | None:
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        return None
    cap = getattr(config.get_text_config(), "final_logit_softcapping", None)
    return None if cap is None else float(cap)


def _device(model: Model) -> torch.device:
    if isinstance(model, nn.Module):
        for tensor in (*model.parameters(), *model.buffers()):
            return tensor.device
    return torch.device("cpu")
