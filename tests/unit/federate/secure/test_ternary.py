"""From deltas to ternary integers on a common support and back."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, NonFinite, ShapeMismatch
from dtheta.federate.frame import Frame
from dtheta.federate.secure import Secure, secure_sum, typical_scale


def _delta(seed: int = 0) -> Delta:
    draws = generator(seed, "ternary")
    return Delta(
        {
            "a": Dense(torch.randn(4, 3, generator=draws)),
            "b": LowRank(torch.randn(5, 2, generator=draws), torch.randn(2, 6, generator=draws)),
            "p": New(torch.randn(7, generator=draws)),
        }
    )


FRAME = Frame.of(_delta())


def _flat(delta: Delta) -> torch.Tensor:
    return torch.cat([delta[name].dense().flatten().double() for name in FRAME.shapes])


@pytest.mark.parametrize(("density", "count"), [(1.0, 49), (0.5, 25), (0.001, 1)])
def test_the_support_is_the_same_for_all_and_another_each_round(density, count):
    secure = Secure(1.0, density)
    found = secure.support(FRAME, 3, 5)
    assert len(found) == count == secure.count(FRAME) and (found.diff() > 0).all() and 0 <= found[0] <= found[-1] < 49
    assert torch.equal(found, secure.support(FRAME, 3, 5))
    if count == 25:
        assert not torch.equal(found, secure.support(FRAME, 3, 6)) and not torch.equal(
            found, secure.support(FRAME, 4, 5)
        )


def test_every_entry_has_its_turn():
    secure = Secure(1.0, 0.2)
    hits = torch.zeros(49)
    for r in range(500):
        hits[secure.support(FRAME, 0, r)] += 1
    assert ((hits - 500 * 10 / 49).abs() < 5 * math.sqrt(500 * 10 / 49)).all()


def test_nearest_rounds_at_half_a_scale():
    secure, delta = Secure(1.3, 0.6), _delta()
    support = secure.support(FRAME, 0, 0)
    found = secure.quantize(delta, FRAME, support, seed=0, key="x")
    entries = _flat(delta)[support]
    assert found.dtype == torch.int32
    assert found.tolist() == [0 if abs(e) <= 0.65 else (1 if e > 0 else -1) for e in entries.tolist()]


def test_stochastic_rounding_has_no_bias_up_to_the_scale():
    secure, delta = Secure(2.0, 1.0, rounding="stochastic"), _delta()
    support = secure.support(FRAME, 0, 0)
    runs = torch.stack([secure.quantize(delta, FRAME, support, seed=0, key=str(i)) for i in range(2000)]).double()
    entries = _flat(delta)
    expected = (entries / 2).clamp(-1, 1)
    assert ((runs.mean(0) - expected).abs() <= 5 * runs.std(0) / math.sqrt(2000) + 1e-12).all()
    again = secure.quantize(delta, FRAME, support, seed=0, key="7")
    assert torch.equal(again.double(), runs[7])


def test_integers_become_a_delta_of_the_frame():
    secure = Secure(0.25, 0.5)
    support = secure.support(FRAME, 0, 0)
    integers = torch.arange(len(support), dtype=torch.int32) - 12
    found = secure.dequantize(integers, FRAME, support)
    plain = torch.zeros(49, dtype=torch.float64)
    plain[support] = 0.25 * integers.double()
    assert torch.equal(_flat(found), plain) and found["p"].is_new and found.base == FRAME.base
    FRAME.require(found)


def test_the_secure_mean_is_the_mean_of_what_each_client_sent():
    secure, deltas = Secure(1.1, 0.7), [_delta(seed) for seed in range(5)]
    support = secure.support(FRAME, 0, 2)
    vectors = {str(i): secure.quantize(d, FRAME, support, seed=0, key=str(i)) for i, d in enumerate(deltas)}
    found = secure_sum(vectors, 3, drops={"2": "masked"})
    mean = secure.dequantize(found.total, FRAME, support) / len(found.included)
    own = [_flat(secure.dequantize(vectors[name], FRAME, support)) for name in found.included]
    torch.testing.assert_close(_flat(mean), torch.stack(own).mean(0), rtol=1e-6, atol=1e-7)


def test_what_was_not_sent_is_left_for_later():
    secure, delta = Secure(1.0, 0.4), _delta()
    support = secure.support(FRAME, 0, 0)
    sent = secure.dequantize(secure.quantize(delta, FRAME, support, seed=0, key="x"), FRAME, support)
    only = Delta({n: c for n, c in delta.changes.items() if n != "p"})  # a new vector has no remainder of its own form
    residual = only - sent.restrict("a|b")
    for name in ("a", "b"):
        torch.testing.assert_close((residual[name] + sent[name]).dense(), delta[name].dense())


def test_a_zero_delta_and_one_of_fewer_parameters():
    secure = Secure(1.0, 1.0)
    support = secure.support(FRAME, 0, 0)
    zero = Delta({"a": Dense(torch.zeros(4, 3))})
    assert not secure.quantize(zero, FRAME, support, seed=0, key="x").any()
    part = secure.quantize(Delta({"a": Dense(torch.full((4, 3), -2.0))}), FRAME, support, seed=0, key="x")
    assert part.tolist() == [-1] * 12 + [0] * 37


def test_nobody_adds_more_than_the_bound():
    secure = Secure(0.3, 0.5)
    support = secure.support(FRAME, 0, 0)
    sent = secure.dequantize(secure.quantize(1e6 * _delta(), FRAME, support, seed=0, key="x"), FRAME, support)
    assert sent.norm() == pytest.approx(secure.bound(FRAME)) and secure.bound(FRAME) == pytest.approx(0.3 * 5)


def test_typical_scale_is_the_mean_of_the_largest():
    support = torch.arange(49)
    magnitudes = _flat(_delta()).abs().sort(descending=True).values
    assert typical_scale(_delta(), FRAME, support, 0.2) == pytest.approx(float(magnitudes[:10].mean()))


def test_what_cannot_be_is_refused():
    secure = Secure(1.0, 0.5)
    support = secure.support(FRAME, 0, 0)
    with pytest.raises(NonFinite):
        secure.quantize(Delta({"a": Dense(torch.full((4, 3), math.nan))}), FRAME, support, seed=0, key="x")
    with pytest.raises(ShapeMismatch):
        secure.dequantize(torch.zeros(3, dtype=torch.int32), FRAME, support)


@pytest.mark.parametrize(
    "fields",
    [{"scale": 0.0}, {"density": 0.0}, {"density": 1.5}, {"threshold": 1}, {"rounding": "up"}, {"scale": "1"}],
)
def test_settings_that_cannot_be_meant_are_refused(fields):
    with pytest.raises(ConfigError):
        Secure(**{"scale": 1.0, **fields})
