"""Prompts as deltas: saved, attached again, added, averaged, negated, composed and compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.p_tuning import PTuning
from dtheta.adapt.prompts.prefix_tuning import PrefixTuning
from dtheta.adapt.prompts.sources import OffsetTable, Vectors
from dtheta.adapt.prompts.tuning import PromptTuning
from dtheta.compose.compose import compose
from dtheta.compress.compeft import compress
from dtheta.core.apply import applied, merge
from dtheta.core.change import New
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.new_lowrank import NewLowRank
from dtheta.core.recompress import recompress
from dtheta.errors import BaseMismatch, ConfigError, ShapeMismatch, UnsupportedLayer
from tests.unit.adapt.prompts.conftest import TEXT, make, of_text, shake

METHODS = [
    PromptTuning(4),
    DePT(3, rank=2, positions=8),
    DePT(2, rank=2, positions=4, alpha=8.0, index="column", beyond="last"),
    PTuning(4, 8),
    PrefixTuning(3),
]


def trained(name: str, method: Method, seed: int = 0) -> Delta:
    """Return a prompt that moved from its start, of a model that is as it was."""
    model = make(name)
    return shake(attach(model, method, seed=seed)).delta()


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_saved_and_attached_again_to_the_last_bit(method: Method, tmp_path: Path) -> None:
    model = make("llama")
    adapter = shake(attach(model, method))
    expected, delta = of_text(model, 2, 0), adapter.delta()
    delta.save(tmp_path / "a.delta")
    fresh = make("llama")
    again = attach(fresh, load(tmp_path / "a.delta", fresh))
    assert torch.equal(of_text(fresh, 2, 0), expected)
    assert again.method == method and again.delta().digest == delta.digest
    of_text(fresh, 2, 0).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in again.trainable().values())


def test_the_kinds_and_names_of_a_delta() -> None:
    delta = trained("bert", DePT(2, rank=2, positions=4, index="column", beyond="error"))
    assert {n: type(c) for n, c in delta.changes.items()} == {
        "prompt.input": New,
        "prompt.input.offset.column.error": NewLowRank,
    }
    assert list(delta.new) == list(delta) and delta.base.root is not None
    assert list(trained("bert", PTuning(2, 4))) == ["prompt.input"]


@pytest.mark.parametrize("method", [PromptTuning(4), DePT(3, rank=2, positions=8), PrefixTuning(3)], ids=repr)
def test_sums_means_and_negatives_attach(method: Method) -> None:
    a, b = (trained("gpt2", method, seed) for seed in (1, 2))
    for made, want in ((a + b, (1, 1)), (0.5 * (a + b), (0.5, 0.5)), (-a, (-1, 0)), (a - 0.3 * b, (1, -0.3))):
        model = make("gpt2")
        adapter = attach(model, made)
        found = of_text(model, 1, 0)
        for name in adapter.grafts:
            dense = want[0] * a[name].dense() + want[1] * b[name].dense()
            assert torch.allclose(adapter.term(name).matrix().detach().double(), dense.double(), atol=1e-5)
        adapter.detach()
        with_weights = attach(model, [a, b], weights=want)
        assert torch.allclose(of_text(model, 1, 0), found, atol=1e-5)
        with_weights.detach()


def test_the_sum_of_tables_trains_on_in_factored_form() -> None:
    a, b = (trained("gpt2", DePT(3, rank=2, positions=8), seed) for seed in (1, 2))
    adapter = attach(make("gpt2"), a - 0.3 * b)
    term = adapter.term("prompt.input.offset")
    assert isinstance(term, OffsetTable) and term.left.shape == (8, 4)
    mixed = attach(make("gpt2"), compress(a, 0.5, of="product", new=True))
    assert isinstance(mixed.term("prompt.input.offset"), Vectors)


def test_composed_and_compressed_prompts_attach() -> None:
    a, b = (trained("bert", DePT(3, rank=2, positions=8), seed) for seed in (1, 2))
    model = make("bert")
    adapter = attach(model, compose([a, b], [0.25, 0.75]))
    found = of_text(model, 0, 1)
    adapter.detach()
    adapter = attach(model, 0.25 * a + 0.75 * b)
    assert torch.allclose(of_text(model, 0, 1), found, atol=1e-5)
    adapter.detach()
    for of in ("factors", "balanced", "product"):
        packed = compress(a, 0.3, of=of, new=True)  # type: ignore[arg-type]
        adapter = attach(model, packed)
        assert torch.allclose(
            adapter.term("prompt.input.offset").matrix(), packed["prompt.input.offset"].dense(), atol=1e-6
        )
        adapter.detach()
    small = recompress(a + b, 2)
    assert small["prompt.input.offset"].rank == 2 and attach(model, small).term("prompt.input.offset")


def test_prompts_that_do_other_things_are_not_added() -> None:
    by_token, by_column = (trained("bert", DePT(2, rank=2, positions=8, index=index)) for index in ("token", "column"))
    assert len(by_token + by_column) == 3
    with pytest.raises(ShapeMismatch, match=r"prompt\.input"):
        trained("bert", PromptTuning(3)) + trained("bert", PromptTuning(4))


def test_prompts_of_different_bases_are_not_added() -> None:
    other = make("gpt2")
    with torch.no_grad():
        other.get_input_embeddings().weight.add_(1.0)
    delta = shake(attach(other, PromptTuning(4))).delta()
    with pytest.raises(BaseMismatch):
        trained("gpt2", PromptTuning(4)) + delta
    model = make("gpt2")
    before = of_text(model, 0, 0)
    with pytest.raises(BaseMismatch):
        attach(model, delta)
    assert torch.equal(of_text(model, 0, 0), before)
    attach(model, delta, strict=False)
    assert not torch.equal(of_text(model, 0, 0), before)


def test_a_prompt_and_parameters_in_one_delta(tmp_path: Path) -> None:
    model = make("llama")
    adapter = shake(attach(model, DePT(2, rank=2, positions=8), also="lm_head.weight"))
    expected, delta = of_text(model, 0, 0), adapter.delta()
    assert "lm_head.weight" in delta and len(delta.new) == 2
    adapter.detach()
    again = attach(model, load(delta.save(tmp_path / "a.delta"), model))
    assert torch.allclose(of_text(model, 0, 0), expected, atol=1e-5)
    again.detach()
    with pytest.raises(UnsupportedLayer, match="attach it instead"), applied(model, delta):
        pass


def test_merge_and_attach_see_that_a_prompt_is_there() -> None:
    model = make("llama")
    adapter = attach(model, PromptTuning(2))
    with pytest.raises(ConfigError, match="an adapter is attached"):
        merge(model, Delta({}))
    adapter.detach()


def test_a_new_vector_that_nobody_knows_is_refused() -> None:
    model = make("bert")
    for name in ("prompt", "prompt.input.offsets", "prefix.00.key", "prefix.1.keys", "prompt.input.offset.first"):
        with pytest.raises(UnsupportedLayer, match="no place for it"):
            attach(model, Delta({name: New(torch.zeros(2, 16))}))


def test_a_prompt_of_another_width_or_too_long_is_refused() -> None:
    model: Any = make("bert")
    before = of_text(model, 0, 0)
    with pytest.raises(ShapeMismatch, match="has 8 features, and the embeddings of BertModel have 16"):
        attach(model, Delta({"prompt.input": New(torch.zeros(2, 8))}))
    with pytest.raises(ShapeMismatch, match="leave no position for a text: BertModel has 48"):
        attach(model, Delta({"prompt.input": New(torch.zeros(48, 16))}))
    with pytest.raises(ShapeMismatch, match="must be a matrix"):
        attach(model, Delta({"prompt.input": New(torch.zeros(16))}))
    assert torch.equal(of_text(model, 0, 0), before) and all(p.requires_grad for p in model.parameters())
    attach(model, Delta({"prompt.input": New(torch.zeros(40, 16))}))
    with pytest.raises(ConfigError, match="49 tokens, 40 of them virtual, do not fit into the 48 positions"):
        model(torch.zeros(1, 9).long())
    assert model(TEXT).last_hidden_state.shape == (1, 6, 16)
