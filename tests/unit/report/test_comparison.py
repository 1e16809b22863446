"""Comparison of deltas against dense vectors, and its page."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import Fingerprint
from dtheta.errors import BaseMismatch, ConfigError
from dtheta.report import compare, comparison_page
from dtheta.report.survey import summary
from tests.unit.report.reading import charts, hovers, read
from tests.unit.report.test_deltas import NAMES, low_rank


def test_whole_and_layers_are_those_of_dense_vectors() -> None:
    deltas = [low_rank(0), low_rank(1), 2.0 * low_rank(0)]
    found = compare("abc", deltas)
    assert found.names == ("a", "b", "c")
    assert [layer.name for layer in found.layers] == ["0", "1", "2"]
    for alike, names in (
        (found.whole, NAMES),
        *((layer, [n for n in NAMES if f".{layer.name}." in n]) for layer in found.layers),
    ):
        flat = torch.stack([torch.cat([d[n].dense().double().reshape(-1) for n in names]) for d in deltas])
        for i in range(3):
            assert alike.norms[i] == pytest.approx(float(flat[i].norm()))
            for j in range(3):
                assert alike.cosines[i][j] == pytest.approx(
                    float(torch.cosine_similarity(flat[i], flat[j], 0)), abs=1e-6
                )
                assert alike.conflicts[i][j] == float((flat[i] * flat[j] < 0).double().mean())
    assert found.whole.cosines[0][2] == pytest.approx(1.0) and found.whole.conflicts[0][2] == 0.0
    assert found.whole.pairs(found.whole.conflicts)[1] == 0.0


def test_a_parameter_that_one_lacks_counts_as_zero() -> None:
    a, b = low_rank(0), low_rank(1).restrict(NAMES[0])
    found = compare("ab", [a, b])
    assert found.whole.cosines[0][1] == pytest.approx(a.cosine(b))
    assert found.whole.both[0][1] == 48
    assert found.layers[1].cosines[0][1] is None and found.layers[1].conflicts[0][1] is None
    assert found.layers[1].norms[1] == 0.0


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="two deltas or more"):
        compare("a", [low_rank(0)])
    with pytest.raises(BaseMismatch, match="query"):
        compare("ab", [low_rank(0), low_rank(1, "cd" * 32)])


def test_the_page() -> None:
    deltas = {"a": low_rank(0), "b": low_rank(1), "c": -low_rank(0)}
    found = compare(list(deltas), list(deltas.values()))
    page = comparison_page(found, [summary(name, d, 100) for name, d in deltas.items()], "Compared is `encoder.*`.")
    html = page.html()
    read(html)
    cosines, _map, conflicts, by_layer, conflicts_by_layer = charts(html)[:5]
    assert "a, c\ncosine \u22121" in hovers(cosines) and "a, c\nshare in conflict 1" in hovers(conflicts)
    assert len(hovers(by_layer)) == len(hovers(conflicts_by_layer)) == 9
    for chart, low in ((cosines, "\u22121"), (by_layer, "\u22121"), (conflicts_by_layer, "0")):
        assert [node.text for node in chart.iter("text")][-2:] == [low, "1"]  # one scale of shades on the page
    assert "Compared is <code>encoder.*</code>" in html and "Likeness by layer" in html


def test_without_layers_there_is_no_grid_of_them() -> None:
    base = Fingerprint({"w": "ab"}, "ab")
    deltas = [Delta({"w": Dense(torch.eye(4)[:1] * sign)}, base) for sign in (1.0, -1.0)]
    found = compare("ab", deltas)
    assert [layer.name for layer in found.layers] == ["other"]
    assert math.isclose(found.whole.cosines[0][1] or 0.0, -1.0)
    html = comparison_page(found, [summary(n, d, 1) for n, d in zip("ab", deltas, strict=True)]).html()
    read(html)
    assert "Likeness by layer" not in html


def test_deltas_that_name_their_bases_differently_are_of_one() -> None:
    """The base of a classifier's delta counts the shape of its head; what is compared shares its digests."""
    deltas = {"a": low_rank(0), "b": low_rank(1)}
    rows = [replace(summary(name, delta, 100), base=name * 64) for name, delta in deltas.items()]
    html = comparison_page(compare("ab", list(deltas.values())), rows).html()
    read(html)
    assert "2 deltas of one base" in html and "bases" not in html
