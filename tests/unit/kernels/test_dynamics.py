"""Training in function space: against gradient descent on the parameters of a linear model, step by step."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.kernels.dynamics import Average, KernelDynamics, kernel_dynamics
from dtheta.kernels.learning_rate import max_learning_rate
from tests.unit.kernels.reference_kernels import descend, features, full_kernel, normal

N, M, O, P = 12, 5, 3, 20
DIVISOR: dict[Average, float] = {"entries": N * O, "examples": N, "none": 1}


@pytest.fixture(scope="module")
def linear() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of a linear model at n + m points, its start there, targets, and its full kernel."""
    J = features(N + M, O, P)
    return J, normal(N + M, O, name="start"), normal(N, O, name="y"), full_kernel(J, J[:N])


def trained(linear: tuple[Tensor, ...], average: Average = "entries") -> KernelDynamics:
    _, start, y, K = linear
    return kernel_dynamics(K[:N], y, start[:N], average=average)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("average", ["entries", "examples", "none"])
@pytest.mark.parametrize("steps", [0, 1, 2, 37])
def test_descent_is_sgd_on_the_parameters(
    linear: tuple[Tensor, ...], average: Average, momentum: float, steps: int
) -> None:
    J, start, y, K = linear
    rate = 0.3 * max_learning_rate(K[:N], momentum, average=average)
    theta = descend(J[:N], y, start[:N], DIVISOR[average], rate, steps, momentum)
    model = trained(linear, average).descent(steps, rate, momentum)
    wanted = J @ theta + start
    torch.testing.assert_close(model.outputs, wanted[:N], rtol=0, atol=1e-11)
    torch.testing.assert_close(model.predict(K[N:], start[N:]), wanted[N:], rtol=0, atol=1e-11)
    loss = float((wanted[:N] - y).square().sum() / (2 * DIVISOR[average]))
    assert model.loss == pytest.approx(loss, rel=1e-10)


def test_small_steps_approach_the_flow_with_order_one(linear: tuple[Tensor, ...]) -> None:
    J, start, y, K = linear
    time = 3 * max_learning_rate(K[:N])
    flow = trained(linear).flow(time)
    errors = []
    for steps in (50, 100, 200, 400):
        theta = descend(J[:N], y, start[:N], DIVISOR["entries"], time / steps, steps)
        errors.append(float((J[N:] @ theta + start[N:] - flow.predict(K[N:], start[N:])).norm()))
    ratios = [a / b for a, b in pairwise(errors)]
    assert errors[-1] < 1e-2 * float(y.norm())
    assert all(1.9 < ratio < 2.1 for ratio in ratios), ratios


def test_a_shared_kernel_trains_every_output_alone() -> None:
    J = features(N + M, 1, P)[:, 0]
    K, y = J @ J[:N].mT, normal(N, O, name="y")
    together = kernel_dynamics(K[:N], y, average="examples").flow(7.0)
    for o in range(O):
        alone = kernel_dynamics(K[:N], y[:, o], average="examples").flow(7.0)
        torch.testing.assert_close(together.predict(K[N:])[:, [o]], alone.predict(K[N:]))
        torch.testing.assert_close(together.outputs[:, [o]], alone.outputs)


def test_a_shared_kernel_is_the_full_one_of_independent_outputs() -> None:
    J = features(N + M, 1, P)[:, 0]
    K, y = J @ J[:N].mT, normal(N, O, name="y")
    full = K[:, :, None, None] * torch.eye(O, dtype=K.dtype)
    for time in (0.0, 2.0, math.inf):
        a, b = (kernel_dynamics(kernel[:N], y).flow(time) for kernel in (K, full))
        torch.testing.assert_close(a.predict(K[N:]), b.predict(full[N:]), rtol=1e-8, atol=1e-8)


def test_components_decay_at_their_rates(linear: tuple[Tensor, ...]) -> None:
    dynamics = trained(linear)
    at_start = dynamics.coefficients()
    left = dynamics.vectors.mT @ (dynamics.target - dynamics.flow(5.0).outputs).reshape(-1, 1)
    torch.testing.assert_close(left, at_start * torch.exp(-5.0 * dynamics.rates)[:, None], rtol=1e-9, atol=1e-12)


def test_the_end_of_training_interpolates(linear: tuple[Tensor, ...]) -> None:
    J = features(N, 1, P)[:, 0]
    K, y = J @ J.mT, normal(N, name="y")
    end = kernel_dynamics(K, y).flow()
    torch.testing.assert_close(end.outputs[:, 0], y, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(end.weights[:, 0], torch.linalg.solve(K, y), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("time", [1.0, 1e6, math.inf])
def test_what_a_singular_kernel_does_not_move_stays(time: float) -> None:
    J = features(N + M, 1, 4, decay=1.0)[:, 0]  # rank 4 of 12
    K, y, start = J @ J[:N].mT, normal(N, name="y"), normal(N + M, name="start")
    model = kernel_dynamics(K[:N], y, start[:N]).flow(time)
    outside = torch.linalg.svd(J[:N]).U[:, 4:]  # no gradient there
    torch.testing.assert_close(outside.mT @ model.outputs[:, 0], outside.mT @ start[:N], rtol=0, atol=1e-12)
    assert bool(torch.isfinite(model.weights).all())
    if math.isinf(time):
        theta = torch.linalg.lstsq(J[:N], y - start[:N], driver="gelsd").solution
        wanted = J[N:] @ theta + start[N:]
        torch.testing.assert_close(model.predict(K[N:], start[N:])[:, 0], wanted, rtol=1e-9, atol=1e-9)


def test_a_kernel_of_zero_moves_nothing() -> None:
    y = normal(4, name="y")
    dynamics = kernel_dynamics(torch.zeros(4, 4), y)
    for model in (
        dynamics.flow(3.0),
        dynamics.flow(),
        dynamics.descent(5, 1.0),
        dynamics.ridge(1.0),
        dynamics.ridge(0),
    ):
        assert float(model.outputs.abs().max()) == 0
        assert bool(torch.isfinite(model.weights).all())
        assert float(model.predict(torch.zeros(2, 4)).abs().max()) == 0


def test_ridge_solves_its_normal_equations(linear: tuple[Tensor, ...]) -> None:
    _, start, y, K = linear
    model = trained(linear).ridge(0.1)
    matrix = K[:N].permute(0, 2, 1, 3).reshape(N * O, N * O) + 0.1 * torch.eye(N * O, dtype=torch.float64)
    weights = torch.linalg.solve(matrix, (y - start[:N]).reshape(-1))
    rest = K[N:].permute(0, 2, 1, 3).reshape(M * O, N * O)  # the kernel is singular: its null vectors do nothing here
    torch.testing.assert_close(model.predict(K[N:]), (rest @ weights).reshape(M, O))
    torch.testing.assert_close(model.outputs - start[:N], y - start[:N] - 0.1 * weights.reshape(N, O))
    assert float(model.weights.norm()) < float(weights.norm())


@pytest.mark.parametrize("penalty", [1e-4, 1e-12, 1e-30, 0.0])
def test_ridge_predicts_as_its_parameters_do_however_small_the_penalty(
    linear: tuple[Tensor, ...], penalty: float
) -> None:
    J, _, y, K = linear
    rows = torch.cat([J[:N].reshape(N * O, P), math.sqrt(penalty) * torch.eye(P, dtype=torch.float64)])
    theta = torch.linalg.lstsq(rows, torch.cat([y.reshape(-1), y.new_zeros(P)])).solution
    model = kernel_dynamics(K[:N], y).ridge(penalty)
    torch.testing.assert_close(model.predict(K[N:]), J[N:] @ theta, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_largest_learning_rate_is_the_boundary(linear: tuple[Tensor, ...], momentum: float) -> None:
    J, start, y, K = linear
    bound = max_learning_rate(K[:N], momentum)
    for factor, diverges in ((0.98, False), (1.02, True)):
        theta = descend(J[:N], y, start[:N], DIVISOR["entries"], factor * bound, 800, momentum)
        assert (float(theta.norm()) > 1e6) is diverges
        closed = trained(linear).descent(800, factor * bound, momentum)
        assert (float(closed.outputs.norm()) > 1e6) is diverges


def test_descent_of_a_million_steps_is_the_end_of_the_flow(linear: tuple[Tensor, ...]) -> None:
    _, _, _, K = linear
    rate = max_learning_rate(K[:N]) / 2
    far, end = trained(linear).descent(10**6, rate), trained(linear).flow(10**6 * rate)
    torch.testing.assert_close(far.outputs, end.outputs, rtol=1e-7, atol=1e-7)


def test_steps_that_overflow_are_refused(linear: tuple[Tensor, ...]) -> None:
    with pytest.raises(NonFinite, match="max_learning_rate"):
        trained(linear).descent(10**5, 3 * max_learning_rate(linear[3][:N]))


def test_torchs_mse_loss_is_twice_ours(linear: tuple[Tensor, ...]) -> None:
    J, start, y, K = linear
    theta = torch.zeros(P, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.mse_loss(J[:N] @ theta + start[:N], y).backward()
    assert theta.grad is not None
    moved = J[N:] @ (-0.5 * 0.1 * theta.grad) + start[N:]  # half of the rate
    torch.testing.assert_close(trained(linear).descent(1, 0.1).predict(K[N:], start[N:]), moved)


def test_max_learning_rate_counts_outputs_and_the_average() -> None:
    K = torch.diag(torch.tensor([4.0, 1.0]))
    assert max_learning_rate(K) == pytest.approx(2 * 2 / 4)
    assert max_learning_rate(K, 0.5, outputs=10) == pytest.approx(2 * 1.5 * 20 / 4)
    assert max_learning_rate(K, average="none") == pytest.approx(2 / 4)
    full = K[:, :, None, None] * torch.eye(3)
    assert max_learning_rate(full) == pytest.approx(max_learning_rate(K, outputs=3))
    assert max_learning_rate(torch.zeros(2, 2)) == math.inf
    with pytest.raises(ConfigError, match="semi-definite"):
        max_learning_rate(-torch.eye(500))
    with pytest.raises(ConfigError, match="outputs"):
        max_learning_rate(full, outputs=2)


def test_float32_kernels_are_taken_within_their_rounding() -> None:
    J = features(60, 1, 30, decay=2)[:, 0].float()  # rank 30: half of the eigenvalues are rounding, some below 0
    K, y = J @ J.mT, normal(60, name="y")
    dynamics = kernel_dynamics(K, y)
    assert int((dynamics.values > 0).sum()) == 30
    assert float(dynamics.values.min()) == 0
    exact = kernel_dynamics(J.double() @ J.double().mT, y)
    torch.testing.assert_close(dynamics.flow(20.0).outputs, exact.flow(20.0).outputs, rtol=0, atol=1e-4)


def test_bad_kernels_and_targets_are_refused() -> None:
    J = features(6, 1, 8)[:, 0]
    K, y = J @ J.mT, normal(6, name="y")
    broken = K.clone()
    broken[2, 3] = math.nan
    with pytest.raises(NonFinite, match=r"\(2, 3\)"):
        kernel_dynamics(broken, y)
    askew = K.clone()
    askew[0, 1] += 0.1
    with pytest.raises(ConfigError, match="not symmetric"):
        kernel_dynamics(askew, y)
    with pytest.raises(ConfigError, match="semi-definite: entry"):
        kernel_dynamics(K - K.trace() * torch.eye(6), y)
    correlations = torch.full((6, 6), -0.5) + 1.5 * torch.eye(6)  # no two points contradict it, all of them do
    with pytest.raises(ConfigError, match=r"smallest eigenvalue is -1\.5"):
        kernel_dynamics(correlations, y)
    with pytest.raises(ShapeMismatch, match="themselves"):
        kernel_dynamics(K[:4], y)
    with pytest.raises(ShapeMismatch, match="y has shape"):
        kernel_dynamics(K, y[:4])
    with pytest.raises(ShapeMismatch, match="start has shape"):
        kernel_dynamics(K, y, normal(6, 2))
    with pytest.raises(NonFinite, match="y holds"):
        kernel_dynamics(K, y / 0)
    with pytest.raises(ConfigError, match="average"):
        kernel_dynamics(K, y, average="mean")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ShapeMismatch, match="real numbers"):
        kernel_dynamics(torch.zeros(3, 3, 2, 4), torch.zeros(3, 2))
    with pytest.raises(ShapeMismatch, match="real numbers"):
        kernel_dynamics(torch.zeros(0, 0), torch.zeros(0))


def test_bad_times_rates_and_new_points_are_refused(linear: tuple[Tensor, ...]) -> None:
    dynamics = trained(linear)
    K, start = linear[3], linear[1]
    for wrong in (-1.0, -math.inf):
        with pytest.raises((ConfigError, NonFinite), match="time"):
            dynamics.flow(wrong)
    with pytest.raises(NonFinite, match="time"):
        dynamics.flow(math.nan)
    for arguments in ((-1, 0.1), (1, 0.0), (1.5, 0.1), (1, 0.1, 1.0), (1, 0.1, -0.1)):
        with pytest.raises(ConfigError):
            dynamics.descent(*arguments)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="penalty"):
        dynamics.ridge(-1.0)
    with pytest.raises(ShapeMismatch, match="new points"):
        dynamics.flow(1.0).predict(K[N:, :, 0, 0])  # one output where all are coupled
    with pytest.raises(ShapeMismatch, match="new points"):
        dynamics.flow(1.0).predict(K[N:, :3])
    with pytest.raises(ShapeMismatch, match="start"):
        dynamics.flow(1.0).predict(K[N:], start[:2])
    shared = kernel_dynamics(K[:N, :, 0, 0], normal(N, O, name="y"))
    with pytest.raises(ShapeMismatch, match="new points"):
        shared.flow(1.0).predict(K[N:])
