"""What `NVFP4Linear.weight` is: the facts about a weight whose values only exist as four-bit codes.

Libraries ask a Linear's weight for its dtype, device and shape, and rarely for more: PEFT places its adapters by them,
transformers skips what is marked as initialised. Handing out values would dequantise in silence, so nothing else is
here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import torch

if TYPE_CHECKING:
    from nvfp4.nn.linear import NVFP4Linear

__all__ = ["WeightHandle"]

_ADVICE = (
    "NVFP4Linear.weight is a read-only handle without values; the module's .dequantize() gives an nn.Linear with them"
)


class WeightHandle:
    """Dtype, device and shape of a quantised weight, read-only.

    Raises:
        AttributeError: anything else is asked of it.
        TypeError: a torch function or an index is applied to it.
    """

    __slots__ = ("_module",)

    requires_grad = False
    grad = None
    is_leaf = True
    ndim = 2
    # transformers leaves alone what carries this mark.
    _is_hf_initialized = True

    def __init__(self, module: NVFP4Linear) -> None:
        object.__setattr__(self, "_module", module)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weight's values: that of the Linear it was made from, or of the last `.to(dtype)`."""
        return self._module.dtype

    @property
    def device(self) -> torch.device:
        """Where the bytes are."""
        return self._module.device

    @property
    def shape(self) -> torch.Size:
        """[out_features, in_features]."""
        return torch.Size((self._module.out_features, self._module.in_features))

    @property
    def is_meta(self) -> bool:
        """Whether the bytes are on the meta device."""
        return self.device.type == "meta"

    @property
    def is_cuda(self) -> bool:
        """Whether the bytes are on a CUDA device."""
        return self.device.type == "cuda"

    def size(self, dim: int | None = None) -> torch.Size | int:
        """The shape, or one of its sizes."""
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        """Two."""
        return self.ndim

    def numel(self) -> int:
        """Number of logical values."""
        return self.shape.numel()

    def is_floating_point(self) -> bool:
        """The values are floating point."""
        return True

    def is_complex(self) -> bool:
        """The values are real."""
        return False

    def __repr__(self) -> str:
        return f"WeightHandle(shape={tuple(self.shape)}, dtype={self.dtype}, device={str(self.device)!r}, format=NVFP4)"

    def __getattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{_ADVICE} (asked for {name!r})", name=name, obj=self)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"{_ADVICE} (tried to set {name!r})", name=name, obj=self)

    def _refuse(self, *operands: Any) -> NoReturn:
        raise TypeError(f"{_ADVICE} (used as an operand)")

    # Python swallows the TypeError of a tensor's own operator and asks the other operand, so these must be here too.
    __getitem__ = __iter__ = __len__ = __neg__ = __float__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = _refuse

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        """Refuse every torch function, so that the message is ours and not the argument parser's."""
        raise TypeError(f"{_ADVICE} (passed to {getattr(func, '__name__', func)})")
