"""Generation: cached, uncached and static caches agree, and plain transformers on embeddings is the reference."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method
from dtheta.adapt.prompts.adept import ADePT
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.prefix_tuning import PrefixTuning
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.errors import ConfigError
from tests.unit.adapt.prompts.conftest import GREEDY, TEXT, make, padded, shake

METHODS = [
    PromptTuning(4),
    DePT(3, rank=2, positions=8),
    DePT(2, rank=2, positions=9, index="column"),
    ADePT(2, rank=3),
]


def uncached(model: Any, ids: Tensor, steps: int = 6) -> Tensor:
    """Return greedy continuations by whole forwards, which know no cache."""
    with torch.no_grad():
        for _ in range(steps):
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return ids


@pytest.mark.parametrize("method", [*METHODS, PrefixTuning(3)], ids=repr)
def test_cached_is_uncached(decoder: Any, method: Method) -> None:
    shake(attach(decoder, method))
    assert torch.equal(decoder.generate(TEXT, **GREEDY), uncached(decoder, TEXT))


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_static_is_dynamic(decoder: Any, method: Method) -> None:
    shake(attach(decoder, method))
    given = padded(2, 0)
    expected = decoder.generate(**given, **GREEDY)
    assert torch.equal(decoder.generate(**given, **GREEDY, cache_implementation="static"), expected)


@pytest.mark.parametrize("method", [METHODS[0], METHODS[1], METHODS[3], PrefixTuning(3)], ids=repr)
def test_padding_on_the_left_does_not_matter(decoder: Any, method: Method) -> None:
    shake(attach(decoder, method))
    alone = decoder.generate(TEXT, **GREEDY)
    for left in (1, 4):
        assert torch.equal(decoder.generate(**padded(left, 0), **GREEDY)[:, left:], alone)
    two = {k: torch.cat([padded(3, 0, TEXT[:, :3])[k], v]) for k, v in padded(0, 0).items()}
    assert torch.equal(decoder.generate(**two, **GREEDY)[1:], alone)
    assert torch.equal(decoder.generate(two["input_ids"], **GREEDY), decoder.generate(**two, **GREEDY))  # mask inferred


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_is_that_of_plain_transformers_on_embeddings(decoder: Any, beams: int) -> None:
    adapter = shake(attach(decoder, PromptTuning(4)))
    found = decoder.generate(TEXT, **GREEDY, num_beams=beams)
    prompt = adapter.term("prompt.input").matrix().detach()
    adapter.detach()
    embeds = torch.cat([prompt[None], decoder.get_input_embeddings()(TEXT)], 1)
    fresh = decoder.generate(inputs_embeds=embeds, attention_mask=torch.ones(1, 10).long(), **GREEDY, num_beams=beams)
    assert torch.equal(found[:, : TEXT.shape[1]], TEXT) and torch.equal(found[:, TEXT.shape[1] :], fresh)


def test_beams_of_a_prefix_and_of_offsets(decoder: Any) -> None:
    """A beam search of as many beams as the vocabulary has tokens, two steps deep, is exhaustive."""
    for method in (DePT(3, rank=2, positions=8), PrefixTuning(3)):
        adapter = shake(attach(decoder, method))
        two = GREEDY | {"max_new_tokens": 2}
        found = decoder.generate(TEXT, **two, num_beams=64)
        with torch.no_grad():
            first = decoder(TEXT).logits[0, -1].log_softmax(-1)
            each = torch.cat([TEXT.expand(64, -1), torch.arange(64)[:, None]], 1)
            both = first[:, None] + decoder(each).logits[:, -1].log_softmax(-1)
        best = divmod(int(both.argmax()), 64)
        assert found[0, -2:].tolist() == list(best)
        adapter.detach()


def test_lengths_count_the_ids_of_the_user(decoder: Any) -> None:
    shake(attach(decoder, PromptTuning(4)))
    free = {"do_sample": False, "pad_token_id": 0, "eos_token_id": 99}
    assert decoder.generate(TEXT, max_length=10, **free).shape == (1, 10)
    config = copy.deepcopy(decoder.generation_config)
    config.max_length = 9
    assert decoder.generate(TEXT, generation_config=config, **free).shape == (1, 9)
    assert config.max_length == 9
    assert decoder.generate(TEXT, **free).shape == (1, 26)
    assert decoder.generate(TEXT, max_new_tokens=3, **free).shape == (1, 9)
    assert decoder.generate(TEXT, max_new_tokens=3, num_return_sequences=2, num_beams=2, **free).shape == (2, 9)
    with pytest.raises(ConfigError, match="leaves nothing to generate after a text of 6"):
        decoder.generate(TEXT, max_length=6)


def test_embeddings_in_place_of_ids(decoder: Any) -> None:
    shake(attach(decoder, DePT(3, rank=2, positions=8)))
    embeds = decoder.get_input_embeddings()(TEXT)
    expected = decoder.generate(TEXT, **GREEDY)[:, TEXT.shape[1] :]
    assert torch.equal(decoder.generate(inputs_embeds=embeds, **GREEDY), expected)


def test_a_loop_of_ones_own_over_a_cache(decoder: Any) -> None:
    for method in (DePT(3, rank=2, positions=8), PrefixTuning(2)):
        adapter = shake(attach(decoder, method))
        given = padded(2, 0)
        whole = decoder(**given).logits
        head = {k: v[:, :5] for k, v in given.items()}
        output = decoder(**head, use_cache=True)
        cache = output.get("cache") if "cache" in output else output.past_key_values
        tail = decoder(given["input_ids"][:, 5:], attention_mask=given["attention_mask"], past_key_values=cache)
        assert torch.allclose(tail.logits, whole[:, 5:], atol=1e-5)
        adapter.detach()


def test_a_second_turn_on_the_cache_of_the_first(decoder: Any) -> None:
    adapter = shake(attach(decoder, DePT(3, rank=2, positions=8)))
    first = decoder.generate(TEXT, **GREEDY, return_dict_in_generate=True)
    longer = torch.cat([first.sequences, torch.tensor([[5, 9]])], 1)
    cache = first.get("cache") if "cache" in first else first.past_key_values
    again = decoder.generate(longer, **GREEDY, past_key_values=cache)
    assert torch.equal(again, decoder.generate(longer, **GREEDY))
    adapter.detach()
    attach(decoder, PrefixTuning(2))
    with pytest.raises(ConfigError, match="starts from an empty cache"):
        decoder.generate(longer, **GREEDY, past_key_values=cache)


@pytest.mark.parametrize("option", ["prompt_lookup_num_tokens", "prefill_chunk_size"])
def test_options_that_go_by_ids_are_refused(decoder: Any, option: str) -> None:
    attach(decoder, PromptTuning(3))
    with pytest.raises(ConfigError, match=f"cannot have {option}"):
        decoder.generate(TEXT, **GREEDY, **{option: 2})


def test_a_cache_without_the_prompt_is_refused(decoder: Any) -> None:
    adapter = attach(decoder, PromptTuning(3))
    with adapter.disabled():
        output = decoder(TEXT, use_cache=True)
    cache = output.get("cache") if "cache" in output else output.past_key_values
    with pytest.raises(ConfigError, match="expected one that the prompted model filled"):
        decoder(TEXT[:, :1], attention_mask=torch.ones(1, 7).long(), past_key_values=cache)


@pytest.mark.parametrize("options", [{}, {"use_cache": False}, {"cache_implementation": "static"}, {"num_beams": 2}])
@pytest.mark.parametrize("method", [PromptTuning(40), PrefixTuning(40)], ids=repr)
def test_generation_beyond_the_positions_is_refused(method: Method, options: dict[str, Any]) -> None:
    model: Any = make("gpt2")
    attach(model, method)
    given: dict[str, Any] = {"input_ids": TEXT[:, :4], "do_sample": False, "pad_token_id": 0, "eos_token_id": 99}
    if isinstance(method, PrefixTuning) and "cache_implementation" in options:
        return
    assert model.generate(**given, **options, max_new_tokens=5).shape == (1, 9)
    with pytest.raises(ConfigError, match="49 tokens, 40 of them virtual, do not fit into the 48 positions"):
        model.generate(**given, **options, max_new_tokens=9)


def test_a_cache_of_states_holds_no_prompt() -> None:
    """Such a cache does not say how many tokens it holds: the prompt would go in again, or offsets start anew."""
    import transformers as t

    small = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2}
    made = t.MambaForCausalLM(t.MambaConfig(**small, state_size=4)), t.RwkvForCausalLM(t.RwkvConfig(**small))
    for model, name in zip(made, ("cache_params", "state"), strict=True):
        base: Any = model.eval()
        adapter = shake(attach(base, PromptTuning(3)))
        ids = base.generate(TEXT, **GREEDY)
        assert torch.equal(ids, uncached(base, TEXT))
        kept = base(TEXT[:, :4], use_cache=True)[1]
        with pytest.raises(ConfigError, match="a prompt cannot be found in it"):
            base(TEXT[:, 4:], **{name: kept})
        adapter.detach()
        attach(base, DePT(2, rank=2, positions=9))
        with pytest.raises(ConfigError, match="generate with PromptTuning"):
            base.generate(TEXT, **GREEDY)


def test_a_generate_that_takes_ids_alone() -> None:
    import transformers as t

    config = t.CTRLConfig(vocab_size=64, n_positions=48, n_embd=16, dff=32, n_layer=2, n_head=2)
    model: Any = t.CTRLLMHeadModel(config).eval()
    attach(model, PromptTuning(2))
    with pytest.raises(ConfigError, match="generate of CTRLLMHeadModel takes no embeddings"):
        model.generate(TEXT, **GREEDY)


def test_a_disabled_or_detached_prompt_generates_as_the_base(decoder: Any) -> None:
    base = decoder.generate(TEXT, **GREEDY)
    adapter = shake(attach(decoder, PromptTuning(4)))
    assert not torch.equal(adapter.generate(TEXT, **GREEDY), base)
    with adapter.disabled():
        assert torch.equal(decoder.generate(TEXT, **GREEDY), base)
    adapter.detach()
    assert torch.equal(decoder.generate(TEXT, **GREEDY), base) and "generate" not in vars(decoder)


def test_encoder_decoders() -> None:
    model = make("t5")
    adapter = shake(attach(model, DePT(3, rank=2, positions=8)))
    greedy = {"max_new_tokens": 5, "do_sample": False}
    alone = model.generate(TEXT, **greedy)
    for left, right in ((0, 3), (2, 0)):
        assert torch.equal(model.generate(**padded(left, right), **greedy), alone)
    assert torch.equal(model.generate(TEXT, **greedy, use_cache=False), alone)
    beams = model.generate(**padded(0, 2), **greedy, num_beams=3)
    prompt, table = adapter.term("prompt.input").matrix().detach(), adapter.delta()["prompt.input.offset"].dense()
    adapter.detach()
    embeds = torch.cat([prompt[None], model.shared(TEXT) + table[:6]], 1)
    assert torch.equal(model.generate(inputs_embeds=embeds, **greedy), alone)
    assert torch.equal(model.generate(inputs_embeds=embeds, **greedy, num_beams=3), beams)


def test_a_prefix_refuses_a_fixed_cache_and_checkpointing(decoder: Any) -> None:
    attach(decoder, PrefixTuning(2))
    with pytest.raises(ConfigError, match="cache that grows"):
        decoder.generate(TEXT, **GREEDY, cache_implementation="static")
    decoder.train()
    decoder.gradient_checkpointing_enable()
    with pytest.raises(ConfigError, match="checkpointing"):
        decoder(TEXT)


@pytest.mark.parametrize("first_out", [True, False])
@pytest.mark.parametrize("outer_first", [True, False])
def test_prompts_on_a_model_and_on_the_one_inside_it(decoder: Any, outer_first: bool, first_out: bool) -> None:
    """Whichever goes last takes off what both put on; ``generate`` is ours while any is there."""
    base = decoder.generate(TEXT, **GREEDY)
    models = [decoder, decoder.base_model] if outer_first else [decoder.base_model, decoder]
    first, second = (attach(model, PromptTuning(2), seed=i) for i, model in enumerate(models))
    static = decoder.generate(TEXT, **GREEDY, cache_implementation="static")
    assert torch.equal(decoder.generate(TEXT, **GREEDY), static)
    assert torch.equal(static, uncached(decoder, TEXT))
    for adapter in (first, second) if first_out else (second, first):
        adapter.detach()
    assert not any({"forward", "generate"} & {*module.__dict__} for module in decoder.modules())
    assert torch.equal(decoder.generate(TEXT, **GREEDY), base)
