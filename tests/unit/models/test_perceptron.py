"""Classical classifiers of rows: the formula, the number of parameters, and the seed."""

from __future__ import annotations

import pytest
import torch

from dtheta.errors import ConfigError
from dtheta.models.perceptron import Perceptron


@pytest.mark.parametrize(("width", "count"), [(None, 5 * 3), (4, 5 * 4 + 5 * 3), (1, 5 + 2 * 3)])
def test_the_formula_and_the_number_of_parameters(width: int | None, count: int) -> None:
    net = Perceptron(4, 3, width=width, seed=1)
    x, labels = torch.randn(7, 4), torch.arange(7) % 3
    inner = x if net.hidden is None else torch.tanh(x @ net.hidden.weight.T + net.hidden.bias)
    logits = inner @ net.head.weight.T + net.head.bias
    found = net(x, labels)
    torch.testing.assert_close(found.logits, logits)
    torch.testing.assert_close(found.loss, -logits.log_softmax(1)[range(7), labels].mean())
    assert net(x).loss is None
    assert sum(p.numel() for p in net.parameters()) == count


def test_the_seed_draws_all_of_it() -> None:
    torch.manual_seed(0)
    one, two, other = Perceptron(4, 3, seed=1), Perceptron(4, 3, seed=1), Perceptron(4, 3, seed=2)
    for name, p in one.named_parameters():
        assert torch.equal(p, two.get_parameter(name)) and not torch.equal(p, other.get_parameter(name))
    assert float(one.hidden.weight.detach().abs().max()) <= 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize("given", [{"features": 0}, {"classes": 1}, {"width": 0}])
def test_numbers_that_cannot_be_meant(given: dict) -> None:
    with pytest.raises(ConfigError):
        Perceptron(**{"features": 4, "classes": 2, **given})
