"""Evaluation: the mean loss over the items of the evaluation data, and one metric that says what is best.

    loss     sum_i n_i loss_i / sum_i n_i,  n_i items of batch i
    metric   a dtheta.score Metric of (logits, labels); accuracy where a classifier's output shows both;
             or a function of adapter and batches, or of the adapter alone, which brings its own data

Without evaluation data there is no loss. Under DDP every process takes each size-th batch and the means are merged;
under FSDP2 all go through all batches, because every forward is an exchange that all must take part in. A function of
the user's is called on every process, and what it says on the first one counts for all.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from dtheta.errors import ConfigError, NonFinite
from dtheta.fit.objective import model_loss
from dtheta.fit.trainable import Batch, Loss
from dtheta.fit.world import World
from dtheta.score.aggregate import Aggregate, Mean
from dtheta.score.metric import Accuracy, Metric

#: (model, batches) -> number, or (model) -> number that brings its own data; higher is better.
Scorer: TypeAlias = Callable[[Any, Iterable[Batch]], float] | Callable[[Any], float]


class Evaluator:
    """Scores of an adapter on fixed data, or by a function that needs none."""

    def __init__(
        self,
        batches: Iterable[Batch] | None,
        metric: Metric | Scorer | None,
        loss: Loss | None,
        count: Callable[[Batch], int],
        world: World,
    ) -> None:
        """Keep the data (an iterator is read once and kept) and what to compute on it.

        Raises:
            ConfigError: a function of the user's that takes other arguments, or has the name of the loss.
        """
        self.batches = list(batches) if batches is not None and iter_is_once(batches) else batches
        self.metric = metric
        self.loss = loss
        self.count = count
        self.world = world
        self._alone = batches is None or (brings_data(metric) and not takes(metric, 2))
        if batches is not None and is_function(metric):
            self._check_function()

    def _check_function(self) -> None:
        if not self._alone and not takes(self.metric, 2):
            raise ConfigError(
                f"the metric {self.deciding[0]} takes other arguments; expected a function (model, batches) -> number, "
                "or (model) -> number that brings its own data"
            )
        if self.deciding[0] == "loss":
            raise ConfigError(
                "the metric has the name 'loss', under which the mean loss on the evaluation data is kept, lower is "
                "better; give it another name"
            )

    @property
    def deciding(self) -> tuple[str, str]:
        """Name of the score that decides what is best, and which direction is better; known after one evaluation."""
        if self.metric is None:
            return "loss", "lower"
        name = getattr(self.metric, "name", None) or getattr(self.metric, "__name__", type(self.metric).__name__)
        return name, getattr(self.metric, "better", "higher")

    def scores(self, adapter: Any, sharded: bool = False) -> dict[str, float]:
        """Return the loss, where there is data, and the metric, by name; ``sharded``: every process takes all batches.

        Raises:
            ConfigError: there is no batch, the metric needs logits and labels that are not there, or returns no number.
            NonFinite: a score is NaN or infinite.
        """
        with torch.no_grad():
            split = 1 if sharded else self.world.size
            found = {} if self.batches is None else self._mean_scores(adapter, self.batches, split)
            if self.metric is not None and self.deciding[0] not in found:
                found[self.deciding[0]] = self._own_score(adapter)
        return found

    def _own_score(self, adapter: Any) -> float:
        """Return what a metric that is a function of the user's says.

        Raises:
            ConfigError: no number.
            NonFinite: NaN or infinity.
        """
        given = () if self._alone or self.batches is None else (self._on_device(self.batches),)
        value = self.metric(adapter, *given)  # type: ignore[operator]
        try:
            number = None if isinstance(value, (str, bytes)) else float(value)
        except (TypeError, ValueError, RuntimeError):  # None, an array, a tensor of several elements
            number = None
        number = self.world.gather(number)[0]  # they must not part: what is best, and when to stop, hangs on it
        if number is None:
            raise ConfigError(f"the metric {self.deciding[0]} must return one number, got {value!r:.80}")
        return _finite(self.deciding[0], number)

    def _on_device(self, batches: Iterable[Batch]) -> Iterable[Batch]:
        for batch in batches:
            yield self.world.to_device(batch)

    def _aggregate(self) -> Aggregate | None:
        """Return an empty aggregate of the metric if that is one of ours."""
        return Aggregate((self.metric,)) if hasattr(self.metric, "of_means") else None  # type: ignore[arg-type]

    def _mean_scores(self, adapter: Any, batches: Iterable[Batch], split: int) -> dict[str, float]:
        mean, aggregate, seen = Mean(), self._aggregate(), 0
        for index, batch in enumerate(batches):
            seen += 1
            if seen == 1 and self.metric is None and self.loss is None:
                aggregate = self._natural(adapter, batch)  # on every process, so that all agree
            if index % split != self.world.rank % split:
                continue
            value, output = self._forward(adapter, self.world.to_device(batch), aggregate is not None)
            items = self.count(batch)
            if items:
                _finite("loss", value)
                mean = mean.add(value.reshape(1), torch.tensor([items], dtype=torch.float64))
            if aggregate is not None:
                aggregate = aggregate.add(*_prediction(output, batch))
        if not seen:
            raise ConfigError("the evaluation data has no batch: it is empty")
        return self._merged(mean, aggregate, split)

    def _natural(self, adapter: Any, batch: Batch) -> Aggregate | None:
        """Return an aggregate for the accuracy if a batch's labels and logits are those of a classifier."""
        labels = batch.get("labels") if isinstance(batch, Mapping) else None
        if not isinstance(labels, Tensor) or labels.ndim != 1 or labels.is_floating_point():
            return None
        logits = getattr(adapter(**self.world.to_device(batch)), "logits", None)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            return None
        self.metric = Accuracy()
        return self._aggregate()

    def _forward(self, adapter: Any, batch: Batch, wants_output: bool) -> tuple[Tensor, Any]:
        """Return the loss and, if wanted, the model's output, in one forward where the loss is the model's own."""
        outputs: list[Any] = []

        def noted(**arguments: Any) -> Any:
            outputs.append(adapter(**arguments))
            return outputs[-1]

        if self.loss is None:
            return model_loss(noted, batch), outputs[-1]
        value = self.loss(adapter, batch)
        return value, adapter(**batch) if wants_output and isinstance(batch, Mapping) else None

    def _merged(self, mean: Mean, aggregate: Aggregate | None, split: int) -> dict[str, float]:
        parts = self.world.gather((mean, aggregate)) if split > 1 else [(mean, aggregate)]
        mean, aggregate = parts[0]
        for other, more in parts[1:]:
            mean = mean.merge(other)
            aggregate = aggregate.merge(more) if aggregate is not None and more is not None else aggregate
        return {"loss": float(mean.value)} | (aggregate.results() if aggregate is not None else {})


def _finite(name: str, value: Any) -> float:
    if not math.isfinite(float(value)):
        raise NonFinite(f"the {name} on the evaluation data is {float(value)}; lower lr, or look at the data")
    return float(value)


def _prediction(output: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    labels = batch.get("labels") if isinstance(batch, Mapping) else None
    if not isinstance(logits, Tensor) or not isinstance(labels, Tensor):
        raise ConfigError(
            "a dtheta.score metric needs labels in the batch and logits in the model's output; "
            "give a function metric=(model, batches) -> number instead"
        )
    return logits.float().cpu(), labels.cpu()


def brings_data(metric: Any) -> bool:
    """Tell whether a metric is a function that can be called with the model alone."""
    return is_function(metric) and takes(metric, 1)


def is_function(metric: Any) -> bool:
    """Tell whether a metric is a function of the user's, and none of ``dtheta.score``."""
    return metric is not None and not hasattr(metric, "of_means")


def takes(function: Any, arguments: int) -> bool:
    """Tell whether a function can be called with so many arguments; one of C that does not say so is believed to."""
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except TypeError:
        return False
    except ValueError:
        pass
    return True


def iter_is_once(batches: Any) -> bool:
    """Tell whether going through the batches uses them up."""
    return hasattr(batches, "__next__")
