"""Logits by slices: the head applied apart must give what the model answers, whatever comes after its head."""

import logging

import pytest
import torch

from nvfp4.metrics import evaluate
from nvfp4.metrics.forward import LogitSource, inference

transformers = pytest.importorskip("transformers")


def _gemma(family: str = "Gemma3", **extra: object) -> torch.nn.Module:
    config = getattr(transformers, f"{family}TextConfig" if family == "Gemma3" else f"{family}Config")(
        vocab_size=199, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, sliding_window=8, max_position_embeddings=64, **extra,
    )  # fmt: skip
    torch.manual_seed(0)
    return getattr(transformers, f"{family}ForCausalLM")(config).eval()


@pytest.mark.parametrize("family", ["Gemma3", "Gemma2"])
def test_slices_are_the_models_own_logits(family: str) -> None:
    model = _gemma(family, **({"final_logit_softcapping": 0.05} if family == "Gemma2" else {}))
    window = torch.arange(2, 40)
    with inference(model):
        source = LogitSource(model, "reference")
        cut = source.run(window)
        got = torch.cat([cut(0, 10), cut(10, 11), cut(11, len(window))])
        want = model(window[None]).logits[0]
    assert source._head is not None, "the head is applied by slices"
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


def test_only_one_row_of_logits_is_made_by_the_forward() -> None:
    model = _gemma()
    rows = []
    model.lm_head.register_forward_hook(lambda module, args, output: rows.append(output.shape[1]))
    evaluate(model, model, [torch.arange(2, 42)], chunk_positions=8, progress=False)
    assert max(rows) == 8


class _Doubled(transformers.Gemma3ForCausalLM):
    """A model that does something of its own after its head."""

    def forward(self, *args: object, **kwargs: object) -> object:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * 2
        return output

    forward.__signature__ = __import__("inspect").signature(transformers.Gemma3ForCausalLM.forward)


def test_a_model_that_changes_its_heads_output_is_asked_for_everything(caplog: pytest.LogCaptureFixture) -> None:
    model = _gemma()
    model.__class__ = _Doubled
    window = torch.arange(2, 30)
    with caplog.at_level(logging.INFO, logger="nvfp4.metrics"), inference(model):
        got = LogitSource(model, "candidate").run(window)(0, 28)
        want = model(window[None]).logits[0]
    assert torch.equal(got, want)
    assert "the candidate changes its head's output" in caplog.text


def test_token_ids_outside_the_vocabulary() -> None:
    model = _gemma()
    with pytest.raises(ValueError, match=r"window 1 has token ids from 3 to 199; wanted 0 to 198"):
        evaluate(model, model, [torch.tensor([1, 2]), torch.tensor([3, 199])], progress=False)


def test_inference_restores_what_it_changed_even_after_an_error() -> None:
    model = _gemma().train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError), inference(model):  # noqa: PT012 - the whole block is what is tested
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        raise RuntimeError
    assert [module.training for module in model.modules()] == before
    assert torch.is_grad_enabled()
