"""`NVFP4Linear`: an `nn.Linear` whose weight is four-bit codes, and whose input is quantised on the way in, or not."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from nvfp4 import functional, ops
from nvfp4.backends import Desc, explain
from nvfp4.checks import FLOATS
from nvfp4.formats import GROUP_SIZE, ZERO_BLOCK_SCALE, check_group_multiple
from nvfp4.kinds import check_activations, check_kind
from nvfp4.nn import state
from nvfp4.nn.handle import WeightHandle
from nvfp4.reference import Scheme
from nvfp4.tensor import NVFP4Tensor

__all__ = ["NVFP4Linear"]


def _frozen(tensor: Tensor) -> Parameter:
    return Parameter(tensor, requires_grad=False)


class NVFP4Linear(nn.Linear):
    """y = x W^T + b with W in NVFP4.

    Parameters, all with `requires_grad=False`, named and laid out as compressed-tensors does on disk: `weight_packed`
    uint8 [N, K/2], `weight_scale` float8_e4m3fn [N, K/16], `weight_global_scale` float32 [1], `input_global_scale`
    float32 [1] (static activations only), `bias` [N].

    `nvfp4.prepare` replaces the first two by one backend's own byte layout (`weight_prepared` and
    `weight_prepared_scale`, uint8). `state_dict` gives and `load_state_dict` takes the plain bytes in either state. No
    cast of the module (`.to(dtype)`, `.half()`, autocast) changes a byte of weight or scales: it casts the bias, and
    what `.weight.dtype` says. Dtypes that no kernel serves (`.double()`, integers) are not taken: such a cast moves the
    module and leaves every dtype as it is.

    A new module's weight and bias are zero until something is loaded.

    Args:
        in_features: K, a multiple of 16.
        out_features: N.
        bias: whether there is one.
        activations: ``nvfp4`` quantises the input too (W4A4), None leaves it as it is (W4A16).
        device: where the bytes are.
        dtype: of the bias, and what `.weight.dtype` says; float32, float16 or bfloat16.
        static: hold one calibrated `input_global_scale`. Otherwise every token's own is computed, so that a token's
            result does not depend on its neighbours (on an SM120: in batches of up to 256 tokens).

    Raises:
        TypeError: the dtype is none of the three, or an argument is of another kind than it is documented to be.
        ValueError: K is no multiple of 16, a size is negative, `activations` is unknown, or `static` comes without
            activations.
    """

    # The whole module is marked as initialised for transformers: there is nothing in it to draw at random.
    _is_hf_initialized = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activations: Literal["nvfp4"] | None = "nvfp4",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        static: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        dtype = torch.get_default_dtype() if dtype is None else dtype
        check_activations("NVFP4Linear", activations)
        for name, size in (("in_features", in_features), ("out_features", out_features)):
            check_kind(f"NVFP4Linear: {name}", size, (Integral, torch.SymInt), "an int")
        check_kind("NVFP4Linear: dtype", dtype, (torch.dtype,), "a torch.dtype, such as torch.bfloat16")
        for name, flag in (("bias", bias), ("static", static)):
            check_kind(f"NVFP4Linear: {name}", flag, (bool,), "True or False")
        if static and activations is None:
            raise ValueError("NVFP4Linear: got static=True with activations=None, wanted static only with 'nvfp4'")
        if dtype not in FLOATS:
            raise TypeError(f"NVFP4Linear: dtype: got {dtype}, wanted {', '.join(map(str, FLOATS))}")
        if in_features < 0 or out_features < 0:
            raise ValueError(f"NVFP4Linear: got {in_features} -> {out_features} features, wanted sizes >= 0")
        check_group_multiple(in_features, "NVFP4Linear: in_features")
        self.in_features = in_features
        self.out_features = out_features
        self.activations = activations
        self.layout = "plain"
        self._dtype = dtype

        def empty(*shape: int, dtype: torch.dtype) -> Parameter:
            return _frozen(torch.empty(shape, dtype=dtype, device=device))

        self.weight_packed = empty(out_features, in_features // 2, dtype=torch.uint8)
        self.weight_scale = empty(out_features, in_features // GROUP_SIZE, dtype=torch.float8_e4m3fn)
        self.weight_global_scale = empty(1, dtype=torch.float32)
        self.register_parameter("input_global_scale", empty(1, dtype=torch.float32) if static else None)
        self.register_parameter("bias", empty(out_features, dtype=dtype) if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Make weight and bias zero and the global scales one, whatever the state."""
        with torch.no_grad():
            for name, value in self._parameters.items():
                if value is not None:
                    is_scale = name == "weight_scale"
                    value.fill_(ZERO_BLOCK_SCALE if is_scale else 1.0 if name.endswith("global_scale") else 0)

    # --- the forward pass -------------------------------------------------------------------------------------------

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[..., K] to [..., N], in the input's dtype (float32, float16 or bfloat16); named as `nn.Linear` names it.

        Raises:
            TypeError, ValueError: the input has another dtype, K or device.
        """
        x = input
        # Said here in the module's words; the op would speak of tiles.
        if not isinstance(x, Tensor):
            raise TypeError(f"NVFP4Linear: got {type(x).__name__}, wanted a torch.Tensor [..., {self.in_features}]")
        if x.shape[-1:] != (self.in_features,):
            raise ValueError(f"NVFP4Linear: got x of shape {tuple(x.shape)}, wanted [..., {self.in_features}]")
        held = self._parameters
        weight, scale = self.operand()
        input_scale = held["input_global_scale"]
        mode = "none" if self.activations is None else "row" if input_scale is None else "static"
        return ops.linear(
            x, weight, scale, held["weight_global_scale"],  # type: ignore[arg-type]
            input_scale, held["bias"], self.out_features, self.layout, mode,
        )  # fmt: skip

    def operand(self) -> tuple[Tensor, Tensor]:
        """The weight's two tensors of bytes, uint8, as the ops take them."""
        held = self._parameters
        if self.layout == "plain":
            return held["weight_packed"], held["weight_scale"].view(torch.uint8)  # type: ignore[union-attr, return-value]
        return held["weight_prepared"], held["weight_prepared_scale"]  # type: ignore[return-value]

    # --- what others see --------------------------------------------------------------------------------------------

    @property
    def weight(self) -> WeightHandle:  # type: ignore[override]
        """Dtype, device and shape of the weight; never its values (see `WeightHandle`)."""
        return WeightHandle(self)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the Linear this stands for."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Where the bytes are."""
        return self.weight_global_scale.device

    @property
    def mode(self) -> str:
        """How activations are treated, in the op's words: ``row`` (per token), ``static`` or ``none`` (W4A16)."""
        if self.activations is None:
            return "none"
        return "row" if self.input_global_scale is None else "static"

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters, in the state they are in."""
        return sum(p.nbytes for p in self._parameters.values() if p is not None)

    def quantized_weight(self) -> NVFP4Tensor:
        """The weight as an `NVFP4Tensor` [N, K] in the layout it is held in; no copy."""
        packed, scale = (p.detach() for p in state.held_parameters(self))
        shape, global_scale = (self.out_features, self.in_features), self.weight_global_scale.detach()
        return NVFP4Tensor(packed, scale.view(torch.float8_e4m3fn), global_scale, shape, self.layout)

    def dequantize(self) -> nn.Linear:
        """An ordinary, trainable `nn.Linear`: the weight's exact values rounded to `dtype`, and a copy of the bias."""
        linear = nn.Linear(self.in_features, self.out_features, bias=self.bias is not None, device="meta")
        linear.weight = Parameter(self.quantized_weight().dequantize(self._dtype))
        if self.bias is not None:
            linear.bias = Parameter(self.bias.detach().clone())
        return linear.train(self.training)

    def extra_repr(self) -> str:
        """Sizes, format, activations, backend, layout and bytes."""
        activations = {"none": "W4A16", "row": "W4A4 per token", "static": "W4A4 static"}[self.mode]
        choice = explain(Desc("linear", self.device.type, self._dtype, self.layout, self.mode)).choice
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"format=NVFP4 {activations}, backend={choice}, layout={self.layout}, bytes={self.nbytes}"
        )

    # --- making one -------------------------------------------------------------------------------------------------

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        activations: Literal["nvfp4"] | None = "nvfp4",
        weight_global_scale: Tensor | float | None = None,
        input_global_scale: Tensor | float | None = None,
        scheme: Scheme = "compressed-tensors",
    ) -> NVFP4Linear:
        """Quantise a Linear's weight; the bias is shared with it. The result is in the plain state.

        Args:
            linear: weight [N, K] in float32, float16 or bfloat16, K a multiple of 16. It is not changed.
            activations: ``nvfp4`` (W4A4) or None (W4A16).
            weight_global_scale: the encode scale 2688 / amax to use, one positive number; None computes it. Linears
                that an engine fuses (gate and up; q, k and v) must share one.
            input_global_scale: the same of the input, from calibration; None computes one a token.
            scheme: ``compressed-tensors`` gives the bytes llm-compressor writes, ``nvfp4`` rounds once less.

        Raises:
            TypeError: not an `nn.Linear`, quantised already, or of another dtype.
            ValueError: K is no multiple of 16, the weight holds NaN or Inf or is on the meta device, a global scale is
                not one positive finite number, or an input_global_scale comes without activations.
        """
        if not isinstance(linear, nn.Linear) or isinstance(linear, NVFP4Linear):
            raise TypeError(f"from_linear: got {type(linear).__name__}, wanted an nn.Linear that is not quantised yet")
        weight = linear.weight.detach()
        state.weight_amax(weight)
        module = cls(
            linear.in_features, linear.out_features, False, activations, "meta", weight.dtype,
            static=input_global_scale is not None,
        )  # fmt: skip
        if weight_global_scale is not None:
            weight_global_scale = state.as_global_scale("weight_global_scale", weight_global_scale, weight.device)
        if input_global_scale is not None:
            scale = state.as_global_scale("input_global_scale", input_global_scale, weight.device)
            module.input_global_scale = _frozen(scale)
        module.set_quantized_weight(functional.quantize(weight, weight_global_scale, scheme=scheme))
        if linear.bias is not None:
            module.bias = _frozen(linear.bias.detach())
            module._mark_bias()
        return module.train(linear.training)

    def set_quantized_weight(self, t: NVFP4Tensor) -> None:
        """Hold another weight [N, K], in the layout it comes in.

        Raises:
            TypeError: it is no `NVFP4Tensor`.
            ValueError: its shape is not [out_features, in_features], or it has a global scale a row.
        """
        check_kind("NVFP4Linear: weight", t, (NVFP4Tensor,), "an NVFP4Tensor; make one with nvfp4.quantize")
        if t.shape != (self.out_features, self.in_features) or t.global_scale.numel() != 1:
            raise ValueError(
                f"NVFP4Linear: got a weight of shape {t.shape} with {t.global_scale.numel()} global scales, wanted "
                f"{(self.out_features, self.in_features)} with one"
            )
        state.hold(self, t.layout, _frozen(t.packed), _frozen(t.scale))
        self.weight_global_scale = _frozen(t.global_scale)

    # --- nn.Module's machinery --------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        """Say where the plain bytes of a prepared module are."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in state.PLAIN_NAMES:
                raise
        raise AttributeError(
            f"NVFP4Linear.{name}: the module is prepared (layout {self.layout!r}) and holds other bytes; "
            "state_dict() gives the plain ones, quantized_weight() the held ones",
            name=name,
            obj=self,
        )

    def _mark_bias(self) -> None:
        """Tell transformers' `_init_weights` that the bias has values; the mark is an attribute, which copies lose."""
        if self.bias is not None:
            self.bias._is_hf_initialized = True  # type: ignore[attr-defined]

    def __setstate__(self, values: dict[str, Any]) -> None:
        super().__setstate__(values)  # type: ignore[no-untyped-call]
        self._mark_bias()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> NVFP4Linear:
        """Move and cast: devices for everything, dtypes that kernels serve for the bias alone."""
        frozen = {id(p) for name, p in self._parameters.items() if p is not None and name != "bias"}
        dtype = fn(torch.empty(0, dtype=self._dtype, device=self.device)).dtype

        def keep(t: Tensor) -> Tensor:
            return state.apply_to_bytes(fn, t) if id(t) in frozen or dtype not in FLOATS else fn(t)

        super()._apply(keep, recurse)  # type: ignore[no-untyped-call]
        if dtype in FLOATS:
            self._dtype = dtype
        return self

    def requires_grad_(self, requires_grad: bool = True) -> NVFP4Linear:
        """Let the bias record gradients or not; codes and scales have none."""
        if self.bias is not None:
            self.bias.requires_grad_(requires_grad)
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        state.save(self, destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        assign = local_metadata.get("assign_to_params_buffers", False)
        becomes_static, faults = state.has_input_scale(self, state_dict, prefix), len(error_msgs)
        if becomes_static:
            self.input_global_scale = _frozen(torch.ones(1, device=self.device))
        with state.loading(self, state_dict, prefix, missing_keys, error_msgs, assign) as proceed:
            if proceed:
                super()._load_from_state_dict(
                    state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
                )
        if becomes_static and len(error_msgs) > faults:
            self.register_parameter("input_global_scale", None)
        if prefix + "bias" in state_dict:
            self._mark_bias()
