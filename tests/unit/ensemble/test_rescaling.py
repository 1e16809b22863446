"""Rescaling: the size that was asked for, where it was asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dtheta.core.sphere import Grid
from dtheta.ensemble.rescaling import GlobalRescaling, GroupRescaling, HemisphericRescaling, VariableRescaling
from dtheta.errors import ConfigError, ShapeMismatch

GRID = Grid(24, 48)
AREA = GRID.area_HW(torch.float64)
X = torch.randn(3, 2, 24, 48, dtype=torch.float64) * torch.linspace(0.1, 3, 24, dtype=torch.float64)[:, None]
AMPLITUDE = torch.tensor([2.0, 5.0], dtype=torch.float64)[:, None, None]


def test_each_channel_has_its_amplitude_in_the_area_mean() -> None:
    found = VariableRescaling(GRID)(X, AMPLITUDE)
    assert torch.allclose((found.square() * AREA).mean((2, 3)).sqrt(), AMPLITUDE[:, 0, 0].expand(3, -1))
    assert torch.allclose(found / found.norm(dim=(2, 3), keepdim=True), X / X.norm(dim=(2, 3), keepdim=True))


def test_a_vector_is_one_channel() -> None:
    found = VariableRescaling()(torch.randn(4, 40), torch.tensor(0.3))
    assert torch.allclose(found.square().mean(1).sqrt(), torch.full((4,), 0.3))


def test_one_factor_keeps_the_shape_of_the_whole() -> None:
    found = GlobalRescaling(GRID)(X, AMPLITUDE)
    assert torch.allclose((found / X).flatten(1).std(1), torch.zeros(3, dtype=torch.float64), atol=1e-12)
    relative = found / AMPLITUDE
    assert torch.allclose((relative.square() * AREA).mean((1, 2, 3)), torch.ones(3, dtype=torch.float64))
    first = GlobalRescaling(GRID, channels=[0])(X, AMPLITUDE)
    assert torch.allclose((first[:, 0].square() * AREA).mean((1, 2)).sqrt(), torch.full((3,), 2.0, dtype=torch.float64))


def test_what_has_no_amplitude_does_not_count_for_one_factor() -> None:
    found = GlobalRescaling()(X, AMPLITUDE * torch.tensor([0.0, 1.0])[:, None, None])
    assert not found[:, 0].any()
    assert torch.allclose(found[:, 1].square().mean((1, 2)).sqrt(), torch.full((3,), 5.0, dtype=torch.float64))


def test_groups_have_their_amplitude() -> None:
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    found = GroupRescaling(labels)(torch.randn(4, 6), torch.tensor([1.0, 1, 2, 3, 3, 3]))
    for group, amplitude in enumerate((1.0, 2.0, 3.0)):
        assert torch.allclose(found[:, labels == group].square().mean(1).sqrt(), torch.full((4,), amplitude))
    with pytest.raises(ShapeMismatch, match="a label an element"):
        GroupRescaling(labels)(torch.randn(4, 5), torch.tensor(1.0))


def test_hemispheres_are_rescaled_as_written_out() -> None:
    """Row by row in plain loops, with the root mean square of each cap and the line between them."""
    found = HemisphericRescaling(GRID, tropics=20)(X, AMPLITUDE)
    latitudes, weights = np.asarray(GRID.latitudes), np.asarray(GRID.weights)
    for b in range(3):
        for c in range(2):
            rms = {}
            for name, rows in (("north", latitudes >= 20), ("south", latitudes <= -20)):
                squares = X[b, c].numpy()[rows] ** 2
                rms[name] = np.sqrt((squares.mean(1) * weights[rows]).sum() / weights[rows].sum())
            for row, latitude in enumerate(latitudes):
                share = min(max((latitude + 20) / 40, 0), 1)
                size = share * rms["north"] + (1 - share) * rms["south"]
                expected = X[b, c, row] * float(AMPLITUDE[c]) / size
                assert torch.allclose(found[b, c, row], expected)


def test_caps_have_exactly_the_amplitude() -> None:
    found = HemisphericRescaling(GRID)(X, AMPLITUDE)
    north = torch.from_numpy(GRID.latitudes.copy()) >= 20
    cap = (found.square() * AREA)[:, :, north].sum((2, 3)) / AREA[north].sum()
    assert torch.allclose(cap.sqrt(), AMPLITUDE[:, 0, 0].expand(3, -1))


def test_zero_stays_zero() -> None:
    zero = torch.zeros(1, 2, 24, 48, dtype=torch.float64)
    for rescaling in (VariableRescaling(GRID), GlobalRescaling(GRID), HemisphericRescaling(GRID)):
        assert not rescaling(zero, AMPLITUDE).any()


def test_caps_without_a_row_are_refused() -> None:
    with pytest.raises(ConfigError, match="northernmost row"):
        HemisphericRescaling(GRID, tropics=89)
    with pytest.raises(ShapeMismatch, match="a state"):
        HemisphericRescaling(GRID)(X[..., :10], AMPLITUDE)


def test_a_state_of_one_number_does_not_depend_on_the_other_rows() -> None:
    vectors, amplitude = torch.tensor([0.1, -3.0, 20.0]), torch.tensor(2.0)
    for rescaling in (VariableRescaling(), GlobalRescaling()):
        assert torch.equal(rescaling(vectors, amplitude), torch.tensor([2.0, -2.0, 2.0]))


@pytest.mark.parametrize("labels", [torch.zeros(4), torch.tensor([0, -1]), torch.tensor([True, False])])
def test_labels_that_are_no_whole_numbers_from_0_on_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="expected whole numbers"):
        GroupRescaling(labels)


def test_one_factor_weighs_by_area_what_has_an_amplitude() -> None:
    grid = Grid(6, 12)
    amplitude = torch.zeros(6, 1)
    amplitude[2:4] = 3.0  # rows about the equator, which are larger than those at the poles
    found = GlobalRescaling(grid)(torch.randn(4, 6, 12), amplitude)
    area = grid.area_HW(torch.float32)[2:4]
    relative = (found[:, 2:4] / 3.0).square()
    assert torch.allclose((relative * area).sum((1, 2)) / area.sum(), torch.ones(4), atol=1e-5)
