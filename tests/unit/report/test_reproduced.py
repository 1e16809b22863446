"""The page of a reproduction: every claim with its outcome, figures and bounds."""

from __future__ import annotations

import dataclasses
import re

from dtheta.report.reproduced import reproduction_page
from dtheta.reproduce.claim import Claim, Row, alone, exact, geometric, over_seeds
from dtheta.reproduce.markdown import markdown, measured
from dtheta.reproduce.reproduce import Reproduced, Reproduction
from dtheta.reproduce.systems import SYSTEMS, System
from dtheta.score.interval import Interval


def row(name: str, found: Interval | None, unit: str = "points", note: str = "") -> Row:
    return Row(Claim(name, f"It is <{name}>.", "7B & more"), "a small model" if found else "", found, unit, note=note)


def reproduction(*rows: Row) -> Reproduction:
    system = System("PlantedSVD", "Nobody 2020, arXiv 1", "delta.md")
    return Reproduction((Reproduced("planted", system, rows, 61.0),), True, "a processor", "2026-01-01")


def test_the_page_shows_each_claim_with_its_outcome() -> None:
    html = reproduction_page(reproduction(
        row("clear", Interval(2.0, 1.0, 3.0)), row("contrary", Interval(-2.0, -3.0, -1.0)),
        row("open", Interval(0.5, -1.0, 2.0)), row("law", exact(1e-9), unit="of the norm"),
        row("huge", None, note="No package carries it."),
    )).html()  # fmt: skip
    assert (
        "Of 5 claims of 1 paper" in html and "2 hold, 1 does not hold, 1 is not shown, 1 is not testable here" in html
    )
    assert "It is &lt;clear&gt;." in html and "<clear>" not in html and "7B &amp; more" in html
    assert "2.00 [1.00, 3.00]" in html or "2 [1, 3]" in html
    assert "No package carries it." in html
    assert len(re.findall(r'<svg[^>]*class="chart', html)) == 1, (
        "points in one chart; the law, which has no error, in none"
    )
    assert "docs/delta.md" in html and "the small size (--fast), 2026-01-01, a processor" in html


def test_one_run_is_drawn_without_whiskers_and_says_so() -> None:
    html = reproduction_page(reproduction(row("one", alone(4.0)))).html()
    assert "(one run)" in html and "inf" not in html.split("<main")[-1].split("</main>")[0]
    assert "% interval 4" not in html and "% interval 0" not in html, "neither one run nor a bound has an interval"


def test_one_ratio_is_drawn_without_whiskers_and_says_so() -> None:
    one = row("one", geometric([4.0]), unit="times")
    html = reproduction_page(reproduction(one)).html()
    assert "(one run)" in html and "inf" not in html.split("<main")[-1].split("</main>")[0]
    assert measured(one) == "4 (one run) times"


def test_runs_that_agree_are_told_from_what_is_exact() -> None:
    assert measured(row("equal", over_seeds([2.0, 2.0, 2.0]))) == "2 [2, 2] points"
    assert measured(row("law", exact(2.0))) == "2 points"


def test_markdown_names_the_command_of_its_systems() -> None:
    one = reproduction(row("law", exact(1e-9))).systems[0]
    both = Reproduction((one, dataclasses.replace(one, name="second")), True, "a processor", "2026-01-01")
    assert "`dtheta reproduce planted second --fast`" in markdown(both)
    every = Reproduction(tuple(dataclasses.replace(one, name=name) for name in SYSTEMS), False, "a processor", "today")
    assert "`dtheta reproduce all`" in markdown(every)


def test_a_system_of_which_nothing_was_run_has_no_chart() -> None:
    html = reproduction_page(reproduction(row("huge", None, note="Why."))).html()
    assert "nothing was run" in html and not re.search(r'<svg[^>]*class="chart', html)
