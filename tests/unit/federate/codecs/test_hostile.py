"""Whatever the bytes: an error of format or of base, or a delta of the frame, and never more memory than the cap."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import Fingerprint
from dtheta.core.ternary import ternary
from dtheta.errors import BaseMismatch, FormatError
from dtheta.federate.codecs import Codec, Exact
from dtheta.federate.codecs.reader import Reader
from dtheta.federate.frame import Frame
from dtheta.federate.payload import HEADER, Payload, sealed
from tests.unit.federate.codecs.examples import CAP, CODECS, delta, draw, signs

FRAME = Frame.of(delta())
SMALL = delta().restrict("bias|factors|signs|scalar|rows|block|pair|sum|offsets")
SMALL_FRAME = Frame.of(SMALL)
ALL = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
PLENTY = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def survive(codec: Codec, data: bytes, frame: Frame, cap: int = CAP) -> bool:
    """Decode, and tell whether a delta came out; it must be of the frame then."""
    try:
        found = codec.decode(Payload(data, 8 * len(data), copies=5), frame, cap=cap, seed=0, key="k")
    except (FormatError, BaseMismatch):
        return False
    frame.require(found)
    return True


def resealed(codec: Codec, body: bytes, frame: Frame) -> bytes:
    return sealed(codec.code + codec.variant, frame, body)


@cache
def honest(codec: Codec) -> bytes:
    return codec.encode(SMALL, SMALL_FRAME, seed=0, key="k").data


@ALL
@PLENTY
@given(st.binary(max_size=200))
def test_any_bytes(codec: Codec, data: bytes):
    assert not survive(codec, data, FRAME)
    survive(codec, resealed(codec, data, FRAME), FRAME)


@ALL
@PLENTY
@given(st.integers(0, 10**6), st.integers(1, 255), st.booleans())
def test_a_byte_that_changed(codec: Codec, place: int, mask: int, hostile: bool):
    """By accident it is noticed; where the header is made to fit, a codec finds it or takes another finite number."""
    data = bytearray(honest(codec))
    place = HEADER + place % (len(data) - HEADER) if hostile else place % len(data)
    data[place] ^= mask
    if hostile:
        survive(codec, resealed(codec, bytes(data[HEADER:]), SMALL_FRAME), SMALL_FRAME)
    else:
        assert not survive(codec, bytes(data), SMALL_FRAME)


@ALL
@PLENTY
@given(st.integers(0, 10**6), st.binary(max_size=9))
def test_an_end_that_is_missing_or_follows(codec: Codec, length: int, more: bytes):
    data = honest(codec)
    cut = data[: length % len(data)]
    assert not survive(codec, cut, SMALL_FRAME)
    if len(cut) >= HEADER:
        assert not survive(codec, resealed(codec, cut[HEADER:], SMALL_FRAME), SMALL_FRAME)
    assert survive(codec, resealed(codec, data[HEADER:] + more, SMALL_FRAME), SMALL_FRAME) == (not more)


@ALL
def test_memory_is_claimed_before_it_is_taken_and_a_cap_below_is_refused(codec: Codec, monkeypatch: pytest.MonkeyPatch):
    wide = ternary(signs(1000, 1000), torch.tensor(2.0), (1000, 1000))
    sent = Delta({"a": Dense(draw(1000, 500)), "signs": wide, "prompt": New(draw(100, 300))}, Fingerprint({}))
    frame = Frame.of(sent)
    payload = codec.encode(sent, frame, seed=0, key="k")
    codec.decode(payload, frame, cap=1 << 40, seed=0, key="k")  # what is compiled or cached once is no part of it
    claims: list[int] = []
    claim = Reader.claim
    monkeypatch.setattr(Reader, "claim", lambda self, nbytes: (claims.append(nbytes), claim(self, nbytes))[1])
    tracemalloc.start()
    try:
        codec.decode(payload, frame, cap=1 << 40, seed=0, key="k")
        assert tracemalloc.get_traced_memory()[1] < sum(claims) + (1 << 18)  # and buffers of a fixed size
    finally:
        tracemalloc.stop()
    needed = sum(claims) + len(payload.data)
    codec.decode(payload, frame, cap=needed, seed=0, key="k")
    for cap in (needed - 1, len(payload.data) - 1):
        with pytest.raises(FormatError, match=r"larger cap|are allowed"):
            codec.decode(payload, frame, cap=cap, seed=0, key="k")


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["low-rank", "ternary", "sum", "scaled", "block", "rows", "dense", "new", "spectral", "F32", "U8"]),
    st.lists(st.integers(0, 9), max_size=3),
    st.just({}),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, below in inner for place in places(below, (*path, key)))]


@settings(PLENTY, max_examples=200)
@given(st.data())
def test_a_description_of_which_a_value_is_another(data: st.DataObject):
    body = honest(Exact())[HEADER:]
    length = int.from_bytes(body[:4], "little")
    described = json.loads(zlib.decompress(body[4 : 4 + length]))
    place = data.draw(st.sampled_from(places(described)[1:]))
    holder = described
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = data.draw(VALUES)
    text = zlib.compress(json.dumps(described).encode())
    survive(
        Exact(),
        resealed(Exact(), len(text).to_bytes(4, "little") + text + body[4 + length :], SMALL_FRAME),
        SMALL_FRAME,
    )
