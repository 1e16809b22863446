"""Predictors: guesses of the gains that cost no training on pairs, and how well they rank what was measured.

    prompts         cos(mean_t P_i, mean_t P_j)            mean virtual token of each site; SPoT (Vu 2021, 2110.07904)
    gradients       cos(dL_i/dP, dL_j/dP) at one start P   one pass over a few images of each task
    class texts     cos(mean_c g(class c of i), mean_c g(class c of j))      no image at all
    images          cos(mean_n f(image n of i), mean_n f(image n of j))      no label at all

f and g are unit vectors of the zero-shot model. All are symmetric, the gain is not, so no predictor reaches rank
correlation 1 unless the gain happens to be symmetric.

Shape legend: T tasks, N images or classes, E features.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dtheta.adapt.attach import attach
from dtheta.adapt.method import Method
from dtheta.adapt.mvlpt.transfer import Transfer
from dtheta.adapt.prompts.image_names import is_mixed
from dtheta.core.aligned import aligned
from dtheta.core.delta import Delta
from dtheta.core.modes import kept_modes
from dtheta.errors import ConfigError, NonFinite, NotConverged, ShapeMismatch
from dtheta.fit.objective import model_loss
from dtheta.score.rank import RankCorrelation, matrix_correlation


@dataclass(frozen=True)
class Predictor:
    """How well one predictor ranks the gains over all pairs of different tasks."""

    name: str
    kendall: RankCorrelation
    spearman: RankCorrelation


@dataclass(frozen=True)
class Predictors:
    """Predictors, the one with the largest Spearman correlation first."""

    of: tuple[Predictor, ...]

    def table(self) -> str:
        """Return them as text: each correlation with its interval over tasks and its p-value."""
        head = ["predictor", "Spearman", "p", "Kendall", "p"]
        rows = [
            [one.name, *(text for found in (one.spearman, one.kendall) for text in (_shown(found), f"{found.p:.3f}"))]
            for one in self.of
        ]
        return "\n".join(aligned(head, rows))


def judge_predictors(transfer: Transfer, similarities: Mapping[str, Tensor], seed: int = 0) -> Predictors:
    """Return the rank correlations of predictors with the mean gains.

    Args:
        transfer: What was measured.
        similarities: (T, T) matrix of each predictor, by name, in the order of ``transfer.tasks``.
        seed: Of resamples and permutations.

    Raises:
        ShapeMismatch: A matrix is not over these tasks.
        ConfigError: There are fewer than three tasks.
        NotConverged: A predictor, or the gain, is the same for all pairs.
    """
    found = []
    for name, similarity_TT in similarities.items():
        try:
            kendall, spearman = (
                matrix_correlation(similarity_TT, transfer.gain, kind, level=transfer.level, seed=seed)
                for kind in ("kendall", "spearman")
            )
        except NotConverged as error:
            raise NotConverged(f"predictor {name!r} against the gains: {error}") from error
        found.append(Predictor(name, kendall, spearman))
    return Predictors(tuple(sorted(found, key=lambda one: -one.spearman.estimate)))


def cosines(vectors: Sequence[Tensor]) -> Tensor:
    """Return the cosines (T, T) of T vectors of one length, float64.

    Raises:
        ShapeMismatch: They are not of one length, or there is none.
        ConfigError: One is zero, which has no direction.
        NonFinite: One holds NaN or infinity, as that of a prompt whose training diverged.
    """
    if not vectors or any(vector.shape != vectors[0].shape or vector.ndim != 1 for vector in vectors):
        raise ShapeMismatch(f"expected vectors of one length, found {[tuple(vector.shape) for vector in vectors]}")
    rows_TE = torch.stack([vector.double() for vector in vectors])
    norms_T = rows_TE.norm(dim=1)
    if not bool(torch.isfinite(norms_T).all()):
        raise NonFinite(f"vector {int((~torch.isfinite(norms_T)).int().argmax())} holds NaN or infinity")
    if not bool((norms_T > 0).all()):
        raise ConfigError(f"vector {int((norms_T == 0).int().argmax())} is zero and has no direction")
    unit_TE = rows_TE / norms_T[:, None]
    return unit_TE @ unit_TE.T


def prompt_vector(prompt: Delta) -> Tensor:
    """Return what SPoT compares: the mean virtual token of each new vector of a delta, one after the other.

    Two prompts that began at the same random numbers are alike for that reason too.

    Raises:
        ConfigError: The delta has no new vectors, or they go through a mixer, before which they are no tokens.
    """
    if not prompt.new:
        raise ConfigError("this delta holds no prompt; expected one that CoOp, VPT or another prompt method made")
    if any(is_mixed(name) for name in prompt.new):
        raise ConfigError("UPT's vectors are tokens behind its mixer only; compare adapter.folded() of it")
    tokens = [prompt[name].dense().double() for name in sorted(prompt.new)]
    return torch.cat([token.reshape(-1, token.shape[-1]).mean(0) for token in tokens])


def prompt_gradient(net: nn.Module, start: Method | Delta, batches: Iterable[Any], seed: int = 0) -> Tensor:
    """Return the gradient of the mean loss with respect to a prompt, at its start, as one vector.

    Args:
        net: The task's classifier.
        start: The prompt to differentiate at, the same for all tasks that are compared: the zero-shot prompt's words
            where the method can begin with them, else the method's start.
        batches: Some of the task's; each counts by its number of labels.
        seed: Of a method's start.

    Raises:
        ConfigError: There is no batch.
    """
    adapter = attach(net, start, seed=seed)
    try:
        parameters, items = adapter.trainable(), 0
        with kept_modes(net), torch.enable_grad():
            for batch in batches:
                count = len(batch["labels"])
                (model_loss(adapter, batch) * count).backward()
                items += count
        if not items:
            raise ConfigError("there is no batch to take a gradient on")
        found = [torch.zeros_like(p) if p.grad is None else p.grad for _, p in sorted(parameters.items())]
        return torch.cat([gradient.flatten() for gradient in found]).cpu() / items
    finally:
        adapter.detach()


def centroid(features_NE: Tensor) -> Tensor:
    """Return the mean (E,) of features scaled to length one each: of a task's class texts, or of its images."""
    return F.normalize(features_NE.detach().double(), dim=-1).mean(0)


def _shown(found: RankCorrelation) -> str:
    return f"{found.estimate:+.2f} [{found.interval.low:+.2f}, {found.interval.high:+.2f}]"
