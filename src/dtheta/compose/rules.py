"""Rules: which epoch's coefficients are kept, and when to stop. Epoch 0, the base as it is, always takes part.

    best      the epoch with the best score; ties go to the earlier one, so the result is never below the start
    forget    the epoch with the lowest score on the target, among those that keep the score on the control at
              ``keep`` times that of the start; the first epoch that does not ends the run
    last      no score: what the last epoch left

``forget`` is the rule of negation in aTLAS (arXiv 2407.02880). If no epoch keeps the control, nothing was forgotten
that may be: the coefficients are zeros and the report says that it was not feasible (the released code has no result
then, and fails).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from dtheta.core.arguments import is_number, number
from dtheta.errors import ConfigError

#: model -> number, such as an accuracy on validation data.
Metric: TypeAlias = Callable[[Any], float]
Scores: TypeAlias = Mapping[str, float]


class Rule(Protocol):
    """What decides after each epoch."""

    def scores(self, model: Any) -> dict[str, float]:
        """Return what is measured of a model, by name."""
        ...

    def better(self, scores: Scores, than: Scores) -> bool:
        """Tell whether these scores are to be kept rather than the best ones so far."""
        ...

    def stop(self, scores: Scores, start: Scores) -> str:
        """Return why the run ends with these scores, which are then not kept, or an empty string."""
        ...


@dataclass(frozen=True)
class Best:
    """The best score wins; ``better`` says which direction that is."""

    metric: Metric
    better_is: Literal["higher", "lower"] = "higher"

    def __post_init__(self) -> None:
        if self.better_is not in ("higher", "lower"):
            raise ConfigError(f"better is {self.better_is!r}; expected higher or lower")

    def scores(self, model: Any) -> dict[str, float]:
        """Return the score."""
        return {"score": measured("metric", self.metric, model)}

    def better(self, scores: Scores, than: Scores) -> bool:
        """Tell whether the score is strictly better."""
        a, b = scores["score"], than["score"]
        return a > b if self.better_is == "higher" else a < b

    def stop(self, scores: Scores, start: Scores) -> str:
        """Never stop."""
        return ""


@dataclass(frozen=True)
class Forget:
    """The lowest target score wins as long as the control keeps its share ``keep`` of the start."""

    target: Metric
    control: Metric
    keep: float = 0.95

    def __post_init__(self) -> None:
        if not (is_number(self.keep) and 0 < self.keep <= 1):
            raise ConfigError(f"keep is {self.keep!r}; expected a share of the control's score, above 0 and at most 1")

    def scores(self, model: Any) -> dict[str, float]:
        """Return both scores."""
        return {
            "target": measured("target metric", self.target, model),
            "control": measured("control metric", self.control, model),
        }

    def better(self, scores: Scores, than: Scores) -> bool:
        """Tell whether the target's score is strictly lower."""
        return scores["target"] < than["target"]

    def stop(self, scores: Scores, start: Scores) -> str:
        """Stop as soon as the control falls below its share."""
        if start["control"] < 0:
            raise ConfigError(
                f"the control metric is {start['control']:.4g} on the base; a share of it ({self.keep:g}) is to "
                "remain, so it must not be negative, and higher is better: an accuracy, not a loss with its sign turned"
            )
        floor = self.keep * start["control"]
        if scores["control"] >= floor:
            return ""
        return f"the control fell to {scores['control']:.4g}, below {floor:.4g} ({self.keep:g} of the start)"


@dataclass(frozen=True)
class Last:
    """No score: the coefficients of the last epoch."""

    def scores(self, model: Any) -> dict[str, float]:
        """Measure nothing."""
        return {}

    def better(self, scores: Scores, than: Scores) -> bool:
        """Keep whatever is newest."""
        return True

    def stop(self, scores: Scores, start: Scores) -> str:
        """Never stop."""
        return ""


def measured(name: str, metric: Metric, model: Any) -> float:
    """Return the number that a metric gives; it decides which coefficients are kept.

    Raises:
        ConfigError: If it is no function, or what it gives is no number.
        NonFinite: If that is NaN or infinite.
    """
    if not callable(metric):
        raise ConfigError(f"the {name} is {metric!r}; expected a function of the model: metric(model) -> number")
    return number(metric(model), f"what the {name} gives for this model")


def best_or_last(metric: Metric | None, better: Literal["higher", "lower"]) -> Rule:
    """Return the rule of a metric and its direction; without a metric, that of the last epoch.

    Raises:
        ConfigError: If the direction is none, or comes without a metric.
    """
    if metric is not None:
        return Best(metric, better)
    if better != "higher":
        raise ConfigError(f"better={better!r} is said of no metric, so that the last epoch is kept; pass metric=...")
    return Last()
