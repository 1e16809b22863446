"""The Gaussian limit, against many finite wide networks that are trained, and against its own closed forms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, ShapeMismatch
from dtheta.kernels.dynamics import kernel_dynamics
from dtheta.kernels.gaussian_limit import gaussian_limit
from dtheta.kernels.infinite import Relu, fully_connected, infinite_kernel
from tests.unit.kernels.reference_kernels import features, normal

BETA = 0.1
X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8], [0.6, 0.8], [-1.0, 0.0]], dtype=torch.float64)  # 3 train, 2 new
Y = torch.tensor([0.5, -0.5, 1.0], dtype=torch.float64)


def kernels() -> tuple[Tensor, Tensor]:
    """NNGP and tangent kernel of one hidden layer of rectifiers."""
    both = infinite_kernel(fully_connected(depth=2, activation=Relu(), b_std=BETA), X, get="both")
    return both.nngp, both.ntk


def trained_networks(count: int, width: int, steps: int, rate: float) -> Tensor:
    """Outputs (count, 5) of networks of one hidden layer, in NTK parametrization, trained on |f - y|^2 / (2 N)."""
    draw = generator(0, "networks")
    shapes = (count, 2, width), (count, 1, width), (count, width, 1), (count, 1, 1)
    theta = [torch.randn(shape, generator=draw).requires_grad_() for shape in shapes]

    def outputs() -> Tensor:
        W1, b1, W2, b2 = theta
        hidden = torch.relu(X.float() @ W1 / 2**0.5 + BETA * b1)
        return (hidden @ W2 / width**0.5 + BETA * b2)[..., 0]

    for _ in range(steps):
        loss = (outputs()[:, :3] - Y.float()).square().sum() / (2 * 3)
        for parameter, gradient in zip(theta, torch.autograd.grad(loss, theta), strict=True):
            parameter.data -= rate * gradient
    return outputs().detach().double()


@pytest.mark.parametrize("steps", [0, 60])
def test_wide_networks_are_distributed_as_it_says(steps: int) -> None:
    count, rate = 1000, 0.25
    outputs = trained_networks(count, 256, steps, rate)[:, 3:]
    limit = gaussian_limit(*kernels(), Y, steps * rate)
    error = limit.deviation / count**0.5
    assert bool(((outputs.mean(0) - limit.mean[:, 0]).abs() < 4 * error).all())
    torch.testing.assert_close(outputs.T.cov(), limit.covariance, rtol=0.15, atol=0.01)
    untrained = gaussian_limit(*kernels(), Y, 0.0)
    assert steps == 0 or float(untrained.covariance.trace()) > 2 * float(outputs.T.cov().trace())  # training mattered


def test_at_time_zero_it_is_the_untrained_network() -> None:
    nngp, ntk = kernels()
    limit = gaussian_limit(nngp, ntk, Y, 0.0)
    torch.testing.assert_close(limit.covariance, nngp[3:, 3:])
    assert float(limit.mean.abs().max()) == 0


def test_at_infinity_it_is_the_formula_of_the_paper() -> None:
    nngp, ntk = kernels()
    A = ntk[3:, :3] @ torch.linalg.inv(ntk[:3, :3])
    limit = gaussian_limit(nngp, ntk, Y)
    torch.testing.assert_close(limit.mean[:, 0], A @ Y)
    cross = A @ nngp[:3, 3:]
    torch.testing.assert_close(limit.covariance, nngp[3:, 3:] + A @ nngp[:3, :3] @ A.mT - cross - cross.mT)


def test_its_mean_is_the_flow_from_zero_and_new_points_that_are_known_become_certain() -> None:
    J = features(9, 1, 12)[:, 0]
    joint, y = torch.cat([J, J[:2]]) @ torch.cat([J, J[:2]]).mT, normal(9, 2, name="y")
    for time in (0.7, 40.0):
        limit = gaussian_limit(joint, joint, y, time, average="examples")
        torch.testing.assert_close(
            limit.mean, kernel_dynamics(joint[:9, :9], y, average="examples").flow(time).outputs[:2]
        )
    end = gaussian_limit(joint, joint, y)
    torch.testing.assert_close(end.mean, y[:2], rtol=1e-6, atol=1e-6)
    assert float(end.deviation.max()) < 1e-4


def test_samples_have_its_moments_and_depend_on_the_seed_alone() -> None:
    limit = gaussian_limit(*kernels(), torch.stack([Y, -Y], 1), 2.0)
    draws = limit.sample(20_000, seed=3)
    assert draws.shape == (20_000, 2, 2)
    torch.testing.assert_close(draws.mean(0), limit.mean, rtol=0, atol=0.03)
    for o in range(2):
        torch.testing.assert_close(draws[..., o].T.cov(), limit.covariance, rtol=0.05, atol=0.01)
    across = torch.stack([draws[:, 0, 0], draws[:, 0, 1]]).corrcoef()
    assert abs(float(across[0, 1])) < 0.03  # outputs are independent
    assert bool((limit.sample(5, seed=3) == limit.sample(5, seed=3)).all())
    assert not bool((limit.sample(5, seed=3) == limit.sample(5, seed=4)).all())


def test_what_does_not_fit_is_refused() -> None:
    nngp, ntk = kernels()
    with pytest.raises(ShapeMismatch, match="nngp and ntk"):
        gaussian_limit(nngp[:4, :4], ntk, Y)
    with pytest.raises(ConfigError, match="at least one more"):
        gaussian_limit(nngp, ntk, torch.ones(5))
    with pytest.raises(ConfigError, match="time"):
        gaussian_limit(nngp, ntk, Y, -1.0)
    with pytest.raises(ConfigError, match="count"):
        gaussian_limit(nngp, ntk, Y).sample(0)
