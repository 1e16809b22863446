"""Evaluation: scores, the best terms, patience."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from dtheta.adapt.attach import attach
from dtheta.adapt.lora import LoRA
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite
from dtheta.fit.evaluate import Evaluator
from dtheta.fit.loop import fit
from dtheta.fit.record import Evaluation, Record
from dtheta.models.classifier import classifier
from dtheta.score.metric import CrossEntropy, MacroF1
from tests.unit.fit.models import regression, same, squared, values


class Out(NamedTuple):
    loss: Tensor
    logits: Tensor


def texts(*rows: int) -> list[dict[str, Tensor]]:
    """Batches whose class is whether the first token is below 32."""
    drawn = generator(0, "texts")
    ids = [torch.randint(0, 64, (n, 6), generator=drawn) for n in rows]
    return [{"input_ids": i, "labels": (i[:, 0] < 32).long()} for i in ids]


def _classifier(tiny_bert: nn.Module) -> Any:
    return attach(classifier(tiny_bert, 2), LoRA(rank=2), also="head.*")


def test_a_classifier_is_scored_by_its_accuracy_over_all_rows(tiny_bert: nn.Module) -> None:
    adapter, data = _classifier(tiny_bert), texts(8, 5)
    record = fit(adapter, texts(16), steps=30, lr=3e-3, eval=data, eval_every=10)
    assert [e.step for e in record.evals] == [0, 10, 20, 30]
    assert (record.metric, record.better) == ("accuracy", "higher")
    assert set(record.evals[0].scores) == {"loss", "accuracy"}
    assert record.evals[0].scores["loss"] == pytest.approx(math.log(2), abs=1e-6)
    with torch.no_grad():
        right = sum(int((adapter(**batch).logits.argmax(1) == batch["labels"]).sum()) for batch in data)
    assert record.best is not None
    assert record.best.scores["accuracy"] == right / 13


def test_the_best_terms_are_kept_not_the_last(tiny_mlp: nn.Module) -> None:
    data, seen = regression(4), {}
    adapter = attach(tiny_mlp, LoRA(rank=2), "*.weight")
    record = fit(adapter, data, steps=6, lr=1e-2, loss=squared, eval=data, eval_every=1,
                 metric=_peak_at_three(), callbacks=[lambda s: seen.update({s.step: values(s.adapter)})])  # fmt: skip
    assert record.best == record.evals[3]
    assert same(values(adapter), seen[3])
    assert not same(seen[3], seen[6])


def _peak_at_three() -> Any:
    calls = iter([0.1, 0.2, 0.3, 0.9, 0.3, 0.2, 0.1])

    def peaked(model: Any, batches: Any) -> float:
        assert len(list(batches)) == 1
        return next(calls)

    return peaked


def test_untrained_terms_can_be_the_best(tiny_mlp: nn.Module) -> None:
    adapter = attach(tiny_mlp, LoRA(rank=2), "*.weight")
    before = values(adapter)
    data = regression(4, 4)
    record = fit(adapter, [(x, -100 * y) for x, y in data], steps=5, lr=1e-1, loss=squared, eval=data)
    assert record.best is not None
    assert record.best.step == 0
    assert same(values(adapter), before)


def test_patience_ends_a_run_that_does_not_improve(tiny_mlp: nn.Module) -> None:
    adapter = attach(tiny_mlp, LoRA(rank=2), "*.weight")
    data = regression(4, 4)
    record = fit(adapter, [(x, -100 * y) for x, y in data], steps=50, lr=1e-1, loss=squared, eval=data, eval_every=2,
                 patience=3)  # fmt: skip
    assert (record.stop, record.steps) == ("patience", 6)
    assert [e.step for e in record.evals] == [0, 2, 4, 6]


def test_patience_counts_evaluations_by_a_metric_that_brings_its_own_data(tiny_mlp: nn.Module) -> None:
    calls = iter([0.1, 0.9, 0.3, 0.9, 1.0])
    adapter, seen = attach(tiny_mlp, LoRA(rank=2), "*.weight"), {}
    record = fit(adapter, regression(4), steps=50, lr=1e-2, loss=squared, metric=lambda model: next(calls),
                 eval_every=1, patience=2, callbacks=[lambda s: seen.update({s.step: values(s.adapter)})])  # fmt: skip
    assert (record.stop, record.steps) == ("patience", 3)
    assert record.best == record.evals[1]
    assert same(values(adapter), seen[1])


def test_of_equal_scores_the_lower_loss_is_better() -> None:
    record = Record(metric="accuracy", better="higher", best=Evaluation(0, {"accuracy": 0.5, "loss": 1.0}))
    assert record.improves({"accuracy": 0.5, "loss": 0.9})
    assert not record.improves({"accuracy": 0.5, "loss": 1.0})
    assert record.improves({"accuracy": 0.6, "loss": 2.0})
    assert not record.improves({"accuracy": 0.4, "loss": 0.1})


@pytest.mark.parametrize(("metric", "better"), [(MacroF1(2), "higher"), (CrossEntropy(), "lower")])
def test_metrics_of_the_score_package_decide(tiny_bert: nn.Module, metric: Any, better: str) -> None:
    record = fit(_classifier(tiny_bert), texts(8), steps=3, lr=1e-3, eval=texts(8, 3), metric=metric)
    assert (record.metric, record.better) == (metric.name, better)
    if better == "lower":
        assert all(e.scores["cross_entropy"] == pytest.approx(e.scores["loss"], abs=1e-6) for e in record.evals)


def test_a_metric_of_logits_beside_a_loss_of_ones_own(tiny_bert: nn.Module) -> None:
    def loss(model: Any, batch: Any) -> Tensor:
        return 2 * model(**batch).loss

    record = fit(_classifier(tiny_bert), texts(8), steps=2, lr=1e-3, loss=loss, eval=texts(8, 3), metric=CrossEntropy())
    assert all(e.scores["loss"] == pytest.approx(2 * e.scores["cross_entropy"], abs=1e-5) for e in record.evals)


def test_a_metric_without_logits_is_refused(tiny_mlp: nn.Module) -> None:
    with pytest.raises(ConfigError, match="needs labels in the batch and logits"):
        fit(attach(tiny_mlp, LoRA(rank=2), "*.weight"), regression(4), steps=2, loss=squared, eval=regression(4),
            metric=CrossEntropy())  # fmt: skip


class Fits:
    """A metric of the model alone, as an object, a method and with its data bound."""

    def __init__(self) -> None:
        self.held = regression(3)[0]

    def __call__(self, model: Any) -> float:
        return -float(squared(model, self.held))

    def method(self, model: Any) -> float:
        return self(model)


def _bound(held: Any, model: Any) -> float:
    return -float(squared(model, held))


@pytest.mark.parametrize(
    "metric", [Fits(), Fits().method, partial(_bound, regression(3)[0])], ids=["object", "method", "partial"]
)
def test_a_metric_that_brings_its_own_data_beside_a_loss_on_evaluation_data(tiny_mlp: nn.Module, metric: Any) -> None:
    adapter, data = attach(tiny_mlp, LoRA(rank=2), "*.weight"), regression(4)
    with torch.no_grad():
        before = [float(squared(adapter, data[0])), metric(adapter)]
    record = fit(adapter, data, steps=2, lr=1e-2, loss=squared, eval=data, metric=metric)
    assert list(record.evals[0].scores.values()) == pytest.approx(before, rel=1e-6)
    assert record.metric in ("Fits", "method", "partial")


def test_a_metric_that_takes_other_arguments_is_refused(tiny_mlp: nn.Module) -> None:
    def mine(model: Any, inputs: Any, targets: Any) -> float:
        return 0.0

    with pytest.raises(
        ConfigError, match=r"the metric mine takes other arguments; expected a function \(model, batches\)"
    ):
        fit(attach(tiny_mlp, LoRA(rank=2), "*.weight"), regression(4), steps=1, loss=squared, eval=regression(4),
            metric=mine)  # type: ignore[arg-type]  # fmt: skip


def test_a_metric_with_the_name_of_the_loss_is_refused(tiny_mlp: nn.Module) -> None:
    """It was never called, and the highest loss was taken for the best."""

    def loss(model: Any, batches: Any) -> float:
        return -1.0

    with pytest.raises(ConfigError, match="the metric has the name 'loss'"):
        fit(attach(tiny_mlp, LoRA(rank=2), "*.weight"), regression(4), steps=1, loss=squared, eval=regression(4),
            metric=loss)  # fmt: skip


class SecondOfTwo:
    """The world of a process to which the first one has said something else."""

    rank, size = 1, 2

    def gather(self, value: Any) -> list[Any]:
        return [0.25, value]


def test_all_processes_go_by_what_a_metric_says_on_the_first() -> None:
    world: Any = SecondOfTwo()
    assert Evaluator(None, lambda model: 0.75, None, len, world).scores(None) == {"<lambda>": 0.25}


def test_evaluation_data_may_be_an_iterator(tiny_mlp: nn.Module) -> None:
    record = fit(attach(tiny_mlp, LoRA(rank=2), "*.weight"), regression(4), steps=3, loss=squared,
                 eval=iter(regression(4, 2)), eval_every=1)  # fmt: skip
    assert len(record.evals) == 4


def test_the_loss_is_a_mean_over_rows_not_over_batches(tiny_mlp: nn.Module) -> None:
    data = regression(7, 1)
    whole = tuple(torch.cat(parts) for parts in zip(*data, strict=True))
    with torch.no_grad():
        expected = float(squared(tiny_mlp, whole))
    record = fit(attach(tiny_mlp, LoRA(rank=2), "*.weight"), data, steps=1, loss=squared, eval=data)
    assert record.evals[0].scores["loss"] == pytest.approx(expected, rel=1e-6)


def test_a_score_that_is_no_number_is_refused(tiny_mlp: nn.Module) -> None:
    adapter = attach(tiny_mlp, LoRA(rank=2), "*.weight")
    with pytest.raises(NonFinite, match="the broken on the evaluation data is nan"):
        fit(adapter, regression(4), steps=1, loss=squared, eval=regression(4), metric=broken)
    bad = [(x, y * math.nan) for x, y in regression(4)]
    with pytest.raises(NonFinite, match="the loss on the evaluation data is nan"):
        fit(adapter, regression(4), steps=1, loss=squared, eval=bad)


def broken(model: Any, batches: Any) -> float:
    """A metric without a value."""
    return math.nan


def test_a_record_goes_to_json_and_back(tiny_mlp: nn.Module) -> None:
    import json

    record = fit(attach(tiny_mlp, LoRA(rank=2), "*.weight"), regression(4), steps=3, loss=squared, eval=regression(4))
    assert Record.from_dict(json.loads(record.to_json())) == record
