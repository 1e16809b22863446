"""Prefix tuning: entries in the cache, by hand and with padding; what it starts from; what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dtheta.adapt.attach import attach
from dtheta.adapt.prompts.prefix_tuning import PrefixTuning
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.core.tensors import base_tensors
from dtheta.errors import ShapeMismatch, UnsupportedLayer
from tests.unit.adapt.prompts.conftest import TEXT, make, of_text, padded, shake, states


def test_padding_does_not_matter(decoder: Any) -> None:
    shake(attach(decoder, PrefixTuning(3)))
    for left, right in ((0, 3), (3, 0), (2, 2)):
        assert torch.allclose(of_text(decoder, left, right), of_text(decoder, 0, 0), atol=1e-5)


def test_it_is_a_cache_filled_by_hand(decoder: Any) -> None:
    from transformers import DynamicCache

    adapter = shake(attach(decoder, PrefixTuning(3)))
    found, delta = of_text(decoder, 0, 0), adapter.delta()
    adapter.detach()
    heads, cache = getattr(decoder.config, "num_key_value_heads", 2), DynamicCache(config=decoder.config)
    for layer in range(2):
        pair = [delta[f"prefix.{layer}.{part}"].dense().reshape(1, 3, heads, -1).mT for part in ("key", "value")]
        cache.update(*[entry.mT.transpose(1, 2) for entry in pair], layer)
    positions = torch.arange(3, 9)[None]
    expected = decoder(TEXT, past_key_values=cache, position_ids=positions).logits
    assert torch.allclose(found, expected, atol=1e-6)


def test_it_starts_as_what_the_model_makes_of_tokens(decoder: Any) -> None:
    adapter = attach(decoder, PrefixTuning(3), seed=4)
    sizes = {n: float(p.detach().norm()) for n, p in adapter.trainable().items()}
    assert len(sizes) == 4 and all(0.1 < size < 100 for size in sizes.values())
    assert all(p.shape[0] == 3 for p in adapter.trainable().values())


def test_only_the_entries_train(decoder: Any) -> None:
    adapter, tensors = attach(decoder, PrefixTuning(3)), {n: t.clone() for n, t in base_tensors(decoder).items()}
    decoder.train()
    decoder(**padded(1, 1), labels=padded(1, 1)["input_ids"]).loss.backward()
    assert all(p.grad is None for p in decoder.parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in adapter.trainable().values())
    assert all(torch.equal(t, tensors[n]) for n, t in base_tensors(decoder).items())


def test_a_prefix_and_a_prompt_together(decoder: Any) -> None:
    shake(attach(decoder, PrefixTuning(3)))
    shake(attach(decoder, PromptTuning(2)))
    for left, right in ((0, 2), (3, 0)):
        assert torch.allclose(of_text(decoder, left, right), of_text(decoder, 0, 0), atol=1e-5)
    greedy: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "eos_token_id": 99}
    ids = TEXT
    with torch.no_grad():
        for _ in range(4):
            ids = torch.cat([ids, decoder(ids).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(decoder.generate(TEXT, **greedy), ids)
    assert torch.equal(decoder.generate(**padded(2, 0), **greedy)[:, 2:], ids)


def test_a_cache_nobody_asked_for_is_not_given_back(decoder: Any) -> None:
    attach(decoder, PrefixTuning(2))
    assert not {"cache", "past_key_values"} & set(decoder(TEXT, use_cache=False).keys())


def test_a_part_of_a_prefix_is_refused(decoder: Any) -> None:
    adapter = attach(decoder, PrefixTuning(2))
    delta = adapter.delta()
    adapter.detach()
    before = states(decoder, padded(0, 0))
    with pytest.raises(ShapeMismatch, match="in each of the 2 layers; found 3 entries"):
        attach(decoder, delta.restrict("prefix.0.*|prefix.1.key"))
    assert torch.equal(states(decoder, padded(0, 0)), before)


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_families_without_such_a_cache_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedLayer, match="use PromptTuning, DePT or PTuning"):
        attach(make(name), PrefixTuning(2))


def test_decoders_whose_layers_keep_no_keys_or_forget_them() -> None:
    import transformers as t

    sizes: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2}
    heads: dict[str, Any] = {**sizes, "num_attention_heads": 2, "intermediate_size": 32}
    neo = {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]], "window_size": 4}
    makers: dict[str, Any] = {
        "some are linear_attention": lambda: t.MambaForCausalLM(t.MambaConfig(**sizes, state_size=4)),
        "some are conv": lambda: t.Lfm2ForCausalLM(
            t.Lfm2Config(**heads, num_key_value_heads=1, layer_types=["conv", "full_attention"])
        ),
        "not every layer of XLNet": lambda: t.XLNetLMHeadModel(
            t.XLNetConfig(vocab_size=64, d_model=16, n_layer=2, n_head=2, d_inner=32)
        ),
        "outside a window": lambda: t.GPTNeoForCausalLM(t.GPTNeoConfig(vocab_size=64, hidden_size=16, **neo)),
        "says 2 heads of 8": lambda: t.FalconForCausalLM(
            t.FalconConfig(**sizes, num_attention_heads=2, new_decoder_architecture=False, multi_query=True)
        ),
    }
    for message, build in makers.items():
        with pytest.raises(UnsupportedLayer, match=message):
            attach(build(), PrefixTuning(2))
