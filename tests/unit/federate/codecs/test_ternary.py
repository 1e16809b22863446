"""Signs of the largest entries and a scale."""

from __future__ import annotations

import math

import pytest
import torch

import dtheta as dt
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.core.ternary import Ternary as Signs
from dtheta.errors import ConfigError, FormatError, NonFinite
from dtheta.federate.codecs import Ternary
from dtheta.federate.frame import Frame
from dtheta.federate.payload import HEADER, Payload, sealed
from tests.unit.compress.reference import top_signs
from tests.unit.federate.codecs.examples import CAP, delta, dense, draw, flat, travelled

FRAME = Frame.of(delta())


@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("per", ["delta", "tensor"])
def test_what_arrives_are_the_signs_of_the_largest_entries_and_their_mean_magnitude(density, per):
    values = dense(delta())
    signs = top_signs({name: value.float() for name, value in values.items()}, density)
    found = travelled(Ternary(density, per=per), delta(), FRAME)
    kept = {name: values[name].abs()[sign != 0] for name, sign in signs.items()}
    mean = torch.cat([kept[name] for name in sorted(kept)]).mean()
    for name, sign in signs.items():
        size = mean if per == "delta" else kept[name].mean() if kept[name].numel() else torch.tensor(0.0)
        torch.testing.assert_close(found[name].dense().double(), sign.double() * size.double(), rtol=1e-6, atol=0)


def test_it_is_what_compress_makes():
    sent = Delta({"b": Dense(draw(20, 30)), "a": LowRank(draw(15, 2), draw(2, 40))})
    expected = dt.compress(sent, density=0.1, scale="alpha-sigma", alpha=2.0, of="product")
    found = travelled(Ternary(0.1, "alpha-sigma", "delta", 2.0), sent, Frame.of(sent))
    assert all(torch.equal(found[name].dense(), expected[name].dense()) for name in sent)
    assert all(isinstance(found[name], Signs) for name in sent)


def test_a_head_of_large_entries_keeps_its_size_among_many_small_ones():
    """One scale for all, which is mostly that of the small ones, starved it (docs/results.md)."""
    sent = Delta({"encoder": Dense(1e-3 * draw(200, 200)), "head": Dense(5e-2 * draw(4, 40).sign())})
    assert torch.allclose(travelled(Ternary(), sent, Frame.of(sent))["head"].dense(), sent["head"].dense())
    starved = travelled(Ternary(per="delta"), sent, Frame.of(sent))["head"].dense()
    assert float(starved.abs().max()) < 0.01


def test_one_percent_above_entropy():
    density, count = 0.05, 400_000
    sent = Delta({"a": Dense(draw(count // 4)), "b": Dense(draw(3 * count // 4))})
    bits = Ternary(density).encode(sent, Frame.of(sent)).bits
    entropy = -density * math.log2(density) - (1 - density) * math.log2(1 - density) + density
    assert entropy * count <= bits <= 1.01 * entropy * count + 8 * (HEADER + 4)
    assert 32 * count / bits > 90


def test_new_vectors_stay_new():
    sent = Delta({"a": Dense(draw(4, 4)), "prompt": New(10 * draw(2, 8))})
    found = travelled(Ternary(0.5), sent, Frame.of(sent))
    assert found["prompt"].kind == "new" and found["prompt"].dense().unique().numel() in (2, 3)


def test_a_scale_that_float32_cannot_hold_is_refused():
    sent = Delta({"a": Dense(torch.full((3,), 1e300, dtype=torch.float64))})
    with pytest.raises(NonFinite):
        Ternary().encode(sent, Frame.of(sent))


def test_another_number_of_signs_is_refused():
    smaller = delta().restrict("dense")
    body = Ternary(per="delta").encode(smaller, Frame.of(smaller)).data[HEADER:]
    with pytest.raises(FormatError, match=f"holds 63 elements, its tensor has {FRAME.numel}"):
        Ternary(per="delta").decode(Payload(sealed(0x30, FRAME, body), 0), FRAME, cap=CAP)


def test_planes_beyond_the_cap_are_refused_before_they_are_made():
    big = Frame({"a": (1 << 20, 1 << 20)})
    body = bytes(4) + b"DTTC" + bytes(60)
    with pytest.raises(FormatError, match="larger cap"):
        Ternary(per="delta").decode(Payload(sealed(0x30, big, body), 0), big, cap=1 << 30)


@pytest.mark.parametrize(
    "fields", [{"density": 0.0}, {"density": 1.5}, {"scale": "mean"}, {"per": "row"}, {"alpha": -1.0}, {"density": "x"}]
)
def test_fields_are_checked(fields):
    with pytest.raises(ConfigError):
        Ternary(**fields)


def test_signs_of_a_round_can_be_summed_on_planes():
    found = [travelled(Ternary(0.3), delta(i), FRAME) for i in range(3)]
    total = found[0] + found[1] + found[2]
    assert all(leaf.kind in ("ternary", "new") for change in total.changes.values() for leaf in change.leaves())
    torch.testing.assert_close(flat(total, FRAME), sum(flat(one, FRAME) for one in found), rtol=1e-6, atol=1e-6)
