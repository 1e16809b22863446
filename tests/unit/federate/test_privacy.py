"""Differential privacy: clipping, noise, sampling and accounting."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, MissingExtra, NonFinite, UnknownParameter
from dtheta.federate.frame import Frame
from dtheta.federate.privacy import Privacy, normal, sampled


def _draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed, "privacy"))


def _delta(seed: int = 0) -> Delta:
    return Delta(
        {"a": Dense(_draw(4, 3, seed=seed)), "b": LowRank(_draw(5, 2, seed=seed), _draw(2, 6, seed=seed + 99))}
    )


def _with_new(seed: int = 0) -> Delta:
    return Delta({"a": Dense(_draw(4, 3, seed=seed)), "prompt": New(_draw(50, 7, seed=seed))})


# ----------------------------------------------------------------------------------------------- clipping


@pytest.mark.parametrize("make", [_delta, _with_new])
@pytest.mark.parametrize("clip", [1e-30, 0.1, 1.0, 2.5])
def test_no_norm_exceeds_the_clip(make, clip):
    for seed in range(20):
        found = Privacy(clip, 1.0).clipped(make(seed))
        assert clip * (1 - 1e-6) <= found.norm() <= clip
        assert found.cosine(make(seed)) == pytest.approx(1, abs=1e-6)


def test_a_short_delta_stays_itself_and_factors_stay_factors():
    delta = _delta()
    assert Privacy(100.0, 1.0).clipped(delta) is delta
    clipped = Privacy(0.5, 1.0).clipped(delta)
    assert clipped["b"].rank == 2 and clipped.base == delta.base
    factor = 0.5 / delta.norm()
    torch.testing.assert_close(clipped["b"].dense(), factor * delta["b"].dense())


def test_a_delta_without_a_norm_is_refused():
    with pytest.raises(NonFinite):
        Privacy(1.0, 1.0).clipped(Delta({"a": Dense(torch.tensor([math.inf]))}))


# ----------------------------------------------------------------------------------------------- mean


def test_without_noise_it_is_the_sum_of_clipped_deltas_over_the_expected_number():
    deltas, privacy = [_delta(seed) for seed in range(3)], Privacy(1.0, 0.0)
    found = privacy.mean(deltas, 4.0, Frame.of(deltas[0]), seed=0, round=1)
    for name in ("a", "b"):
        plain = sum(privacy.clipped(delta)[name].dense().double() for delta in deltas) / 4
        torch.testing.assert_close(found[name].dense().double(), plain, rtol=1e-6, atol=1e-7)


def test_one_client_moves_the_mean_by_at_most_the_clip_over_the_expected_number():
    deltas, privacy = [_delta(seed) for seed in range(4)], Privacy(0.7, 1.3)
    frame = Frame.of(deltas[0])
    whole, less = (privacy.mean(d, 2.5, frame, seed=3, round=8) for d in (deltas, deltas[:-1]))
    assert (whole - less).norm() <= 0.7 / 2.5 * (1 + 1e-5)


def test_the_noise_has_its_size_and_is_keyed():
    frame = Frame({"a": (100, 200), "prompt": (10, 10)}, frozenset({"prompt"}))
    privacy = Privacy(2.0, 1.5)
    none = [privacy.mean([], 6.0, frame, seed=s, round=r) for s, r in ((0, 0), (0, 0), (0, 1), (1, 0))]
    values = torch.cat([change.dense().flatten() for change in none[0].changes.values()]).double()
    std = 1.5 * 2.0 / 6.0
    assert privacy.std(6.0) == std
    assert abs(float(values.mean())) < 4 * std / math.sqrt(len(values))
    assert abs(float(values.std()) / std - 1) < 4 / math.sqrt(2 * len(values))
    assert none[0] == none[1] != none[2] and none[0] != none[3]
    assert none[0]["prompt"].is_new and none[0].base == frame.base


def test_parameters_that_nobody_moved_get_noise_too():
    frame = Frame.of(_delta())
    found = Privacy(1.0, 1.0).mean([_delta().restrict("a")], 1.0, frame, seed=0, round=0)
    assert set(found) == {"a", "b"} and found["b"].norm() > 0


def test_the_system_draws_anew_each_time_and_normally():
    privacy = Privacy(1.0, 1.0, draws="system")
    frame = Frame({"a": (300, 300)})
    one, other = (privacy.mean([], 1.0, frame, seed=0, round=0)["a"].dense().double().flatten() for _ in range(2))
    assert not torch.equal(one, other)
    assert abs(float(one @ other)) / len(one) < 0.03
    assert privacy.seed(5) is None and Privacy(1.0, 1.0).seed(5) == 5
    found = normal(100_001, None, "unused").sort().values
    uniform = torch.special.ndtr(found)
    steps = torch.arange(1, len(found) + 1) / len(found)
    assert float((uniform - steps).abs().max()) < 2.2 / math.sqrt(len(found))  # Kolmogorov-Smirnov, p about 1e-4


def test_pieces_of_system_noise_are_joined(monkeypatch):
    monkeypatch.setattr("dtheta.federate.privacy._PIECE", 8)
    assert normal(21, None, "").shape == (21,) and normal(0, None, "").shape == (0,)


def test_a_foreign_delta_is_refused():
    with pytest.raises(UnknownParameter):
        Privacy(1.0, 1.0).mean([_with_new()], 1.0, Frame.of(_delta()), seed=0, round=0)


# ----------------------------------------------------------------------------------------------- sampling


def test_each_client_is_drawn_on_its_own():
    names = [f"c{i}" for i in range(40)]
    rounds = [sampled(names, 0.3, 0, r) for r in range(400)]
    number = torch.tensor([len(found) for found in rounds], dtype=torch.float64)
    assert abs(float(number.mean()) - 12) < 4 * math.sqrt(40 * 0.21 / 400)
    assert abs(float(number.var()) / (40 * 0.21) - 1) < 0.35  # binomial: a fixed number would have variance 0
    assert sampled(names[5:9], 0.3, 0, 7) == [name for name in rounds[7] if name in names[5:9]]
    assert rounds[0] == sampled(names, 0.3, 0, 0) != sampled(names, 0.3, 1, 0)


def test_ends_of_the_share():
    names = ["a", "b"]
    assert sampled(names, 1.0, 0, 0) == names and sampled(names, 0.0, 0, 0) == [] and sampled([], 0.5, 0, 0) == []
    assert sampled(names, 1.0, None, 0) == names
    with pytest.raises(ConfigError):
        sampled(names, 1.1, 0, 0)


def test_the_system_samples_with_the_share():
    found = len(sampled([str(i) for i in range(4000)], 0.25, None, 0))
    assert abs(found - 1000) < 5 * math.sqrt(4000 * 0.25 * 0.75)


# ----------------------------------------------------------------------------------------------- accounting


def _plain_epsilon(noise: float, sample: float, rounds: int, delta: float) -> float:
    """Renyi divergence of whole orders by its binomial sum (Mironov, Talwar and Zhang 2019, equation 31)."""
    best = math.inf
    for order in range(2, 256):
        logs = [
            math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
            + k * math.log(sample) + (order - k) * math.log1p(-sample) + (k * k - k) / (2 * noise**2)
            for k in range(order + 1)
        ]  # fmt: skip
        top = max(logs)
        renyi = rounds * (top + math.log(math.fsum(math.exp(x - top) for x in logs))) / (order - 1)
        # Balle et al. 2020, as the accountant has it
        best = min(best, renyi + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))
    return best


@pytest.mark.parametrize(
    ("noise", "sample", "rounds"), [(4.0, 0.01, 10_000), (1.1, 0.1, 100), (0.4, 0.02, 300), (2.0, 0.5, 40)]
)
def test_epsilon_is_the_least_over_orders(noise, sample, rounds, caplog):
    found = Privacy(1.0, noise).epsilon(rounds, sample)
    assert not caplog.records
    assert found == pytest.approx(_plain_epsilon(noise, sample, rounds, 1e-5), rel=1e-6)


def test_epsilon_is_below_the_published_value():
    # Abadi et al. 2016 (arXiv 1607.00133): sigma 4, q 0.01, 10,000 steps, delta 1e-5 spend 1.26
    assert 0.9 < Privacy(1.0, 4.0).epsilon(10_000, 0.01) < 1.26


def test_epsilon_grows_with_rounds_and_share_and_falls_with_noise():
    spent = Privacy(1.0, 1.0).epsilon(20, 0.25)
    assert Privacy(5.0, 1.0).epsilon(20, 0.25) == spent  # the clip sets the scale alone
    assert Privacy(1.0, 1.0).epsilon(40, 0.25) > spent < Privacy(1.0, 1.0).epsilon(20, 0.5)
    assert Privacy(1.0, 2.0).epsilon(20, 0.25) < spent < Privacy(1.0, 1.0, 1e-7).epsilon(20, 0.25)


def test_ends_of_accounting():
    assert Privacy(1.0, 0.0).epsilon(1, 0.5) == math.inf
    assert Privacy(1.0, 0.0).epsilon(0, 0.5) == 0 == Privacy(1.0, 1.0).epsilon(5, 0.0)


def test_noise_for_an_epsilon():
    found = Privacy.for_epsilon(2.0, 0.5, 20, 0.25, draws="system")
    assert found.clip == 0.5 and found.draws == "system"
    assert found.epsilon(20, 0.25) <= 2.0 < Privacy(0.5, found.noise * 0.999).epsilon(20, 0.25)


def test_without_the_accountant_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting.rdp", None)
    with pytest.raises(MissingExtra, match=r"dtheta\[privacy\]"):
        Privacy(1.0, 1.0).epsilon(1, 0.5)


@pytest.mark.parametrize(
    "fields",
    [
        {"clip": 0.0, "noise": 1.0},
        {"clip": 1.0, "noise": -1.0},
        {"clip": 1.0, "noise": 1.0, "delta": 0.0},
        {"clip": 1.0, "noise": 1.0, "delta": 1.0},
        {"clip": "1", "noise": 1.0},
        {"clip": 1.0, "noise": 1.0, "draws": "random"},
    ],
)
def test_what_cannot_be_meant_is_refused(fields):
    with pytest.raises(ConfigError):
        Privacy(**fields)


def test_arguments_of_accounting_and_mean():
    privacy = Privacy(1.0, 1.0)
    for bad in (lambda: privacy.epsilon(-1, 0.5), lambda: privacy.epsilon(1, 2.0), lambda: privacy.std(0)):
        with pytest.raises(ConfigError):
            bad()
    with pytest.raises(ConfigError):
        Privacy.for_epsilon(0.0, 1.0, 1, 0.5)
