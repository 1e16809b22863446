"""The report: sizes counted from the bytes, errors from dense tensors."""

from __future__ import annotations

import math

import pytest
import torch

from dtheta.compress.compeft import compress
from dtheta.compress.report import compression_report, entropy
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.lowrank import LowRank
from dtheta.errors import ConfigError
from tests.unit.compress.reference import dense_delta, draw


def test_numbers_are_those_of_dense_tensors_and_stored_bytes() -> None:
    delta = dense_delta(a=(300, 200), b=(100,))
    packed = compress(delta, 0.1)
    report = compression_report(delta, packed)
    stored = sum(t.numel() * t.element_size() for c in packed.changes.values() for t in c.stored().values())
    x, y = (torch.cat([d[n].dense().reshape(-1) for n in d]).double() for d in (delta, packed))
    assert (report.entries, report.kept, report.exact, report.nbytes) == (60100, 6010, 2, stored)
    assert report.bits == pytest.approx(8 * stored / 60100)
    assert report.entropy <= report.bits < 1.1 * report.entropy
    assert report.entropy == pytest.approx(entropy(0.1), rel=1e-3)
    assert report.relative_error == pytest.approx(float((x - y).norm() / x.norm()))
    assert report.cosine == pytest.approx(float(x @ y / x.norm() / y.norm()))
    assert report.against_float16 == pytest.approx(2 * 60100 / stored) and report.ratio == pytest.approx(
        4 * 60100 / stored
    )
    assert report.density == pytest.approx(0.1)


def test_factors_are_compared_with_factors_and_with_the_full_matrix() -> None:
    delta = Delta({"w": LowRank(draw(300, 4), draw(4, 200))})
    report = compression_report(delta, compress(delta, 0.2))
    assert report.entries == 2000 and report.exact == 2
    assert report.against_full_float16 == pytest.approx(report.against_float16 * 60000 / 2000)
    assert report.against_float32 == pytest.approx(2 * report.against_float16)


def test_what_was_kept_exactly_counts_as_it_is() -> None:
    delta = dense_delta(a=(40, 40), b=(10,))
    report = compression_report(delta, compress(delta, 0.2, keep="b"))
    assert report.exact == 11 and report.entries == 1600 and report.nbytes > 40


def test_parameters_that_vanish_are_named() -> None:
    delta = Delta(
        {"large": Dense(torch.ones(10)), "small": Dense(torch.full((10,), 1e-3)), "zero": Dense(torch.zeros(2))}
    )
    assert compression_report(delta, compress(delta, 0.2)).vanished == ("small",)


def test_other_parameters_are_refused_and_nothing_ternary_has_no_bits() -> None:
    delta = dense_delta(a=(5,), b=(5,))
    with pytest.raises(ConfigError, match="'b' and 0 more"):
        compression_report(delta, delta.restrict("a"))
    report = compression_report(delta, delta)
    assert math.isnan(report.bits) and report.relative_error == 0.0 and report.cosine == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("density", "bits"), [(0.05, 0.3364), (0.1, 0.5690), (0.2, 0.9219), (0.5, 1.5), (1.0, 1.0), (0.0, 0.0)]
)
def test_entropy(density: float, bits: float) -> None:
    assert entropy(density) == pytest.approx(bits, abs=5e-5)
