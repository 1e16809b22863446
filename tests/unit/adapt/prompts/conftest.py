"""Tiny random text models of each family, and texts with padding on either side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method
from dtheta.core.delta import Delta
from dtheta.core.seeds import generator

TEXT = torch.tensor([[7, 21, 40, 3, 33, 12]])
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": 99}
FAMILIES = ("llama", "gpt2", "opt", "bert", "roberta", "t5")


def _shaken(model: nn.Module, name: str) -> nn.Module:
    """Shake every parameter, and turn the last norm, so that a tied head does not just repeat the token before."""
    with torch.no_grad():
        for index, (key, parameter) in enumerate(model.named_parameters()):
            drawn = torch.randn(parameter.shape, generator=generator(0, name, index))
            last = key.endswith(("ln_f.weight", "decoder.final_layer_norm.weight")) and "encoder" not in key
            parameter.mul_(1 - last).add_(drawn, alpha=2.0 if last else 0.2)
    return model.eval()


def make(name: str) -> Any:
    """Return a fresh tiny random model of a family; the same numbers at every call."""
    import transformers as t

    small: dict[str, Any] = {"vocab_size": 64}
    wide = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "max_position_embeddings": 48}
    plain = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_attention_heads": 2}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}
    build: dict[str, Callable[[], nn.Module]] = {
        "llama": lambda: t.LlamaForCausalLM(
            t.LlamaConfig(**small, **wide, num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False)
        ),
        "gpt2": lambda: t.GPT2LMHeadModel(
            t.GPT2Config(
                **small, n_positions=48, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1,
                resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            )
        ),
        "opt": lambda: t.OPTForCausalLM(
            t.OPTConfig(
                **small, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
                word_embed_proj_dim=16, max_position_embeddings=48, dropout=0.0,
            )
        ),
        "bert": lambda: t.BertModel(t.BertConfig(**small, **wide, **plain)),
        "roberta": lambda: t.RobertaModel(t.RobertaConfig(**small, **wide, **plain, pad_token_id=1)),
        "t5": lambda: t.T5ForConditionalGeneration(
            t.T5Config(
                **small, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0,
                decoder_start_token_id=0, **ids,
            )
        ),
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _shaken(build[name](), name)


def padded(left: int, right: int, text: Tensor = TEXT) -> dict[str, Tensor]:
    """Return the ids and mask of a text with padding."""
    ids = torch.nn.functional.pad(text, (left, right), value=0)
    return {"input_ids": ids, "attention_mask": torch.nn.functional.pad(torch.ones_like(text), (left, right))}


def states(model: Any, given: dict[str, Tensor]) -> Tensor:
    """Return what a model makes of a batch: logits by token, states by token, or a decoder's logits."""
    if model.config.is_encoder_decoder:
        return model(**given, decoder_input_ids=torch.tensor([[0, 5, 9]]).expand(len(given["input_ids"]), -1)).logits
    output = model(**given)
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def of_text(model: Any, left: int, right: int) -> Tensor:
    """Return what a model makes of the tokens of TEXT behind padding."""
    found = states(model, padded(left, right))
    return found if model.config.is_encoder_decoder else found[:, left : left + TEXT.shape[1]]


def shake(adapter: Any) -> Any:
    """Move every trained vector, so that no offset is zero."""
    with torch.no_grad():
        for index, p in enumerate(adapter.trainable().values()):
            p.add_(torch.randn(p.shape, generator=generator(1, "shake", index)), alpha=0.5)
    return adapter


def trained(name: str, method: Method, seed: int = 0) -> Delta:
    adapter = shake(attach(make(name), method, seed=seed))
    with torch.no_grad():
        for p in adapter.trainable().values():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(seed)), alpha=0.3)
    return adapter.delta()


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    """A fresh model of each family in turn."""
    return make(request.param)


@pytest.fixture(params=("llama", "gpt2", "opt"))
def decoder(request: pytest.FixtureRequest) -> Any:
    """A fresh decoder of each kind in turn."""
    return make(request.param)
