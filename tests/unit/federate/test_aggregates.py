"""Aggregates and server optimizers against plain formulas, and robust aggregates against attackers on real data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dtheta.adapt.full import Full
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.errors import ConfigError
from dtheta.federate.client import Client
from dtheta.federate.federate import federate
from dtheta.federate.frame import Frame
from dtheta.federate.partition import iid
from dtheta.federate.server.adaptive import FedAdagrad, FedAdam, FedYogi
from dtheta.federate.server.aggregate import Mean, NormClip
from dtheta.federate.server.coordinatewise import Median, TrimmedMean
from dtheta.federate.server.krum import Krum
from dtheta.federate.server.optimizer import FedAvg, FedAvgM
from dtheta.federate.server.server import Server
from dtheta.federate.total import moved, weighted
from tests.unit.federate.parties import Flips, Scales

FRAME = Frame({"w": (6, 5), "b": (6,)})


def _delta(seed: int, scale: float = 1.0, factored: bool = False) -> Delta:
    draws = torch.Generator().manual_seed(seed)
    w = scale * torch.randn(6, 5, generator=draws)
    left, right = scale * torch.randn(6, 1, generator=draws), torch.randn(1, 5, generator=draws)
    b = Dense(scale * torch.randn(6, generator=draws))
    return Delta({"w": LowRank(left, right) if factored else Dense(w), "b": b})


def _stack(deltas: list[Delta], name: str) -> torch.Tensor:
    return torch.stack(
        [d[name].dense().double() if name in d else torch.zeros(FRAME.shapes[name]).double() for d in deltas]
    )


def _close(found: Delta, name: str, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found[name].dense().double(), wanted, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("factored", [False, True])
def test_the_mean_is_weighted_by_examples(factored):
    deltas, examples = [_delta(i, factored=factored) for i in range(3)], [10, 20, 70]
    weights = torch.tensor(examples).double() / 100
    for name in FRAME.shapes:
        stacked = _stack(deltas, name)
        _close(Mean().join(deltas, examples, FRAME), name, torch.einsum("k...,k->...", stacked, weights))
        _close(Mean(weighted=False).join(deltas, examples, FRAME), name, stacked.mean(0))


@pytest.mark.parametrize("count", [5, 6])
def test_median_and_trimmed_mean_are_those_of_numpy(count):
    deltas = [_delta(i) for i in range(count)]
    deltas[1] = deltas[1].restrict("w")  # what is left out counts as zero
    for name in FRAME.shapes:
        stacked = _stack(deltas, name).numpy()
        _close(Median().join(deltas, [1] * count, FRAME), name, torch.from_numpy(np.median(stacked, 0)))
        kept = np.sort(stacked, 0)[1:-1]
        _close(TrimmedMean(0.2).join(deltas, [1] * count, FRAME), name, torch.from_numpy(kept.mean(0)))


@pytest.mark.parametrize(("share", "least"), [(0.0, 1), (0.2, 5), (0.1, 10), (1 / 3, 3), (0.29, 4), (0.49, 3)])
def test_a_trimmed_mean_takes_as_many_answers_as_it_cuts_one_of(share, least):
    aggregate = TrimmedMean(share)
    assert aggregate.least == least
    values = torch.arange(least, dtype=torch.float64).square()[:, None]
    assert (float(aggregate.middle(values)) == float(values.mean())) is (share == 0)


def test_a_share_that_floats_round_down_cuts_what_it_says():
    values = torch.arange(100, dtype=torch.float64).square()[:, None]  # .29 x 100 is 28.999...
    assert float(TrimmedMean(0.29).middle(values)) == pytest.approx(float(values[29:71].mean()), rel=1e-12)


@pytest.mark.parametrize("factored", [False, True])
def test_krum_scores_are_sums_of_the_nearest_squared_distances(factored):
    deltas = [_delta(i, factored=factored) for i in range(7)]
    flat = torch.stack([torch.cat([_stack(deltas, n)[k].flatten() for n in FRAME.shapes]) for k in range(7)])
    distances = torch.cdist(flat, flat).square().sort(1).values[:, 1:]
    scores = Krum(bad=2).scores(deltas)
    torch.testing.assert_close(scores, distances[:, :3].sum(1), rtol=1e-6, atol=1e-6)
    best = scores.argsort()
    one, three = (Krum(bad=2, keep=k).join(deltas, [1] * 7, FRAME) for k in (1, 3))
    _close(one, "w", _stack(deltas, "w")[best[0]])
    _close(three, "w", _stack(deltas, "w")[best[:3]].mean(0))
    assert Krum(bad=2).least == 7 and Krum(bad=1, keep=9).least == 9


def test_norm_clipping_shortens_what_is_longer():
    deltas = [_delta(0), _delta(1, 100.0), _delta(2)]
    norms = [d.norm() for d in deltas]
    found = NormClip().join(deltas, [1, 1, 1], FRAME)
    median = sorted(norms)[1]
    _close(found, "w", sum(min(1, median / n) * _stack([d], "w")[0] for d, n in zip(deltas, norms, strict=True)) / 3)
    assert NormClip(limit=0.5).join(deltas, [1, 1, 1], FRAME).norm() <= 0.5
    assert NormClip(inner=Krum(bad=1)).least == 5
    assert NormClip(inner=Krum(bad=1)).to_dict()["inner"] == {"name": "Krum", "bad": 1, "keep": 1}


def _written(optimizer, D, m, v):
    if isinstance(optimizer, FedAdagrad):
        v = v + D**2
    elif isinstance(optimizer, FedYogi):
        v = v - (1 - optimizer.beta2) * D**2 * torch.sign(v - D**2)
    else:
        v = optimizer.beta2 * v + (1 - optimizer.beta2) * D**2
    m = optimizer.beta1 * m + (1 - optimizer.beta1) * D
    return optimizer.lr * m / (v.sqrt() + optimizer.tau), m, v


@pytest.mark.parametrize("optimizer", [FedAdam(), FedYogi(lr=0.1), FedAdagrad(tau=0.1)], ids=repr)
def test_adaptive_steps_are_those_of_the_paper(optimizer):
    state, plain = (
        {},
        {n: (torch.zeros(s).double(), torch.full(s, optimizer.tau**2).double()) for n, s in FRAME.shapes.items()},
    )
    for round in range(4):
        delta = _delta(round)
        update, state = optimizer.step(delta, state, FRAME)
        for name in FRAME.shapes:
            wanted, m, v = _written(optimizer, delta[name].dense().double(), *plain[name])
            plain[name] = m, v
            _close(update, name, wanted)


def test_momentum_keeps_factors_as_long_as_they_are_smaller():
    state, m = {}, torch.zeros(6, 5).double()
    for round in range(3):
        delta = _delta(round, factored=True)
        update, state = FedAvgM(lr=0.5, momentum=0.9).step(delta, state, FRAME)
        m = 0.9 * m + delta["w"].dense().double()
        _close(update, "w", 0.5 * m)
        assert (update["w"].rank == round + 1) == (round < 2)  # of a 6 x 5 matrix, factors of rank 3 are larger


def test_sums_become_dense_where_factors_are_no_smaller():
    total = _delta(0, factored=True)
    for seed in range(1, 6):
        total = moved(total, _delta(seed, factored=True), FRAME)
    assert isinstance(total["w"], Dense) and weighted([_delta(0, factored=True)], [2.0], FRAME)["w"].rank == 1
    wanted = _stack([_delta(s, factored=True) for s in range(6)], "w").sum(0)
    torch.testing.assert_close(total["w"].dense().double(), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FedAvg(lr=0.0), lambda: FedAvgM(momentum=1.0), lambda: FedAdam(tau=0.0), lambda: FedAdam(beta2=1.0),
        lambda: TrimmedMean(0.5), lambda: Krum(bad=-1), lambda: Krum(bad=1, keep=0), lambda: NormClip(limit=0.0),
        lambda: FedAvg(lr="1"), lambda: Server(nn.Linear(2, 2), Full(), optimizer="FedAvg"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(make):
    with pytest.raises(ConfigError):
        make()


class Digits(nn.Module):
    """A linear classifier of 64 pixels, at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 10)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x):
        return self.layer(x)


def _loss(net, batch):
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


@pytest.fixture(scope="module")
def digits():
    datasets = pytest.importorskip("sklearn.datasets")
    found = datasets.load_digits()
    x, y = torch.tensor(found.data, dtype=torch.float32) / 16, torch.tensor(found.target)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    return x[order], y[order]


def _accuracy(digits, aggregate, attacker=None, bad=2):
    x, y = digits
    net, parts = Digits(), iid(1400, 9, seed=0)
    kinds = [attacker if attacker and k < bad else Client for k in range(9)]
    parties = [
        kind(f"c{k}", net, [(x[p], y[p])], Full(), steps=5, lr=0.1, loss=_loss)
        for k, (kind, p) in enumerate(zip(kinds, parts, strict=True))
    ]

    def accuracy(held):
        with torch.no_grad():
            return float((held(x[1400:]).argmax(1) == y[1400:]).float().mean())

    found = federate(Server(net, Full(), aggregate=aggregate), parties, rounds=3, evaluate=accuracy, evaluate_every=3)
    assert not any(row.excluded for row in found.history)
    return found.scores["score"]


ROBUST = [Median(), TrimmedMean(0.25), Krum(bad=2), Krum(bad=2, keep=5)]


def test_without_attackers_all_aggregates_learn(digits):
    for aggregate in (Mean(), Median(), Krum(bad=2)):
        assert _accuracy(digits, aggregate) > 0.85, aggregate


def test_liars_break_the_mean_and_not_the_robust_aggregates(digits):
    assert _accuracy(digits, Mean(), Scales) < 0.3
    for aggregate in ROBUST:
        assert _accuracy(digits, aggregate, Scales) > 0.85, aggregate
    for aggregate in (Median(), Krum(bad=2)):
        assert _accuracy(digits, aggregate, Flips) > 0.85, aggregate
    assert _accuracy(digits, NormClip(), Scales) > 0.8


def test_a_majority_of_flippers_breaks_the_mean_too(digits):
    assert _accuracy(digits, Mean(), Flips, bad=5) < 0.3
