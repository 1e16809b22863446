"""Rows of the tangent kernel: its networks against autograd, and what wrong kernels do to the outcomes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dtheta.reproduce.experiments.wide import Network
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import ntk


def _outputs(network: Network, x: Tensor) -> tuple[tuple[Tensor, ...], Any]:
    weights, biases = network.nn()

    def outputs(*theta: Tensor) -> Tensor:
        half = len(theta) // 2
        a = x
        for layer, (W, b) in enumerate(zip(theta[:half], theta[half:], strict=True)):
            z = a @ W.mT / W.shape[1] ** 0.5 + network.beta * b
            a = z if layer == half - 1 else z.relu()
        return a[:, 0]

    return (*weights, *biases), outputs


def test_the_wide_network_has_the_kernel_and_the_steps_of_autograd() -> None:
    network = Network(2, 32, 4, 0.1, 0)
    x, y = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), torch.linspace(-1, 1, 6)
    for _ in range(3):
        theta, outputs = _outputs(network, x)
        jacobian = torch.func.jacrev(outputs, argnums=tuple(range(len(theta))))(*theta)
        J = torch.cat([part.flatten(1) for part in jacobian], 1).double()
        assert torch.allclose(network.kernel(x), J @ J.mT, rtol=1e-4, atol=1e-6)
        f = network.descend(x, y, 0.5)
        assert torch.allclose(f, outputs(*theta), atol=1e-5)
        moved = [
            p - 0.5 * (part.flatten(1).T @ (f - y)).view_as(p) / 6 for p, part in zip(theta, jacobian, strict=True)
        ]
        assert torch.allclose(network(x), outputs(*moved), atol=1e-5)


def test_a_component_decays_at_the_rate_of_its_eigenvalue_in_the_limit() -> None:
    times = torch.arange(300) * 10.0
    course = ntk.Course(0, 10.0, times, 0.5 * torch.exp(-0.002 * times), times)
    assert math.isclose(course.speed(0.001), 2.0, rel_tol=1e-3)
    x = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    K = ntk.infinite(x, 5)
    pca = ntk.kernel_pca(K, 3)
    value = float(pca.values[1])
    assert math.isclose(ntk.limit_speed(K, pca, 0.01 / value, 3 / value), 1.0, rel_tol=0.02)


def test_the_kernel_of_a_pretrained_model_is_that_of_autograd(
    minilm_tokenizer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert ntk.jacobian_error(examples=2) < 1e-5
    right = ntk.tangent_kernel
    monkeypatch.setattr(ntk, "tangent_kernel", lambda *args, **kwargs: 1.01 * right(*args, **kwargs))
    assert ntk.jacobian_error(examples=2) > 1e-3


def _planted(good: bool) -> Any:
    """Return stand-ins for all runs: what the theory says, or its opposite."""

    def kept(self: Lab, experiment: str, setting: str, seed: int, make: Any) -> dict[str, Any]:
        jitter = 1 + 0.01 * math.sin(seed)
        widths = [int(width) for width in setting.strip("()").split(",")] if experiment == "rate" else []
        wide = setting in ("width 1000", "width 3000", "width 5000")
        return {
            "errors": [width**-0.5 if good else 1.0 for width in widths],
            "moved": jitter * (0.1 if wide == good else 0.5), "inside": 0.8 * jitter if good else 0.5 * jitter,
            "speed": jitter * (1.1 if wide == good else 1.8) if good or wide else 0.9 * jitter,
            "error": 1e-7 if good else 1.0,
        }  # fmt: skip

    return kept


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("good", [True, False])
def test_outcomes_follow_the_runs(good: bool, fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(ntk, "digits", lambda count: (x, torch.zeros(16)))
    monkeypatch.setattr(ntk, "limit_speed", lambda *_: 1.0)
    monkeypatch.setattr(Lab, "run", _planted(good))
    outcomes = {row.claim.name: row.outcome for row in ntk.rows(Lab("ntk", fast=fast))}
    assert outcomes.pop("the limit") == "holds"
    assert outcomes.pop("eigenvalues on digits") == "does not hold"  # these are no digits
    assert set(outcomes.values()) == {"holds" if good else "does not hold"}
