"""StepCost: how long a training step takes by the columns of a batch, fitted to timings of the user's own model.

    t(T) = a + b T + c T^2      a, b, c >= 0      a: per step, b: layers, c: attention

Shape legend: T columns of a batch, virtual tokens among them.
"""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dtheta.adapt.prompts.family import family
from dtheta.core.arguments import is_number
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError


@dataclass(frozen=True)
class StepCost:
    """Seconds of a step.

    Attributes:
        constant: a, seconds.
        linear: b, seconds a column.
        quadratic: c, seconds a column squared.
        error: Largest relative deviation from the timings it was fitted to.
    """

    constant: float
    linear: float
    quadratic: float
    error: float = 0.0

    def __post_init__(self) -> None:
        """Raise ConfigError for terms that are no time: negative, NaN or infinite ones, or zeros alone."""
        terms = (self.constant, self.linear, self.quadratic)
        if not all(is_number(t) and math.isfinite(t) and t >= 0 for t in terms) or not any(terms):
            raise ConfigError(f"a step's cost needs finite terms of 0 or more, one of them above 0; found {terms}")

    def __call__(self, columns: float) -> float:
        """Return the seconds of a step over so many columns."""
        return self.constant + self.linear * columns + self.quadratic * columns**2

    @classmethod
    def fitted(cls, timings: Mapping[int, float]) -> StepCost:
        """Return the cost of least squared relative deviation from seconds by columns.

        Raises:
            ConfigError: If there are not three different lengths, or a time is not a positive number.
        """
        if len(timings) < 3:
            raise ConfigError(
                f"a step's cost has three terms; expected timings at 3 lengths or more, found {len(timings)}"
            )
        if not all(columns > 0 and math.isfinite(t) and t > 0 for columns, t in timings.items()):
            raise ConfigError(f"columns and seconds must be positive numbers, found {dict(timings)}")
        columns = torch.tensor([float(n) for n in timings], dtype=torch.float64)
        seconds = torch.tensor(list(timings.values()), dtype=torch.float64)
        powers = torch.stack([columns**p for p in range(3)], 1) / seconds[:, None]
        best = min(
            (_fit(powers, kept) for k in (1, 2, 3) for kept in itertools.combinations(range(3), k)), key=_residual
        )
        error = float((powers @ best[0] - 1).abs().max())
        constant, linear, quadratic = (float(x) for x in best[0])
        return cls(constant, linear, quadratic, error)


def _fit(powers: torch.Tensor, kept: tuple[int, ...]) -> tuple[torch.Tensor, float]:
    """Return the terms that fit best among those kept, and what is left; infinite if one is negative."""
    scale = powers[:, kept].norm(dim=0)
    found = torch.linalg.lstsq(powers[:, kept] / scale, torch.ones(len(powers), 1, dtype=torch.float64)).solution[:, 0]
    terms = torch.zeros(3, dtype=torch.float64)
    terms[list(kept)] = found / scale
    left = float((powers @ terms - 1).square().sum())
    return terms, math.inf if bool((terms < 0).any()) else left


def _residual(fit: tuple[torch.Tensor, float]) -> float:
    return fit[1]


def step_cost(
    model: nn.Module, columns: Sequence[int] = (32, 64, 128, 256), batch_size: int = 8, repeat: int = 3
) -> StepCost:
    """Return the cost of a prompt's training step on a model, timed on this machine.

    A step is a forward and the backward pass to the input, as prompts train: no weight has a gradient. Lengths are
    timed in turns, so that a machine whose speed drifts is fair to all; the medians are fitted.

    Args:
        model: A text model of transformers, or a module that holds one. It is as it was afterwards.
        columns: Columns of a batch to time, virtual tokens included; span those that are asked for later.
        batch_size: Texts of a step.
        repeat: Rounds, after one that does not count.

    Raises:
        ConfigError: For fewer than three lengths, or longer ones than the model has positions.
        UnsupportedLayer: If the model is no text model that a prompt can enter.
    """
    found = family(model)
    limit = found.limit
    if limit is not None and columns and max(columns) > limit:
        raise ConfigError(
            f"{max(columns)} columns do not fit into the {limit} positions of {type(found.core).__name__}"
        )
    frozen = {p: p.requires_grad for p in model.parameters()}
    seconds: dict[int, list[float]] = {n: [] for n in columns}
    try:
        model.requires_grad_(False)
        for round_ in range(repeat + 1):
            for n in columns:
                taken = _seconds(_step(found, batch_size, n))
                if round_:
                    seconds[n].append(taken)
    finally:
        for p, flag in frozen.items():
            p.requires_grad_(flag)
    return StepCost.fitted({n: statistics.median(taken) for n, taken in seconds.items()})


def _step(found: Any, batch: int, columns: int) -> Callable[[], None]:
    """Return one step over drawn tokens."""
    weight = found.embedding.weight
    ids = torch.randint(weight.shape[0], (batch, columns), generator=generator(0, "step_cost", columns), device="cpu")
    x = found.embedding(ids.to(weight.device)).detach().requires_grad_()
    extra = {} if found.decoder is None else {"decoder_input_ids": ids[:, :1].to(weight.device)}

    def run() -> None:
        output = found.outer(inputs_embeds=x, **extra)
        output[0].float().square().mean().backward()

    return run


def _seconds(run: Callable[[], None]) -> float:
    """Return the wall seconds of a call, from idle to idle on an accelerator."""
    gc.collect()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    start = time.perf_counter()
    run()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter() - start
