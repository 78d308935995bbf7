"""`GatedMLP`: y = down(act(gate(x)) * up(x)), with gate and up in one weight, so that kernels can fuse what follows."""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from nvfp4 import gated, ops, reference
from nvfp4.fused_ops import gated_mlp
from nvfp4.gated import GatedWeights
from nvfp4.kinds import check_choice
from nvfp4.nn import gated_state
from nvfp4.nn.linear import NVFP4Linear
from nvfp4.reference import Activation
from nvfp4.tensor import NVFP4Tensor

__all__ = ["GateUpLinear", "GatedMLP"]


class GateUpLinear(NVFP4Linear):
    """gate_proj and up_proj as one `NVFP4Linear`: their rows alternate by eight, and up has a global scale of its own.

    `weight_global_scale` is the gate's, `up_global_scale` (float32 [1]) the other.
    """

    def __init__(self, in_features: int, intermediate: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(in_features, 2 * intermediate, *args, **kwargs)
        self.up_global_scale = nn.Parameter(torch.ones_like(self.weight_global_scale), requires_grad=False)

    @property
    def _row_scales(self) -> Tensor:
        return gated.gate_and_up_scales(self.weight_global_scale, self.up_global_scale, self.out_features // 2)

    def quantized_weight(self) -> NVFP4Tensor:
        """As that of an `NVFP4Linear`, with a global scale a row."""
        t = super().quantized_weight()
        return NVFP4Tensor(t.packed, t.scale, self._row_scales.detach(), t.shape, t.layout)

    @classmethod
    def from_linear(cls, *args: Any, **kwargs: Any) -> NoReturn:
        """There is no one Linear that this stands for."""
        raise TypeError("GateUpLinear: holds two Linears; make it with GatedMLP.from_linears")

    def set_quantized_weight(self, t: NVFP4Tensor) -> NoReturn:
        """A weight comes with two global scales."""
        raise TypeError(
            "GateUpLinear: holds two weights; load them as gate_proj and up_proj of its GatedMLP's state dict"
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[..., K] to [..., 2 * intermediate], gate and up alternating by eight; in the input's dtype."""
        _check_input("GateUpLinear", input, self.in_features)
        weight, scale = self.operand()
        return ops.linear(
            input, weight, scale, self._row_scales, self.input_global_scale, self.bias, self.out_features, self.layout,
            self.mode,
        )  # fmt: skip

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
        missing = list[str]()
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)
        # Inside a `GatedMLP` they have the names that its state dict has.
        inside = prefix.endswith(gated_state.OWN)
        missing_keys += [name for key in missing for name in (gated_state.users_keys(key) if inside else [key])]


class GatedMLP(nn.Module):
    """The MLP of Gemma, Llama and their like in NVFP4: down(act(gate(x)) * up(x)).

    On SM120 it is three kernels when both inputs have calibrated scales: quantise x; multiply by gate and up, apply the
    activation and quantise again; multiply by down. With scales computed a token it is four. Elsewhere, and where a
    gradient is wanted or one of its modules was replaced or has hooks (global hooks see the MLP alone), it is two
    linears with the activation between them, in float64: no faster there than the three Linears, so it is made for
    SM120.

    `state_dict` gives and `load_state_dict` takes the names of the model it came from: `gate_proj.*`, `up_proj.*` and
    `down_proj.*`, as three `NVFP4Linear`s have them. The activation is not among them: whoever loads one has to give
    it, and nothing would tell another.

    act(gate) * up is rounded once; `transformers` rounds act(gate) too, so results may differ by a rounding.

    Args:
        hidden_size: K of gate and up, a multiple of 16; and outputs of down.
        intermediate_size: outputs of gate and of up, a multiple of 16.
        activation: ``gelu_tanh`` (Gemma), ``gelu`` or ``silu`` (Llama).
        bias: whether all three have one.
        activations: ``nvfp4`` (W4A4) or None (W4A16).
        device, dtype, static: as `NVFP4Linear` takes them.

    Raises:
        TypeError, ValueError: as `NVFP4Linear`, or the activation is unknown.
    """

    _is_hf_initialized = True

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        activation: Activation = "gelu_tanh",
        bias: bool = False,
        activations: Literal["nvfp4"] | None = "nvfp4",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        static: bool = False,
    ) -> None:
        super().__init__()
        check_choice("GatedMLP: activation", activation, reference.ACTIVATIONS)
        self.activation = activation
        args = (bias, activations, device, dtype)
        self.gate_up_proj = GateUpLinear(hidden_size, intermediate_size, *args, static=static)
        self.down_proj = NVFP4Linear(intermediate_size, hidden_size, *args, static=static)

    @classmethod
    def from_linears(
        cls, gate: NVFP4Linear, up: NVFP4Linear, down: NVFP4Linear, activation: Activation = "gelu_tanh"
    ) -> GatedMLP:
        """Of three quantised Linears. `down` itself is taken; gate and up are copied.

        Raises:
            TypeError: one is no `NVFP4Linear`.
            ValueError: they do not fit together, or gate and up quantise the same input in two ways.
        """
        for name, linear in (("gate", gate), ("up", up), ("down", down)):
            if type(linear) is not NVFP4Linear:
                raise TypeError(f"GatedMLP: {name}: got {type(linear).__name__}, wanted an NVFP4Linear")
        if (refusal := _refusal(gate, up, down)) is not None:
            raise ValueError(f"GatedMLP: {refusal}")
        mlp = cls.__new__(cls)
        nn.Module.__init__(mlp)
        check_choice("GatedMLP: activation", activation, reference.ACTIVATIONS)
        mlp.activation = activation
        both = GateUpLinear(
            gate.in_features, gate.out_features, gate.bias is not None, gate.activations, gate.device, gate.dtype,
            static=gate.input_global_scale is not None,
        )  # fmt: skip
        parts = [gated_state.plain_state(linear) for linear in (gate, up)]
        both.load_state_dict(gated_state.joined(*parts), assign=True)
        both.requires_grad_(False)
        mlp.gate_up_proj, mlp.down_proj = both, down
        mlp.training = both.training = down.training
        return mlp

    def forward(self, x: Tensor) -> Tensor:
        """[..., hidden_size] to the same, in x's dtype (float32, float16 or bfloat16).

        Raises:
            TypeError, ValueError: x has another dtype, K or device.
        """
        both, down = self.gate_up_proj, self.down_proj
        if not _fits(both, down):
            return self._by_parts(x)
        _check_input("GatedMLP", x, both.in_features)
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, both.bias, down.bias)):
            return self._by_parts(x)
        weights = GatedWeights(
            *both.operand(), both.weight_global_scale, both.up_global_scale, both.bias, *down.operand(),
            down.weight_global_scale, down.bias, down.in_features, down.out_features, down.layout,
        )  # fmt: skip
        activations = "none" if down.activations is None else "row"
        return gated_mlp(x, weights, both.input_global_scale, down.input_global_scale, self.activation, activations)

    def _by_parts(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(reference.gated_activation(*gated.apart(self.gate_up_proj(x), -1), self.activation))
        return y

    def extra_repr(self) -> str:
        """The activation."""
        return f"activation={self.activation}"

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """As of three `NVFP4Linear`s, gate_proj, up_proj and down_proj."""
        # torch still takes them by position.
        named = dict(zip(("destination", "prefix", "keep_vars"), args, strict=False))
        prefix = named.get("prefix", prefix)
        keep_vars = named.get("keep_vars", keep_vars)
        destination = named.get("destination", destination)
        result = super().state_dict(destination=destination, prefix=prefix, keep_vars=keep_vars)
        gated_state.rename(result, prefix)
        return result

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
        gated_state.take(self, state_dict, prefix, missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def _check_input(what: str, x: object, k: int) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{what}: got {type(x).__name__}, wanted a torch.Tensor [..., {k}]")
    if x.shape[-1:] != (k,):
        raise ValueError(f"{what}: got x of shape {tuple(x.shape)}, wanted [..., {k}]")


def _fits(both: nn.Module, down: nn.Module) -> bool:
    """Whether one call may take both weights: as they were made, in one layout, and nobody listens in between."""
    return (
        type(both) is GateUpLinear
        and type(down) is NVFP4Linear
        and both.layout == down.layout
        and both.activations == down.activations
        and not any(m._forward_hooks or m._forward_pre_hooks or "forward" in m.__dict__ for m in (both, down))
    )


def _refusal(gate: NVFP4Linear, up: NVFP4Linear, down: NVFP4Linear) -> str | None:
    """Why three Linears are no gated MLP."""
    shapes = [(linear.out_features, linear.in_features) for linear in (gate, up, down)]
    if shapes[0] != shapes[1] or shapes[2][1] != shapes[0][0]:
        return f"got gate, up and down of shapes {shapes}, wanted [I, K], [I, K] and [N, I]"
    facts = [(m.mode, m.bias is None, m.device, m.dtype) for m in (gate, up)]
    if facts[0] != facts[1]:
        return f"gate and up differ in (mode, no bias, device, dtype): {facts[0]} and {facts[1]}"
    scales = [m.input_global_scale for m in (gate, up)]
    if scales[0] is not None and not gate.weight.is_meta and not torch.equal(*scales):
        return f"gate and up have other input_global_scales: {scales[0].item()} and {scales[1].item()}"
    return None
