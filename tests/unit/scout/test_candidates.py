"""What becomes of the methods that a user names: as ``attach`` takes them, and by shapes alone in a dry run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dtheta as dt
from dtheta.errors import ConfigError, UnknownParameter
from dtheta.models.classifier import classifier
from dtheta.scout.candidates import candidates_of, require_candidates
from dtheta.scout.scout import scout
from tests.unit.scout.planted import Small, sentences, tiny_bert

PLACES = "@mlp#1|*.attention.output.dense#0"  # two linear layers of an MLP, and one of attention


@pytest.mark.parametrize("method", [dt.SNNK(features=4), dt.Houlsby(size=2)], ids=lambda m: m.name)
def test_a_method_that_places_its_vectors_by_selection_stands_where_attach_puts_it(method: dt.Method) -> None:
    net = classifier(tiny_bert(), 2)
    found = scout(net, sentences(40), [(method, PLACES), method], probe="none")
    assert not found.refused
    for row in found.rows:
        adapter = dt.attach(net, method, row.select)
        assert row.parameters == sum(p.numel() for p in adapter.trainable().values())
        adapter.detach()
    assert len({row.parameters for row in found.rows}) == 2  # the selection matters


def test_a_selection_without_a_place_is_refused_as_attach_refuses_it() -> None:
    net = classifier(tiny_bert(), 2)
    (refused,) = candidates_of(net, [(dt.SNNK(), "nothing")], "head", 0)[1]
    with pytest.raises(UnknownParameter) as attached:
        dt.attach(net, dt.SNNK(), "nothing")
    assert refused.reason == str(attached.value)


def outlined() -> nn.Module:
    with torch.device("meta"):
        return classifier(tiny_bert(), 2)


METHODS = [
    dt.LoRA(rank=2),
    (dt.LoRA(rank=17), "*.query"),
    (dt.LoRA(rank=8), "@all|!*.token_type_embeddings.*"),  # and the head, as narrow, is left out
    (dt.Full(), "head.*"),
    (dt.PiSSA(rank=2), "nothing"),
    (dt.PromptTuning(), "@mlp"),
    dt.PromptTuning(),
    (dt.SNNK(), PLACES),
    (dt.SNNK(), "nothing"),
    dt.BitFit(),
]


def test_shapes_alone_tell_what_cannot_be_had_for_the_same_reason() -> None:
    told = require_candidates(outlined(), METHODS, "head")
    refused = candidates_of(classifier(tiny_bert(), 2), METHODS, "head", 0)[1]
    assert [one.name for one in told] == [one.name for one in refused]
    assert [one.reason for one in told] == [one.reason for one in refused]
    assert len(told) == 5


def test_where_nothing_can_be_had_it_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"none of the methods .* rank 99 does not fit"):
        require_candidates(outlined(), [dt.LoRA(rank=99)], "head")
    with pytest.raises(ConfigError, match="twice"):
        require_candidates(Small(), [dt.BitFit(), "BitFit"], "head")
