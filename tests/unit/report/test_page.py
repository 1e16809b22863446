"""The page: self-contained, well-formed, escaped, and written whole."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from dtheta.errors import OutputError
from dtheta.report import TOKEN_LOSS, AdaptResults, Page, Section, adapt_page, adapt_report
from dtheta.report.blocks import Column, Findings, KeyValues, Panels, Prose, Steps, Table, Tiles, word
from dtheta.report.curves import reading_window, seed_line, smoothed
from dtheta.report.quantity import significant
from tests.unit.report.examples import interval, results
from tests.unit.report.reading import charts, hovers, read


@pytest.fixture(scope="module")
def html() -> str:
    return adapt_page(results()).html()


def test_nests_and_has_the_sections(html: str) -> None:
    page = read(html)
    headings = re.findall(r"<h2[^>]*>([^<]+)</h2>", html)
    assert headings == [
        "In short", "Accuracy", "Training loss", "Where the weights moved", "Size and time", "Try next", "Provenance",
    ]  # fmt: skip
    anchors = {attributes["href"] for attributes in page.all("a")}
    assert {f"#{attributes['id']}" for attributes in page.all("section")} <= anchors
    assert len(page.all("h1")) == 1 and html.startswith("<!DOCTYPE html>")


def test_reaches_for_nothing_outside(html: str) -> None:
    page = read(html)
    assert not re.search(r"(?:https?:)?//[a-z0-9]", re.sub(r"^\s*//.*$", "", html, flags=re.MULTILINE))
    for _, attributes in page.tags:
        assert not {"src", "srcset", "action", "background"} & set(attributes)
        assert (attributes.get("href") or "#").startswith(("#", "data:,"))
    assert "url(" not in html and "@import" not in html
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none'")


def test_charts_are_there_and_well_formed(html: str) -> None:
    titles = [svg.findtext("title") or "" for svg in charts(html)]
    assert len(titles) == 3 + 3 + 3 + 3 + 3 + 2  # accuracy, loss, scatter, maps, orthonormality, sizes
    assert all(len(hovers(svg)) >= 3 for svg in charts(html))


def test_hover_values_are_the_inputs(html: str) -> None:
    job = results()
    texts = "\n".join(h for svg in charts(html) for h in hovers(svg)).replace("\u202f", " ")
    for task in job.tasks:
        for method in task.methods:
            assert f"{method.name} {100 * method.score.estimate:.1f} %" in texts
            for layer in method.layers[::7]:
                assert f"{method.name}\nshift of singular values {significant(layer.shift)}\n" in texts
                assert f"change of direction {significant(layer.direction)}" in texts
            window = reading_window(method.losses)
            step, value = seed_line(method.name, method.losses, window).points[0]
            assert f"step {significant(step)}\n" in texts and f"{method.name} {significant(value)} (" in texts


def test_light_dark_print_and_reduced_motion_are_styled(html: str) -> None:
    for rule in ("prefers-color-scheme: dark", "@media print", "prefers-reduced-motion"):
        assert rule in html


def test_every_chart_has_its_numbers_in_a_table_too(html: str) -> None:
    page = read(html)
    assert len(page.all("table")) == 4 and len(page.all("details")) == 2
    text = " ".join(page.text)
    assert "encoder.layer.5.output.dense.weight" in text and "Training loss as a table" in text


def test_text_is_escaped_and_backticks_are_code() -> None:
    job = replace(results(1, 5), model="<script>alert(1)</script>", provenance={"note": "`a<b>` & c"})
    html = adapt_page(job).html()
    read(html)
    assert "<script>alert(1)" not in html and "<code>a&lt;b&gt;</code> &amp; c" in html


def test_one_seed_and_no_geometry(tmp_path) -> None:
    job = results(1, 12)
    bare = [replace(t, methods=tuple(replace(m, layers=(), orthogonality=()) for m in t.methods)) for t in job.tasks]
    html = adapt_page(replace(job, tasks=tuple(bare), next_steps=(), provenance={})).html()
    read(html)
    assert "Where the weights moved" not in html and "One seed." in html and len(charts(html)) == 8


def test_a_language_model_is_scored_by_its_loss() -> None:
    job = results(1, 12)
    tasks = []
    for task in job.tasks[:1]:
        found = [replace(m, score=interval(3.1, 0.02), gain=interval(0.3, 0.01), layers=()) for m in task.methods]
        tasks.append(replace(task, baseline=interval(3.4, 0.02), methods=tuple(found), classes=None))
    html = adapt_page(replace(job, measure=TOKEN_LOSS, tasks=tuple(tasks))).html().replace("\u202f", " ")
    read(html)
    assert '<h2 id="loss-title">Loss</h2>' in html and "BBC: 600 held-out texts" in html
    assert "unadapted model 3.400" in html and "Lower is better." in html and "+0.300" in html
    assert "accuracy" not in html and "frozen" not in html


def test_every_block_renders_empty_or_plain() -> None:
    table = Table("T", [Column("a"), Column("b", True)], [[word("x"), word("1")]])
    blocks = [Prose("p"), Tiles([]), Findings([]), table, Panels([]), KeyValues([("k", "v")], "t"), Steps([])]
    read(Page("t", "v", [Section("S", blocks)]).html())


def test_report_is_written_whole(tmp_path: Path) -> None:
    path = adapt_report(results(1, 5), tmp_path / "report.html")
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_failed_write_leaves_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        Page("t", "v").render(path)
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no folder"):
        Page("t", "v").render(tmp_path / "missing" / "report.html")


def test_smoothing_keeps_the_mean_of_a_straight_line() -> None:
    curve = tuple((float(s), 2.0 * s) for s in range(9))
    assert smoothed(curve, 1) == curve
    assert smoothed(curve, 3)[4] == (4.0, 8.0) and smoothed(curve, 3)[0] == (0.0, 1.0)


def test_seeds_become_mean_and_band() -> None:
    line = seed_line("a", [((0.0, 1.0), (1.0, 2.0)), ((0.0, 3.0), (1.0, 6.0), (2.0, 9.0))])
    assert line.points == [(0.0, 2.0), (1.0, 4.0)] and line.band == [(0.0, 1.0, 3.0), (1.0, 2.0, 6.0)]


def test_a_name_that_is_no_text_is_drawn_and_kept(tmp_path: Path) -> None:
    """File names are bytes: a letter of latin-1 in one is half a surrogate pair in Python."""
    named = replace(results(seeds=1, steps=4), model="caf\udce9")
    assert "caf?" in adapt_report(named, tmp_path / "page.html").read_text(encoding="utf-8")
    assert AdaptResults.load(named.save(tmp_path / "found.json")).model == "caf\udce9"


def test_sections_in_any_script_have_places_of_their_own() -> None:
    titles = ["Skill, \u6e29\u5ea6", "Skill, \u98ce", "Size and time"]
    assert [Section(title, []).anchor for title in titles] == ["skill-\u6e29\u5ea6", "skill-\u98ce", "size-and-time"]
