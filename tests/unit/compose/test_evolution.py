"""Evolution: functions with a known minimum, bounds, budget, draws that come from the seed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dtheta.compose.evolution import minimize
from tests.unit.compose.examples import normal

Vector = NDArray[np.float64]


def rotated(n: int) -> NDArray[np.float64]:
    return np.linalg.qr(normal(n, n, name="rotation").double().numpy())[0]


def sphere(x: Vector) -> float:
    return float(((x - 0.3) ** 2).sum())


def ellipsoid(x: Vector) -> float:
    """Condition 1e4, axes turned."""
    z = rotated(x.size) @ (x - 0.3)
    return float((np.logspace(0, 4, x.size) * z**2).sum())


def valley(x: Vector) -> float:
    """Rosenbrock's, minimum at ones."""
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


@pytest.mark.parametrize(
    ("function", "n", "evaluations", "goal"),
    [(sphere, 1, 100, 0.3), (sphere, 20, 2500, 0.3), (ellipsoid, 6, 2000, 0.3), (valley, 4, 3000, 1.0)],
)
def test_finds_known_minima(function: object, n: int, evaluations: int, goal: float) -> None:
    found = minimize(function, np.zeros(n), 0.3, evaluations, 1, 3.0)  # type: ignore[arg-type]
    assert np.abs(found.point - goal).max() < 1e-3
    assert found.value == function(found.point)  # type: ignore[operator]


def test_every_draw_comes_from_the_seed() -> None:
    runs = [minimize(ellipsoid, np.zeros(5), 0.3, 200, seed, 1.5) for seed in (3, 3, 4)]
    assert np.array_equal(runs[0].point, runs[1].point) and runs[0].generations == runs[1].generations
    assert not np.array_equal(runs[0].point, runs[2].point)


def test_bounds_budget_and_record() -> None:
    seen: list[Vector] = []

    def function(x: Vector) -> float:
        seen.append(x)
        return float((x - 5).sum() ** 2)

    found = minimize(function, np.zeros(3), 0.5, 101, 0, 1.5)
    assert len(seen) == found.evaluations == 101 and max(np.abs(x).max() for x in seen) == 1.5
    assert np.array_equal(found.point, np.full(3, 1.5))
    values = [function(x) for x in list(seen)]
    assert found.value == min(values) == found.generations[-1] and found.generations[0] == values[0]
    assert list(found.generations) == sorted(found.generations, reverse=True)
    assert found.generations[found.best] == found.value < found.generations[found.best - 1]


def test_the_start_counts() -> None:
    found = minimize(lambda x: float((x**2).sum()), np.zeros(4), 0.3, 60, 0, 1.5)
    assert found.best == 0 and not found.point.any()
    assert minimize(sphere, np.zeros(2), 0.3, 1, 0, 1.5).evaluations == 1
