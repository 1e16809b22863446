"""Lagged ensembles: members are the forecasts of earlier starts, valid at the same time."""

from __future__ import annotations

import pytest
import torch

from dtheta.data.flows.lorenz96 import Lorenz96
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.lagged import Lagged
from dtheta.ensemble.members import Member
from dtheta.errors import ConfigError

FLOW = Lorenz96()
ANALYSES = FLOW.run(FLOW.spin_up(1)[0], 4) + 0.1 * torch.randn(5, 40, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rows", [1, 3, 16])
def test_a_member_is_the_forecast_of_an_earlier_start(rows: int) -> None:
    found = dict(Ensemble(FLOW.step, 5, perturbation=Lagged(4), rows=rows).run(ANALYSES[-1], 6, past=ANALYSES[:-1]))
    for lag in range(5):
        assert torch.equal(found[6][lag], FLOW.run(ANALYSES[-1 - lag], 6 + lag)[-1])


def test_any_lag_is_replayed_alone() -> None:
    whole = Ensemble(FLOW.step, 5, perturbation=Lagged(4))
    expected = dict(whole.run(ANALYSES[-1], 2, past=ANALYSES[:-1]))[2][3]
    assert torch.equal(dict(whole.replay(3, ANALYSES[-1], 2, past=ANALYSES[:-1]))[2], expected)


def test_vectors_are_the_differences_to_the_analysis() -> None:
    x = next(Ensemble(FLOW.step, 2, perturbation=Lagged(1)).run(ANALYSES[-1], [0], past=ANALYSES[3:4]))[1]
    assert torch.equal(x[0], ANALYSES[-1]) and torch.equal(x[1], FLOW.step(ANALYSES[3]))


def test_members_that_are_no_lag_are_refused() -> None:
    for member in (Member(0, 5), Member(0, 1, -1)):
        with pytest.raises(ConfigError, match="draws 0 to 4, the lags"):
            next(Ensemble(FLOW.step, [member], perturbation=Lagged(4)).run(ANALYSES[-1], 1, past=ANALYSES[:-1]))
    with pytest.raises(ConfigError, match="lags is 0"):
        Lagged(0)
