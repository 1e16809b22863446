"""What a delta did to traces, against plain definitions and at its ends."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.core.apply import applied
from dtheta.errors import ConfigError
from dtheta.probe.ablation import ablation, noise
from dtheta.probe.decoder import open_decoder
from dtheta.probe.traces import overlap, trace_report
from dtheta.probe.value_vector import ValueVector
from tests.unit.probe.decoders import D, V, gpt2, llama

SET = [ValueVector(0, 3), ValueVector(1, 7, -1), ValueVector(2, 2)]


def test_nothing_done_is_nothing_changed() -> None:
    model = llama()
    found = trace_report(model, ablation(model, SET, keep=1.0), SET, words=[[3], [7, 8]], top=10)
    assert [(c.jaccard, c.cosine, c.distance) for c in found.changes] == [(1.0, pytest.approx(1.0), 0.0)] * 3
    assert found.overlap == pytest.approx(1.0) and found.rank_before == found.rank_after


def test_ablation_leaves_nothing() -> None:
    model = llama()
    found = trace_report(model, ablation(model, SET), SET, words=[[3], [7, 8]], top=10)
    assert [(c.jaccard, c.cosine, c.distance, c.after) for c in found.changes] == [(0.0, 0.0, 1.0, ())] * 3
    assert found.overlap == 0.0 and found.rank_after == V
    half = trace_report(model, ablation(model, SET[:1]), SET, top=10)
    assert half.overlap == pytest.approx(2 / 3, abs=0.2)  # two of three directions are left as they were
    assert half.mean("jaccard") == pytest.approx(2 / 3)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_numbers_are_those_of_the_definitions(make: object) -> None:
    model = make()  # type: ignore[operator]
    delta = noise(model, SET, strength=1.0, seed=4)
    words = [[3], [7, 8], [40]]
    found = trace_report(model, delta, SET, words=words, top=12)
    readout = open_decoder(model).readout()

    def sides() -> list[torch.Tensor]:
        decoder = open_decoder(model)
        return [v.sign * decoder.values(v.layer)[v.column].clone() for v in SET]

    before = sides()
    with applied(model, delta):
        after = sides()
    for change, a, b in zip(found.changes, before, after, strict=True):
        old, new = ((readout @ v).topk(12).indices.tolist() for v in (a, b))
        assert list(change.before) == old and list(change.after) == new
        assert change.jaccard == len({*old} & {*new}) / len({*old} | {*new})
        assert math.isclose(change.cosine, float(torch.cosine_similarity(a, b, dim=0)), rel_tol=1e-4)
        assert math.isclose(change.distance, float((a - b).norm() / a.norm()), rel_tol=1e-4)
    ranks = torch.stack([(readout @ v).argsort(descending=True).argsort() + 1 for v in before])
    best = sorted(int(ranks[:, ids].min()) for ids in words)
    assert found.rank_before == best[1]


def test_overlap_is_of_principal_angles() -> None:
    a = torch.linalg.qr(torch.randn(D, 4, dtype=torch.float64))[0].T
    turned = torch.cat([a[:2], math.cos(0.3) * a[2:3] + math.sin(0.3) * _apart(a), torch.zeros(1, D)])
    assert overlap(a, turned) == pytest.approx((2 + math.cos(0.3) ** 2) / 4)
    assert overlap(a, torch.randn(4, 4, dtype=torch.float64) @ a) == pytest.approx(1.0)  # a span has no favorite basis


def _apart(a: torch.Tensor) -> torch.Tensor:
    v = torch.randn(1, D, dtype=torch.float64)
    v -= v @ a.T @ a
    return v / v.norm()


def test_bad_input() -> None:
    model = llama()
    with pytest.raises(ConfigError, match="no value vectors"):
        trace_report(model, ablation(model, SET), [])
    with pytest.raises(ConfigError, match="9/0"):
        trace_report(model, ablation(model, SET), [ValueVector(9, 0)])
