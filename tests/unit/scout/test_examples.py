"""Examples: what counts as data, and how it is cut into halves."""

from __future__ import annotations

import pytest
import torch

from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.scout.examples import examples_of
from tests.unit.scout.planted import sentences


def test_halves_split_every_class_and_cover_all() -> None:
    labels = torch.tensor([0] * 9 + [1] * 5 + [2] * 2 + [3])
    found = examples_of([(torch.randn(17, 2), labels)], 100, None, 0)
    first, second = found.halves
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(17))
    assert abs(len(first) - len(second)) <= 1
    for label, count in ((0, 9), (1, 5), (2, 2)):
        inside = [int((labels[half] == label).sum()) for half in (first, second)]
        assert sum(inside) == count and abs(inside[0] - inside[1]) <= 1


def test_batches_of_several_widths_are_padded_and_trimmed_again() -> None:
    batches = list(sentences(40))
    found = examples_of(batches, 30, None, 0)
    assert len(found) == 30 and found.inputs["input_ids"].shape == (30, 9)
    some = found.of(torch.arange(10, 20))
    assert torch.equal(some["input_ids"], batches[1]["input_ids"])
    assert torch.equal(some["attention_mask"], batches[1]["attention_mask"])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "empty"),
        ([torch.randn(20, 2)], "without labels"),
        ([{"x": torch.randn(20, 2)}], "without labels"),
        ([(torch.randn(20, 2), torch.randn(20))], "one class id"),
        ([(torch.randn(20, 2), torch.zeros(20, dtype=torch.long))], "nothing to tell apart"),
        ([(torch.randn(6, 2), torch.arange(6) % 2)], "at least 8"),
        ([(torch.randn(20, 2), torch.arange(20))], "two examples"),
        ([(torch.randn(20, 2), torch.arange(20) % 2 - 100)], "-100 is no class id"),
    ],
)
def test_data_that_nothing_can_be_learned_from_is_refused(data, match) -> None:
    with pytest.raises(ConfigError, match=match):
        examples_of(data, 100, None, 0)


def test_a_label_beyond_the_head_is_refused() -> None:
    with pytest.raises(ConfigError, match="label 2 is no class id"):
        examples_of([(torch.randn(20, 2), torch.arange(20) % 3)], 100, 2, 0)


@pytest.mark.parametrize("named", [True, False])
def test_tokens_of_several_lengths_need_a_mask_of_padding(named) -> None:
    parts = [(torch.ones(8, length).long(), torch.arange(8) % 2) for length in (3, 5)]
    data = [{"input_ids": x, "labels": y} for x, y in parts] if named else parts
    with pytest.raises(ShapeMismatch, match=r"no 'attention_mask'.*pad them to one length"):
        examples_of(data, 100, 2, 0)
