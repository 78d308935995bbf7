"""Arguments of the wrong kind, refused with a message of ours.

What a function hands to an op, torch's dispatcher would refuse too, by a RuntimeError about schemas and positions; and
what never reaches an op would be taken for whatever it is as a truth value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

__all__ = ["Kinds", "check_activations", "check_arguments", "check_choice", "check_kind", "kinds_of"]


class Kinds(NamedTuple):
    """What the arguments of an op may be, in its order.

    Attributes:
        names: of the arguments.
        types: the classes of each.
        wanted: the same in words, and what to do.
    """

    names: tuple[str, ...]
    types: tuple[tuple[type, ...], ...]
    wanted: tuple[str, ...]


_OF_SCHEMA: dict[str, tuple[tuple[type, ...], str]] = {
    "Tensor": ((Tensor,), "a torch.Tensor"),
    "str": ((str,), "a str"),
    "bool": ((bool, np.bool_, torch.SymBool), "True or False"),
    "int": ((int, np.integer, torch.SymInt), "an int"),
    "float": ((float, int, np.floating, np.integer, torch.SymFloat, torch.SymInt), "a float"),
    "ScalarType": ((torch.dtype,), "a torch.dtype, such as torch.bfloat16"),
}

_ADVICE = {
    "global_scale": ", the encode scale in float32; pass other options by name, as granularity='row'",
    "input_global_scale": ", the encode scale in float32 [1]",
    "granularity": ", 'row' or 'tensor'",
    "scheme": ", 'nvfp4' or 'compressed-tensors'",
    "activation": ", such as 'silu'",
    "layout": ", such as 'plain'",
    "eps": ", such as 1e-6",
}
"""What the class alone does not tell, by the argument's name."""


def kinds_of(op: Any) -> Kinds:
    """The kinds of an op's arguments, from its schema. Lists are left to torch: no user passes one."""
    kinds = []
    for argument in op.default._schema.arguments:
        name, schema_type = argument.name, str(argument.real_type)
        optional = schema_type.startswith("Optional[")
        types, wanted = _OF_SCHEMA.get(schema_type[9:-1] if optional else schema_type, ((object,), "anything"))
        if optional:
            types, wanted = (*types, type(None)), f"{wanted} or None"
        kinds.append((name, types, wanted + _ADVICE.get(name, "")))
    return Kinds(*zip(*kinds, strict=True))


def check_kind(what: str, got: object, types: tuple[type, ...], wanted: str) -> None:
    """Refuse a value of other classes.

    Raises:
        TypeError: it is none of them.
    """
    if not isinstance(got, types):
        # The value of a tensor or a module would fill the screen, and waiting for a GPU's is not ours to do.
        value = f" {got!r}" if isinstance(got, str | int | float) else ""
        raise TypeError(f"{what}: got {type(got).__name__}{value}, wanted {wanted}")


def check_arguments(op: str, kinds: Kinds, arguments: Sequence[object]) -> None:
    """Refuse the first of an op's arguments that is of another kind.

    Raises:
        TypeError: there is one.
    """
    if all(map(isinstance, arguments, kinds.types)):  # the usual case in the fewest steps
        return
    for argument, name, types, wanted in zip(arguments, *kinds, strict=True):
        check_kind(f"{op}: {name}", argument, types, wanted)


def check_choice(what: str, got: object, wanted: Sequence[str]) -> None:
    """Refuse what is no string, and a string that is not one of the choices."""
    if not isinstance(got, str):
        check_kind(what, got, (str,), f"one of {', '.join(map(repr, wanted))}")
    if got not in wanted:
        raise ValueError(f"{what}: got {got!r}, wanted one of {', '.join(wanted)}")


def check_activations(what: str, got: object) -> None:
    """Refuse what no Linear does to its input."""
    wanted = "'nvfp4' (W4A4) or None (W4A16)"
    check_kind(f"{what}: activations", got, (str, type(None)), wanted)
    if got not in ("nvfp4", None):
        raise ValueError(f"{what}: activations: got {got!r}, wanted {wanted}")
