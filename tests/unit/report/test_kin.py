"""The family tree and the map of deltas, on families that are known."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.provenance import Provenance
from dtheta.errors import ConfigError
from dtheta.report import delta_page, survey_of
from dtheta.report.charts.palette import NEUTRAL
from dtheta.report.charts.tree import Node, generations, tree_chart
from dtheta.report.kin import family, scaled, similarity_map
from tests.unit.report.reading import charts, hovers, read


def delta(*values: float, method: str = "Full") -> Delta:
    return Delta({"w": Dense(torch.tensor([values]))}, provenance=Provenance("train", {"name": method}))


def test_generations_are_longest_paths() -> None:
    nodes = [Node("c", "c", ("a", "b")), Node("b", "b", ("a",)), Node("a", "a"), Node("d", "d", ("elsewhere",))]
    assert generations(nodes) == {"a": 0, "d": 0, "b": 1, "c": 2}
    with pytest.raises(ConfigError, match="made of itself"):
        generations([Node("x", "x", ("y",)), Node("y", "y", ("x",))])


def test_the_chart_has_a_mark_a_node_and_a_curve_a_parent() -> None:
    nodes = [Node("a", "a<b"), Node("b", "b"), Node("c", "c", ("a", "b"), note="of both")]
    drawn = tree_chart("T", nodes, {"": NEUTRAL})
    assert drawn.svg.count('class="edge"') == 2 and drawn.svg.count("data-mark") == 3
    assert "a&lt;b" in drawn.svg and "c of 2 parents" in drawn.description


def test_a_sum_is_drawn_right_of_its_parents() -> None:
    a, b = delta(1, 0, 0), delta(0, 1, 0, method="LoRA")
    found = survey_of([("a", a, 1), ("sum", a + b, 1), ("a copy", a, 1)])
    (section,) = family(found)
    html = delta_page(found).html()
    read(html)
    seen = next(found for found in map(hovers, charts(html)) if any("not among these files" in one for one in found))
    assert len(seen) == 3, "a and its copy are one; b, which is no file here, is a node; the sum"
    assert any(hover.startswith("a and a copy\n") for hover in seen)
    assert any(b.digest[:12] in hover and "not among these files" in hover for hover in seen)
    assert section.title == "Family"


def test_without_parents_there_is_no_tree_and_without_three_no_map() -> None:
    found = survey_of([("a", delta(1, 0), 1), ("b", delta(0, 1), 1)])
    assert family(found) == [] and similarity_map(found) == ([], "")


def test_the_map_keeps_the_distances_of_a_plane() -> None:
    places = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0], [1.0, 1.0]], dtype=torch.float64)
    found, share = scaled(torch.cdist(places, places).square())
    assert torch.allclose(torch.cdist(found, found), torch.cdist(places, places)) and share == pytest.approx(1.0)
    corners = torch.eye(4, dtype=torch.float64)  # a simplex shows the same in each of three directions
    assert scaled(torch.cdist(corners, corners).square())[1] == pytest.approx(2 / 3)
    assert scaled(torch.zeros(3, 3, dtype=torch.float64))[1] == 1.0


def test_the_map_leaves_out_what_has_no_angle() -> None:
    entries = [
        ("a", delta(1, 0, 0), 1),
        ("b", delta(0, 1, 0), 1),
        ("zero", delta(0, 0, 0), 1),
        ("c", delta(1, 1, 0), 1),
    ]
    (chart,), said = similarity_map(survey_of(entries))
    assert "3 points" in chart.description and "100.0" in said.replace("\u202f", " ")


def test_a_delta_that_claims_to_be_its_own_parent_is_drawn_without_it() -> None:
    found = survey_of([("a", delta(1, 0), 1)])
    looped = dataclasses.replace(found.deltas[0], parents=(found.deltas[0].digest,))
    (section,) = family(dataclasses.replace(found, deltas=(looped,)))
    assert section.title == "Family"


@pytest.mark.parametrize("names", [("a", "negative", "back"), ("back", "negative", "a"), ("negative", "back")])
def test_what_was_made_of_itself_is_drawn_once(names: tuple[str, ...]) -> None:
    a = delta(1, 0)
    deltas = {"a": a, "negative": -1.0 * a, "back": -1.0 * (-1.0 * a)}
    assert deltas["back"].digest == a.digest
    html = delta_page(survey_of([(name, deltas[name], 1) for name in names])).html()
    assert "Family tree" in html and html.count('class="edge"') == 1
