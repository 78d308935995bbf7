"""`Recipe`: which Linears of a model become NVFP4, in the schema of llm-compressor's `QuantizationModifier`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator
from torch import nn

from nvfp4.kinds import check_kind
from nvfp4.nn.schema import MODIFIER, QuantizationGroup, describe, modifier_arguments

__all__ = ["PRESETS", "Recipe", "matches"]


def matches(name: str, module: nn.Module, target: str) -> bool:
    """Whether a target means a module (compressed-tensors 0.20, `utils/match.py`).

    A target is the module's exact name, ``re:`` and a regex that matches from the name's start, or the name of the
    module's class or of one of its base classes.
    """
    if target.startswith("re:"):
        return re.match(target.removeprefix("re:"), name) is not None
    if target == name:
        return True
    return any(issubclass(base, nn.Module) and base.__name__ == target for base in type(module).__mro__)


class Recipe(BaseModel):
    """A validated recipe. Unknown fields, other formats and other observers are refused by name.

    Attributes:
        targets: modules to quantise with `scheme`: names, ``re:`` regexes or class names.
        ignore: modules to leave alone, in the same words; stronger than any target.
        scheme: ``NVFP4`` (W4A4) or ``NVFP4A16`` (weights only), or a mapping from one of them to its own targets.
        config_groups: instead of a scheme, groups with `targets`, `weights` and `input_activations` spelt out, or a
            scheme name with its targets.
        kv_cache_scheme: must be None.
        bypass_divisibility_checks: must be False; a K that is no multiple of 16 cannot be stored.

    Raises:
        pydantic.ValidationError: (a ValueError) says every field that is wrong.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    targets: tuple[str, ...] = ("Linear",)
    ignore: tuple[str, ...] = ()
    scheme: str | dict[str, tuple[str, ...]] | None = None
    config_groups: dict[str, QuantizationGroup] | None = None
    kv_cache_scheme: None = None
    bypass_divisibility_checks: bool = False

    @field_validator("targets", "ignore", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("config_groups", mode="before")
    @classmethod
    def _scheme_names_are_groups(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {
            name: QuantizationGroup.from_scheme(name, tuple(group)) if isinstance(group, list | tuple) else group
            for name, group in value.items()
        }

    @model_validator(mode="after")
    def _is_applicable(self) -> Recipe:
        if (self.scheme is None) == (self.config_groups is None):
            got = "neither" if self.scheme is None else "both"
            raise ValueError(f"got {got} of scheme and config_groups, wanted one of them")
        if self.bypass_divisibility_checks:
            raise ValueError(
                "bypass_divisibility_checks: got True, wanted False; K must be a multiple of 16, ignore the others"
            )
        groups = self.groups()
        targets = [target for group in groups for target in group.targets]
        if not targets:
            raise ValueError("targets: got none, wanted at least one name, re: regex or class name")
        for pattern in (*targets, *self.ignore):
            try:
                re.compile(pattern.removeprefix("re:") if pattern.startswith("re:") else "")
            except re.error as error:
                raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error
        return self

    def groups(self) -> tuple[QuantizationGroup, ...]:
        """The groups this recipe spells out or abbreviates."""
        if self.config_groups is not None:
            return tuple(self.config_groups.values())
        if isinstance(self.scheme, dict):
            return tuple(QuantizationGroup.from_scheme(name, targets) for name, targets in self.scheme.items())
        return (QuantizationGroup.from_scheme(self.scheme or "", self.targets),)

    def target_of(self, name: str, module: nn.Module) -> tuple[str, QuantizationGroup] | None:
        """The target that takes a module, and its group; None when no target matches. `ignore` is not looked at.

        An exact name is stronger than a regex, a regex than a class; within each kind targets go by the alphabet.
        """
        pairs = [(t, group) for group in self.groups() for t in group.targets if matches(name, module, t)]

        def strength(pair: tuple[str, QuantizationGroup]) -> tuple[int, str]:
            target = pair[0]
            return (1 if target.startswith("re:") else 0 if target == name else 2), target

        return min(pairs, key=strength, default=None)

    def ignored_by(self, name: str, module: nn.Module) -> str | None:
        """The first entry of `ignore` that matches a module, or None."""
        return next((pattern for pattern in self.ignore if matches(name, module, pattern)), None)

    @classmethod
    def preset(cls, name: str) -> Recipe:
        """A recipe by name.

        - ``gemma-mlp``: gate, up and down projections of the language model in W4A4; attention, embeddings, the output
          head and everything of vision and audio stay as they are. Fits every model that names its MLP so (Llama).
        - ``all-linear``: every Linear of the language model but the output head, in W4A4.
        - ``weight-only``: the same Linears in W4A16.

        Raises:
            TypeError: `name` is no string.
            ValueError: there is no preset of that name.
        """
        check_kind("recipe", name, (str,), f"one of {', '.join(PRESETS)}")
        if name not in PRESETS:
            raise ValueError(f"recipe: got {name!r}, wanted one of {', '.join(PRESETS)}, or a recipe's YAML file")
        return cls.model_validate(PRESETS[name])

    @classmethod
    def from_yaml(cls, source: str | Path) -> Recipe:
        """Read a recipe of llm-compressor.

        Args:
            source: path of a file, or the YAML itself (a string with a line break or a colon and a blank).

        Raises:
            FileNotFoundError: there is no such file.
            TypeError: neither a path nor a string.
            ValueError: the YAML is malformed, holds another modifier, or a field is unknown or means another format.
        """
        check_kind("recipe", source, (str, Path), "the path of a YAML file, or YAML text")
        text = str(source)
        if isinstance(source, Path) or not ("\n" in text or ": " in text):
            place = f"recipe {text}"
            if not Path(source).is_file():
                raise FileNotFoundError(f"recipe: there is no file {text!r}")
            text = Path(source).read_text(encoding="utf-8")
        else:
            place = "recipe"
        arguments = modifier_arguments(text)
        try:
            return cls.model_validate(arguments)
        except ValidationError as error:
            raise ValueError(f"{place}: {MODIFIER}: {describe(error, tuple(cls.model_fields))}") from error

    @classmethod
    def of(cls, recipe: Recipe | str | Path) -> Recipe:
        """A recipe itself, a preset's name, or what `from_yaml` reads."""
        if isinstance(recipe, Recipe):
            return recipe
        check_kind("recipe", recipe, (str, Path), "a Recipe, a preset's name or a YAML file")
        text = str(recipe)
        looks_like_yaml = isinstance(recipe, Path) or text.endswith((".yaml", ".yml")) or "\n" in text or ": " in text
        return cls.from_yaml(recipe) if looks_like_yaml else cls.preset(text)

    def to_yaml(self) -> str:
        """The recipe as llm-compressor writes it, with one stage; `from_yaml` reads it back."""
        arguments = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump({"default_stage": {"default_modifiers": {MODIFIER: arguments}}}, sort_keys=False)


_NOT_TEXT = ("re:.*lm_head$", "re:.*vision.*", "re:.*audio.*", "re:.*multi_modal_projector.*")

PRESETS: dict[str, dict[str, Any]] = {
    "gemma-mlp": {"targets": [r"re:(?:.*[.])?mlp[.](?:gate|up|down)_proj$"], "ignore": _NOT_TEXT, "scheme": "NVFP4"},
    "all-linear": {"targets": ["Linear"], "ignore": _NOT_TEXT, "scheme": "NVFP4"},
    "weight-only": {"targets": ["Linear"], "ignore": _NOT_TEXT, "scheme": "NVFP4A16"},
}
"""Recipes by name, as `Recipe` takes them."""
