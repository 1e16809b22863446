"""EFI: the sum over members against the integral piece by piece, its ends, and the ROC of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.score.ensemble import AUC, ROC, EFITable, Event, EventTable, efi
from dtheta.score.ensemble.efi import shares
from tests.unit.score.ensemble import plain
from tests.unit.score.ensemble.plain import drawn, scored


def climate(quantiles: int, cells: int) -> torch.Tensor:
    return drawn(quantiles, cells, seed=9).sort(dim=0).values


@pytest.mark.parametrize("quantiles", [2, 3, 11, 101])
def test_a_sum_over_members_is_the_integral(quantiles: int) -> None:
    x, q = 1.5 * drawn(9, 30) + 0.4, climate(quantiles, 30)
    expected = [plain.efi(x[:, n], q[:, n]) for n in range(30)]
    assert efi(x, q).tolist() == pytest.approx(expected, abs=1e-12)


def test_members_on_quantiles_and_equal_quantiles_count_as_the_integral_says() -> None:
    q = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 2.0, 5.0], dtype=torch.float64)[:, None]
    for members in ([0.0, 0.0, 1.0], [2.0, 5.0, 6.0], [-1.0, 0.0, 1.5], [0.0] * 3):
        x = torch.tensor(members, dtype=torch.float64)
        assert float(efi(x[:, None], q)) == pytest.approx(plain.efi(x, q[:, 0]), abs=1e-12)


def test_the_integral_by_brute_force() -> None:
    """With p = sin^2(t) the weight is gone, 2 dt is left of it, and the midpoint rule is good."""
    x, q = drawn(7, 1) + 0.5, climate(21, 1)
    t = (np.arange(200_000) + 0.5) * (math.pi / 2 / 200_000)
    p = np.sin(t) ** 2
    share = [(x[:, 0] <= q[k, 0]).double().mean().item() for k in range(21)]
    values = p - np.interp(p, np.linspace(0, 1, 21), share)
    assert float(efi(x, q)) == pytest.approx(2 / math.pi * 2 * values.mean() * math.pi / 2, abs=1e-6)


def test_the_ends_are_exact_and_a_forecast_like_the_climate_is_zero() -> None:
    q = climate(51, 4)
    assert efi(torch.full((3, 4), 99.0), q).tolist() == [1.0] * 4
    assert efi(torch.full((3, 4), -99.0), q).tolist() == [-1.0] * 4
    assert float(efi((q[1:] + q[:-1]) / 2, q).abs().max()) < 1e-12
    assert float(shares(51)[1:-1].sum().abs()) < 1e-12


def test_dtypes_mix_without_rounding_the_finer_one() -> None:
    x, q = drawn(5, 6, dtype=torch.float32), climate(11, 6)
    assert torch.equal(efi(x, q), efi(x.double(), q))


def test_its_roc_and_area_are_those_of_the_index() -> None:
    cells = 600
    signal, q = drawn(cells), climate(101, cells)
    x, y = signal + 0.5 * drawn(8, cells, seed=1), signal + 0.5 * drawn(cells, seed=2)
    edge = q[95]
    table = EFITable(Event(above="edge"), "climate", bins=200)
    given = {"references": {"edge": edge, "climate": q}}
    index = torch.floor((efi(x, q) + 1) / 2 * 200 + 1e-9).numpy()
    happened = (y > edge).numpy()
    found = scored(AUC(table), x, y, **given)
    assert found.metric == "auc_efi_above_edge"
    assert float(found.value) == pytest.approx(plain.auc(index, happened), rel=1e-12)
    assert float(found.value) == pytest.approx(plain.auc(efi(x, q).numpy(), happened), abs=2e-3)
    curve = scored(ROC(table), x, y, **given).value
    h, f = plain.hit_and_false_alarm(index, happened, 150)
    assert curve[201 - 150].tolist() == pytest.approx([f, h])


def test_a_verification_refuses_a_climate_that_is_none() -> None:
    table, x, y = EFITable(Event(above=1.0)), drawn(4, 3), drawn(3)
    with pytest.raises(ConfigError, match=r"channel 'field', start 0, lead 6: climate 'climate': quantiles must rise"):
        scored(AUC(table), x, y, references={"climate": climate(5, 3).flip(0)})
    with pytest.raises(ConfigError, match=r"reference 'climate' is \(3,\); expected quantiles first"):
        scored(AUC(table), x, y, references={"climate": y})
    with pytest.raises(ConfigError, match=r"reference 'edge' is \(4, 3\); expected one value a cell"):
        scored(AUC(EventTable(Event(above="edge"))), x, y, references={"edge": climate(4, 3)})


@pytest.mark.parametrize(
    ("x", "q", "error", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(5, 4), ShapeMismatch, "same cells"),
        (torch.zeros(2, 3), torch.zeros(1, 3), ConfigError, "at least 2 quantiles"),
        (torch.zeros(2, 1), torch.tensor([[1.0], [0.0]]), ConfigError, "must rise"),
        (torch.zeros(2, 1), torch.tensor([[1.0], [math.nan]]), NonFinite, "1 quantiles"),
        (torch.full((2, 1), math.nan), torch.tensor([[0.0], [1.0]]), NonFinite, "2 values"),
    ],
)
def test_refusals(x, q, error, message) -> None:
    with pytest.raises(error, match=message):
        efi(x, q)
