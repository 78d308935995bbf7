"""Modules: `NVFP4Linear`, `GatedMLP`, `prepare`, and the `Recipe` that says which Linears become one."""

from nvfp4.nn.gated import GatedMLP
from nvfp4.nn.handle import WeightHandle
from nvfp4.nn.linear import NVFP4Linear
from nvfp4.nn.preparation import prepare
from nvfp4.nn.recipe import Recipe

__all__ = ["GatedMLP", "NVFP4Linear", "Recipe", "WeightHandle", "prepare"]
