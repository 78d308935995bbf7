"""The torch ops: schemas, fake kernels, autograd and autocast. The only way to a kernel.

Registered with `torch.library.Library`, which is several times cheaper a call than the `custom_op` decorator. Block
scales cross every op as uint8, because dispatcher machinery (opcheck, some decompositions) does not know float8.

Shapes: x [..., K]; codes uint8 [..., K/2]; scale bytes uint8 [..., K/16] (layout plain), [round_up(rows, 128),
round_up(K/16, 4)] (128x4); tiles uint8 [ceil(N/16), ceil(K/64), 576] (n16k64) or [ceil(N/128), ceil(K/128), 9216]
(n128k128) with an empty scale tensor [0, K/16], which tells K; global scales float32 [1] or [..., 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey, DispatchKeySet
from torch.autograd import forward_ad
from torch.nn import Parameter

from nvfp4 import checks
from nvfp4 import layout as layouts
from nvfp4.backends import select
from nvfp4.formats import GROUP_SIZE

__all__ = ["OP_NAMES", "define", "library", "linear"]

library = torch.library.Library("nvfp4", "DEF")
_pt2_tags = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)

OP_NAMES: list[str] = []
"""Names of every op, in `torch.ops.nvfp4`."""


def define(schema: str, real: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Register an op, its kernel for every device, and its fake kernel."""
    name = schema.split("(", 1)[0]
    library.define(schema, tags=_pt2_tags)
    library.impl(name, real, "CompositeExplicitAutograd")
    torch.library.register_fake(f"nvfp4::{name}", fake, lib=library)
    OP_NAMES.append(name)


# --- quantize -------------------------------------------------------------------------------------------------------


def _quantize(
    x: Tensor, global_scale: Tensor | None, granularity: str, scheme: str, layout: str
) -> tuple[Tensor, Tensor, Tensor]:
    checks.check_quantize(x, global_scale, granularity, scheme, layout)
    backend = select("quantize", x.device.type, x.dtype, layout, granularity, scheme)
    return backend.quantize(x, global_scale, granularity, scheme, layout)


def _quantize_fake(
    x: Tensor, global_scale: Tensor | None, granularity: str, scheme: str, layout: str
) -> tuple[Tensor, Tensor, Tensor]:
    checks.check_quantize(x, global_scale, granularity, scheme, layout)
    lead, k = x.shape[:-1], x.shape[-1]
    shape = (*lead, k // GROUP_SIZE)
    if layout == "128x4":
        shape = layouts.swizzled_shape(lead.numel(), k // GROUP_SIZE)
    if global_scale is None:
        out_scale = x.new_empty((*lead, 1) if granularity == "row" else (1,), dtype=torch.float32)
    else:
        out_scale = torch.empty_like(global_scale, memory_format=torch.contiguous_format)
    packed = x.new_empty((*lead, k // 2), dtype=torch.uint8)
    return packed, x.new_empty(shape, dtype=torch.uint8), out_scale


define(
    "quantize(Tensor x, Tensor? global_scale, str granularity, str scheme, str layout) -> (Tensor, Tensor, Tensor)",
    _quantize,
    _quantize_fake,
)

# --- dequantize -----------------------------------------------------------------------------------------------------


def _dequantize(
    packed: Tensor, scale: Tensor, global_scale: Tensor, shape: list[int], layout: str, dtype: torch.dtype
) -> Tensor:
    checks.check_dequantize(packed, scale, global_scale, shape, layout, dtype)
    backend = select("dequantize", packed.device.type, dtype, layout)
    return backend.dequantize(packed, scale, global_scale, shape, layout, dtype)


def _dequantize_fake(
    packed: Tensor, scale: Tensor, global_scale: Tensor, shape: list[int], layout: str, dtype: torch.dtype
) -> Tensor:
    checks.check_dequantize(packed, scale, global_scale, shape, layout, dtype)
    return packed.new_empty(shape, dtype=dtype)


define(
    "dequantize(Tensor packed, Tensor scale, Tensor global_scale, SymInt[] shape, str layout, ScalarType dtype) "
    "-> Tensor",
    _dequantize,
    _dequantize_fake,
)

# --- matmul ---------------------------------------------------------------------------------------------------------


def _matmul(a_packed: Tensor, *args: Any) -> Tensor:
    checks.check_matmul(a_packed, *args)
    layout, out_dtype = args[-2:]
    return select("matmul", a_packed.device.type, out_dtype, layout).matmul(a_packed, *args)


def _matmul_fake(a_packed: Tensor, *args: Any) -> Tensor:
    checks.check_matmul(a_packed, *args)
    n, _, out_dtype = args[-3:]
    return a_packed.new_empty((*a_packed.shape[:-1], n), dtype=out_dtype)


define(
    "matmul(Tensor a_packed, Tensor a_scale, Tensor a_global_scale, Tensor b_packed, Tensor b_scale, "
    "Tensor b_global_scale, Tensor? bias, SymInt n, str layout, ScalarType out_dtype) -> Tensor",
    _matmul,
    _matmul_fake,
)

# --- linear ---------------------------------------------------------------------------------------------------------


def _linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_global_scale: Tensor,
    input_global_scale: Tensor | None,
    bias: Tensor | None,
    out_features: int,
    layout: str,
    activations: str,
) -> Tensor:
    # Written out, not as one tuple: this runs at every layer of every token.
    checks.check_linear(
        x, weight, weight_scale, weight_global_scale, input_global_scale, bias, out_features, layout, activations
    )
    return select("linear", x.device.type, x.dtype, layout, activations).linear(
        x, weight, weight_scale, weight_global_scale, input_global_scale, bias, out_features, layout, activations
    )


def _linear_fake(x: Tensor, *args: Any) -> Tensor:
    checks.check_linear(x, *args)
    out_features = args[-3]
    return x.new_empty((*x.shape[:-1], out_features))


define(
    "linear(Tensor x, Tensor weight, Tensor weight_scale, Tensor weight_global_scale, Tensor? input_global_scale, "
    "Tensor? bias, SymInt out_features, str layout, str activations) -> Tensor",
    _linear,
    _linear_fake,
)

_linear_op = torch.ops.nvfp4.linear.default
_dequantize_op = torch.ops.nvfp4.dequantize.default


def _plain(t: Tensor | None) -> bool:
    """Whether the memory of a CPU tensor is its values: no subclass, lazy negation, lazy zeros or other layout."""
    return t is None or (
        type(t) in (Tensor, Parameter)
        and t.is_cpu
        and t.layout is torch.strided
        and not t.is_neg()
        and not t._is_zerotensor()
    )


def _plain_eager(*tensors: Tensor | None) -> bool:
    """Whether nobody but a CPU kernel would see a call: no subclass, mode, transform, trace, autocast or profiler."""
    return (
        not torch.compiler.is_compiling()
        and all(map(_plain, tensors))
        and not torch._C._is_any_autocast_enabled()
        and not torch._C._len_torch_dispatch_stack()
        and not torch._C._len_torch_function_stack()
        and torch._C._functorch.peek_interpreter_stack() is None
        and torch._C._get_tracing_state() is None
        and not torch.autograd.profiler._is_profiler_enabled
    )


def _below_autograd(x: Tensor, *args: Any) -> Tensor:
    if _plain_eager(x, *args[:5]):
        # A second pass through the dispatcher would cost as much as the rest of the call.
        return _linear(x, *args)
    with torch._C._AutoDispatchBelowAutograd():
        y: Tensor = _linear_op(x, *args)
    return y


def _wants_gradient(x: Tensor, bias: Tensor | None) -> bool:
    # The dispatcher lets None through for a tensor; the checks further down refuse it with a message.
    wants = (x is not None and x.requires_grad) or (bias is not None and bias.requires_grad)
    return (wants and torch.is_grad_enabled()) or forward_ad._current_level >= 0


class _LinearFunction(torch.autograd.Function):
    """Straight-through: the gradient of x is grad_y @ the dequantised weight. No activation is saved."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bias: Tensor | None, *args: Any) -> Tensor:
        weight, weight_scale, weight_global_scale, input_global_scale, out_features, layout, activations = args
        return _below_autograd(
            x, weight, weight_scale, weight_global_scale, input_global_scale, bias, out_features, layout, activations
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, bias, weight, weight_scale, weight_global_scale, _, out_features, layout, _ = inputs
        ctx.save_for_backward(weight, weight_scale, weight_global_scale)
        ctx.save_for_forward(weight, weight_scale, weight_global_scale)
        ctx.shape, ctx.layout, ctx.dtype = (out_features, x.shape[-1]), layout, x.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype

    @staticmethod
    def _weight(ctx: Any) -> Tensor:
        w: Tensor = _dequantize_op(*ctx.saved_tensors, ctx.shape, ctx.layout, ctx.dtype)
        return w

    @staticmethod
    def jvp(ctx: Any, x: Tensor | None, bias: Tensor | None, *_: Any) -> Tensor | None:
        tangent = None if x is None else x @ _LinearFunction._weight(ctx).T
        if bias is None:
            return tangent
        bias = bias.to(ctx.dtype)
        return bias if tangent is None else tangent + bias

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_x = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = grad @ _LinearFunction._weight(ctx)
        if ctx.needs_input_grad[1]:
            grad_bias = grad.reshape(grad.shape[:-1].numel(), ctx.shape[0]).sum(dim=0).to(ctx.bias_dtype)
        return (grad_x, grad_bias, *(None,) * 7)


def _linear_autograd(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_global_scale: Tensor,
    input_global_scale: Tensor | None,
    bias: Tensor | None,
    *args: Any,
) -> Tensor:
    if _wants_gradient(x, bias):
        result: Tensor = _LinearFunction.apply(  # type: ignore[no-untyped-call]
            x, bias, weight, weight_scale, weight_global_scale, input_global_scale, *args
        )
        return result
    return _below_autograd(x, weight, weight_scale, weight_global_scale, input_global_scale, bias, *args)


library.impl("linear", _linear_autograd, "Autograd")


def _without_gradient(op: Any) -> Callable[..., Any]:
    """An Autograd kernel that skips autograd: codes and scales are not differentiable, and so are products of them."""

    def run(*args: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*args)

    return run


def _matmul_autograd(*args: Any) -> Any:
    bias = args[6]
    if bias is not None and bias.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            "matmul: got a bias that requires grad, wanted one that does not: a product of codes has no gradient; use "
            "nvfp4.linear, or pass bias.detach()"
        )
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.nvfp4.matmul.default(*args)


library.impl("matmul", _matmul_autograd, "Autograd")
for _name in ("quantize", "dequantize"):
    library.impl(_name, _without_gradient(getattr(torch.ops.nvfp4, _name).default), "Autograd")

_AUTOCAST_KEYS = DispatchKeySet(DispatchKey.AutocastCPU) | DispatchKeySet(DispatchKey.AutocastCUDA)


def _linear_autocast(x: Tensor, *args: Any) -> Tensor:
    """Autocast changes x only: bytes and scales have no other precision, and the bias is added in float32."""
    if x is not None and x.dtype in checks.FLOATS:
        x = x.to(torch.get_autocast_dtype(x.device.type))
    with torch._C._ExcludeDispatchKeyGuard(_AUTOCAST_KEYS):
        y: Tensor = _linear_op(x, *args)
    return y


for _key in ("AutocastCPU", "AutocastCUDA"):
    library.impl("linear", _linear_autocast, _key)


def linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    weight_global_scale: Tensor,
    input_global_scale: Tensor | None,
    bias: Tensor | None,
    out_features: int,
    layout: str,
    activations: str,
) -> Tensor:
    """`torch.ops.nvfp4.linear`, without the dispatcher where nobody but the kernel would see the call.

    The dispatcher converts nine arguments to C++ and back, which costs as much as all the rest of a call at M = 1.
    """
    rest = (weight, weight_scale, weight_global_scale, input_global_scale, bias, out_features, layout, activations)
    if _plain_eager(x, weight, weight_scale, weight_global_scale, input_global_scale, bias):
        return _linear_autograd(x, *rest) if _wants_gradient(x, bias) else _linear(x, *rest)
    if not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None:
        # torch.func's transforms take a Function only here: below the dispatcher it is too late for them.
        transformed: Tensor = _LinearFunction.apply(x, bias, *rest[:4], *rest[5:])  # type: ignore[no-untyped-call]
        return transformed
    y: Tensor = _linear_op(x, *rest)
    return y


# --- byte layouts ---------------------------------------------------------------------------------------------------


def _pack(codes: Tensor) -> Tensor:
    checks.check_pack(codes)
    return layouts.pack(codes)


def _unpack(packed: Tensor) -> Tensor:
    checks.check_unpack(packed)
    return layouts.unpack(packed)


def _swizzle_scales(scale: Tensor) -> Tensor:
    checks.check_swizzle(scale)
    return select("swizzle_scales", scale.device.type).swizzle_scales(scale)


def _swizzle_scales_fake(scale: Tensor) -> Tensor:
    checks.check_swizzle(scale)
    return scale.new_empty(layouts.swizzled_shape(*scale.shape))


def _unswizzle_scales(scale: Tensor, rows: int, groups: int) -> Tensor:
    checks.check_unswizzle(scale, rows, groups)
    return select("swizzle_scales", scale.device.type).unswizzle_scales(scale, rows, groups)


def _unswizzle_scales_fake(scale: Tensor, rows: int, groups: int) -> Tensor:
    checks.check_unswizzle(scale, rows, groups)
    return scale.new_empty((rows, groups))


def _to_tiles(packed: Tensor, scale: Tensor, layout: str) -> Tensor:
    checks.check_tiles(packed, scale, layout)
    return select("tiles", packed.device.type, torch.uint8, layout).to_tiles(packed, scale, layout)


def _to_tiles_fake(packed: Tensor, scale: Tensor, layout: str) -> Tensor:
    checks.check_tiles(packed, scale, layout)
    return packed.new_empty(layouts.tiles_shape(packed.shape[0], packed.shape[1] * 2, layout))


def _from_tiles(tiles: Tensor, n: int, k: int, layout: str) -> tuple[Tensor, Tensor]:
    checks.check_untile(tiles, n, k, layout)
    return select("tiles", tiles.device.type, torch.uint8, layout).from_tiles(tiles, n, k, layout)


def _from_tiles_fake(tiles: Tensor, n: int, k: int, layout: str) -> tuple[Tensor, Tensor]:
    checks.check_untile(tiles, n, k, layout)
    return tiles.new_empty((n, k // 2)), tiles.new_empty((n, k // GROUP_SIZE))


define("pack(Tensor codes) -> Tensor", _pack, _pack)
define("unpack(Tensor packed) -> Tensor", _unpack, _unpack)
define("swizzle_scales(Tensor scale) -> Tensor", _swizzle_scales, _swizzle_scales_fake)
define(
    "unswizzle_scales(Tensor scale, SymInt rows, SymInt groups) -> Tensor", _unswizzle_scales, _unswizzle_scales_fake
)
define("to_tiles(Tensor packed, Tensor scale, str layout) -> Tensor", _to_tiles, _to_tiles_fake)
define("from_tiles(Tensor tiles, SymInt n, SymInt k, str layout) -> (Tensor, Tensor)", _from_tiles, _from_tiles_fake)
