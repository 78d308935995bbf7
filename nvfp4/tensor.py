"""`NVFP4Tensor`: the bytes of one quantised tensor, with the names that give them meaning."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nvfp4.formats import check_group_multiple
from nvfp4.kinds import check_kind
from nvfp4.layout import LAYOUTS, TILED_LAYOUTS, swizzled_shape, tiles_shape

__all__ = ["NVFP4Tensor"]


@dataclass(frozen=True, eq=False, repr=False)
class NVFP4Tensor:
    """A tensor [..., K] in NVFP4: value = q * (scale / global_scale), one `scale` for 16 values along K.

    A frozen container, not a `torch.Tensor` subclass: its parts go through ops, `torch.compile` and `torch.export` as
    what they are.

    Attributes:
        packed: uint8 [..., K/2], the even column in the low nibble; in the layouts ``n16k64`` and ``n128k128`` the
            tiles, which hold the scales too.
        scale: float8_e4m3fn [..., K/16]; in the layout ``128x4`` of shape `swizzled_shape(rows, K/16)`; in tiles
            empty, [0, K/16], so that the parts still tell K (tiles are padded to 64 columns).
        global_scale: float32 [1], or [..., 1] with one per row. It is an encode scale: one *divides* by it.
        shape: the logical shape.
        layout: one of `nvfp4.layout.LAYOUTS`.

    Raises:
        TypeError: a part has the wrong dtype.
        ValueError: a part has the wrong shape or device, K is not a multiple of 16, or the layout is unknown.
    """

    packed: Tensor
    scale: Tensor
    global_scale: Tensor
    shape: tuple[int, ...]
    layout: str = "plain"

    def __post_init__(self) -> None:
        """Check dtypes, shapes and devices; the values are checked by `validate`."""
        parts = (self.packed, self.scale, self.global_scale)
        sizes = all(isinstance(size, int | torch.SymInt) for size in self.shape)
        if not sizes or not all(isinstance(part, Tensor) for part in parts):
            return  # pytree and export rebuild the container around placeholders of their own
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.layout not in LAYOUTS:
            raise ValueError(f"NVFP4Tensor: got layout {self.layout!r}, wanted one of {', '.join(LAYOUTS)}")
        if not self.shape:
            raise ValueError("NVFP4Tensor: got a scalar shape (), wanted at least one dimension of K values")
        if self.packed.dtype != torch.uint8:
            raise TypeError(f"NVFP4Tensor.packed: got {self.packed.dtype}, wanted torch.uint8")
        if self.scale.dtype != torch.float8_e4m3fn:
            raise TypeError(
                f"NVFP4Tensor.scale: got {self.scale.dtype}, wanted torch.float8_e4m3fn; "
                "bytes of that format can be viewed: scale.view(torch.float8_e4m3fn)"
            )
        if self.global_scale.dtype != torch.float32:
            raise TypeError(f"NVFP4Tensor.global_scale: got {self.global_scale.dtype}, wanted torch.float32")
        check_group_multiple(self.shape[-1], "NVFP4Tensor")
        self._check_shapes()
        devices = {self.packed.device, self.scale.device, self.global_scale.device}
        if len(devices) > 1:
            raise ValueError(
                f"NVFP4Tensor: parts lie on {sorted(map(str, devices))}, wanted one device; use .to(device)"
            )

    def _check_shapes(self) -> None:
        lead, k = self.shape[:-1], self.shape[-1]
        packed, scale = (*lead, k // 2), (*lead, k // 16)
        if self.layout == "128x4":
            scale = swizzled_shape(self.rows, k // 16)
        elif self.layout in TILED_LAYOUTS:
            if len(self.shape) != 2:
                raise ValueError(f"NVFP4Tensor: layout {self.layout} holds matrices [N, K], got the shape {self.shape}")
            packed, scale = tiles_shape(*self.shape, self.layout), (0, k // 16)
        for name, got, wanted in (("packed", self.packed.shape, packed), ("scale", self.scale.shape, scale)):
            if tuple(got) != wanted:
                raise ValueError(
                    f"NVFP4Tensor.{name}: got shape {tuple(got)}, wanted {wanted} for {self.shape}, {self.layout}"
                )
        # Two comparisons: `in` would ask whether sizes that torch.compile keeps open are the same objects.
        factors = tuple(self.global_scale.shape)
        if factors != (1,) and factors != (*lead, 1):
            raise ValueError(
                f"NVFP4Tensor.global_scale: got shape {factors}, wanted (1,) for one scale "
                f"or {(*lead, 1)} for one a row"
            )

    @property
    def rows(self) -> int:
        """Number of rows: the product of all dimensions but the last."""
        rows = 1
        for size in self.shape[:-1]:
            rows *= size
        return rows

    @property
    def device(self) -> torch.device:
        """Where the bytes are."""
        return self.packed.device

    @property
    def nbytes(self) -> int:
        """Bytes of all parts: 4.5 bits a value and the global scales."""
        return self.packed.nbytes + self.scale.nbytes + self.global_scale.nbytes

    def to(self, device: torch.device | str) -> NVFP4Tensor:
        """The same tensor on another device; the bytes do not change."""
        return replace(
            self,
            packed=self.packed.to(device),
            scale=self.scale.to(device),
            global_scale=self.global_scale.to(device),
        )

    def dequantize(self, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """The values q * (scale / global_scale), computed in float32 and rounded to `dtype`; shape `self.shape`."""
        check_kind("dequantize: dtype", dtype, (torch.dtype,), "a torch.dtype, such as torch.bfloat16")
        # The registry is asked by name: the ops stand on a higher floor than this container.
        values: Tensor = torch.ops.nvfp4.dequantize.default(
            self.packed, self.scale.view(torch.uint8), self.global_scale, self.shape, self.layout, dtype
        )
        return values

    def validate(self) -> NVFP4Tensor:
        """Check the values that would poison a product, and return self.

        Raises:
            ValueError: a block scale is NaN or negative, or a global scale is not a positive finite number. In the
                tiled layouts only the global scales are looked at: the block scales were checked when the tiles
                were made.
        """
        scales = self.scale.view(torch.uint8)
        nan, negative = int(((scales & 0x7F) == 0x7F).sum()), int((scales >= 0x80).sum())
        if nan or negative:
            raise ValueError(
                f"NVFP4Tensor.scale: got {nan} NaN and {negative} negative block scales among {scales.numel()}, wanted "
                "finite scales >= 0; the tensor that was quantised held NaN, or the bytes are damaged"
            )
        if not bool((torch.isfinite(self.global_scale) & (self.global_scale > 0)).all()):
            raise ValueError(
                f"NVFP4Tensor.global_scale: got {self.global_scale.flatten()[:4].tolist()}, wanted positive finite "
                "numbers; it is an encode scale, 2688 / amax"
            )
        return self

    def __eq__(self, other: object) -> bool:
        """Equality of every byte, of the shape and of the layout."""
        if not isinstance(other, NVFP4Tensor):
            return NotImplemented
        return (
            self.shape == other.shape
            and self.layout == other.layout
            and self.global_scale.shape == other.global_scale.shape
            and torch.equal(self.packed, other.packed)
            and torch.equal(self.scale.view(torch.uint8), other.scale.view(torch.uint8))
            and torch.equal(self.global_scale.view(torch.int32), other.global_scale.view(torch.int32))
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Shape, granularity, layout, device and size."""
        granularity = "tensor" if self.global_scale.numel() == 1 else "row"
        return (
            f"NVFP4Tensor(shape={self.shape}, granularity={granularity!r}, layout={self.layout!r}, "
            f"device={str(self.device)!r}, nbytes={self.nbytes})"
        )


torch.export.register_dataclass(NVFP4Tensor, serialized_type_name="nvfp4.NVFP4Tensor")
