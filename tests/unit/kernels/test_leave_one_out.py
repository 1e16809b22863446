"""Leave-one-out in closed form, against n refits: ridge regression and gradient flow, shared and full kernels."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.kernels.dynamics import Average, kernel_dynamics
from dtheta.kernels.leave_one_out import best_penalty, early_stopping_time, leave_one_out, talbot
from tests.unit.kernels.reference_kernels import features, full_kernel, normal, refits

N, O = 14, 3
PENALTIES = (0.0, 1e-6, 1e-2, 1.0, 1e3)
TIMES = (0.0, 1e-2, 1.0, 30.0, 1e4, 1e9, math.inf)


def shared_kernel(parameters: int = 40) -> Tensor:
    J = features(N, 1, parameters)[:, 0]
    return J @ J.mT


def coupled_kernel() -> Tensor:
    J = features(N, O, 80, decay=2)
    return full_kernel(J, J)


@pytest.fixture(scope="module")
def y() -> Tensor:
    return normal(N, O, name="y")


@pytest.fixture(scope="module")
def start() -> Tensor:
    return normal(N, O, name="start")


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("kernel", [shared_kernel(), coupled_kernel()], ids=["shared", "full"])
def test_ridge_equals_n_refits(kernel: Tensor, penalty: float, y: Tensor, start: Tensor) -> None:
    found = leave_one_out(kernel_dynamics(kernel, y, start), penalty=penalty)
    wanted = refits(kernel, y, start, "entries", lambda d: d.ridge(penalty))
    torch.testing.assert_close(found.predictions, wanted, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.residuals, y - wanted, rtol=1e-8, atol=1e-8)
    assert found.mse == pytest.approx(float((y - wanted).square().mean()))


@pytest.mark.parametrize("time", TIMES)
@pytest.mark.parametrize("average", ["entries", "examples", "none"])
@pytest.mark.parametrize("kernel", [shared_kernel(), coupled_kernel()], ids=["shared", "full"])
def test_flow_equals_n_refits(kernel: Tensor, average: Average, time: float, y: Tensor, start: Tensor) -> None:
    found = leave_one_out(kernel_dynamics(kernel, y, start, average=average), time=time)
    wanted = refits(kernel, y, start, average, lambda d: d.flow(time))
    torch.testing.assert_close(found.predictions, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("time", TIMES)
def test_flow_equals_n_refits_under_a_singular_kernel(time: float, y: Tensor, start: Tensor) -> None:
    kernel = shared_kernel(parameters=5)
    found = leave_one_out(kernel_dynamics(kernel, y, start), time=time)
    wanted = refits(kernel, y, start, "entries", lambda d: d.flow(time))
    torch.testing.assert_close(found.predictions, wanted, rtol=1e-8, atol=1e-8)


def test_least_norm_where_only_some_examples_reach_the_null_space(y: Tensor) -> None:
    J = features(N, 1, 40)[:, 0]
    J[1] = J[0]  # two examples are one; the null space is their difference
    kernel = J @ J.mT
    start = torch.zeros_like(y)
    found = leave_one_out(kernel_dynamics(kernel, y), penalty=0.0)
    wanted = refits(kernel, y, start, "entries", lambda d: d.ridge(0.0))
    torch.testing.assert_close(found.predictions[2:], wanted[2:], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.predictions[:2], y[:2].flip(0), rtol=1e-6, atol=1e-6)  # each predicts the other


def duplicated(full: bool, dtype: torch.dtype = torch.float64) -> Tensor:
    """Two examples that are one; in a full kernel also two outputs of another example."""
    J = features(N, O if full else 1, 80, decay=2)
    J[1] = J[0]
    if full:
        J[5, 1] = J[5, 0]
    J = J.to(dtype)
    return full_kernel(J, J) if full else J[:, 0] @ J[:, 0].mT


@pytest.mark.parametrize("penalty", [1e-2, 1e-10, 1e-13, 1e-20, 1e-300, 0.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("full", [False, True], ids=["shared", "full"])
def test_duplicates_under_small_penalties(
    full: bool, dtype: torch.dtype, penalty: float, y: Tensor, start: Tensor
) -> None:
    kernel = duplicated(full, dtype)
    found = leave_one_out(kernel_dynamics(kernel, y, start), penalty=penalty)
    wanted = refits(kernel, y, start, "entries", lambda d: d.ridge(penalty))
    torch.testing.assert_close(found.predictions, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("time", [1.0, 1e10, 1e15, 1e20, 1e300, math.inf])
@pytest.mark.parametrize("full", [False, True], ids=["shared", "full"])
def test_duplicates_after_a_long_time(full: bool, time: float, y: Tensor, start: Tensor) -> None:
    kernel = duplicated(full)
    found = leave_one_out(kernel_dynamics(kernel, y, start), time=time)
    wanted = refits(kernel, y, start, "entries", lambda d: d.flow(time))
    torch.testing.assert_close(found.predictions, wanted, rtol=1e-8, atol=1e-8)


def test_rounding_of_the_kernel_does_not_grow_as_the_penalty_falls(y: Tensor) -> None:
    noise = 1e-7 * normal(N, N, name="rounding")
    kernel = (duplicated(False) * (1 + (noise + noise.mT) / 2)).float()
    dynamics = kernel_dynamics(kernel, y)
    wanted = leave_one_out(kernel_dynamics(duplicated(False), y), penalty=0.0).predictions
    for penalty in (1e-8, 1e-12, 0.0):
        torch.testing.assert_close(leave_one_out(dynamics, penalty=penalty).predictions, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("penalty", [1.0, 1e-4, 0.0])
def test_a_large_example_reaches_little_into_the_null_space(penalty: float, y: Tensor) -> None:
    J = features(N, 1, 5)[:, 0]
    J[0] *= 1e5  # its entry in the null vectors is about 1e-5, and no rounding
    found = leave_one_out(kernel_dynamics(J @ J.mT, y), penalty=penalty)
    root = math.sqrt(penalty) * torch.eye(5, dtype=J.dtype)
    wanted = J[0] @ torch.linalg.lstsq(torch.cat([J[1:], root]), torch.cat([y[1:], torch.zeros(5, O)])).solution
    torch.testing.assert_close(found.predictions[0], wanted, rtol=1e-8, atol=1e-8)


def test_a_singular_full_kernel_is_the_limit_of_small_penalties(y: Tensor) -> None:
    J = features(N, O, 9)
    dynamics = kernel_dynamics(full_kernel(J, J), y)
    wanted = leave_one_out(dynamics, penalty=1e-9).predictions
    for request in ({"penalty": 0.0}, {"time": math.inf}):
        torch.testing.assert_close(leave_one_out(dynamics, **request).predictions, wanted, rtol=1e-5, atol=1e-5)


def test_a_kernel_of_zero_predicts_the_start(y: Tensor, start: Tensor) -> None:
    dynamics = kernel_dynamics(torch.zeros(N, N), y, start)
    for request in ({"penalty": 0.0}, {"penalty": 1.0}, {"time": 5.0}, {"time": math.inf}):
        torch.testing.assert_close(leave_one_out(dynamics, **request).predictions, start)
    with pytest.raises(ConfigError, match="zero"):
        early_stopping_time(dynamics)


@pytest.mark.parametrize("x", [0.0, 1e-6, 1e-2, 1.0, 50.0, 1e6, 1e12])
def test_the_contour_inverts_a_decay(x: float) -> None:
    z, weight = talbot(32, torch.zeros(1))
    found = float((weight * 1 / (x + z)).sum().real)  # u(p) = 1 / (x + p) at s = 1 has the inverse (1 - exp(-x)) / x
    wanted = -math.expm1(-x) / x if x else 1.0
    assert found == pytest.approx(wanted, abs=1e-12)


def test_early_stopping_finds_the_best_time_of_n_refits(y: Tensor, start: Tensor) -> None:
    kernel = shared_kernel()
    dynamics = kernel_dynamics(kernel, y, start)
    choice = early_stopping_time(dynamics)
    errors = [
        float((y - refits(kernel, y, start, "entries", lambda d, t=t: d.flow(t))).square().mean()) for t in choice.grid
    ]
    assert choice.scores == pytest.approx(errors, rel=1e-7)
    assert choice.value == choice.grid[errors.index(min(errors))]
    assert choice.score == min(choice.scores)


def test_early_stopping_knows_noise_from_signal() -> None:
    J = features(60, 1, 80)[:, 0]
    kernel, truth = J @ J.mT, J @ normal(80, name="theta")
    clean, noisy = truth, truth + 0.3 * truth.std() * normal(60, name="noise")
    times = [early_stopping_time(kernel_dynamics(kernel, target)) for target in (clean, noisy)]
    assert times[1].value < times[0].value
    assert not times[1].at_edge


def test_early_stopping_on_validation_data(y: Tensor) -> None:
    J = features(N + 6, 1, 40)[:, 0]
    K, start, new = J @ J[:N].mT, normal(N + 6, O, name="start"), normal(6, O, name="new")
    dynamics = kernel_dynamics(K[:N], y, start[:N])
    grid = (0.1, 1.0, 10.0, 100.0)
    choice = early_stopping_time(dynamics, grid, validation=(K[N:], new, start[N:]))
    errors = [float((dynamics.flow(t).predict(K[N:], start[N:]) - new).square().mean()) for t in grid]
    assert choice.scores == pytest.approx(errors)
    with pytest.raises(ShapeMismatch, match="validation"):
        early_stopping_time(dynamics, grid, validation=(K[N:], new[:2]))
    with pytest.raises(ShapeMismatch, match="parts"):
        early_stopping_time(dynamics, grid, validation=(K[N:],))  # pyright: ignore[reportArgumentType]


def test_best_penalty_by_error_rate_of_classes() -> None:
    J = features(40, 1, 60)[:, 0]
    labels = (J @ normal(60, 3, name="theta")).argmax(1)
    dynamics = kernel_dynamics(J @ J.mT, torch.nn.functional.one_hot(labels, 3).double())
    errors = lambda predictions: float((predictions.argmax(1) != labels).double().mean())  # noqa: E731
    choice = best_penalty(dynamics, score=errors)
    assert choice.score == min(choice.scores) < 0.5
    assert choice.score == errors(leave_one_out(dynamics, penalty=choice.value).predictions)
    by_square = best_penalty(dynamics, [1e-3, 1e-1, 10.0])
    assert by_square.scores == pytest.approx([leave_one_out(dynamics, penalty=p).mse for p in (1e-3, 1e-1, 10.0)])


def test_what_cannot_be_meant_is_refused(y: Tensor) -> None:
    dynamics = kernel_dynamics(shared_kernel(), y)
    with pytest.raises(ConfigError, match="one of them"):
        leave_one_out(dynamics)
    with pytest.raises(ConfigError, match="one of them"):
        leave_one_out(dynamics, penalty=1.0, time=1.0)
    with pytest.raises(ConfigError, match="penalty"):
        leave_one_out(dynamics, penalty=-1.0)
    with pytest.raises(ConfigError, match="time"):
        leave_one_out(dynamics, time=-1.0)
    with pytest.raises(ConfigError, match="one example"):
        leave_one_out(kernel_dynamics(torch.ones(1, 1), torch.ones(1)), penalty=1.0)
    with pytest.raises(ConfigError, match="no penalties"):
        best_penalty(dynamics, [])
    with pytest.raises(ConfigError, match="no times"):
        early_stopping_time(dynamics, [])
