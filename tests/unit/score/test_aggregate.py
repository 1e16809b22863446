"""Means stream, merge and weigh, in any order."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.score import Accuracy, Aggregate, CrossEntropy, MacroF1, Mean, Perplexity, evaluate

METRICS = (Accuracy(), CrossEntropy(), Perplexity(), MacroF1(4))


def data(examples: int = 61) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(examples, 4, generator=generator), torch.randint(4, (examples,), generator=generator)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 61), max_size=6), order=st.randoms(use_true_random=False))
def test_any_split_in_any_order_gives_the_whole(cuts: list[int], order) -> None:
    logits, target = data()
    edges = sorted({0, 61, *cuts})
    pieces = [(logits[a:b], target[a:b]) for a, b in pairwise(edges)]
    order.shuffle(pieces)
    aggregates = [Aggregate(METRICS).add(*piece) for piece in pieces]
    merged = Aggregate(METRICS)
    for aggregate in aggregates:
        merged = merged.merge(aggregate)
    whole = evaluate(METRICS, [(logits, target)])
    assert merged.results()["accuracy"] == whole["accuracy"]  # sums of 0 and 1 are exact
    assert merged.results() == pytest.approx(whole, rel=1e-13)


def test_shared_statistics_are_computed_once() -> None:
    assert len(Aggregate(METRICS).add(*data()).means) == 3  # Correct, LogLoss (shared), Confusion


def test_adding_returns_a_new_record() -> None:
    empty = Aggregate(METRICS)
    empty.add(*data())
    assert empty.means == {}


def test_weights_are_repetitions() -> None:
    values, weights = torch.tensor([1.0, 4.0, 10.0]), torch.tensor([1, 2, 0])
    assert float(Mean().add(values, weights).value) == pytest.approx(3.0)
    assert Mean().add(values, weights).value == Mean().add(torch.tensor([1.0, 4.0, 4.0])).value


def test_zero_values_of_a_batch_change_nothing() -> None:
    mean = Mean().add(torch.tensor([[1.0, 2.0]]))
    assert torch.equal(mean.add(torch.zeros(0, 2)).value, mean.value)
    assert torch.equal(Mean().add(torch.zeros(0, 2)).merge(mean).value, mean.value)


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda: Mean().value, ConfigError, "nothing to average"),
        (lambda: Mean().add(torch.tensor([float("nan")])), NonFinite, "1 of 1"),
        (lambda: Mean().add(torch.ones(2), torch.ones(3)), ShapeMismatch, r"expected \(2,\)"),
        (lambda: Mean().add(torch.ones(2), torch.tensor([1.0, -1.0])), ConfigError, ">= 0"),
        (lambda: Mean().add(torch.ones(2, 3)).merge(Mean().add(torch.ones(2))), ShapeMismatch, "components"),
        (lambda: evaluate([MacroF1(2), MacroF1(3)], []), ConfigError, "two different metrics are called 'macro_f1'"),
        (
            lambda: Aggregate((Accuracy(),)).add(torch.zeros(2, 3), torch.tensor([0, -100]), torch.ones(2)),
            ShapeMismatch,
            r"expected \(1,\).*leaves out, such as -100",
        ),
        (lambda: Aggregate(METRICS).merge(Aggregate((Accuracy(),))), ConfigError, "cannot merge"),
        (lambda: evaluate([], []) or evaluate([Accuracy()], []), ConfigError, "0 examples"),
    ],
)
def test_refusals(act, error, message) -> None:
    with pytest.raises(error, match=message):
        act()


def test_error_names_the_statistic_and_both_shapes() -> None:
    with pytest.raises(ShapeMismatch, match=r"LogLoss.*prediction \(3, 4\), target \(2,\)"):
        evaluate([CrossEntropy()], [(torch.zeros(3, 4), torch.zeros(2, dtype=torch.long))])
