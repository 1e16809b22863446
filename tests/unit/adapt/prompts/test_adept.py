"""ADePT: token-wise offsets, their budget, their arithmetic, and the table they fold into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dtheta.adapt.attach import attach
from dtheta.adapt.method import method_from_dict
from dtheta.adapt.prompts.adept import ADePT
from dtheta.adapt.prompts.folding import fold_offsets
from dtheta.adapt.prompts.names import NETWORK, TOKEN_TABLE
from dtheta.adapt.prompts.token_wise import folded_nbytes
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.adapt.registry import method_class
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.errors import BaseMismatch, ConfigError, ShapeMismatch
from tests.unit.adapt.prompts.conftest import GREEDY, TEXT, make, of_text, padded, states, trained


def by_hand(delta: Delta, x: torch.Tensor) -> torch.Tensor:
    """The offsets as the paper writes them."""
    down, a, up, b = (delta[name].dense().float() for name in NETWORK)
    return torch.clamp(x @ down + a[0], min=0) @ up + b[0]


def test_it_is_registered_and_survives_a_file() -> None:
    method = ADePT(3, rank=2, offset_lr=None)
    assert method_class("adept") is ADePT and method_from_dict(method.to_dict()) == method


def test_offsets_by_hand(model: Any) -> None:
    delta = trained(model.config.model_type, ADePT(0, rank=3))
    adapter = attach(model, delta)
    found = of_text(model, 0, 0)
    assert torch.equal(found, of_text(model, 0, 0))
    adapter.detach()
    core = model.get_encoder() if model.config.is_encoder_decoder else model
    embedding = core.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda module, given, x: x + by_hand(delta, x))
    if model.config.is_encoder_decoder:  # whose decoder looks up the same weights in a module of its own
        assert model.get_decoder().get_input_embeddings() is not embedding
    assert torch.allclose(of_text(model, 0, 0), found, atol=1e-5)
    handle.remove()


def test_embeddings_in_place_of_ids() -> None:
    model = make("gpt2")
    attach(model, trained("gpt2", ADePT(2, rank=3)))
    assert torch.allclose(model(inputs_embeds=model.get_input_embeddings()(TEXT)).logits, model(TEXT).logits, atol=1e-6)


def test_two_of_them_displace_the_text_as_it_came() -> None:
    model, deltas = make("gpt2"), [trained("gpt2", ADePT(0, rank=3), seed) for seed in (1, 2)]
    for delta in deltas:
        attach(model, delta)
    found = of_text(model, 0, 0)
    plain: Any = make("gpt2")
    x = plain.get_input_embeddings()(TEXT)
    expected = plain(inputs_embeds=x + sum(by_hand(delta, x) for delta in deltas)).logits
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(("width", "length", "rank"), [(768, 60, 19), (768, 40, 29), (768, 0, 49), (576, 40, 29)])
def test_the_budget_is_kept(width: int, length: int, rank: int) -> None:
    found = ADePT.of_budget(tokens=100, length=length, width=width)
    assert found.rank == rank and found.parameters(width) == length * width + 2 * width * rank + rank + width
    assert found.parameters(width) <= 100 * width < found.parameters(width) + 2 * width + 1


def test_a_budget_with_nothing_left_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank 1 takes 49"):
        ADePT.of_budget(tokens=10, length=8, width=16)
    for bad in ({"length": -1}, {"rank": 0}, {"offset_lr": 0.0}):
        with pytest.raises(ConfigError):
            ADePT(**bad)  # type: ignore[arg-type]


def test_two_rates() -> None:
    method = ADePT(3, rank=2, offset_lr=1e-4)
    groups = {g["name"]: g for g in method.parameter_groups(attach(make("llama"), method), 0.3)}
    assert groups["prompt"]["lr"] == 0.3 and groups["offset"]["lr"] == 1e-4
    assert [p.shape for p in groups["offset"]["params"]] == [(16, 2), (1, 2), (2, 16), (1, 16)]


def test_saved_reloaded_and_trained_on(tmp_path: Path) -> None:
    delta = trained("bert", ADePT(2, rank=3))
    model = make("bert")
    attach(model, delta).detach()
    again = attach(model, load(delta.save(tmp_path / "a.delta"), model))
    assert again.delta().changes.keys() == delta.changes.keys()
    assert len(again.trainable()) == 5 and all(p.requires_grad for p in again.trainable().values())
    assert all(torch.equal(again.delta()[name].dense(), delta[name].dense()) for name in delta)


def test_sums_add_the_matrices_and_folded_ones_the_offsets() -> None:
    a, b = (trained("gpt2", ADePT(2, rank=3), seed) for seed in (1, 2))
    x = make("gpt2").get_input_embeddings()(TEXT)
    assert torch.allclose((a + b)[NETWORK[0]].dense(), a[NETWORK[0]].dense() + b[NETWORK[0]].dense())
    assert (by_hand(a + b, x) - by_hand(a, x) - by_hand(b, x)).abs().max() > 0.1  # as f is not linear in its matrices
    folded = fold_offsets(a, make("gpt2")) + fold_offsets(b, make("gpt2"))
    table = folded[TOKEN_TABLE].dense().float()
    assert torch.allclose(table[TEXT], by_hand(a, x) + by_hand(b, x), atol=1e-5)


def test_a_folded_one_does_what_the_network_does(model: Any) -> None:
    delta = trained(model.config.model_type, ADePT(2, rank=3))
    live = attach(model, delta)
    expected = of_text(model, 2, 1)
    live.detach()
    folded = fold_offsets(delta, model)
    assert folded[TOKEN_TABLE].nbytes == folded_nbytes(model) == 4 * 64 * 16
    assert not any(name in folded for name in NETWORK) and folded.provenance.parents == [delta.digest]
    attach(model, folded)
    assert torch.allclose(of_text(model, 2, 1), expected, atol=1e-5)


def test_generation_of_a_folded_one(decoder: Any) -> None:
    delta = trained(decoder.config.model_type, ADePT(2, rank=3))
    live = attach(decoder, delta)
    expected = decoder.generate(**padded(2, 0), **GREEDY)
    live.detach()
    attach(decoder, fold_offsets(delta, decoder))
    for extra in ({}, {"cache_implementation": "static"}, {"use_cache": False}):
        assert torch.equal(decoder.generate(**padded(2, 0), **GREEDY, **extra), expected)
    with pytest.raises(ConfigError, match="goes by token ids"):
        decoder(inputs_embeds=decoder.get_input_embeddings()(TEXT))


def test_what_cannot_be_folded() -> None:
    model = make("gpt2")
    delta = trained("gpt2", ADePT(2, rank=3))
    with pytest.raises(ConfigError, match="expected a delta with offsets"):
        fold_offsets(attach(make("gpt2"), PromptTuning(2)).delta(), model)
    with pytest.raises(ConfigError, match="expected a delta with"):
        fold_offsets(fold_offsets(delta, model), model)
    with pytest.raises(BaseMismatch):
        fold_offsets(delta, make("llama"))


def test_parts_that_do_not_fit() -> None:
    model, delta = make("gpt2"), trained("gpt2", ADePT(2, rank=3))
    before = states(model, padded(0, 0))
    with pytest.raises(ShapeMismatch, match="up_bias is missing"):
        attach(model, Delta({name: delta[name] for name in NETWORK[:3]}, delta.base))
    other = trained("gpt2", ADePT(2, rank=4))
    mixed = {**delta.changes, NETWORK[2]: other[NETWORK[2]]}
    with pytest.raises(ShapeMismatch, match=r"network\.up: \(4, 16\), and \(3, 16\) fits"):
        attach(model, Delta(mixed, delta.base))
    short = {TOKEN_TABLE: type(delta[NETWORK[0]])(torch.zeros(63, 16))}  # type: ignore[call-arg]
    with pytest.raises(ShapeMismatch, match="beside embeddings of"):
        attach(model, Delta(short, delta.base))
    assert torch.equal(states(model, padded(0, 0)), before)
