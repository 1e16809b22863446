"""Projections: every row N(0, I) by itself, orthogonal or evenly spread among one another."""

import math

import pytest
import torch

from dtheta.core.features.projections import PROJECTIONS, draw_rows

KINDS = tuple(PROJECTIONS)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_standard_normal(kind):
    rows, uniform = draw_rows(kind, 8192, 5, 0, "rows")
    assert rows.shape == (8192, 5) and rows.dtype == torch.float64 and uniform.shape == (8192,)
    assert bool(((uniform > 0) & (uniform < 1)).all())
    covariance = rows.mT @ rows / 8192
    torch.testing.assert_close(covariance, torch.eye(5, dtype=torch.float64), rtol=0, atol=4 * math.sqrt(2 / 8192))
    assert float(rows.mean(0).abs().max()) < 4 / math.sqrt(8192)
    squares = rows.square().sum(1)  # chi^2 of 5 degrees of freedom: mean 5, variance 10
    assert float(squares.var()) == pytest.approx(10, rel=0.1)
    assert float(rows.pow(4).mean()) == pytest.approx(3, rel=0.05)


@pytest.mark.parametrize(("count", "inputs"), [(3, 7), (7, 7), (17, 7)])
def test_orthogonal_rows_are_orthogonal_in_blocks_and_have_fresh_norms(count, inputs):
    rows, _ = draw_rows("orthogonal", count, inputs, 3, "rows")
    for block in rows.split(inputs):
        gram = block @ block.mT
        torch.testing.assert_close(gram, gram.diagonal().diag(), rtol=0, atol=1e-12)
    assert len(set(rows.norm(dim=1).tolist())) == count


def test_orthogonal_directions_are_uniform():
    # a QR whose R may be negative has a first direction with a preferred sign
    first = torch.stack([draw_rows("orthogonal", 2, 2, seed, "rows")[0] for seed in range(2000)])
    directions = first / first.norm(dim=2, keepdim=True)
    assert float(directions.mean(0).abs().max()) < 4 / math.sqrt(2 * 2000)
    angles = torch.atan2(directions[:, 1, 1], directions[:, 1, 0])
    quarters = torch.histc(angles, bins=4, min=-math.pi, max=math.pi)
    assert float((quarters - 500).abs().max()) < 4 * math.sqrt(2000 * 3 / 16)


@pytest.mark.parametrize("kind", ["orthogonal", "sobol"])
def test_frequencies_come_from_every_stratum(kind):
    _, uniform = draw_rows(kind, 64, 3, 2, "rows")
    assert sorted((uniform * 64).long().tolist()) == list(range(64))
    assert uniform.tolist() != sorted(uniform.tolist())  # not in the order of the rows


def test_a_sobol_sequence_integrates_better_than_independent_rows():
    def error(kind):
        found = [draw_rows(kind, 256, 3, seed, "rows")[0].cos().mean() for seed in range(20)]
        return float((torch.stack(found) - math.exp(-0.5)).square().mean().sqrt())

    assert error("sobol") < error("gaussian") / 5
