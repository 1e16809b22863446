"""DePT's factors folded to a table; the network of ADePT is folded in test_adept.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dtheta.adapt.attach import attach
from dtheta.adapt.prompts.dept import DePT
from dtheta.adapt.prompts.folding import fold_offsets
from dtheta.core.change import New
from dtheta.errors import BaseMismatch, ConfigError
from tests.unit.adapt.prompts.conftest import GREEDY, make, of_text, padded, trained


@pytest.mark.parametrize("fields", [{}, {"index": "column"}, {"beyond": "last"}], ids=str)
def test_a_table_does_what_its_factors_do(model: Any, fields: dict[str, Any]) -> None:
    delta = trained(model.config.model_type, DePT(2, rank=3, positions=5, **fields))
    live = attach(model, delta)
    expected = of_text(model, 2, 1)
    live.detach()
    folded = fold_offsets(delta, model)
    assert list(folded) == list(delta) and folded.provenance.parents == [delta.digest]
    assert all(type(change) is New for change in folded.changes.values())
    attach(model, folded)
    assert torch.allclose(of_text(model, 2, 1), expected, atol=1e-5)


def test_generation_with_a_table(decoder: Any) -> None:
    delta = trained(decoder.config.model_type, DePT(2, rank=3, positions=9))
    live = attach(decoder, delta)
    expected = decoder.generate(**padded(2, 0), **GREEDY)
    live.detach()
    attach(decoder, fold_offsets(delta, decoder))
    assert torch.equal(decoder.generate(**padded(2, 0), **GREEDY), expected)


def test_folding_is_linear() -> None:
    model = make("gpt2")
    a, b = (trained("gpt2", DePT(2, rank=3, positions=5), seed) for seed in (1, 2))
    apart, together = fold_offsets(a, model) + fold_offsets(b, model), fold_offsets(a + b, model)
    for name in together:
        assert torch.allclose(apart[name].dense(), together[name].dense(), atol=1e-6)


def test_a_folded_one_is_not_folded_again_and_another_base_is_refused() -> None:
    model, delta = make("gpt2"), trained("gpt2", DePT(2, rank=3, positions=5))
    with pytest.raises(ConfigError, match="no table yet"):
        fold_offsets(fold_offsets(delta, model), model)
    with pytest.raises(BaseMismatch):
        fold_offsets(delta, make("llama"))
