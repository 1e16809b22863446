"""A calibrated ensemble: members and truth are draws of one distribution, so spread is error and ranks are flat."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from dtheta.data.flows.lorenz96 import Lorenz96
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.noise import WhiteNoise

FLOW = Lorenz96()
ERROR, MEMBERS, STARTS, LEADS = 0.2, 20, 60, (0, 4, 12, 20, 40, 80)


@cache
def forecasts(amplitude: float) -> tuple[Tensor, Tensor]:
    """Members (T, N, M, K) and truth (T, N, K) of N starts: analyses are the truth and an error of 0.2."""
    truth = FLOW.run(FLOW.spin_up(STARTS, seed=3), LEADS[-1])[list(LEADS)]
    errors = ERROR * torch.randn(STARTS, 40, generator=torch.Generator().manual_seed(11))
    ensemble = Ensemble(FLOW.step, MEMBERS, perturbation=WhiteNoise(amplitude))
    runs = [torch.stack([x for _, x in ensemble.run(truth[0, n] + errors[n], LEADS, time=n)]) for n in range(STARTS)]
    return torch.stack(runs, 1), truth


def spread_error(amplitude: float) -> Tensor:
    """Spread over error of the mean at each lead, with the factor of a finite ensemble; 1 is calibrated."""
    x, truth = forecasts(amplitude)
    spread = x.var(2).mean((1, 2)).sqrt()
    error = (x.mean(2) - truth).square().mean((1, 2)).sqrt()
    return spread / error * ((MEMBERS + 1) / MEMBERS) ** 0.5


def test_spread_is_error_at_every_lead() -> None:
    assert torch.allclose(spread_error(ERROR), torch.ones(len(LEADS)), atol=0.1)


def test_too_small_a_perturbation_is_seen_as_such() -> None:
    found = spread_error(ERROR / 3)
    assert bool((found[:4] < 0.6).all())
    assert float(found[-1]) == pytest.approx(1, abs=0.15)  # once errors are saturated the start is forgotten


def test_the_truth_has_every_rank_as_often() -> None:
    x, truth = forecasts(ERROR)
    for lead in (1, 2, 3):
        ranks = (x[lead] < truth[lead][:, None]).sum(1).flatten()
        share = torch.bincount(ranks, minlength=MEMBERS + 1) / len(ranks)
        assert float(share[[0, -1]].sum()) == pytest.approx(2 / (MEMBERS + 1), abs=0.035)
        assert float(share.max()) < 2 / (MEMBERS + 1)
