"""Perturbed parameters: what is drawn, that the base is not written to, and the posterior of the last layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dtheta.core.apply import merge
from dtheta.core.extract import extract
from dtheta.core.fingerprint import fingerprint
from dtheta.ensemble.ensemble import Ensemble
from dtheta.ensemble.laplace import LastLayerLaplace
from dtheta.ensemble.members import Member, cross
from dtheta.ensemble.parameters import ParameterPerturbation, SingularValueShifts, TaskVectorCoefficients
from dtheta.errors import BaseMismatch, ConfigError, ShapeMismatch, UnknownParameter, UnsupportedLayer


class Network(nn.Module):
    """A residual step of 6 variables."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        draws = torch.Generator().manual_seed(seed)
        self.inner, self.outer = nn.Linear(6, 12), nn.Linear(12, 6)
        for parameter in self.parameters():
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=draws)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.1 * self.outer(torch.tanh(self.inner(x)))


BASE = Network()
STATE = torch.randn(6, generator=torch.Generator().manual_seed(1))
STATES = [torch.randn(32, 6, generator=torch.Generator().manual_seed(i)) for i in range(4)]
PERTURBATIONS = [
    SingularValueShifts(0.1, "*"),
    SingularValueShifts(0.1, "outer", rank=2),
    TaskVectorCoefficients([extract(BASE, Network(1)), extract(BASE, Network(2), rank=2)], 0.2),
    LastLayerLaplace("outer", STATES, noise=0.1),
]


def run(perturbation: ParameterPerturbation, members: Any = 5, **settings: Any) -> Tensor:
    found = Ensemble(BASE, members, parameters=perturbation, **settings)
    return torch.stack([x for _, x in found.run(STATE, 2)])


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda p: p.to_dict()["name"])
def test_members_are_the_base_with_the_delta_that_is_drawn(perturbation: ParameterPerturbation) -> None:
    before = fingerprint(BASE)
    found, draw = run(perturbation), perturbation.sampler(BASE)
    for i in range(5):
        network = merge(BASE, draw(0, i))
        with torch.no_grad():
            expected = network(network(STATE[None]))[0]
        assert torch.allclose(found[2, i], expected, atol=1e-6)
    assert fingerprint(BASE) == before
    assert len({tuple(row.tolist()) for row in found[1]}) == 5
    assert not torch.equal(run(perturbation, seed=1), found)


@pytest.mark.parametrize("perturbation", PERTURBATIONS, ids=lambda p: p.to_dict()["name"])
def test_stacked_draws_have_the_same_bits_alone_and_together(perturbation: ParameterPerturbation) -> None:
    found = run(perturbation, 10, stack=4)
    assert torch.allclose(found, run(perturbation, 10), atol=1e-6)
    ensemble = Ensemble(BASE, 10, parameters=perturbation, stack=4)
    for i in (0, 5, 9):
        assert torch.equal(torch.stack([x for _, x in ensemble.replay(i, STATE, 2)]), found[:, i])
    assert torch.equal(run(perturbation, 3, stack=4), found[:, :3])


def test_singular_values_move_and_directions_stay() -> None:
    draw = SingularValueShifts(0.05, "outer").sampler(BASE)
    U, S, Vh = torch.linalg.svd(BASE.outer.weight.detach().double(), full_matrices=False)
    shifts = torch.stack([U.T @ draw(0, i)["outer.weight"].dense().double() @ Vh.T for i in range(400)])
    diagonal = shifts.diagonal(dim1=1, dim2=2)
    assert float((shifts - torch.diag_embed(diagonal)).abs().max()) < 1e-6
    assert torch.allclose((diagonal / S).std(0), torch.full((6,), 0.05, dtype=torch.float64), rtol=0.15)


def test_coefficients_are_normal_about_their_mean() -> None:
    deltas = [extract(BASE, Network(1)), extract(BASE, Network(2))]
    draw = TaskVectorCoefficients(deltas, scale=0.2, mean=0.5).sampler(BASE)
    found = torch.tensor([draw(0, i).provenance.settings["coefficients"] for i in range(500)])
    assert torch.allclose(found.mean(0), torch.full((2,), 0.5), atol=0.04)
    assert torch.allclose(found.std(0), torch.full((2,), 0.2), rtol=0.1)
    moved = draw(0, 3)["inner.bias"].dense()
    expected = sum(
        c * (Network(s).inner.bias - BASE.inner.bias) for c, s in zip(found[3].tolist(), (1, 2), strict=True)
    )
    assert torch.allclose(moved, expected, atol=1e-6)


def test_the_posterior_of_the_last_layer_has_the_covariance_of_the_formula() -> None:
    noise = torch.linspace(0.1, 0.6, 6)
    draw = LastLayerLaplace("outer", STATES, noise, prior=2.0, temperature=1.5).sampler(BASE)
    with torch.no_grad():
        phi = torch.tanh(BASE.inner(torch.cat(STATES)))
    phi = torch.cat((phi, torch.ones(128, 1)), 1).double()
    drawn = [draw(0, i) for i in range(4000)]
    rows = torch.stack(
        [torch.cat((d["outer.weight"].dense()[4], d["outer.bias"].dense()[4:5])) for d in drawn]
    ).double()
    expected = 1.5 * torch.linalg.inv(phi.T @ phi / float(noise[4]) ** 2 + 2.0 * torch.eye(13, dtype=torch.float64))
    assert torch.allclose(torch.cov(rows.T), expected, atol=0.06 * float(expected.diagonal().max()))
    assert float(rows.mean(0).abs().max()) < 4 * float(expected.diagonal().max() / 4000) ** 0.5


def test_a_convolution_of_one_point_is_a_last_layer_too() -> None:
    base = nn.Sequential(nn.Conv2d(2, 5, 1), nn.Tanh(), nn.Conv2d(5, 2, 1))
    states = torch.randn(3, 2, 4, 6)
    linear = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 2))
    for one, other in ((0, 0), (2, 2)):
        linear[other].weight.data = base[one].weight.data[:, :, 0, 0]
        linear[other].bias.data = base[one].bias.data
    points = states.permute(0, 2, 3, 1).reshape(-1, 2)
    convolution = LastLayerLaplace("2", [states], 0.1).sampler(base)(0, 0)
    expected = LastLayerLaplace("2", [points], 0.1).sampler(linear)(0, 0)
    assert torch.allclose(convolution["2.weight"].dense()[:, :, 0, 0], expected["2.weight"].dense(), rtol=1e-4)


def test_deltas_are_parameter_sets_and_none_is_the_base() -> None:
    deltas = [None, extract(BASE, Network(1)), extract(BASE, Network(2))]
    found = Ensemble(BASE, cross(3, 2, (1,)), parameters=deltas)
    x = dict(found.run(STATE, 1))[1]
    for p, network in enumerate((BASE, Network(1), Network(2))):
        with torch.no_grad():
            assert torch.allclose(x[2 * p], network(STATE[None])[0], atol=1e-6)
    stacked = Ensemble(BASE, cross(3, 2, (1,)), parameters=deltas, stack=3)
    assert torch.allclose(dict(stacked.run(STATE, 1))[1], x, atol=1e-6)


def test_a_delta_of_another_base_is_refused() -> None:
    delta = extract(Network(1), Network(2))
    with pytest.raises(BaseMismatch, match="another base"):
        next(Ensemble(BASE, [Member()], parameters=[delta]).run(STATE, [1]))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SingularValueShifts(0), ConfigError, "positive standard deviation"),
        (lambda: TaskVectorCoefficients([]), ConfigError, "at least one delta"),
        (lambda: LastLayerLaplace("outer", STATES, 0.1, prior=0), ConfigError, "prior is 0"),
        (lambda: run(LastLayerLaplace("outre", STATES, 0.1)), UnknownParameter, "did you mean 'outer'"),
        (lambda: run(LastLayerLaplace("", STATES, 0.1)), UnsupportedLayer, "is Network; expected nn.Linear"),
        (lambda: run(LastLayerLaplace("outer", [], 0.1)), UnsupportedLayer, "called 0 times for 0 batches"),
        (lambda: run(LastLayerLaplace("outer", STATES, [0.1] * 5)), ShapeMismatch, "5 values and the layer 6 outputs"),
        (lambda: run(LastLayerLaplace("outer", STATES, -1.0)), ConfigError, "noise must be positive"),
        (lambda: Ensemble(lambda x: x, 2, parameters=SingularValueShifts()), ConfigError, "torch.nn.Module"),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
