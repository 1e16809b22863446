"""The leading singular vectors of every matrix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import dtheta as dt
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank as Product
from dtheta.core.new_lowrank import NewLowRank
from dtheta.errors import ConfigError, FormatError
from dtheta.federate.codecs import LowRank
from dtheta.federate.frame import Frame
from dtheta.federate.payload import HEADER, Payload, sealed
from tests.unit.federate.codecs.examples import CAP, delta, draw, travelled

FRAME = Frame.of(delta())


def nearest(values: torch.Tensor, rank: int) -> torch.Tensor:
    matrix = values.double().reshape(values.shape[0], -1)
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    return ((U[:, :rank] * S[:rank]) @ Vh[:rank]).reshape(values.shape)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_matrix_arrives_as_the_nearest_of_the_rank_and_a_vector_as_it_is(rank, dtype):
    found = travelled(LowRank(rank, dtype), delta(), FRAME)
    rtol, atol = (1e-4, 1e-4) if dtype == "float32" else (0.02, 0.05)
    for name, change in delta().changes.items():
        values = change.dense()
        numbers = rank * (values.shape[0] + values[0].numel()) if values.ndim > 1 and values.numel() else 0
        factored = 0 < numbers < values.numel()
        if factored or values.ndim < 2:
            expected = nearest(values, rank) if factored else values.double()
            torch.testing.assert_close(found[name].dense().double(), expected, rtol=rtol, atol=atol)
        assert found[name].is_new == change.is_new
    assert isinstance(found["dense"], Product) == (rank < 4) and isinstance(found["bias"], Dense)
    assert isinstance(found["offsets"], NewLowRank)


def test_a_change_of_lower_rank_takes_its_rank():
    sent = Delta({"a": Product(draw(40, 2), draw(2, 30))})
    frame = Frame.of(sent)
    payload = LowRank(8).encode(sent, frame)
    assert len(payload.data) == HEADER + 2 + 4 * 2 * (40 + 30)
    same = Delta({"a": Dense(sent["a"].dense())})
    assert len(LowRank(8).encode(same, frame).data) == len(payload.data)
    torch.testing.assert_close(travelled(LowRank(8), sent, frame)["a"].dense(), sent["a"].dense())


def test_a_matrix_that_factors_would_not_shrink_arrives_as_it_is():
    sent = Delta({"a": Dense(draw(6, 6)), "row": Dense(draw(1, 9)), "wide": Dense(draw(3, 4, 5))})
    frame = Frame.of(sent)
    found = travelled(LowRank(3), sent, frame)
    assert torch.equal(found["a"].dense(), sent["a"].dense()) and torch.equal(found["row"].dense(), sent["row"].dense())
    assert len(LowRank(3).encode(sent, frame).data) <= HEADER + 4 + 4 * (36 + 9 + 60)


def test_the_error_is_that_of_the_singular_values_left_out():
    values = draw(30, 20)
    sent = Delta({"a": Dense(values)})
    left = torch.linalg.svdvals(values.double())[4:].norm()
    found = travelled(LowRank(4), sent, Frame.of(sent))["a"].dense().double()
    assert float((found - values.double()).norm()) == pytest.approx(float(left), rel=1e-5)


@pytest.mark.parametrize("r", [3, 9, 65534])
def test_a_rank_above_the_receivers_is_refused(r):
    sent = Delta({"a": Dense(draw(30, 20))})
    frame = Frame.of(sent)
    body = r.to_bytes(2, "little") + bytes(4 * r * 50)
    with pytest.raises(FormatError, match=rf"rank {r} for \[30, 20\]"):
        LowRank(2).decode(Payload(sealed(0x60, frame, body), 0), frame, cap=1 << 30)


@pytest.mark.parametrize("rank", [0, -1, 65535, 1.5, True])
def test_the_rank_is_checked(rank):
    with pytest.raises(ConfigError, match="rank"):
        LowRank(rank)


def test_a_large_rank_is_no_limit():
    found = travelled(LowRank(60000), delta(), FRAME)
    for name, change in delta().changes.items():
        torch.testing.assert_close(found[name].dense().float(), change.dense().float(), rtol=1e-4, atol=1e-5)


def test_what_arrives_knows_how_its_layers_use_it():
    """So that a sum of what arrived can be exported without the model."""
    model = nn.Linear(6, 5)
    adapter = dt.attach(model, dt.LoRA(rank=1))
    sent = adapter.delta()
    adapter.detach()
    found = travelled(LowRank(1), sent, Frame.of(sent))
    uses = sent.provenance.settings["uses"]
    assert uses and (0.5 * found + 0.5 * found).provenance.settings["uses"] == uses


def test_the_cap_holds():
    payload = LowRank(3).encode(delta(), FRAME)
    with pytest.raises(FormatError, match="larger cap"):
        LowRank(3).decode(payload, FRAME, cap=len(payload.data) + 100)
    LowRank(3).decode(payload, FRAME, cap=CAP)
