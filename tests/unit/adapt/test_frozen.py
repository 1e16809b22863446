"""The frozen-encoder baseline against scikit-learn, and features that do not depend on how they are batched."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dtheta.adapt.frozen import logistic_regression, pooled_features, predicted_logits
from dtheta.core.seeds import generator
from dtheta.data.batches import EncodedTexts
from dtheta.data.text import Texts
from dtheta.errors import ConfigError, NonFinite
from dtheta.models.classifier import classifier


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
    features[3, 4] = torch.nan
    with pytest.raises(NonFinite, match="frozen model"):
        logistic_regression(features, labels, 2)


class Words:
    """A tokenizer of single letters."""

    model_max_length, pad_token_id = 16, 0

    def __call__(self, texts: list[str], max_length: int, **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1 + ord(letter) % 60 for letter in text][:max_length] for text in texts]}


def test_features_and_logits_do_not_depend_on_the_batches(tiny_bert: nn.Module) -> None:
    net = classifier(tiny_bert, ["a", "b"]).train()
    texts = Texts(("one", "two words", "a", "something longer", "mid size"), (0, 1, 0, 1, 0))
    encoded = EncodedTexts(texts, Words(), 12)
    features = pooled_features(net, encoded, batch_size=64)
    assert torch.allclose(features, pooled_features(net, encoded, batch_size=2), atol=1e-5)
    with torch.no_grad():
        net.head.weight.copy_(torch.randn(net.head.weight.shape, generator=generator(0, "head")))
    logits = predicted_logits(net, encoded, batch_size=2)
    assert torch.allclose(logits, features @ net.head.weight.T, atol=1e-5)
    assert net.training  # the mode is given back
    assert not net.head._forward_pre_hooks
