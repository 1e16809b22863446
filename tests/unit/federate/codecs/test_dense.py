"""Every entry as a number."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.change import Dense as Displacement
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, FormatError, NonFinite
from dtheta.federate.codecs import Dense
from dtheta.federate.codecs.codec import Codec
from dtheta.federate.frame import Frame
from dtheta.federate.payload import HEADER, Payload, sealed
from tests.unit.federate.codecs.examples import CAP, delta, flat, travelled

FRAME = Frame.of(delta())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_numbers_arrive_rounded_once(dtype):
    found = travelled(Dense(dtype), delta(), FRAME)
    expected = torch.cat([change.dense().reshape(-1).to(getattr(torch, dtype)) for change in delta().changes.values()])
    assert torch.equal(flat(found, FRAME), expected.double())
    data = Dense(dtype).encode(delta(), FRAME).data
    assert len(data) == HEADER + FRAME.numel * (4 if dtype == "float32" else 2)


def test_the_bytes_are_the_numbers_in_the_order_of_the_frame_lowest_byte_first():
    sent = Delta({"b": Displacement(torch.tensor([1.0, -2.0])), "a": Displacement(torch.tensor(0.5))})
    assert Dense().encode(sent, Frame.of(sent)).data[HEADER:].hex() == "0000803f" + "000000c0" + "0000003f"
    assert Dense("bfloat16").encode(sent, Frame.of(sent)).data[HEADER:].hex() == "803f" + "00c0" + "003f"


def test_numbers_beyond_the_dtype_are_refused():
    sent = Delta({"a": Displacement(torch.tensor([1e5]))})
    with pytest.raises(NonFinite, match="a: a number is NaN, infinite, or too large for float16; send it in float32"):
        Dense("float16").encode(sent, Frame.of(sent))
    assert travelled(Dense("bfloat16"), sent, Frame.of(sent))["a"].dense().item() == 99840


@pytest.mark.parametrize(("size", "message"), [(-1, "ends early"), (1, "1 bytes more"), (4, "4 bytes more")])
def test_another_number_of_bytes_is_refused(size, message):
    body = Dense().encode(delta(), FRAME).data[HEADER:]
    body = body + bytes(size) if size > 0 else body[:size]
    with pytest.raises(FormatError, match=message):
        decode(Dense(), body)


@pytest.mark.parametrize("number", ["0000c07f", "0000807f", "000080ff"])
def test_numbers_that_are_not_finite_are_refused(number):
    body = Dense().encode(delta(), FRAME).data[HEADER:]
    with pytest.raises(FormatError, match="NaN or infinity"):
        decode(Dense(), body[:-4] + bytes.fromhex(number))


def test_the_cap_counts_the_payload_and_what_comes_of_it():
    payload = Dense("float16").encode(delta(), FRAME)
    Dense("float16").decode(payload, FRAME, cap=len(payload.data) + 5 * FRAME.numel)
    for cap in (len(payload.data) + 5 * FRAME.numel - 1, len(payload.data), len(payload.data) - 1, 0):
        with pytest.raises(FormatError, match=r"larger cap|are allowed"):
            Dense("float16").decode(payload, FRAME, cap=cap)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ConfigError, match="dtype must be"):
        Dense("float8")  # type: ignore[arg-type]


def decode(codec: Codec, body: bytes) -> Delta:
    payload = Payload(sealed(codec.code + codec.variant, FRAME, body), 0)
    return codec.decode(payload, FRAME, cap=CAP, seed=0, key="k")
