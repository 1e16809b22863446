"""The transform on a ring, against the sum that defines it and Parseval's identity."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.core.ring import RingTransform
from dtheta.errors import ShapeMismatch


@pytest.mark.parametrize("points", [7, 8, 40])
def test_power_adds_up_to_the_mean_square(points: int) -> None:
    field = torch.randn(3, points, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ring = RingTransform(points)
    power = ring.power_spectrum(ring.analyze(field))
    assert power.shape == (3, points // 2 + 1)
    torch.testing.assert_close(power.sum(-1), field.square().mean(-1))


def test_coefficients_are_those_of_the_sum() -> None:
    field = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = RingTransform(6).analyze(field)
    for l in range(4):
        turns = [complex(math.cos(a), -math.sin(a)) for a in (2 * math.pi * l * k / 6 for k in range(6))]
        plain = sum(float(field[k]) * turns[k] for k in range(6)) / 6
        assert abs(complex(found[l]) - plain) < 1e-12


def test_a_wave_has_its_power_at_its_number() -> None:
    wave = 3 * torch.cos(2 * math.pi * 2 * torch.arange(16, dtype=torch.float64) / 16)
    ring = RingTransform(16)
    power = ring.power_spectrum(ring.analyze(wave))
    assert float(power[2]) == pytest.approx(4.5) and float(power.sum()) == pytest.approx(4.5)


def test_another_number_of_points_is_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"expected \(\.\.\., 8\)"):
        RingTransform(8).analyze(torch.zeros(2, 9))
