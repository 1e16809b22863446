"""Intervals: how far a score can be trusted.

    wilson            a proportion from counts (Wilson 1927), also right near 0 and 1
    paired_shares     difference of two proportions of the same examples (Bonett and Price 2012), few of them too
    mean_interval     mean over runs or seeds, Student's t
    paired_interval   mean of paired differences over seeds, Student's t
    bootstrap         any function of means; percentile, or BCa (Efron 1987): bias-corrected, accelerated
    paired_bootstrap  mean of paired differences over examples
    metric_interval   a Metric on predictions, bootstrapped over examples
    bootstrap_bounds  many functions of means at once, percentile

Resample k draws N indices with replacement from the generator keyed by (seed, name, k), so member k alone equals
member k of many. Examples must be independent: for tokens of shared documents, average within the document first. Where
neighbors in order depend on each other, as forecasts of consecutive days do, draw ``block`` of them at a time: blocks
start anywhere and run around the end (Politis and Romano 1992), the last one is cut.
Shapes: N examples, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, NotConverged, ShapeMismatch
from dtheta.score.metric import Metric
from dtheta.score.student import student_quantile

Kind = Literal["percentile", "bca"]
OfMeans = Callable[..., Tensor]
_NORMAL = NormalDist()
_HELD = 1 << 22  # numbers of resamples that are held at a time


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval around it that covers the truth with probability ``level``, had by ``method``."""

    estimate: float
    low: float
    high: float
    level: float = 0.95
    method: str = ""

    def excludes(self, value: float) -> bool:
        """Whether ``value`` lies outside, that is: whether the difference from it is clear at this level.

        Nothing is clear where the bounds are NaN, as for the scores of one start.
        """
        return value < self.low or value > self.high

    def __str__(self) -> str:
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"


def wilson(successes: float, count: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion: ``successes`` of ``count`` independent trials."""
    _require_level(level)
    if not 0 < count < math.inf or not 0 <= successes <= count:
        raise ConfigError(f"wilson: expected 0 <= successes <= count and count > 0, found {successes} of {count}")
    z, share = _two_sided(level), successes / count
    center = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # At 0 and at `count` the bound is exact; rounding must not push it past the estimate.
    return Interval(share, min(share, max(0.0, center - half)), max(share, min(1.0, center + half)), level, "wilson")


def paired_shares(a: Sequence[float] | Tensor, b: Sequence[float] | Tensor, level: float = 0.95) -> Interval:
    """Mean of a_i - b_i for scores that are 0 or 1, e.g. two models' `Correct` values (N,) on the same examples.

    With one more example on either side, p = (#[a > b] + 1) / (N + 2) and q = (#[a < b] + 1) / (N + 2),

        p - q  +-  z sqrt((p + q - (p - q)^2) / (N + 2))        Bonett and Price 2012, adjusted Wald

    Where few pairs differ, a bootstrap is far too sure of itself: with 3 of 100 it never sees that they might be none.
    """
    _require_level(level)
    difference_N = _differences(a, b)
    scores = torch.cat([torch.as_tensor(values, dtype=torch.float64).reshape(-1) for values in (a, b)])
    if not len(difference_N) or not bool(((scores == 0) | (scores == 1)).all()):
        raise ConfigError("paired_shares: expected at least one pair of scores, each 0 or 1; see paired_bootstrap")
    count = len(difference_N) + 2
    p, q = (float((sign * difference_N > 0).sum() + 1) / count for sign in (1, -1))
    half = _two_sided(level) * math.sqrt((p + q - (p - q) ** 2) / count)
    estimate = float(difference_N.mean())
    low, high = max(-1.0, p - q - half), min(1.0, p - q + half)
    return Interval(estimate, min(low, estimate), max(high, estimate), level, "bonett-price")


def mean_interval(values: Sequence[float] | Tensor, level: float = 0.95) -> Interval:
    """Mean of ``values`` (at least two, e.g. one score per seed) with Student's t interval."""
    _require_level(level)
    values_N = _finite(torch.as_tensor(values, dtype=torch.float64), "values")
    if values_N.ndim != 1 or len(values_N) < 2:
        raise ConfigError(f"mean_interval: expected at least 2 numbers, found shape {tuple(values_N.shape)}")
    mean, count = float(values_N.mean()), len(values_N)
    half = student_quantile((1 + level) / 2, count - 1) * float(values_N.std()) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half, level, "t")


def paired_interval(a: Sequence[float] | Tensor, b: Sequence[float] | Tensor, level: float = 0.95) -> Interval:
    """Mean of a_i - b_i, pairs sharing a seed (or task, or fold), with Student's t interval."""
    return mean_interval(_differences(a, b), level)


def bootstrap(
    values: Tensor | Sequence[Tensor],
    of_means: OfMeans = lambda mean: mean,
    *,
    level: float = 0.95,
    kind: Kind = "bca",
    resamples: int = 2000,
    seed: int = 0,
    name: str = "bootstrap",
    block: int = 1,
) -> Interval:
    """Interval of ``of_means(mean of values_1, mean of values_2, ...)``, resampling examples.

    ``values``: one or several tensors (N, ...), resampled together, ``block`` neighbors at a time. ``of_means`` must
    accept leading dimensions. Raises `NotConverged` for "bca" where the values do not vary (no acceleration exists):
    use `wilson` or "percentile"; and `ConfigError` for "bca" with blocks, since leaving out one example of a block does
    not tell the acceleration.
    """
    _require_level(level)
    if kind not in ("percentile", "bca"):
        raise ConfigError(f"bootstrap: kind {kind!r} must be 'percentile' or 'bca'")
    whole(resamples, "resamples", 2)
    if kind == "bca" and block != 1:
        raise ConfigError(f"bootstrap: blocks of {block} examples have percentile intervals; use kind='percentile'")
    parts = _parts([values] if isinstance(values, Tensor) else values, name)
    estimate = float(of_means(*(part.mean(dim=0) for part in parts)))
    resampled_R = of_means(*_resampled_means(parts, resamples, seed, name, block))
    tails = ((1 - level) / 2, (1 + level) / 2)
    if kind == "bca":
        tails = _bca_tails(resampled_R, estimate, of_means(*map(_left_out_means, parts)), tails)
    low, high = torch.quantile(resampled_R, torch.tensor(tails, dtype=torch.float64)).tolist()
    return Interval(estimate, low, high, level, f"bootstrap-{kind}")


def paired_bootstrap(
    a: Tensor, b: Tensor, *, level: float = 0.95, kind: Kind = "bca", resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean of a_i - b_i over examples that both were scored on, e.g. two models' `Correct` values (N,)."""
    return bootstrap(_differences(a, b), level=level, kind=kind, resamples=resamples, seed=seed, name="paired")


def metric_interval(
    metric: Metric,
    prediction: Tensor,
    target: Tensor,
    *,
    level: float = 0.95,
    kind: Kind = "bca",
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """``metric`` on all examples, with its bootstrap interval; the draws are keyed by (seed, metric name, k)."""
    values = [statistic(prediction, target) for statistic in metric.statistics]
    return bootstrap(values, metric.of_means, level=level, kind=kind, resamples=resamples, seed=seed, name=metric.name)


def bootstrap_bounds(
    values: Sequence[Tensor],
    of_means: OfMeans,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    name: str = "bootstrap",
    block: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return estimate, low and high, each of the shape of ``of_means``'s result, by percentiles over resamples.

    ``values`` are tensors (N, ...), resampled together, ``block`` neighbors at a time. Resamples in which an entry is
    NaN, as a hit rate where nothing happened, do not count for that entry.
    """
    _require_level(level)
    whole(resamples, "resamples", 2)
    parts = _parts(values, name)
    estimate = of_means(*(part.mean(dim=0) for part in parts))
    counts_RN = resample_counts(len(parts[0]), resamples, seed, name, block)
    size = max(1, _HELD // max(1, sum(part[0].numel() for part in parts)))
    some = [of_means(*(torch.tensordot(c, p, dims=1) / len(p) for p in parts)) for c in counts_RN.split(size)]
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = _nanquantile(torch.cat(some), tails)
    return estimate, low, high


@lru_cache(maxsize=16)
def resample_counts(count: int, resamples: int, seed: int, name: str, block: int = 1) -> Tensor:
    """Return how often each example is in each resample (R, N), float64; not to be written to."""
    return torch.stack([_drawn(count, seed, name, k, block) for k in range(resamples)])


def _drawn(count: int, seed: int, name: str, k: int, block: int) -> Tensor:
    """Return how often each example is in resample k (N,), float64."""
    if not 1 <= block <= count:
        raise ConfigError(f"{name}: blocks of {block} examples; expected 1 to {count}, the number of examples")
    first = torch.randint(count, (-(-count // block),), generator=generator(seed, name, k), device="cpu")
    index_N = (first[:, None] + torch.arange(block)).flatten()[:count] % count
    return torch.bincount(index_N, minlength=count).double()


def _nanquantile(values_R: Tensor, tails: Tensor) -> Tensor:
    """Return quantiles (tails, ...) of (R, ...), a part of the entries at a time: torch takes no more than 16M."""
    shape = values_R.shape[1:]
    flat_RE = values_R.reshape(len(values_R), -1)
    found = [torch.nanquantile(part, tails, dim=0) for part in flat_RE.split(max(1, _HELD // len(flat_RE)), dim=1)]
    return torch.cat(found, dim=1).reshape(-1, *shape)


def _parts(values: Sequence[Tensor], name: str) -> list[Tensor]:
    parts = [_finite(part.detach().double().cpu(), name) for part in values]
    shapes = [tuple(part.shape) for part in parts]
    if not parts or any(not shape or shape[0] != shapes[0][0] or shape[0] < 2 for shape in shapes):
        raise ShapeMismatch(f"{name}: expected (N, ...) values with one N >= 2, found shapes {shapes}")
    return parts


def _resampled_means(parts: Sequence[Tensor], resamples: int, seed: int, name: str, block: int = 1) -> list[Tensor]:
    """Per part, (R, ...) means over resampled examples; counts times values, so no resample is materialized."""
    count = len(parts[0])
    means: list[list[Tensor]] = [[] for _ in parts]
    for k in range(resamples):
        counts_N = _drawn(count, seed, name, k, block)
        for part, collected in zip(parts, means, strict=True):
            collected.append(torch.tensordot(counts_N, part, dims=1) / count)
    return [torch.stack(collected) for collected in means]


def _left_out_means(part: Tensor) -> Tensor:
    """(N, ...) means without example i: the jackknife, in closed form because everything is a mean."""
    return (part.sum(dim=0) - part) / (len(part) - 1)


def _bca_tails(
    resampled_R: Tensor, estimate: float, left_out_N: Tensor, tails: tuple[float, float]
) -> tuple[float, float]:
    """Efron's corrected tail probabilities: Phi(z0 + (z0 + z) / (1 - a (z0 + z)))."""
    deviation_N = left_out_N.mean() - left_out_N
    spread = float(deviation_N.square().sum())
    below = float((resampled_R < estimate).double().mean() + (resampled_R <= estimate).double().mean()) / 2
    if spread == 0 or not 0 < below < 1:
        raise NotConverged(
            "bootstrap: the resamples do not vary around the estimate, so BCa does not exist; "
            "use wilson for proportions or kind='percentile'"
        )
    acceleration = float(deviation_N.pow(3).sum()) / (6 * spread**1.5)
    bias = _NORMAL.inv_cdf(below)
    shifted = [bias + _NORMAL.inv_cdf(tail) for tail in tails]
    low, high = (_NORMAL.cdf(bias + z / (1 - acceleration * z)) for z in shifted)
    return low, high


def _differences(a: Sequence[float] | Tensor, b: Sequence[float] | Tensor) -> Tensor:
    a_N, b_N = (torch.as_tensor(values, dtype=torch.float64) for values in (a, b))
    if a_N.shape != b_N.shape or a_N.ndim != 1:
        raise ShapeMismatch(
            f"pairs: {tuple(a_N.shape)} and {tuple(b_N.shape)} values cannot be paired; expected (N,) and (N,)"
        )
    return a_N - b_N


def _two_sided(level: float) -> float:
    return _NORMAL.inv_cdf((1 + level) / 2)


def _finite(values: Tensor, what: str) -> Tensor:
    if not bool(torch.isfinite(values).all()):
        raise NonFinite(f"{what}: {int((~torch.isfinite(values)).sum())} of {values.numel()} are NaN or infinite")
    return values


def _require_level(level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level: expected a probability in (0, 1) such as 0.95, found {level}")
