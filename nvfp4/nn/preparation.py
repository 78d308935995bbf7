"""`prepare`: from the bytes on disk to the layout one backend's kernels read."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

from torch import nn
from torch.nn import Parameter

from nvfp4.backends import BACKENDS, Desc, select
from nvfp4.kinds import check_choice, check_kind
from nvfp4.nn import state
from nvfp4.nn.linear import NVFP4Linear

__all__ = ["prepare"]

_Module = TypeVar("_Module", bound=nn.Module)


def _layout_for(module: NVFP4Linear, backend: str | None) -> str:
    desc = Desc("linear", module.device.type, module.dtype, "plain", module.mode)
    if backend is None:
        return select(*desc).weight_layout(module.mode)
    supported, reason = BACKENDS[backend].supports(desc)
    if not supported:
        raise ValueError(f"the backend {backend!r} does not serve {desc}: {reason}")
    return BACKENDS[backend].weight_layout(module.mode)


def _check(name: str, module: NVFP4Linear, backend: str | None) -> str:
    """The layout to bring the module into, once its bytes are known to be sound."""
    try:
        if any(p.is_meta for p in module.parameters()):
            raise ValueError("it is on the meta device and has no bytes; load a state dict first")
        module.quantized_weight().validate()
        if module.input_global_scale is not None:
            state.as_global_scale("input_global_scale", module.input_global_scale, module.device)
        return _layout_for(module, backend)
    except ValueError as error:
        raise ValueError(f"prepare: module {name!r}: {error}") from error


def prepare(module: _Module, backend: str | None = None) -> _Module:
    """Bring every `NVFP4Linear` in a module into the byte layout its backend reads, in place, and return the module.

    The plain bytes are replaced, not kept beside; `state_dict()` gives them back. Preparing twice changes nothing, and
    preparing again after `.to(device)` brings the layout of the new device. Weights shared by several modules stay
    shared.

    Args:
        module: a model, or one `NVFP4Linear`.
        backend: a name of `nvfp4.backends.BACKENDS`; None takes the one that serves `linear` on each module's device.

    Raises:
        TypeError: `module` is no module.
        ValueError: a block scale is NaN or negative, a global scale is not positive and finite, a module is on the meta
            device, or the backend is unknown or does not serve it. Nothing has been changed then.
        RuntimeError: no backend serves a module.
    """
    check_kind("prepare", module, (nn.Module,), "a torch.nn.Module")
    if backend is not None:
        check_choice("prepare: backend", backend, tuple(BACKENDS))
    wanted = [
        (linear, _check(name, linear, backend))
        for name, linear in module.named_modules()
        if isinstance(linear, NVFP4Linear)
    ]
    owners = Counter(id(state.held_parameters(linear)[0]) for linear, _ in wanted)
    made: dict[tuple[int, str], tuple[Parameter, Parameter]] = {}
    originals = []  # Keeps shared originals alive, so that no id is used twice.
    for linear, layout in wanted:
        if linear.layout == layout:
            continue
        before = state.held_parameters(linear)[0]
        if (id(before), layout) in made:
            state.hold(linear, layout, *made[id(before), layout])
            continue
        state.relayout(linear, layout)
        if owners[id(before)] > 1:
            originals.append(before)
            made[id(before), layout] = state.held_parameters(linear)
    return module
