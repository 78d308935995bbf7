"""NVFP4 for PyTorch: exact four-bit numbers, fast kernels, and `NVFP4Linear` to run a model in them.

>>> import nvfp4
>>> nvfp4.quantize_model(model, recipe="gemma-mlp")
"""

# The compiled core takes libgomp from torch, which is therefore loaded first.
import torch  # noqa: F401

try:
    from nvfp4 import _C
except ImportError as error:
    raise ImportError(
        f"nvfp4: {__path__[0]} has no compiled part (_C) for this Python ({error}). If it is a checkout, it hides an "
        'installed nvfp4: start Python in another folder, or compile the checkout with `pip install -e "."`.'
    ) from error
from nvfp4 import env

try:
    env.configure_logging()
    from nvfp4 import backends
except ValueError as error:
    env.end_command_line(error)
    raise
from nvfp4.functional import (
    dequantize,
    gated_quantize,
    linear,
    matmul,
    pack,
    quantize,
    quantize_dequantize,
    rms_norm_quantize,
    swizzle_scales,
    to_layout,
    unpack,
    unswizzle_scales,
)
from nvfp4.metrics import evaluate
from nvfp4.nn import GatedMLP, NVFP4Linear, Recipe, prepare
from nvfp4.ptq import quantize_model
from nvfp4.tensor import NVFP4Tensor

__all__ = [
    "GatedMLP",
    "NVFP4Linear",
    "NVFP4Tensor",
    "Recipe",
    "__version__",
    "backends",
    "dequantize",
    "evaluate",
    "gated_quantize",
    "linear",
    "matmul",
    "pack",
    "prepare",
    "quantize",
    "quantize_dequantize",
    "quantize_model",
    "rms_norm_quantize",
    "swizzle_scales",
    "to_layout",
    "unpack",
    "unswizzle_scales",
]

__version__: str = _C.build_info()["version"]
