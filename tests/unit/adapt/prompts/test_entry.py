"""Entry: models that read embeddings otherwise than ids are refused, and looking leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as t

from dtheta.adapt.attach import attach
from dtheta.adapt.prompts.bank import PromptBank
from dtheta.adapt.prompts.entry import require_read_alike
from dtheta.adapt.prompts.family import family
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.errors import UnsupportedLayer
from tests.unit.adapt.prompts.conftest import make

SEQ: dict[str, Any] = {
    "vocab_size": 60, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 32,
    "decoder_start_token_id": 0, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "forced_eos_token_id": 2,
}  # fmt: skip
ENCODER: dict[str, Any] = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "max_position_embeddings": 32, "pad_token_id": 1,
}  # fmt: skip


def _pegasus(scale: bool) -> Any:
    torch.manual_seed(0)
    return t.PegasusForConditionalGeneration(t.PegasusConfig(**SEQ, scale_embedding=scale)).eval()


def _esm() -> Any:
    torch.manual_seed(0)
    config = t.EsmConfig(**ENCODER, mask_token_id=3, token_dropout=True, position_embedding_type="rotary")
    return t.EsmModel(config).eval()


@pytest.mark.parametrize("build", [lambda: _pegasus(True), _esm], ids=["pegasus", "esm"])
def test_a_model_that_changes_the_embeddings_of_ids_is_refused(build: Any) -> None:
    """Its text would come out unscaled beside the prompt, and nothing would say so."""
    model = build()
    attributes = {name: set(module.__dict__) for name, module in model.named_modules()}
    with pytest.raises(UnsupportedLayer, match="reads the embeddings of a text otherwise than its ids"):
        attach(model, PromptTuning(2))
    with pytest.raises(UnsupportedLayer, match="otherwise than its ids"):
        PromptBank(model)
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes


def test_where_nothing_is_scaled_it_is_taken() -> None:
    model = _pegasus(False)
    ids = torch.tensor([[7, 21, 40, 3]])
    first = torch.tensor([[0]])
    longer = model(input_ids=torch.cat([torch.tensor([[9, 8]]), ids], 1), decoder_input_ids=first).logits
    attach(model, PromptTuning(2, init="text", ids=(9, 8)))
    assert torch.allclose(model(input_ids=ids, decoder_input_ids=first).logits, longer, atol=1e-6)


def test_every_family_reads_both_alike_in_every_dtype(model: Any) -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        require_read_alike(family(model.to(dtype)))


def test_an_encoder_without_an_embedding_of_its_own_is_refused() -> None:
    size = {name: value for name, value in SEQ.items() if name != "vocab_size"}
    config = t.FSMTConfig(langs=["en", "de"], src_vocab_size=60, tgt_vocab_size=60, **size)
    model = t.FSMTForConditionalGeneration(config)
    with pytest.raises(UnsupportedLayer, match="no plain input embedding"):
        attach(model, PromptTuning(2))


def test_nan_and_meta_tell_nothing() -> None:
    model = make("llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.fill_(float("nan"))
    require_read_alike(family(model))
    require_read_alike(family(model.to("meta")))


def test_layers_that_change_with_a_short_text_are_let_be() -> None:
    torch.manual_seed(0)
    config = t.BigBirdConfig(**{**ENCODER, "max_position_embeddings": 64}, attention_type="block_sparse", block_size=4)
    model = t.BigBirdForMaskedLM(config).eval()
    attach(model, PromptTuning(2)).detach()
    assert model.bert.attention_type == "block_sparse"
