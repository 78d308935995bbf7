"""The two states of an `NVFP4Linear`, plain and prepared: holding bytes, moving, saving and loading them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._subclasses import FakeTensor
from torch.nn import Parameter

from nvfp4 import functional
from nvfp4.checks import FLOATS
from nvfp4.formats import check_group_multiple
from nvfp4.kinds import check_kind

if TYPE_CHECKING:
    from nvfp4.nn.linear import NVFP4Linear

__all__ = [
    "PLAIN_NAMES",
    "PREPARED_NAMES",
    "apply_to_bytes",
    "as_global_scale",
    "held_parameters",
    "hold",
    "loading",
    "refusals",
    "relayout",
    "save",
    "weight_amax",
]

PLAIN_NAMES = ("weight_packed", "weight_scale")
"""Parameters of the plain state, and names in every state dict."""

PREPARED_NAMES = ("weight_prepared", "weight_prepared_scale")
"""Parameters of the prepared state: uint8, in the layout `module.layout`."""

_DTYPES = {
    "weight_packed": torch.uint8,
    "weight_scale": torch.float8_e4m3fn,
    "weight_global_scale": torch.float32,
    "up_global_scale": torch.float32,
    "input_global_scale": torch.float32,
}


def hold(module: NVFP4Linear, layout: str, packed: Parameter, scale: Parameter) -> None:
    """Put the weight's bytes into the module under the names of the layout, instead of what it held."""
    for name in (*PLAIN_NAMES, *PREPARED_NAMES):
        module._parameters.pop(name, None)
    module.layout = layout
    if layout != "plain" and scale.dtype != torch.uint8:
        scale = Parameter(scale.detach().view(torch.uint8), requires_grad=False)
    for name, value in zip(PLAIN_NAMES if layout == "plain" else PREPARED_NAMES, (packed, scale), strict=True):
        module.register_parameter(name, value)


def held_parameters(module: NVFP4Linear) -> tuple[Parameter, Parameter]:
    """The two parameters the module holds its weight in: codes and scales, in its layout."""
    packed, scale = (module._parameters[name] for name in (PLAIN_NAMES if module.layout == "plain" else PREPARED_NAMES))
    assert packed is not None
    assert scale is not None
    return packed, scale


def relayout(module: NVFP4Linear, layout: str) -> None:
    """Hold the same weight in another layout.

    Raises:
        ValueError: the layout is unknown or a block scale is negative.
    """
    t = functional.to_layout(module.quantized_weight(), layout)
    hold(module, layout, Parameter(t.packed, requires_grad=False), Parameter(t.scale, requires_grad=False))


def apply_to_bytes(fn: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """What `fn` (of `nn.Module._apply`) does to a tensor's place, and nothing that it does to its dtype."""
    t = t.detach()
    if t.stride(-1) != 1:
        # A view of other item size needs neighbours; contiguous() would keep the stride of a single element.
        t = t.clone(memory_format=torch.contiguous_format)
    raw = t.view(torch.uint8)
    moved = fn(raw)
    if moved.dtype != torch.uint8:
        moved = raw.to(moved.device)
    return moved.view(t.dtype)


def weight_amax(weight: Tensor) -> Tensor:
    """The largest magnitude of a weight that can be quantised, a scalar of its dtype.

    Raises:
        TypeError: the dtype is none of float32, float16, bfloat16.
        ValueError: not a matrix, on the meta device, K no multiple of 16, or NaN or Inf among the values.
    """
    weight = weight.detach()
    if weight.dtype not in FLOATS:
        raise TypeError(f"weight: got {weight.dtype}, wanted {', '.join(map(str, FLOATS))}; cast it first")
    if weight.dim() != 2:
        raise ValueError(f"weight: got shape {tuple(weight.shape)}, wanted [out_features, in_features]")
    if weight.is_meta:
        raise ValueError("weight: is on the meta device and has no values; load the model first")
    check_group_multiple(weight.shape[1], "weight")
    if not weight.numel():
        return weight.new_zeros(())
    low, high = torch.aminmax(weight)
    amax = torch.maximum(low.abs(), high.abs())
    # amax is NaN or Inf exactly when a value is, and needs no mask the size of the weight.
    if not bool(amax.isfinite()):
        nan, inf = int(weight.isnan().sum()), int(weight.isinf().sum())
        raise ValueError(
            f"weight: got {nan} NaN and {inf} infinite values among {weight.numel()}, wanted finite ones; "
            "the checkpoint is damaged or training diverged"
        )
    return amax


def as_global_scale(name: str, value: Tensor | float, device: torch.device) -> Tensor:
    """One encode scale as float32 [1] on a device.

    Raises:
        TypeError: no number.
        ValueError: not one positive finite number.
    """
    check_kind(name, value, (Tensor, float, int), "one positive finite number, the encode scale 2688 / amax")
    # Without a place of its own a number would go to whatever default device the caller has set.
    place = value.device if isinstance(value, Tensor) else "cpu"
    scale = torch.as_tensor(value, dtype=torch.float32, device=place).detach()
    if scale.numel() != 1 or not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise ValueError(f"{name}: got {value}, wanted one positive finite number, the encode scale 2688 / amax")
    return scale.reshape(1).to(device, copy=True)


# --- state dicts ----------------------------------------------------------------------------------------------------


def save(module: NVFP4Linear, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
    """Replace a prepared module's entries of a state dict by the plain bytes."""
    if module.layout == "plain":
        return
    t = functional.to_layout(module.quantized_weight(), "plain")
    for name in PREPARED_NAMES:
        destination.pop(prefix + name)
    for name, value in zip(PLAIN_NAMES, (t.packed, t.scale), strict=True):
        destination[prefix + name] = Parameter(value, requires_grad=False) if keep_vars else value


def has_input_scale(module: NVFP4Linear, state_dict: dict[str, Any], prefix: str) -> bool:
    """Whether a module that computes every token's scale is to be given a calibrated one, which makes it static."""
    return (
        module._parameters["input_global_scale"] is None
        and module.activations is not None
        and isinstance(state_dict.get(prefix + "input_global_scale"), Tensor)
    )


def _unsound(name: str, value: Tensor) -> str | None:
    """What is wrong with the values of a scale that is to be loaded, or None."""
    if value.is_meta or isinstance(value, FakeTensor) or not value.numel():
        return None
    if name == "weight_scale":
        scales = value.detach().view(torch.uint8)
        # Sound bytes are mostly below 0x7F, which one pass tells.
        if int(scales.amax()) < 0x7F:
            return None
        nan, negative = int(((scales & 0x7F) == 0x7F).sum()), int((scales >= 0x80).sum())
        if nan or negative:
            return f"got {nan} NaN and {negative} negative block scales among {scales.numel()}, wanted finite ones >= 0"
    elif name.endswith("global_scale") and not bool((torch.isfinite(value) & (value > 0)).all()):
        return f"got {value.flatten()[:4].tolist()}, wanted a positive finite number, the encode scale 2688 / amax"
    return None


def refusals(state_dict: dict[str, Any], prefix: str) -> Iterator[str]:
    """What must not be loaded: other dtypes, which `load_state_dict` would convert, and scales that poison products."""
    for name, wanted in _DTYPES.items():
        value = state_dict.get(prefix + name)
        if isinstance(value, Tensor) and value.dtype != wanted:
            yield f"{prefix}{name}: got {value.dtype}, wanted {wanted}; bytes and scales are never cast"
        elif isinstance(value, Tensor) and (fault := _unsound(name, value)) is not None:
            yield f"{prefix}{name}: {fault}; the checkpoint is damaged"
    if prefix + "weight" in state_dict and prefix + "weight_packed" not in state_dict:
        yield (
            f"{prefix}weight: the state dict holds an unquantised weight, wanted weight_packed and weight_scale; load "
            "it into the unquantised model and call nvfp4.quantize_model"
        )


def _into_held(module: NVFP4Linear, held: dict[str, Parameter | None]) -> None:
    """Put a prepared module's new bytes into the parameters it held before, where these are alike."""
    for name, new in zip(PREPARED_NAMES, held_parameters(module), strict=True):
        old = held[name]
        if old is not None and old.shape == new.shape and old.device == new.device:
            with torch.no_grad():
                old.copy_(new)
            module._parameters[name] = old


@contextmanager
def loading(
    module: NVFP4Linear, state_dict: dict[str, Any], prefix: str, missing: list[str], errors: list[str], assign: bool
) -> Iterator[bool]:
    """Around `_load_from_state_dict`: a prepared module is plain inside the block and prepared again after it.

    Yields whether to load at all. Entries of the wrong dtype and unsound scales are refused before anything of this
    module changes; if the loaded bytes cannot be prepared, the module is put back as it was and the error joins the
    others. Unless it assigns, a prepared module keeps its parameters, so that those shared with another stay shared.
    """
    refused = list(refusals(state_dict, prefix))
    layout = module.layout
    if refused:
        errors.extend(refused)
        yield False
    elif layout == "plain":
        yield True
    elif not any(key.startswith(prefix) for key in state_dict):
        missing.extend(f"{prefix}{name}" for name in plain_names(module))
        yield False
    else:
        held = dict(module._parameters)
        values = {name: p.detach().clone() for name, p in held.items() if p is not None and name not in PREPARED_NAMES}
        relayout(module, "plain")
        yield True
        try:
            if not module.weight.is_meta:
                module.quantized_weight().validate()
            relayout(module, layout)
            if not assign:
                _into_held(module, held)
        except ValueError as error:
            module._parameters.clear()
            module._parameters.update(held)
            module.layout = layout
            with torch.no_grad():
                for name, value in values.items():
                    module._parameters[name].copy_(value)  # type: ignore[union-attr]
            errors.append(f"{prefix[:-1] or 'NVFP4Linear'}: {error}")


def plain_names(module: NVFP4Linear) -> list[str]:
    """Names of the module's entries in a state dict."""
    weight = (*PLAIN_NAMES, *PREPARED_NAMES)
    return [*PLAIN_NAMES, *(name for name, p in module._parameters.items() if p is not None and name not in weight)]
