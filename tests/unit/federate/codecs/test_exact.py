"""Every change in the form that it has, and what a hostile sender may claim about it."""

from __future__ import annotations

import json
import tracemalloc
import zlib
from typing import Any

import pytest
import torch
from torch import nn

import dtheta as dt
from dtheta.core.change import Dense
from dtheta.core.combination import Scaled
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.planes import Planes
from dtheta.core.spectral import Spectral
from dtheta.core.ternary import ternary
from dtheta.errors import ConfigError, FormatError
from dtheta.federate.codecs import Exact
from dtheta.federate.frame import Frame
from dtheta.federate.payload import HEADER, Payload, sealed
from tests.unit.federate.codecs.examples import CAP, delta, draw, travelled

FRAME = Frame.of(delta())


def parts(sent: Delta) -> tuple[list[Any], bytes]:
    """The description in a payload, and the bytes of the tensors."""
    body = Exact().encode(sent, Frame.of(sent)).data[HEADER:]
    length = int.from_bytes(body[:4], "little")
    return json.loads(zlib.decompress(body[4 : 4 + length])), body[4 + length :]


def decode(described: Any, tensors: bytes, frame: Frame, cap: int = CAP) -> Delta:
    text = zlib.compress(described if isinstance(described, bytes) else json.dumps(described).encode())
    body = len(text).to_bytes(4, "little") + text + tensors
    return Exact().decode(Payload(sealed(0x20, frame, body), 0), frame, cap=cap)


def test_every_form_arrives_as_it_was():
    found = travelled(Exact(), delta(), FRAME)
    assert found == delta()  # by digest: the same changes in the same form, of the same base
    for name, change in delta().changes.items():
        assert type(found[name]) is type(change) and found[name].digests == change.digests


def test_what_is_left_out_stays_out():
    some = delta().restrict("factors|prompt")
    assert travelled(Exact(), some, FRAME) == some
    assert len(travelled(Exact(), Delta({}, FRAME.base), FRAME)) == 0


def test_factors_take_what_factors_take():
    sent = Delta({"a": LowRank(draw(400, 4), draw(4, 300))})
    assert len(Exact().encode(sent, Frame.of(sent)).data) < 4 * 4 * 700 + 150


def test_shifts_of_singular_values_find_their_vectors_again():
    model = nn.Linear(6, 5)
    change = Spectral(draw(3), (5, 6)).bind(model.weight.detach())
    sent = Delta({"weight": change}, fingerprint(model).restrict(["weight"]))
    found = travelled(Exact(), sent, Frame.of(sent))
    assert found == sent and not found["weight"].bound  # type: ignore[attr-defined]
    torch.testing.assert_close(found.bind(model)["weight"].dense(), change.dense())


def test_an_adapters_delta_arrives_as_it_was():
    model = nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 4))
    adapter = dt.attach(model, dt.PiSSA(rank=2), select="*.weight")
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1)
    sent = adapter.delta()
    adapter.detach()
    assert travelled(Exact(), sent, Frame.of(sent)) == sent


def test_changes_nested_too_deeply_are_not_sent():
    change: Any = Dense(draw(2))
    for _ in range(20):
        change = Scaled(2.0, change)
    with pytest.raises(ConfigError, match="a: the receiver could not read it"):
        Exact().encode(Delta({"a": change}), Frame({"a": (2,)}))


SENT = Delta({"a": LowRank(draw(3, 2), draw(2, 5))})
SMALL = Frame.of(SENT)


def edited(edit: Any) -> Any:
    described, _ = parts(SENT)
    edit(described[0])
    return described


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (b"[", "not valid JSON"),
        (b"[" * 50_000, "nested too deeply"),
        (b"\xff", "not valid JSON"),
        (b"[NaN]", "not valid JSON"),
        ({}, "no list of 1 changes"),
        ([], "no list of 1 changes"),
        ([None, None], "no list of 1 changes"),
        ([3], "does not say what"),
        ([[{}]], "does not say what"),
        ([[{}, []]], "not described by a kind"),
        (edited(lambda row: row[0].update(kind="lowrank")), "unknown kind of change 'lowrank'; did you mean"),
        (edited(lambda row: row[0].update(shape=[5, 3])), r"for \[5, 3\]; the frame has another"),
        (edited(lambda row: row[0].update(kind="new-low-rank")), "'new-low-rank' for"),
        (edited(lambda row: row[0].update(rank=3)), "which its kind does not have"),
        (edited(lambda row: row[0].update(core=True)), "expected .*'core'"),
        (edited(lambda row: row[1].pop()), "expected .*'right'"),
        (edited(lambda row: row[1].append(row[1][0])), "the tensors are"),
        (edited(lambda row: row[1][0].__setitem__(0, "middle")), "the tensors are"),
        (edited(lambda row: row[1][0].__setitem__(0, 7)), "by name, dtype and shape"),
        (edited(lambda row: row[1][0].__setitem__(1, "F16")), "which its kind does not have"),
        (edited(lambda row: row[1][0].__setitem__(1, "F31")), "cannot be"),
        (edited(lambda row: row[1][0].__setitem__(1, "F64")), "ends early"),
        (edited(lambda row: row[1][0].__setitem__(2, [3, -2])), "cannot be"),
        (edited(lambda row: row[1][0].__setitem__(2, [2, 3])), "which its kind does not have"),
    ],
)
def test_a_description_that_cannot_be_is_refused(described, message):
    with pytest.raises(FormatError, match=message):
        decode(described, parts(SENT)[1], SMALL)


def test_numbers_that_are_not_finite_are_refused():
    described, tensors = parts(SENT)
    with pytest.raises(FormatError, match=r"a: .*NaN or infinity"):
        decode(described, tensors[:-4] + bytes.fromhex("0000807f"), SMALL)


def test_row_numbers_that_do_not_increase_are_refused():
    sent = delta().restrict("rows")
    described, tensors = parts(sent)
    at = tensors.index((4).to_bytes(8, "little"))
    with pytest.raises(FormatError, match=r"rows: .*strictly increasing"):
        decode(described, tensors[:at] + bytes(8) + tensors[at + 8 :], Frame.of(sent))


def test_signs_that_are_not_those_of_the_description_are_refused():
    sent = delta().restrict("signs")
    described, tensors = parts(sent)
    described[0][0]["positive"] = "0" * 64
    with pytest.raises(FormatError, match="signs: its positive signs are not those"):
        decode(described, tensors, Frame.of(sent))


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 40])
def test_what_ends_early_is_refused(cut):
    body = Exact().encode(SENT, SMALL).data[HEADER : HEADER + cut]
    with pytest.raises(FormatError):
        Exact().decode(Payload(sealed(0x20, SMALL, body), 0), SMALL, cap=CAP)


def bomb_of_text() -> tuple[bytes, bytes, Frame]:
    return b"[" + b"0," * 30_000_000 + b"0]", b"", SMALL


def bomb_of_planes() -> tuple[Any, bytes, Frame]:
    """Many changes without a sign, which take no bytes to say and planes to hold."""
    signs = torch.zeros(1 << 20, dtype=torch.int8)
    zeros = Delta({"a": ternary(Planes.from_signs(signs), torch.tensor(1.0), (1 << 20,))})
    described, tensors = parts(zeros)
    meta, rows = described[0]
    terms = [[f"{i}.{part}", *spec] for i in range(60) for part, *spec in rows]
    return [[{"kind": "sum", "shape": meta["shape"], "terms": [meta] * 60}, terms]], tensors * 60, Frame.of(zeros)


def bomb_of_inner_planes() -> tuple[Any, bytes, Frame]:
    """A product of small result whose factors are large."""
    wide = delta().restrict("pair")
    described, tensors = parts(wide)
    meta = described[0][0]
    meta["left"]["shape"], meta["right"]["shape"] = [6, 1 << 40], [1 << 40, 7]
    return described, tensors, Frame.of(wide)


def bomb_of_tensors() -> tuple[Any, bytes, Frame]:
    described, tensors = parts(SENT)
    described[0][0]["rank"] = 1 << 40
    described[0][1][0][2], described[0][1][1][2] = [3, 1 << 40], [1 << 40, 5]
    return described, tensors, SMALL


@pytest.mark.parametrize("bomb", [bomb_of_text, bomb_of_planes, bomb_of_inner_planes, bomb_of_tensors])
def test_a_small_payload_cannot_take_more_than_the_cap(bomb):
    described, tensors, frame = bomb()
    text = zlib.compress(described if isinstance(described, bytes) else json.dumps(described).encode())
    payload = Payload(sealed(0x20, frame, len(text).to_bytes(4, "little") + text + tensors), 0)
    assert len(payload.data) < 1 << 17
    tracemalloc.start()
    try:
        with pytest.raises(FormatError):
            Exact().decode(payload, frame, cap=CAP)
        assert tracemalloc.get_traced_memory()[1] < CAP
    finally:
        tracemalloc.stop()
