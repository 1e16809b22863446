"""Density and alpha chosen by what counts: the score of the task on validation data.

    best = argmax over density x alpha of score(compressed delta), ties to the smaller file

As in ComPEFT, arXiv 2311.13171: densities 5 to 50 %, alpha from 0.5 to 10 standard deviations, no gradients. The signs
depend on the density alone, so that each density selects, and is coded, once. The data that choose must not be those
that report the result: the best of many noisy scores is too good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import nn

from dtheta.compress.compeft import check_scale, compressed
from dtheta.compress.plan import Of
from dtheta.compress.report import stored_bytes
from dtheta.compress.scales import Scale
from dtheta.compress.signs import Signs, check, refuse_vanished, signs
from dtheta.compress.vectors import Per
from dtheta.core.apply import applied
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, NonFinite, UnsupportedLayer
from dtheta.score import Accuracy, Aggregate, Metric

Score: TypeAlias = Callable[[Delta], float]  # higher is better

DENSITIES = (0.05, 0.1, 0.2, 0.3, 0.5)
ALPHAS = (0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0)


@dataclass(frozen=True)
class Trial:
    """One point of the grid: what it scored, and the bytes of its stored tensors (0 where it was not scored)."""

    density: float
    alpha: float
    score: float
    nbytes: int


@dataclass(frozen=True)
class Search:
    """The best delta of a grid, its point, and all points in the order in which they were tried."""

    best: Delta
    trial: Trial
    table: tuple[Trial, ...]


def search_compression(
    delta: Delta,
    score: Score,
    densities: Iterable[float] = DENSITIES,
    alphas: Iterable[float] = ALPHAS,
    *,
    scale: Scale = "alpha-sigma",
    per: Per = "delta",
    of: Of = "factors",
    keep: str = "",
    new: bool = False,
) -> Search:
    """Compress a delta at every density and alpha, and keep what scores best.

    Args:
        delta: Any delta; spectral changes must be bound.
        score: Takes a delta, returns a number; higher is better. ``on_batches`` makes one of a model and data.
        densities: Shares of entries to keep: any iterable of numbers.
        alphas: Multiples of the scale, likewise.
        scale: Rule for the scale, as in ``compress``.
        per: What has a density and a scale of its own, as there.
        of: What is compressed of low-rank changes, as there.
        keep: Parameters that are left as they are, as there.
        new: Whether new vectors are compressed too, as there.

    Returns:
        The best delta, and the table. Equal scores: the smaller file, then the point tried first. A density at which no
        product of factors is left, which ``compress`` refuses, is not scored and stands there with minus infinity.

    Raises:
        ConfigError, UnknownParameter: As ``compress``, or if a score is no number; arguments are checked before
            anything is scored.
        UnsupportedLayer: As ``compress``, or if no density leaves a product of factors.
        NonFinite: If a score is NaN, or as ``compress``.
    """
    densities, alphas = _grid(densities, "densities"), _grid(alphas, "alphas")
    alphas = [check_scale(scale, alpha) for alpha in alphas]
    densities = [check(density, per, of) for density in densities]
    if not callable(score):
        raise ConfigError(f"the score is a {type(score).__name__}; expected a function: score(delta) -> number")
    table: list[Trial] = []
    best: tuple[Delta, Trial] | None = None
    refused: UnsupportedLayer | None = None
    for density in densities:
        found = signs(delta, density, per=per, of=of, keep=keep, new=new)
        try:
            refuse_vanished(found)
        except UnsupportedLayer as error:
            table += [Trial(density, alpha, -math.inf, 0) for alpha in alphas]
            refused = error
            continue
        for packed, trial in _scored(found, score, scale, alphas, {"of": of, "keep": keep}):
            table.append(trial)
            if best is None or (trial.score, -trial.nbytes) > (best[1].score, -best[1].nbytes):
                best = packed, trial
    if best is None:
        assert refused is not None  # at least one density, and none was scored
        raise refused
    return Search(_noted(*best, densities, alphas), best[1], tuple(table))


def _grid(values: Any, what: str) -> list[Any]:
    """Return the values of one side of the grid; an iterator is gone through once."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise ConfigError(f"{what} is {values!r}; expected several numbers, such as [0.05, 0.1]")
    found = list(values)
    if not found:
        raise ConfigError("the grid is empty: give at least one density and one alpha")
    return found


def _scored(
    found: Signs, score: Score, scale: Scale, alphas: Sequence[float], settings: Mapping[str, Any]
) -> Iterator[tuple[Delta, Trial]]:
    """Yield the delta and the trial of every alpha; they have the same signs, so one of them is measured for all."""
    nbytes = None
    for alpha in alphas:
        packed = compressed(found, scale, alpha, **settings)
        nbytes = stored_bytes(packed) if nbytes is None else nbytes
        yield packed, Trial(found.density, alpha, _number(score(packed), found.density, alpha), nbytes)


def _number(value: Any, density: float, alpha: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigError(
            f"the score at density {density}, alpha {alpha} is {value!r}; expected a number, higher is better"
        ) from None
    if math.isnan(number):
        raise NonFinite(f"the score at density {density}, alpha {alpha} is NaN; a score must order the deltas")
    return number


def _noted(delta: Delta, trial: Trial, densities: Sequence[float], alphas: Sequence[float]) -> Delta:
    """Write into the provenance that the settings were searched, and what they scored."""
    score = trial.score if math.isfinite(trial.score) else None
    grid = {"densities": list(densities), "alphas": list(alphas), "score": score}
    made = delta.provenance
    return replace(delta, provenance=replace(made, settings={**made.settings, "searched": grid}))


def on_batches(model: nn.Module, batches: Iterable[Mapping[str, Any]], metric: Metric | None = None) -> Score:
    """Return the score of a delta on a classifier and its validation data.

    Args:
        model: The delta's base, called as ``model(**batch)``; its output has ``logits``. Not changed.
        batches: Mappings with "labels"; gone through once for every score, so no iterator.
        metric: Accuracy if None; one that is better when lower is negated.
    """
    judge: Metric = Accuracy() if metric is None else metric

    def score(delta: Delta) -> float:
        seen = Aggregate((judge,))
        with applied(model, delta), torch.inference_mode():
            for batch in batches:
                seen = seen.add(model(**batch).logits, batch["labels"])
        value = seen.results()[judge.name]
        return value if judge.better == "higher" else -value

    return score
