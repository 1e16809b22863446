"""Members in parts: any parts, any order, any workers give what the ensemble as a whole gives."""

from __future__ import annotations

import pytest
import torch

from dtheta.core.sphere.transform import SphericalTransform
from dtheta.errors import ConfigError, NonFinite
from dtheta.score.ensemble import CRPS, Box, Verification, standard_metrics
from tests.unit.score.ensemble.test_verification import CHANNELS, GRID, KEYS, REFERENCES, fields, same


def verification(**given) -> Verification:
    metrics = standard_metrics(
        climatology="mean", thresholds=["p95"], climate="climate", spectra=True, whole_ensemble=False, pairs=False
    )
    return Verification(
        **{"metrics": metrics, "grid": GRID, "channels": CHANNELS, "references": REFERENCES}
        | {"regions": {"north": Box(0, 90)}, "transform": SphericalTransform(GRID, 5)}
        | given
    )


def test_parts_of_the_ensemble_give_the_whole() -> None:
    whole, parts = verification(), verification()
    for key in KEYS:
        x, y = fields(*key)
        whole.update(*key, x, y)
        one, other = parts.gather(*key, y), parts.gather(*key, y)
        one.add(x[5:])
        other.add(x[2:5])
        other.add(x[:2])
        merged = one.merge(other)
        assert (one.members, other.members, merged.members) == (2, 5, 7)
        parts.accept(merged)
    same(whole, parts)


def test_a_mask_holds_for_parts_too() -> None:
    x, y = fields(0, 6)
    mask = torch.zeros(8, 12, dtype=torch.bool)
    mask[2:5] = True
    x[:, :, ~mask] = torch.nan
    whole, parts = (verification(metrics=standard_metrics(whole_ensemble=False)) for _ in range(2))
    whole.update(0, 6, x, y, mask=mask)
    sums = parts.gather(0, 6, y, mask=mask)
    for member in x:
        sums.add(member[None])
    parts.accept(sums)
    for a, b in zip(whole.result(), parts.result(), strict=True):
        torch.testing.assert_close(a.value, b.value, rtol=1e-10, atol=1e-12)


def test_a_part_that_is_refused_leaves_no_trace() -> None:
    x, y = fields(0, 6)
    found = verification()
    sums = found.gather(0, 6, y)
    sums.add(x[:4])
    gap = x[4:].clone()
    gap[1, 0, 2, 3] = torch.nan
    with pytest.raises(NonFinite, match=r"channel 'z1', start 0, lead 6, member 5, cell \(2, 3\)"):
        sums.add(gap)
    sums.add(x[4:])
    found.accept(sums)
    whole = verification()
    whole.update(0, 6, x, y)
    for a, b in zip(whole.result(), found.result(), strict=True):
        torch.testing.assert_close(a.value, b.value, rtol=1e-9, atol=1e-9, equal_nan=True)


def test_refusals() -> None:
    x, y = fields(0, 6)
    with pytest.raises(ConfigError, match="crps needs all members of a cell at once"):
        verification(metrics=[CRPS()]).gather(0, 6, y)
    found = verification()
    one, other = found.gather(0, 6, y), found.gather(0, 12, y)
    with pytest.raises(ConfigError, match="start 0, lead 6 and of start 0, lead 12"):
        one.merge(other)
    with pytest.raises(ConfigError, match="different truths"):
        one.merge(found.gather(0, 6, y + 1))
    with pytest.raises(ConfigError, match="no members were added"):
        found.accept(one)
    one.add(x[:1])
    with pytest.raises(ConfigError, match="spread needs at least 2 members, found 1"):
        found.accept(one)
    one.add(x[1:])
    found.accept(one)
    with pytest.raises(ConfigError, match="counted before"):
        found.accept(one)
