"""From the evidence of a method to its row, and from the rows to a proposal.

    gradient descent    stable below 2 n / lambda_max of sqrt(h_i h_j) K_ij                  (kernels/learning_rate.py)
    time                t = n / p, where ridge with penalty p does best     Ali, Kolter and Tibshirani 2019, 1810.10082
    a step of Adam      d = rate * s, s = sign(J^T r):  lowers the loss while rate < 2 |J^T r|_1 / sum_i h_i |J_i s|^2,
                        at half of that by the share |J^T r|_1^2 / (sum_i h_i |J_i s|^2 sum_i |r_i|^2 / h_i)
    steps               log(1 / q) / share, q what training leaves of |Y - m|^2 where it is best stopped

h_i = (1 - sum_c p_c^2) / (C - 1) is the curvature of the cross-entropy of example i, a mean over directions.

Shape legend: n examples of a half, N of both, O directions of the logits, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dtheta.kernels.learning_rate import max_learning_rate
from dtheta.kernels.measures import effective_dimension
from dtheta.score.interval import Interval, paired_shares, wilson
from dtheta.scout.budget import budgeted
from dtheta.scout.derivatives import SIGNED, Derivatives
from dtheta.scout.regression import Half, Regression, aligned, normed, regress
from dtheta.scout.scene import Evidence
from dtheta.scout.scouting import Proposal, Prospect

_SHARE = 0.8  # of the fall of the loss that the proposed layers bring together
_FLAT = 0.01
CAREFUL = 0.04  # of the largest rate of a first step: tuned rates of five methods were 1/13 to 1/43 of it on 20news


@dataclass(frozen=True, eq=False)
class Judged:
    """A row and the squared errors (N,) behind its loss."""

    row: Prospect
    errors: Tensor


def head_alone(halves: Sequence[Half]) -> Tensor:
    """Return 1 where the head alone, learning on, is right (N,)."""
    return torch.cat([found.correct for found in regress(halves, strengths=(0.0,))])


def judged(evidence: Sequence[Evidence], head_correct: Tensor) -> list[Judged]:
    """Return the rows of methods, the one of least loss first; ``head_correct`` (N,) is what to compare with."""
    errors = budgeted([one.halves for one in evidence])
    found = [Judged(_prospect(one, head_correct, e), e) for one, e in zip(evidence, errors, strict=True)]
    return sorted(found, key=lambda one: one.row.loss)


def _prospect(evidence: Evidence, head_correct: Tensor, errors: Tensor) -> Prospect:
    found = regress(evidence.halves)
    correct = torch.cat([r.correct for r in found])
    pairs = list(zip(evidence.halves, found, strict=True))
    rates = [_descent(half, regression) for half, regression in pairs]
    signs = [_sign(half, regression, d) for (half, regression), d in zip(pairs, evidence.derivatives, strict=True)]
    candidate = evidence.candidate
    bound, time = _mean(rate for rate, _ in rates), _mean(t for _, t in rates)
    return Prospect(
        name=candidate.name,
        method=candidate.method,
        select=candidate.select,
        parameters=evidence.derivatives[0].count,
        accuracy=interval(correct),
        gain=paired_shares(correct, head_correct),
        loss=float(errors.mean()),
        tuned_loss=float(torch.cat([r.errors for r in found]).mean()),
        effective_dimension=_mean(effective_dimension(h.mixed(r.strength), r.penalty) for h, r in pairs),
        alignment=_mean(aligned(normed(half.kernel), half.target - half.start) for half in evidence.halves),
        learning_rate=bound,
        stopping_time=time,
        steps=math.ceil(2 * time / bound) if math.isfinite(bound) else 0,
        sign_rate=_mean(rate for rate, _ in signs),
        sign_steps=math.ceil(_mean(steps for _, steps in signs)),
        slope=_mean(d.slope / len(d.residual[:SIGNED]) for d in evidence.derivatives),
        strength=_mean(r.strength for r in found),
        shares=_shares(evidence),
        note=_note(evidence),
    )


def proposal(judged: Sequence[Judged], examples: int) -> Proposal:
    """Return what to train: of the methods within one standard error of the best, the one of fewest weights."""
    best = judged[0]
    close = [one for one in judged if _within_error(one.errors - best.errors)]
    row = min(close, key=lambda one: one.row.parameters).row
    rank = getattr(row.method, "rank", None)
    rule = math.ceil(math.sqrt(examples))
    return Proposal(row.name, rank, rule, _layers(row), CAREFUL * row.sign_rate, row.sign_steps)


def _within_error(difference_N: Tensor) -> bool:
    return float(difference_N.mean()) <= float(difference_N.std()) / math.sqrt(len(difference_N))


def _layers(row: Prospect) -> tuple[str, ...]:
    """Return the layers of largest shares that together have ``_SHARE``, in the order of the model."""
    taken, total = set[str](), 0.0
    for layer in sorted(row.shares, key=lambda name: -row.shares[name]):
        if total >= _SHARE:
            break
        taken.add(layer)
        total += row.shares[layer]
    return tuple(layer for layer in row.shares if layer in taken)


def _descent(half: Half, found: Regression) -> tuple[float, float]:
    """Return the largest stable rate of gradient descent on the method's weights, and its best stopping time."""
    if float(half.kernel.trace()) <= 0:
        return math.inf, 0.0
    weight = found.strength / (1 + found.strength) / float(half.kernel.diagonal().mean())
    root = _curvature(half).sqrt()
    return max_learning_rate(root[:, None] * half.kernel * root, average="examples"), len(
        half.labels
    ) / found.penalty * weight


def _sign(half: Half, found: Regression, derivatives: Derivatives) -> tuple[float, float]:
    """Return the largest rate of a first step of Adam, and how many at half of it training takes."""
    if derivatives.signed is None or derivatives.slope == 0:
        return 0.0, 0.0
    curvature = _curvature(half)[:SIGNED]
    squared = float((curvature[:, None] * derivatives.signed.square()).sum())
    possible = float((derivatives.residual[:SIGNED].square() / curvature[:, None]).sum())
    share = derivatives.slope**2 / (squared * possible)
    left = half.dynamics(found.strength).ridge(found.penalty).outputs - half.target
    ratio = float(left.square().sum() / (half.prior - half.target).square().sum())
    return 2 * derivatives.slope / squared, math.log(1 / min(ratio, 1.0)) / share


def _curvature(half: Half) -> Tensor:
    """Return h (n,); not below ``_FLAT``, where a wrong and sure answer would count without bound."""
    return ((1 - half.start.square().sum(1)) / (half.start.shape[1] - 1)).clamp(min=_FLAT)


def _shares(evidence: Evidence) -> dict[str, float]:
    """Return the part of r^T K r that each layer brings, both halves together."""
    found: dict[str, float] = {}
    for half, derivatives in zip(evidence.halves, evidence.derivatives, strict=True):
        residual = half.target - half.start
        for layer, K in derivatives.kernels.items():
            found[layer] = found.get(layer, 0.0) + float((residual * (K @ residual)).sum())
    total = sum(found.values())
    order = sorted(found, key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    return {layer: found[layer] / total if total > 0 else 0.0 for layer in order}


def _note(evidence: Evidence) -> str:
    if all(float(half.kernel.trace()) <= 0 for half in evidence.halves):
        return "no output depends on what it trains at the start, so its kernel is zero and its row is the head's"
    return ""


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def interval(correct: Tensor) -> Interval:
    """Return the share of ones with its Wilson interval."""
    return wilson(float(correct.sum()), len(correct))
