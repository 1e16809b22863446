"""One bit an entry."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.errors import FormatError, NonFinite
from dtheta.federate.codecs import Sign
from dtheta.federate.frame import Frame
from dtheta.federate.payload import HEADER, Payload, sealed
from tests.unit.federate.codecs.examples import CAP, delta, dense, travelled

FRAME = Frame.of(delta())


def test_signs_arrive_with_the_mean_magnitude_of_every_parameter():
    found = travelled(Sign(), delta(), FRAME)
    for name, values in dense(delta()).items():
        if values.numel():
            expected = torch.where(values >= 0, 1.0, -1.0).double() * values.abs().mean().float().double()
            torch.testing.assert_close(found[name].dense().double(), expected, rtol=1e-7, atol=0)


def test_zero_counts_as_plus():
    sent = Delta({"a": Dense(torch.tensor([0.0, -0.0, -3.0]))})
    assert travelled(Sign(), sent, Frame.of(sent))["a"].dense().tolist() == [1.0, 1.0, -1.0]


def test_one_bit_an_entry():
    data = Sign().encode(delta(), FRAME).data
    assert len(data) == HEADER + 4 * len(FRAME.shapes) + (FRAME.numel + 7) // 8


def test_bits_behind_the_last_entry_are_refused():
    sent = Delta({"a": Dense(torch.ones(3))})
    frame = Frame.of(sent)
    body = bytearray(Sign().encode(sent, frame).data[HEADER:])
    assert body[-1] == 0b111
    body[-1] = 0b1111
    with pytest.raises(FormatError, match="behind its last entry"):
        Sign().decode(Payload(sealed(0x50, frame, bytes(body)), 0), frame, cap=CAP)


def test_a_scale_that_float32_cannot_hold_is_refused():
    sent = Delta({"a": Dense(torch.full((3,), 1e300, dtype=torch.float64))})
    with pytest.raises(NonFinite):
        Sign().encode(sent, Frame.of(sent))
