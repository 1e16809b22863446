"""The largest entries as they are."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, FormatError, NonFinite
from dtheta.federate.codecs import TopK
from dtheta.federate.frame import Frame
from dtheta.federate.payload import HEADER, Payload, sealed
from tests.unit.federate.codecs.examples import CAP, delta, draw, flat, travelled

FRAME = Frame.of(delta())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_largest_entries_arrive_and_the_others_are_zero(dtype):
    line = flat(delta(), FRAME)
    k = int(0.1 * FRAME.numel + 0.5)
    largest = line.abs().topk(k).indices
    expected = torch.zeros_like(line)
    expected[largest] = line[largest].to(getattr(torch, dtype)).double()
    torch.testing.assert_close(flat(travelled(TopK(0.1, dtype), delta(), FRAME), FRAME), expected, rtol=1e-7, atol=0)


def test_a_density_of_one_sends_everything():
    assert torch.equal(flat(travelled(TopK(1.0), delta(), FRAME), FRAME), flat(delta(), FRAME).float().double())


def test_numbers_come_on_top_of_the_code():
    sent = Delta({"a": Dense(draw(300, 100))})
    wide, narrow = (TopK(0.01, dtype).encode(sent, Frame.of(sent)).bits for dtype in ("float32", "float16"))
    assert wide - narrow == 300 * 16
    entropy = 0.0908 * 30_000  # at 1 %
    assert narrow - 300 * 16 < 1.01 * entropy + 8 * (HEADER + 8 + 36)


def test_a_number_too_large_for_float16_is_refused():
    sent = Delta({"a": Dense(torch.tensor([1e5, 1.0]))})
    with pytest.raises(NonFinite, match=r"a: .* too large for float16"):
        TopK(1.0, "float16").encode(sent, Frame.of(sent))


@pytest.mark.parametrize("length", [0, 3, 1 << 40, (1 << 64) - 1])
def test_a_wrong_length_of_the_code_is_refused(length):
    body = TopK().encode(delta(), FRAME).data[HEADER + 8 :]
    with pytest.raises(FormatError):
        TopK().decode(Payload(sealed(0x40, FRAME, length.to_bytes(8, "little") + body), 0), FRAME, cap=CAP)


def test_fields_are_checked():
    with pytest.raises(ConfigError, match="density"):
        TopK(-1.0)
    with pytest.raises(ConfigError, match="dtype"):
        TopK(0.1, "int8")  # type: ignore[arg-type]
