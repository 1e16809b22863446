"""Logistic regression against scikit-learn, and that where it starts does not matter."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.logistic import logistic_regression
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite


def blobs(count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Overlapping clouds of points, far from the origin."""
    draw = generator(0, "blobs", classes)
    labels = torch.randint(classes, (count,), generator=draw)
    centers = torch.randn(classes, 20, generator=draw)
    return 3 + centers[labels] + 1.5 * torch.randn(count, 20, generator=draw), labels


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("C", [0.1, 1.0, 10.0])
def test_logistic_regression_is_that_of_scikit_learn(classes: int, C: float) -> None:
    sklearn = pytest.importorskip("sklearn.linear_model")
    features, labels = blobs(200, classes)
    ours = logistic_regression(features, labels, classes, C).logits(features).softmax(1)
    theirs = sklearn.LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(features.double().numpy(), labels.numpy())
    assert torch.allclose(ours, torch.from_numpy(theirs.predict_proba(features.double().numpy())), atol=1e-4)


def test_separable_classes_converge() -> None:
    features = torch.cat([torch.full((5, 3), -1.0), torch.full((5, 3), 1.0)])
    labels = torch.tensor([0] * 5 + [1] * 5)
    found = logistic_regression(features, labels, 2)
    assert torch.equal(found.logits(features).argmax(1), labels)


def test_bad_input() -> None:
    features, labels = blobs(10, 2)
    with pytest.raises(ConfigError, match="at least two classes"):
        logistic_regression(features, labels, 1)
    with pytest.raises(ConfigError, match="positive C"):
        logistic_regression(features, labels, 2, C=0)
    with pytest.raises(ConfigError, match="no example"):
        logistic_regression(features[:0], labels[:0], 2)
    features[3, 4] = torch.nan
    with pytest.raises(NonFinite, match="features hold NaN"):
        logistic_regression(features, labels, 2)


def test_the_start_does_not_change_the_solution() -> None:
    features, labels = blobs(120, 3)
    cold = logistic_regression(features, labels, 3, C=10)
    warm = logistic_regression(features, labels, 3, C=10, start=logistic_regression(features, labels, 3, C=0.1))
    assert torch.allclose(warm.weight, cold.weight, atol=1e-3)
    assert torch.allclose(warm.logits(features).softmax(1), cold.logits(features).softmax(1), atol=1e-4)
