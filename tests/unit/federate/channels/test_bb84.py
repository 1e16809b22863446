"""BB84 by single photons: sifting, the listener's errors, detection and key."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.core.seeds import generator
from dtheta.federate.channels.bb84 import (
    binary_entropy,
    detection_probability,
    exchange,
    key_fraction,
    qubits_for_key,
    tapped_error,
)


def _within(count: int, of: int, probability: float, sigmas: float = 3.0) -> bool:
    return abs(count - of * probability) <= sigmas * math.sqrt(of * probability * (1 - probability)) + 1e-9


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_interception_leaves_a_quarter_of_its_share_as_errors(share):
    seen = exchange(200_000, 0.6, 0.0, share, generator(0, f"share {share}"))
    assert _within(seen.arrived, seen.sent, 0.6)
    assert _within(seen.checked, seen.arrived, 0.5)
    assert _within(seen.errors, seen.checked, share / 4)


@pytest.mark.parametrize(("share", "error"), [(0.0, 0.05), (0.4, 0.05), (1.0, 0.1)])
def test_the_channels_own_errors_add(share, error):
    seen = exchange(200_000, 1.0, error, share, generator(1, f"{share} {error}"))
    # wrong by one flip, not by two
    expected = error * (1 - share / 4) + (1 - error) * share / 4
    assert tapped_error(share, error) == pytest.approx(expected)
    assert _within(seen.errors, seen.checked, expected)


def test_detection_curve_is_that_of_repeated_exchanges():
    share, qubits, runs = 0.3, 40, 2000
    found = sum(exchange(qubits, 1.0, 0.0, share, generator(i, "curve")).errors > 0 for i in range(runs))
    # the number of compared bits is binomial: the curve's mean over it
    mean = sum(math.comb(qubits, m) / 2**qubits * detection_probability(share, m) for m in range(qubits + 1))
    assert _within(found, runs, mean)


def test_detection_at_full_interception():
    assert detection_probability(1.0, 17) == pytest.approx(1 - 0.75**17)
    assert 0.992 < detection_probability(1.0, 17) < 0.993
    assert detection_probability(0.0, 1000) == 0 and detection_probability(0.5, 0) == 0


def test_pieces_are_joined(monkeypatch):
    monkeypatch.setattr("dtheta.federate.channels.bb84._PIECE", 1000)
    seen = exchange(2500, 1.0, 0.0, 1.0, generator(0, "pieces"))
    assert seen.sent == seen.arrived == 2500 and _within(seen.errors, seen.checked, 0.25)
    assert exchange(0, 1.0, 0.0, 1.0, generator(0, "none")).checked == 0


def test_same_key_same_bits():
    once, again = (exchange(1000, 0.5, 0.02, 0.1, generator(7, "x")) for _ in range(2))
    assert once == again


def test_entropy_and_key_fraction():
    assert binary_entropy(0.5) == 1 and binary_entropy(0.0) == binary_entropy(1.0) == 0
    assert binary_entropy(0.11) == pytest.approx(0.49992, abs=1e-5)
    assert key_fraction(0.0) == 1
    assert key_fraction(0.02) == pytest.approx(1 - 2.16 * binary_entropy(0.02))
    assert abs(key_fraction(0.11, efficiency=1.0)) < 2e-4  # 1 - 2 h(Q) is zero at 11 %
    assert key_fraction(0.12) == 0 == key_fraction(0.9)


def test_qubits_are_counted_from_sifting():
    assert qubits_for_key(1000, 1.0, 1.0) == 2000
    assert qubits_for_key(1000, 0.5, 0.1) == 40_000
    assert qubits_for_key(0, 0.5, 0.1) == 0


def test_without_draws_from_the_global_generator():
    state = torch.get_rng_state()
    exchange(100, 0.5, 0.1, 0.5, generator(0, "x"))
    assert torch.equal(state, torch.get_rng_state())
