"""State dicts of a `GatedMLP`: what it holds as gate_up_proj has the names of gate_proj and up_proj in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nvfp4 import gated
from nvfp4.formats import GROUP_SIZE
from nvfp4.nn import state

if TYPE_CHECKING:
    from nvfp4.nn.gated import GatedMLP, GateUpLinear
    from nvfp4.nn.linear import NVFP4Linear

__all__ = ["OWN", "joined", "plain_state", "rename", "take", "users_keys"]

OWN = "gate_up_proj."
_LEAVES = ("gate_proj.", "up_proj.")
_ROWS = ("weight_packed", "weight_scale", "bias")  # of a Linear's state: what has a row an output
_WHOLE = ("weight_global_scale", "input_global_scale")


def plain_state(linear: NVFP4Linear) -> dict[str, Tensor]:
    """A Linear's entries of a state dict."""
    return {name: value.detach() for name, value in linear.state_dict().items()}


def _bytes(t: Tensor) -> Tensor:
    # Not every device copies float8.
    return t.view(torch.uint8) if t.dtype == torch.float8_e4m3fn else t


def _split(rows: Tensor) -> tuple[Tensor, Tensor]:
    gate, up = gated.apart(_bytes(rows.detach()), 0)
    return gate.view(rows.dtype), up.view(rows.dtype)


def joined(gate: dict[str, Tensor], up: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two Linears' entries of a state dict, the same in both and of equal shapes, as those of a `GateUpLinear`.

    Raises:
        ValueError: what the two have does not fit together.
    """
    result = {}
    for name, value in gate.items():
        other = up[name]
        if value.dtype != other.dtype:
            raise ValueError(f"{name}: got {value.dtype} and {other.dtype}, wanted equals")
        if name in _ROWS:
            result[name] = gated.alternate(_bytes(value.detach()), _bytes(other.detach())).view(value.dtype)
            continue
        if name == _WHOLE[1] and not value.is_meta and not torch.equal(value, other):
            raise ValueError(
                f"{name}: got {value.flatten().tolist()} and {other.flatten().tolist()}, wanted one: both read the "
                "same input, quantised once; load into a model that was quantised with fuse=False"
            )
        result[name] = value
        if name == _WHOLE[0]:
            result["up_global_scale"] = other
    return result


def rename(result: dict[str, Any], prefix: str) -> None:
    """Give the entries of gate_up_proj in a state dict the names and the rows of gate_proj and up_proj."""
    own = prefix + OWN
    held = {key.removeprefix(own): result.pop(key) for key in list(result) if key.startswith(own)}
    up_scale = held.pop("up_global_scale")
    for name, value in held.items():
        gate, up = (
            _split(value) if name in _ROWS else (value, up_scale if name == _WHOLE[0] else value.detach().clone())
        )
        result[f"{prefix}gate_proj.{name}"], result[f"{prefix}up_proj.{name}"] = gate, up


def users_keys(key: str) -> list[str]:
    """What an entry of gate_up_proj is called in a state dict."""
    stem, _, name = key.rpartition(OWN)
    if name in ("up_global_scale", _WHOLE[0]):
        leaf = _LEAVES[name == "up_global_scale"]
        return [f"{stem}{leaf}{_WHOLE[0]}"]
    return [f"{stem}{leaf}{name}" for leaf in _LEAVES]


def _shapes(both: GateUpLinear, is_static: bool) -> dict[str, tuple[int, ...]]:
    """Of the entries that gate and up have each."""
    n, k = both.out_features // 2, both.in_features
    shapes: dict[str, tuple[int, ...]] = {"weight_packed": (n, k // 2), "weight_scale": (n, k // GROUP_SIZE)}
    shapes["weight_global_scale"] = (1,)
    if is_static:
        shapes["input_global_scale"] = (1,)
    if both.bias is not None:
        shapes["bias"] = (n,)
    return shapes


def _misshapen(key: str, value: object, shape: tuple[int, ...]) -> str | None:
    if not isinstance(value, Tensor):
        return f"{key}: got {type(value).__name__}, wanted a tensor"
    if value.shape != shape:
        return f"size mismatch for {key}: got shape {tuple(value.shape)}, wanted {shape}"
    return None


def take(
    mlp: GatedMLP, state_dict: dict[str, Any], prefix: str, missing: list[str], unexpected: list[str], errors: list[str]
) -> None:
    """Replace the entries of gate_proj and up_proj in a state dict by those of gate_up_proj.

    What is wrong with them is said here, where they have their own names; gate_up_proj is given what it holds then, and
    changes nothing. What one of the two lacks is missing and stays as it is: checkpoints come in pieces.
    """
    both = mlp.gate_up_proj
    becomes_static = all(state.has_input_scale(both, state_dict, prefix + leaf) for leaf in _LEAVES)
    shapes = _shapes(both, becomes_static or both.input_global_scale is not None)
    parts, refused = list[dict[str, Tensor]](), list[str]()
    for leaf in _LEAVES:
        start = prefix + leaf
        refused += state.refusals(state_dict, start)
        given = {key.removeprefix(start): state_dict.pop(key) for key in list(state_dict) if key.startswith(start)}
        if "weight_packed" not in given:
            given.pop("weight", None)  # refused above, with advice
        unexpected += [start + name for name in given if name not in shapes]
        part = {name: given[name] for name in shapes if name in given}
        faults = (_misshapen(start + name, value, shapes[name]) for name, value in part.items())
        refused += [fault for fault in faults if fault is not None]
        parts.append(part)
    if not any(parts) and not refused:
        return
    if not refused:
        pairs = zip(parts, _LEAVES, strict=True)
        lacking = [(part, leaf, name) for part, leaf in pairs for name in shapes if name not in part]
        held = mlp.state_dict() if lacking else {}
        for part, leaf, name in lacking:
            missing.append(prefix + leaf + name)
            part[name] = held[leaf + name]
        try:
            state_dict.update({f"{prefix}{OWN}{name}": value for name, value in joined(*parts).items()})
        except ValueError as error:
            refused.append(f"{prefix}gate_proj, {prefix}up_proj: {error}")
    if refused:
        errors += refused
        state_dict.update(mlp.gate_up_proj.state_dict(prefix=prefix + OWN))
