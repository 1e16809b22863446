"""Copies of a quantum state."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, FormatError
from dtheta.federate.codecs import Amplitude
from dtheta.federate.frame import Frame
from dtheta.federate.payload import HEADER, Payload, sealed
from tests.unit.federate.codecs.examples import CAP, delta, draw, flat, travelled

FRAME = Frame.of(delta())


def test_the_error_is_that_of_the_law():
    """E |ghat - g|^2 = (P - 1) / S |g|^2, and the mean of many readings is the gradient."""
    sent = Delta({"a": Dense(draw(3, 4)), "b": Dense(draw(5))})
    frame, shots, runs = Frame.of(sent), 50, 1500
    codec = Amplitude(shots)
    payload = codec.encode(sent, frame, seed=0, key="k")
    g = flat(sent, frame)
    found = torch.stack([flat(codec.decode(payload, frame, cap=CAP, seed=0, key=f"{i}"), frame) for i in range(runs)])
    errors = (found - g).square().sum(1) / g.square().sum()
    assert abs(float(errors.mean()) - 16 / shots) <= 4 * float(errors.std()) / runs**0.5
    assert bool(((found.mean(0) - g).abs() <= 4.5 * found.std(0) / runs**0.5 + 1e-6).all())


def test_what_travels_is_counted():
    payload = Amplitude(300).encode(delta(), FRAME, seed=0, key="k")
    each = math.ceil(math.log2(FRAME.numel)) + 1  # with the reference branch
    assert (payload.qubits, payload.copies, payload.bits) == (300 * each, 300, 8 * (HEADER + 8))
    assert len(payload.data) == HEADER + 8 + 4 * FRAME.numel  # of the simulator


def test_a_zero_delta_sends_no_state():
    payload = Amplitude(300).encode(Delta({}, FRAME.base), FRAME, seed=0, key="k")
    assert (payload.qubits, payload.copies) == (0, 0)
    assert Amplitude(300).decode(payload, FRAME, cap=CAP, seed=0, key="k").norm() == 0


def test_a_reading_is_that_of_its_seed_and_key():
    payload = Amplitude(100).encode(delta(), FRAME, seed=0, key="k")
    read = [
        Amplitude(100).decode(payload, FRAME, cap=CAP, seed=s, key=k)
        for s, k in ((0, "a"), (0, "a"), (0, "b"), (1, "a"))
    ]
    assert read[0] == read[1] and len({one.digest for one in read}) == 3


def test_fewer_copies_are_fewer_shots():
    payload = Amplitude(4000).encode(delta(), FRAME, seed=0, key="k")
    fewer = dataclasses.replace(payload, copies=10)
    g = flat(delta(), FRAME)
    errors = [
        float((flat(Amplitude(4000).decode(p, FRAME, cap=CAP, seed=0, key="k"), FRAME) - g).norm())
        for p in (payload, fewer)
    ]
    assert errors[1] > 5 * errors[0]


@pytest.mark.parametrize("copies", [None, 0, -1, 101, 1 << 60])
def test_copies_that_were_never_sent_are_refused(copies):
    payload = dataclasses.replace(Amplitude(100).encode(delta(), FRAME, seed=0, key="k"), copies=copies)
    with pytest.raises(FormatError, match="copies of a state arrived; expected 1 to 100"):
        Amplitude(100).decode(payload, FRAME, cap=CAP, seed=0, key="k")


@pytest.mark.parametrize(
    ("norm", "amplitudes"),
    [(1.0, [1.0, 1.0]), (1.0, [0.0, 0.0]), (0.0, [1.0, 0.0]), (-1.0, [1.0, 0.0]), (1e300, [1.0, 0.0])],
)
def test_what_is_no_state_is_refused(norm, amplitudes):
    frame = Frame({"a": (2,)})
    body = torch.tensor([norm], dtype=torch.float64).numpy().tobytes() + torch.tensor(amplitudes).numpy().tobytes()
    with pytest.raises(FormatError, match="a state of"):
        Amplitude(9).decode(Payload(sealed(0x70, frame, body), 0, 9, 9), frame, cap=CAP, seed=0, key="k")


def test_more_entries_than_a_state_is_read_for_are_refused():
    wide = Frame({"a": ((1 << 23) + 1,)})
    with pytest.raises(ConfigError, match="a state is read up to 8388608"):
        Amplitude().encode(Delta({}), wide, seed=0, key="k")
    with pytest.raises(FormatError, match="more than a state is read for"):
        Amplitude().decode(Payload(sealed(0x70, wide, b""), 0, 1, 1), wide, cap=CAP, seed=0, key="k")


def test_the_cap_counts_the_shots():
    payload = Amplitude(1 << 20).encode(delta(), FRAME, seed=0, key="k")
    with pytest.raises(FormatError, match="larger cap"):
        Amplitude(1 << 20).decode(payload, FRAME, cap=CAP, seed=0, key="k")


def test_one_entry_is_read_without_error():
    sent = Delta({"a": Dense(torch.tensor(-3.0))})
    assert travelled(Amplitude(5), sent, Frame.of(sent))["a"].dense().item() == -3.0


@pytest.mark.parametrize("shots", [0, 1.5, "many"])
def test_the_shots_are_checked(shots):
    with pytest.raises(ConfigError, match="shots"):
        Amplitude(shots)
