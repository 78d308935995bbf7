"""What other libraries do to an `NVFP4Linear`: PEFT's adapters wrap and train it, transformers does not re-draw it."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

import nvfp4
from nvfp4 import NVFP4Linear, prepare

CONFIG = Gemma3TextConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=1,
)  # fmt: skip


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = NVFP4Linear.from_linear(nn.Linear(32, 64))
        self.down = NVFP4Linear.from_linear(nn.Linear(64, 32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(nn.functional.gelu(self.up(x)))


def raw(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone().view(torch.uint8) for k, v in module.state_dict().items()}


@pytest.mark.parametrize("state", ["plain", "prepared"])
def test_lora_wraps_and_trains(backend, state) -> None:
    base = MLP()
    if state == "prepared":
        prepare(base)
    before, x, y = raw(base), torch.randn(16, 32), torch.randn(16, 32)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["up", "down"], lora_dropout=0.0))
    assert isinstance(base.up, LoraLinear)
    assert isinstance(base.up.base_layer, NVFP4Linear)
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in trainable} == {torch.float32}
    assert len(trainable) == 4
    optimizer = torch.optim.Adam(trainable, lr=1e-2)
    losses = []
    for _ in range(8):
        loss = nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    after = {k.replace("base_layer.", ""): v for k, v in raw(base).items() if "lora_" not in k}
    assert all(torch.equal(after[k], before[k]) for k in before)


def test_merging_an_adapter_says_what_to_do() -> None:
    model = get_peft_model(MLP(), LoraConfig(r=4, target_modules=["up"]))
    with pytest.raises(AttributeError, match=r"dequantize\(\)"):
        model.merge_and_unload()


def test_transformers_does_not_initialise_it() -> None:
    model = Gemma3ForCausalLM(CONFIG)
    nvfp4.quantize_model(model, progress=False)
    model.model.layers[0].mlp.up_proj.bias = nn.Parameter(torch.randn(48), requires_grad=False)
    quantized = {n: m for n, m in model.named_modules() if isinstance(m, NVFP4Linear)}
    before = {n: raw(m) for n, m in quantized.items()}
    attention = model.model.layers[0].self_attn.q_proj.weight.detach().clone()
    model.initialize_weights()
    model.init_weights()
    for name, module in quantized.items():
        assert all(torch.equal(v, before[name][k]) for k, v in raw(module).items()), name
    assert attention.shape == model.model.layers[0].self_attn.q_proj.weight.shape


@pytest.mark.parametrize("how", ["new", "copied", "assigned", "cast"])
def test_init_weights_called_on_the_module_itself_keeps_the_values(how) -> None:
    model = Gemma3ForCausalLM(CONFIG)
    module = NVFP4Linear.from_linear(nn.Linear(32, 16))
    if how == "copied":
        module = copy.deepcopy(module)
    elif how == "assigned":
        module.load_state_dict(NVFP4Linear.from_linear(nn.Linear(32, 16)).state_dict(), assign=True)
    elif how == "cast":
        module.half()
    before = raw(module)
    model._init_weights(module)
    assert all(torch.equal(v, before[k]) for k, v in raw(module).items())


def test_transformers_reads_dtype_and_device_of_a_quantised_model() -> None:
    model = Gemma3ForCausalLM(CONFIG).bfloat16()
    nvfp4.quantize_model(model, "all-linear", progress=False)
    assert model.dtype == torch.bfloat16
    assert model.device == torch.device("cpu")
    assert model.num_parameters() > 0
    assert model.get_memory_footprint() > 0


class QuantizedGemma(Gemma3ForCausalLM):
    """What an integration builds on the meta device before it loads."""

    def __init__(self, config: Gemma3TextConfig) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            for name in ("gate_proj", "up_proj", "down_proj"):
                linear = getattr(layer.mlp, name)
                sizes = (linear.in_features, linear.out_features)
                setattr(layer.mlp, name, NVFP4Linear(*sizes, bias=False, static=True, dtype=linear.weight.dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, "auto"], ids=str)
def test_from_pretrained_never_casts_bytes(tmp_path, dtype) -> None:
    model = Gemma3ForCausalLM(CONFIG).bfloat16()
    nvfp4.quantize_model(model, calibration=[torch.arange(3, 20)], progress=False)
    model.save_pretrained(tmp_path)
    loaded, info = QuantizedGemma.from_pretrained(tmp_path, dtype=dtype, output_loading_info=True)
    assert not any(info.values())
    assert loaded.dtype == (torch.bfloat16 if dtype == "auto" else dtype)
    got, wanted = loaded.state_dict(), model.state_dict()
    names = [name for name in wanted if ".mlp." in name]
    assert len(names) == 2 * 3 * 4
    for name in names:
        assert got[name].dtype == wanted[name].dtype, name
        assert torch.equal(got[name].view(torch.uint8), wanted[name].view(torch.uint8)), name


def test_save_pretrained_writes_the_plain_bytes(tmp_path) -> None:
    from safetensors.torch import load_file

    model = Gemma3ForCausalLM(CONFIG).bfloat16()
    nvfp4.quantize_model(model, progress=False)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":
            assert torch.equal(stored[name].view(torch.uint8), value.view(torch.uint8)), name
