"""The page of an erasure: what it shows, by section, and what it cannot show."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch

from dtheta.errors import ConfigError
from dtheta.probe.erasure.attack import AttackResult
from dtheta.probe.erasure.erasure import Examination
from dtheta.probe.erasure.paraphrase import Paraphrase
from dtheta.probe.erasure.persona import Persona
from dtheta.probe.erasure.result import Erasure
from dtheta.probe.unlearning.watch import Checkup
from dtheta.report.charts.palette import styles
from dtheta.report.charts.plane import Spot, plane_chart
from dtheta.report.erasure import erasure_page
from dtheta.score.interval import Interval
from tests.unit.probe.erasure.examined import VECTORS, examination, gone, hidden, nothing
from tests.unit.probe.planted import RELATIONS, network

SEEN = (Checkup(1.0, 1.0, 1.0, 0.0), Checkup(0.4, 1.0, 0.3, 0.0), Checkup(0.0, 0.9, 0.1, -0.1))
MADE = {"gone": gone, "hidden": hidden, "nothing": nothing}


@cache
def reported(name: str, known: bool = True) -> Erasure:
    model = network()
    if not known:
        with torch.no_grad():
            model.model.layers[0].mlp.down_proj.weight[:, : len(RELATIONS)].zero_()
    examined: Examination = examination(model, attacks=(Paraphrase(), Persona()))
    return examined.report(MADE[name](model), VECTORS, checkups=SEEN)


def test_a_page_of_several_deltas() -> None:
    page = erasure_page({f"{name} <b>": reported(name) for name in MADE}, "planted")
    titles = [section.title for section in page.sections]
    assert titles == [
        "Whether it is gone", "Forgotten and kept", "Attacks", "What is written", "What is left in the weights",
        "Along the way",
    ]  # fmt: skip
    assert page.verdict == "1 of 3 deltas takes france out by every measure taken here: gone <b>."
    html = page.html()
    assert "What is left of france in planted" in html and "hidden &lt;b&gt;" in html and "<b>" not in html
    assert "nothing: the vector is zero" in html and "fracapi" in html and "hidden, not gone" in html


def test_a_goal_that_is_barely_missed_does_not_read_as_met() -> None:
    found = reported("gone")
    assert found.behavior is not None
    kept = Interval(0.103, 0.05, 0.2)
    target = dataclasses.replace(found.behavior.target, kept=kept)
    barely = dataclasses.replace(found, behavior=dataclasses.replace(found.behavior, target=target))
    html = erasure_page({"a": barely}, "planted").html()
    assert "answered still: 10.3\u202f%, wanted at most 10\u202f%." in html and "missed" in html


def test_a_page_of_one_delta_tells_its_goals() -> None:
    html = erasure_page({"a": reported("hidden")}, "planted").html()
    assert "france is hidden, not gone" in html and "met by the estimate" in html
    assert "Likeness of the best tokens" in html and "wanted at most 0.10" in html
    none = erasure_page({"a": reported("nothing"), "b": reported("hidden")}, "planted")
    assert none.verdict == "None of 2 deltas takes france out by every measure taken here."


def test_without_checkups_and_attacks_their_sections_are_left_out() -> None:
    bare = dataclasses.replace(reported("gone"), attacks=(), checkups=())
    titles = [section.title for section in erasure_page({"a": bare}, "planted").sections]
    assert "Attacks" not in titles and "Along the way" not in titles


def test_an_attack_that_could_not_be_made_is_told() -> None:
    unmade = AttackResult("paraphrase", {}, 0, "fewer than two questions have paraphrases")
    html = erasure_page({"a": dataclasses.replace(reported("gone"), attacks=(unmade,))}, "planted").html()
    assert "paraphrase: fewer than two questions have paraphrases." in html


def test_what_was_not_known_is_said_and_only_traces_are_shown() -> None:
    page = erasure_page({"a": reported("nothing", known=False)}, "planted")
    assert "did not know france to begin with" in page.verdict
    assert [section.title for section in page.sections] == [
        "Whether it is gone", "What is left in the weights", "Along the way",
    ]  # fmt: skip
    assert page.html()


def test_two_concepts_make_no_page() -> None:
    other = dataclasses.replace(reported("gone"), concept="japan")
    with pytest.raises(ConfigError, match="france, japan"):
        erasure_page({"a": reported("gone"), "b": other}, "planted")
    with pytest.raises(ConfigError, match="no erasure"):
        erasure_page({}, "planted")


def test_the_plane_has_a_spot_for_each_and_its_goal() -> None:
    one = Interval(1.0, 1.0, 1.0)
    spots = [Spot("a", Interval(0.1, 0.0, 0.4), Interval(0.9, 0.8, 1.0), "why"), Spot("b", one, one)]
    chart = plane_chart("P", spots, styles(["a", "b"]), x_name="gone", y_name="kept", corner=(0.1, 0.95))
    assert chart.svg.count("whisker") == 2 and chart.svg.count("reference-band") == 1
    assert "why" in chart.svg and "goal is at most 10" in chart.description and "a 10.0" in chart.description
