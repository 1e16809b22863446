"""What every family promises: padding does not matter, outputs stay aligned, and the model comes back bit for bit."""

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
from dtheta.adapt.prompts.names import Beyond
from dtheta.adapt.prompts.p_tuning import PTuning
from dtheta.adapt.prompts.prefix_tuning import PrefixTuning
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.core.tensors import base_tensors
from tests.unit.adapt.prompts.conftest import TEXT, make, of_text, padded, shake, states

METHODS = [
    PromptTuning(4),
    DePT(3, rank=2, positions=4),
    DePT(0, rank=2, positions=8, beyond="last"),
    PTuning(4, 8),
    ADePT(2, rank=3),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_padding_on_either_side_does_not_matter(model: Any, method: Method) -> None:
    shake(attach(model, method))
    expected = of_text(model, 0, 0)
    for left, right in ((0, 3), (3, 0), (2, 2)):
        assert torch.allclose(of_text(model, left, right), expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_texts_of_mixed_lengths_are_what_they_are_alone(model: Any, method: Method) -> None:
    shake(attach(model, method))
    short, long = TEXT[:, :3], TEXT
    decoding = model.config.is_encoder_decoder
    alone = states(model, {"input_ids": short, "attention_mask": torch.ones_like(short)})[0]
    for left in (0, 3):
        first = padded(left, 3 - left, short)
        both = {k: torch.cat([v, padded(0, 0, long)[k]]) for k, v in first.items()}
        together = states(model, both)
        found = together[0] if decoding else together[0, left : left + 3]
        assert torch.allclose(found, alone, atol=1e-5)
        assert torch.allclose(together[1], of_text(model, 0, 0)[0], atol=1e-5)


def test_no_mask_is_a_mask_of_ones(model: Any) -> None:
    shake(attach(model, DePT(3, rank=2, positions=4)))
    assert torch.allclose(states(model, {"input_ids": TEXT}), of_text(model, 0, 0), atol=1e-6)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_base_is_as_it_was_before_during_and_after(model: Any, method: Method) -> None:
    before, tensors = of_text(model, 1, 2), {n: t.clone() for n, t in base_tensors(model).items()}
    frozen = of_text(model.requires_grad_(False), 1, 2)  # torch multiplies in another order then
    model.requires_grad_(True)
    attributes = {name: set(module.__dict__) for name, module in model.named_modules()}
    adapter = shake(attach(model, method))
    assert not torch.equal(of_text(model, 1, 2), before)
    with adapter.disabled():
        assert torch.equal(of_text(model, 1, 2), frozen)
    assert all(torch.equal(t, tensors[n]) for n, t in base_tensors(model).items())
    adapter.detach()
    assert torch.equal(of_text(model, 1, 2), before)
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_everything_declared_trains_and_nothing_else(model: Any, method: Method) -> None:
    adapter = shake(attach(model, method))
    of_text(model, 1, 1).square().sum().backward()
    assert all(p.grad is None for p in model.parameters())
    assert all(p.grad is not None and bool(p.grad.any()) for p in adapter.trainable().values())


def test_exact_parameter_counts(model: Any) -> None:
    def count(method: Method) -> int:
        adapter = attach(model, method)
        found = sum(p.numel() for p in adapter.trainable().values())
        adapter.detach()
        return found

    assert count(PromptTuning(5)) == 5 * 16
    assert count(DePT(3, rank=2, positions=7)) == DePT(3, rank=2, positions=7).parameters(16) == 3 * 16 + (7 + 16) * 2
    assert count(ADePT(3, rank=2)) == ADePT(3, rank=2).parameters(16) == 3 * 16 + 2 * 16 * 2 + 2 + 16
    assert count(PTuning(4, hidden=8)) == 4 * 16 + (16 * 8 + 8) + (8 * 8 + 8) + (8 * 16 + 16)


@pytest.mark.parametrize("method", [DePT(4, rank=2, positions=5), ADePT(4, rank=2)], ids=repr)
def test_offsets_of_zero_are_prompt_tuning_to_the_last_bit(model: Any, method: Method) -> None:
    a = attach(model, method)
    dept, start = of_text(model, 2, 1), a.term("prompt.input").matrix().clone()
    a.detach()
    b = attach(model, PromptTuning(4))
    with torch.no_grad():
        b.term("prompt.input").matrix().copy_(start)
    assert torch.equal(of_text(model, 2, 1), dept)


def test_checkpointed_gradients_are_the_same(model: Any) -> None:
    def gradients() -> list[Tensor]:
        adapter = shake(attach(model, DePT(3, rank=2, positions=8)))
        of_text(model, 0, 2).square().sum().backward()
        found = [p.grad.clone() for p in adapter.trainable().values() if p.grad is not None]
        adapter.detach()
        return found

    model.double().train()
    plain = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    checkpointed = gradients()
    assert len(plain) == 3 and all(torch.allclose(a, b, atol=1e-10) for a, b in zip(plain, checkpointed, strict=True))


def test_two_prompts_stand_one_after_another(model: Any) -> None:
    first, second = shake(attach(model, PromptTuning(2), seed=1)), shake(attach(model, PromptTuning(3), seed=2))
    both = of_text(model, 2, 0)
    joined = torch.cat([a.term("prompt.input").matrix().detach() for a in (first, second)])
    second.detach()
    first.detach()
    one = attach(model, PromptTuning(5))
    with torch.no_grad():
        one.term("prompt.input").matrix().copy_(joined)
    assert torch.equal(of_text(model, 2, 0), both)


def test_the_first_of_two_may_leave_first(model: Any) -> None:
    before = of_text(model, 0, 1)
    first, second = attach(model, PromptTuning(2), seed=1), attach(model, PromptTuning(3), seed=2)
    first.detach()
    alone = of_text(model, 0, 1)
    second.detach()
    assert torch.equal(of_text(model, 0, 1), before)
    attach(model, PromptTuning(3), seed=2)
    assert torch.equal(of_text(model, 0, 1), alone)


def test_the_weight_multiplies_the_vectors(model: Any) -> None:
    delta = shake(attach(model, DePT(3, rank=2, positions=8))).delta()
    fresh = make(model.config.model_type)
    attach(fresh, delta, weight=0.5)
    half = of_text(fresh, 1, 0)
    other = make(model.config.model_type)
    attach(other, 0.5 * delta)
    assert torch.allclose(of_text(other, 1, 0), half, atol=1e-6)


def test_a_deep_copy_is_on_its_own(model: Any) -> None:
    adapter = shake(attach(model, DePT(3, rank=2, positions=8)))
    before = of_text(model, 1, 0)
    twin = copy.deepcopy(adapter)
    assert torch.equal(of_text(twin.model, 1, 0), before)
    shake(twin)
    assert torch.equal(of_text(model, 1, 0), before) and not torch.equal(of_text(twin.model, 1, 0), before)
    adapter.detach()
    assert not torch.equal(of_text(twin.model, 1, 0), of_text(model, 1, 0))
    twin.detach()
    assert torch.equal(of_text(twin.model, 1, 0), of_text(model, 1, 0))


def test_states_of_all_layers_and_tuples_are_cut_too() -> None:
    for name in ("llama", "gpt2", "bert"):
        model = make(name)
        attach(model, PromptTuning(4))
        output = model(**padded(2, 0), output_hidden_states=True)
        assert [h.shape[1] for h in output.hidden_states] == [8] * 3
        core = model.base_model
        as_tuple = core(TEXT, return_dict=False)
        assert torch.equal(as_tuple[0], core(TEXT).last_hidden_state) and as_tuple[0].shape[1] == TEXT.shape[1]


def test_the_pooler_of_bert_still_sees_cls() -> None:
    model = make("bert")
    attach(model, PromptTuning(4))
    output = model(TEXT)
    assert torch.allclose(output.pooler_output, model.pooler(output.last_hidden_state), atol=1e-6)


def test_labels_and_loss_are_those_of_a_forward_by_hand(decoder: Any) -> None:
    adapter = shake(attach(decoder, PromptTuning(4)))
    found = decoder(**padded(0, 0), labels=TEXT)
    prompt = adapter.term("prompt.input").matrix().detach()
    adapter.detach()
    embeds = torch.cat([prompt[None], decoder.get_input_embeddings()(TEXT)], 1)
    labels = torch.cat([torch.full((1, 4), -100), TEXT], 1)
    labels[0, 4] = -100  # what the last virtual token predicts is no prediction of the plain model
    expected = decoder(inputs_embeds=embeds, labels=labels)
    assert torch.allclose(found.logits, expected.logits[:, 4:], atol=1e-6)
    assert torch.allclose(found.loss, expected.loss, atol=1e-6)


def _roberta_decoder() -> Any:
    import transformers as t

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = t.RobertaConfig(
            vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            max_position_embeddings=48, pad_token_id=1, is_decoder=True,
        )  # fmt: skip
        return t.RobertaForCausalLM(config).double().eval()


def test_positions_of_a_decoder_may_begin_behind_those_of_padding() -> None:
    """RoBERTa's do: with a mask, and with a cache, they were counted from 0."""
    model, tokens = _roberta_decoder(), (9, 8, 5)
    expected = model(torch.cat([torch.tensor([tokens]), TEXT], 1)).logits[:, 3:]
    adapter = attach(model, PromptTuning(3, init="text", ids=tokens))
    assert torch.allclose(model(TEXT).logits, expected, atol=1e-10)
    for left, right in ((0, 0), (0, 3), (3, 0)):
        assert torch.allclose(of_text(model, left, right), expected, atol=1e-10)
    for mask in (None, torch.ones_like(TEXT)):
        start = model(TEXT[:, :4], attention_mask=None if mask is None else mask[:, :4], use_cache=True)
        cache = start.get("cache") if "cache" in start else start.past_key_values
        rest = model(TEXT[:, 4:], attention_mask=mask, past_key_values=cache)
        assert torch.allclose(rest.logits, expected[:, 4:], atol=1e-10)
    adapter.detach()
    shake(attach(model, DePT(2, rank=2, positions=4)))
    given = torch.arange(2, 2 + TEXT.shape[1])[None]
    assert torch.allclose(model(TEXT, position_ids=given).logits, model(TEXT).logits, atol=1e-10)


def test_a_prefix_counts_where_positions_begin_behind_those_of_padding() -> None:
    model = _roberta_decoder()
    attach(model, PrefixTuning(3))
    assert torch.allclose(model(TEXT).logits, model(**padded(0, 0)).logits, atol=1e-10)


def test_experts_are_balanced_over_the_text_alone() -> None:
    import transformers as t

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = t.MixtralConfig(
            vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, num_local_experts=3, output_router_logits=True,
        )  # fmt: skip
        model = t.MixtralForCausalLM(config).eval()
    tokens = torch.tensor([[9, 8, 5]])
    expected = model(torch.cat([tokens, TEXT], 1)).router_logits
    attach(model, PromptTuning(3, init="text", ids=(9, 8, 5)))
    for left, right in ((0, 0), (2, 0), (0, 2)):
        found = model(**padded(left, right))
        assert found.aux_loss.isfinite()
        for layer, whole in zip(found.router_logits, expected, strict=True):
            assert torch.allclose(layer[left : left + TEXT.shape[1]], whole[3:], atol=1e-5)


def test_offsets_by_hand_and_beyond_the_table() -> None:
    model = make("gpt2")
    cases: list[tuple[Beyond, float]] = [("none", 0.0), ("last", 1.0)]
    for beyond, tail in cases:
        adapter = shake(attach(model, DePT(0, rank=2, positions=4, alpha=8.0, beyond=beyond)))
        table = adapter.delta()["prompt.input.offset" + ("" if beyond == "none" else f".{beyond}")].dense().float()
        found = of_text(model, 0, 0)
        adapter.detach()
        rows = torch.cat([table, tail * table[-1:].expand(2, -1)])
        expected = model(inputs_embeds=model.get_input_embeddings()(TEXT) + rows).logits
        assert torch.allclose(found, expected, atol=1e-6)


def test_offsets_by_column_move_with_padding_and_those_by_token_do_not() -> None:
    model = make("llama")
    shake(attach(model, DePT(2, rank=2, positions=12, index="column")))
    assert (of_text(model, 3, 0) - of_text(model, 0, 0)).abs().max() > 0.1


def test_offsets_are_those_of_this_moment() -> None:
    model = make("gpt2")
    adapter = shake(attach(model, DePT(2, rank=2, positions=8)))
    trained = of_text(model, 0, 0)
    with torch.no_grad():
        first = of_text(model, 0, 0)
        assert torch.allclose(of_text(model, 0, 0), trained, atol=1e-6) and torch.equal(first, of_text(model, 0, 0))
        adapter.term("prompt.input.offset").left.data.mul_(2.0)  # type: ignore[operator, union-attr]
        assert not torch.equal(of_text(model, 0, 0), first)


@pytest.mark.parametrize("method", [DePT(3, rank=2, positions=8), ADePT(2, rank=3)], ids=repr)
@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_prompts_beside_other_dtypes(kind: torch.dtype, method: Method) -> None:
    model = make("llama").to(kind)
    adapter = attach(model, method)
    assert {p.dtype for p in adapter.trainable().values()} == {torch.float32 if kind == torch.bfloat16 else kind}
    assert states(model, padded(2, 0)).dtype == kind


@pytest.mark.parametrize("method", [DePT(3, rank=2, positions=8), ADePT(2, rank=3)], ids=repr)
def test_autocast(method: Method) -> None:
    model = make("bert")
    adapter = shake(attach(model, method))
    with torch.autocast("cpu", torch.bfloat16):
        states(model, padded(0, 2)).float().square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapter.trainable().values())


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_text_of_no_columns_gives_back_none(name: str) -> None:
    """No virtual column stands in for [CLS] where there is none."""
    model = make(name)
    attach(model, PromptTuning(3))
    assert states(model, {"input_ids": TEXT[:, :0]}).shape[1] == 0
