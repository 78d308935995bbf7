"""The parts of llm-compressor's recipe schema: quantisation arguments, groups, and the stages around the modifiers.

Field names and meanings: compressed-tensors 0.20 `QuantizationArgs` and `QuantizationScheme`, llm-compressor 0.12
`QuantizationModifier`. What is accepted is what NVFP4 means in them; everything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = ["SCHEMES", "QuantizationArgs", "QuantizationGroup", "describe", "modifier_arguments"]

SCHEMES: dict[str, Literal["nvfp4"] | None] = {"NVFP4": "nvfp4", "NVFP4A16": None}
"""Scheme names of compressed-tensors, and what they make of activations."""

MODIFIER = "QuantizationModifier"

_NVFP4: dict[str, tuple[Any, ...]] = {
    "num_bits": (4,),
    "type": ("float",),
    "strategy": ("tensor_group",),
    "group_size": (16,),
    "symmetric": (True,),
    "block_structure": (None,),
    "actorder": (None, False),
    "scale_dtype": (None, "torch.float8_e4m3fn", "float8_e4m3fn"),
    "zp_dtype": (None, "torch.float8_e4m3fn", "float8_e4m3fn"),
    "observer_kwargs": ({}, None),
}
_WEIGHTS = {**_NVFP4, "dynamic": (False,), "observer": (None, "memoryless_minmax", "static_minmax", "minmax")}
_INPUTS = {**_NVFP4, "dynamic": ("local",), "observer": (None, "static_minmax")}


class QuantizationArgs(BaseModel):
    """How one tensor of a Linear is quantised, in compressed-tensors' words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_bits: int = 8
    type: str = "int"
    symmetric: bool = True
    group_size: int | None = None
    strategy: str | None = None
    block_structure: list[int] | str | None = None
    dynamic: bool | str = False
    actorder: bool | str | None = None
    scale_dtype: str | None = None
    zp_dtype: str | None = None
    observer: str | None = None
    observer_kwargs: dict[str, Any] | None = Field(default_factory=dict)

    def differences(self, wanted: Mapping[str, tuple[Any, ...]]) -> Iterator[str]:
        """Every field that is not among the wanted values, as ``name=got (wanted value)``."""
        for name, values in wanted.items():
            got = getattr(self, name)
            if got not in values:
                yield f"{name}={got!r} (wanted {values[0]!r})"


class QuantizationGroup(BaseModel):
    """Modules that are quantised alike: NVFP4 weights, and NVFP4 or untouched activations.

    Raises:
        ValueError: the arguments mean another format.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    targets: tuple[str, ...]
    weights: QuantizationArgs
    input_activations: QuantizationArgs | None = None
    output_activations: None = None
    format: Literal["nvfp4-pack-quantized"] | None = None

    @model_validator(mode="after")
    def _is_nvfp4(self) -> QuantizationGroup:
        inputs = self.input_activations
        for name, args, wanted in (("weights", self.weights, _WEIGHTS), ("input_activations", inputs, _INPUTS)):
            differences = "" if args is None else ", ".join(args.differences(wanted))
            if differences:
                raise ValueError(f"{name}: got {differences}; {_SUPPORTED}")
        return self

    @property
    def activations(self) -> Literal["nvfp4"] | None:
        """What `NVFP4Linear` takes: ``nvfp4`` (W4A4) or None (W4A16)."""
        return None if self.input_activations is None else "nvfp4"

    @classmethod
    def from_scheme(cls, scheme: str, targets: tuple[str, ...]) -> QuantizationGroup:
        """The group that a scheme name of compressed-tensors stands for.

        Raises:
            ValueError: the name is none of `SCHEMES`.
        """
        name = scheme.upper()
        if name not in SCHEMES:
            raise ValueError(f"scheme: got {scheme!r}; {_SUPPORTED}")
        args: dict[str, Any] = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
        inputs = None if SCHEMES[name] is None else QuantizationArgs(**args, dynamic="local", observer="static_minmax")
        weights = QuantizationArgs(**args, observer="memoryless_minmax")
        return cls(targets=targets, weights=weights, input_activations=inputs)


_SUPPORTED = (
    "supported are the schemes NVFP4 (W4A4) and NVFP4A16 (weights only): 4-bit float, strategy tensor_group, "
    "group_size 16, symmetric, min-max observers"
)


def describe(error: ValidationError, known: tuple[str, ...]) -> str:
    """Pydantic's findings as one line each, with the known fields beside an unknown one."""
    lines = []
    for item in error.errors():
        place = ".".join(map(str, item["loc"])) or MODIFIER
        if item["type"] == "extra_forbidden":
            fields = known if len(item["loc"]) == 1 else tuple(QuantizationArgs.model_fields)
            if len(item["loc"]) == 3:
                fields = tuple(QuantizationGroup.model_fields)
            lines.append(f"{place}: unknown field, wanted one of {', '.join(fields)}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            lines.append(f"{place}: {message}" + ("" if item["type"] == "value_error" else f" (got {item['input']!r})"))
    return "; ".join(lines)


def _modifiers(node: Any, place: str) -> Iterator[tuple[str, Any]]:
    """(name, arguments) of every modifier under stages and modifier lists, whatever these are called."""
    entries = node if isinstance(node, list) else [node]
    for entry in entries:
        if not isinstance(entry, Mapping):
            raise ValueError(f"recipe: {place}: got {type(entry).__name__}, wanted a mapping with a {MODIFIER}")
        for key, value in entry.items():
            name = str(key)
            if name.endswith(("_stage", "_modifiers")):
                yield from _modifiers(value, name)
            else:
                yield name, value


def modifier_arguments(text: str) -> dict[str, Any]:
    """The arguments of the one QuantizationModifier in a recipe's YAML.

    Raises:
        ValueError: no YAML mapping, another modifier or key, or not exactly one QuantizationModifier.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"recipe: not readable as YAML: {error}") from error
    found = list(_modifiers(document, "top level"))
    others = sorted({name for name, _ in found if name != MODIFIER})
    if others:
        raise ValueError(
            f"recipe: got {', '.join(others)}, wanted {MODIFIER} (under default_stage: default_modifiers:, or alone); "
            "no other modifier or key is supported"
        )
    if len(found) != 1:
        raise ValueError(f"recipe: got {len(found)} {MODIFIER}s, wanted one; use config_groups for several groups")
    arguments = found[0][1]
    if not isinstance(arguments, Mapping) or not all(isinstance(key, str) for key in arguments):
        raise ValueError(f"recipe: {MODIFIER}: got {type(arguments).__name__}, wanted a mapping of its fields")
    return dict(arguments)
