"""What holds for every codec."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.core.change import Change, Dense, New
from dtheta.core.delta import Delta
from dtheta.errors import BaseMismatch, FormatError, NonFinite, UnknownParameter
from dtheta.federate.codecs import Codec, Feedback, Sign, Ternary
from dtheta.federate.frame import Frame
from dtheta.federate.payload import HEADER
from tests.unit.federate.codecs.examples import BITS, CAP, CODECS, base_of, delta, dense, draw, flat, travelled

FRAME = Frame.of(delta())
ALL = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
EXACT = ("dense", "exact")


def single(change: Change) -> Delta:
    return Delta({"a": change}, base_of({"a": change}))


@ALL
def test_what_arrives_is_of_the_frame_and_its_base(codec: Codec):
    found = travelled(codec, delta(), FRAME)
    assert {name: change.shape for name, change in found.changes.items()} == FRAME.shapes
    assert set(found.new) == FRAME.new and found.base.digests == FRAME.base.digests
    assert found.base.root == FRAME.base.root
    FRAME.require(found)
    assert found.provenance.settings["codec"] == codec.to_dict()


@ALL
def test_a_payload_is_the_same_at_every_call_and_says_what_it_takes(codec: Codec):
    first, second = (codec.encode(delta(), FRAME, seed=0, key="k") for _ in range(2))
    assert first == second
    if not codec.drawn:
        assert (first.bits, first.qubits, first.copies) == (8 * len(first.data), 0, None)


@ALL
def test_nothing_moves_where_nothing_moved(codec: Codec):
    nothing = [Delta({}, FRAME.base), 0.0 * delta(), delta().restrict("empty")]
    for one in nothing:
        found = travelled(codec, one, FRAME)
        assert found.norm() == 0 and not any(bool(part.any()) for part in dense(found).values())


@pytest.mark.parametrize("codec", BITS.values(), ids=BITS)
def test_a_parameter_that_is_left_out_does_not_move(codec: Codec):
    found = travelled(codec, delta().restrict("dense"), FRAME)
    moved = {name for name, part in dense(found).items() if bool(part.any())}
    assert moved == {"dense"}


@ALL
@pytest.mark.parametrize(
    "change",
    [
        Dense(torch.tensor(-2.5)),
        Dense(torch.tensor([0.125])),
        Dense(torch.zeros(0)),
        Dense(torch.zeros(2, 0, 3)),
        New(torch.tensor([[3.0]])),
        New(torch.zeros(0, 4)),
    ],
    ids=["scalar", "one", "empty", "empty matrix", "one new", "empty new"],
)
def test_one_entry_and_none_arrive_as_they_are(codec: Codec, change: Change):
    sent = single(change)
    found = travelled(codec, sent, Frame.of(sent))
    assert type(found["a"]).__name__ in ("Dense", "New", "Ternary") and found["a"].is_new == change.is_new
    assert torch.equal(found["a"].dense(), change.dense())


@ALL
def test_a_small_model_has_a_small_overhead(codec: Codec):
    """A linear classifier of 6 features and 3 classes."""
    sent = Delta({"weight": Dense(draw(3, 6)), "bias": Dense(draw(3))}, delta().base.restrict([]))
    payload = codec.encode(sent, Frame.of(sent), seed=0, key="k")
    least = {"ternary": 4, "ternary per tensor": 8, "sign": 8 + 3, "top-k": 8 + 4 * 2, "top-k float16": 8 + 2 * 2}
    name = next(name for name, known in CODECS.items() if known == codec)
    numbers = least.get(name, 21 * (2 if "16" in name else 4))
    assert HEADER + numbers <= len(payload.data) <= HEADER + numbers + 170
    if codec.name in ("dense", "ternary", "top-k", "sign", "low-rank"):
        assert len(payload.data) <= HEADER + numbers + 48


@ALL
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [Dense, New])
def test_what_is_not_finite_is_not_sent(codec: Codec, bad: float, kind: type[Dense]):
    sent = single(kind(torch.tensor([[1.0, bad], [0.0, 2.0]])))
    with pytest.raises(NonFinite, match="a: the change holds NaN or infinity"):
        codec.encode(sent, Frame.of(sent), seed=0, key="k")


@ALL
def test_what_is_not_of_the_frame_is_not_sent(codec: Codec):
    with pytest.raises(UnknownParameter):
        codec.encode(single(Dense(torch.ones(2))), FRAME, seed=0, key="k")


@ALL
def test_another_base_another_method_and_another_codec_are_told_apart(codec: Codec):
    payload = codec.encode(delta(), FRAME, seed=0, key="k")
    changes = delta().changes
    other = Delta(changes, Frame.of(delta()).base.restrict(["dense"]))
    with pytest.raises(BaseMismatch, match="another base"):
        codec.decode(payload, Frame.of(other), cap=CAP, seed=0, key="k")
    with pytest.raises(FormatError, match="other parameters"):
        codec.decode(payload, Frame.of(delta().restrict("[!b]*")), cap=CAP, seed=0, key="k")
    for known in CODECS.values():
        if (known.code, known.variant) != (codec.code, codec.variant):
            with pytest.raises(FormatError, match="same codec on all sides"):
                known.decode(payload, FRAME, cap=CAP, seed=0, key="k")


@pytest.mark.parametrize("codec", BITS.values(), ids=BITS)
def test_over_rounds_with_feedback_nothing_is_lost(codec: Codec):
    feedback, sent = Feedback(), torch.zeros(FRAME.numel, dtype=torch.float64)
    for i in range(4):
        payload = feedback.encode(codec, delta(i), FRAME, seed=0, key=f"{i}")
        sent += flat(codec.decode(payload, FRAME, cap=CAP, seed=0, key=f"{i}"), FRAME)
    left = feedback.state()
    assert (left is None) == codec.exact
    whole = sum(flat(delta(i), FRAME) for i in range(4))
    found = sent if left is None else sent + flat(left, FRAME)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)


@ALL
def test_arithmetic_goes_on_with_what_arrived(codec: Codec):
    first, second = (travelled(codec, delta(i), FRAME) for i in range(2))
    mean = 0.25 * first + 0.75 * second
    torch.testing.assert_close(
        flat(mean, FRAME), 0.25 * flat(first, FRAME) + 0.75 * flat(second, FRAME), rtol=1e-5, atol=1e-5
    )


def test_ternary_changes_and_signs_arrive_on_bit_planes():
    for codec in (Ternary(), Ternary(per="tensor"), Sign()):
        found = travelled(codec, delta(), FRAME)
        assert {found[name].kind for name in FRAME.shapes if name not in FRAME.new} == {"ternary"}
