"""Metrics against scikit-learn and closed forms, on the table of data sets x metrics."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.score import RMSE, Accuracy, CrossEntropy, MacroF1, Perplexity, evaluate

sklearn_metrics = pytest.importorskip("sklearn.metrics")


def classification(examples: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right more often than chance, with classes of unequal size."""
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (examples,), generator=generator) ** 2 % classes
    signal = torch.nn.functional.one_hot(target, classes).double()
    return torch.randn(examples, classes, generator=generator, dtype=torch.float64) + signal, target


DATA = [classification(1, 2, 0), classification(17, 3, 1), classification(200, 8, 2), classification(400, 5, 3)]
METRICS = [
    (Accuracy(), lambda z, t, k: sklearn_metrics.accuracy_score(t, z.argmax(-1))),
    (CrossEntropy(), lambda z, t, k: sklearn_metrics.log_loss(t, z.softmax(-1), labels=range(k))),
    (Perplexity(), lambda z, t, k: math.exp(sklearn_metrics.log_loss(t, z.softmax(-1), labels=range(k)))),
    (MacroF1, lambda z, t, k: sklearn_metrics.f1_score(t, z.argmax(-1), average="macro")),
]


@pytest.mark.parametrize(("logits", "target"), DATA, ids=lambda tensor: "x".join(map(str, tensor.shape)))
@pytest.mark.parametrize(("metric", "reference"), METRICS, ids=["accuracy", "cross_entropy", "perplexity", "macro_f1"])
def test_equals_scikit_learn(metric, reference, logits, target) -> None:
    classes = logits.shape[-1]
    metric = metric(classes) if metric is MacroF1 else metric
    ours = evaluate([metric], [(logits, target)])[metric.name]
    assert ours == pytest.approx(reference(logits, target, classes), rel=1e-12)


def test_macro_f1_leaves_out_classes_that_never_occur() -> None:
    labels, target = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    assert evaluate([MacroF1(9)], [(labels, target)])["macro_f1"] == pytest.approx(2 / 3)


def test_uniform_guess_has_perplexity_of_the_vocabulary_size() -> None:
    scores = evaluate([Perplexity()], [(torch.zeros(2, 5, 31), torch.ones(2, 5, dtype=torch.long))])
    assert scores["perplexity"] == pytest.approx(31)


def test_rmse() -> None:
    prediction, target = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [3.0, 2.0]])
    assert evaluate([RMSE()], [(prediction, target)])["rmse"] == pytest.approx(1.5)


@pytest.mark.parametrize("metric", [Accuracy(), CrossEntropy(), Perplexity(), MacroF1(4), RMSE()])
def test_of_means_takes_leading_dimensions(metric) -> None:
    shape = (4, 4) if isinstance(metric, MacroF1) else ()
    means = torch.rand(7, *shape, dtype=torch.float64)
    batched = metric.of_means(means)
    assert batched.shape == (7,)
    torch.testing.assert_close(batched, torch.stack([metric.of_means(mean) for mean in means]))
