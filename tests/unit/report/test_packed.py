"""The page's table of compressed deltas and of one composed encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dtheta.errors import ConfigError
from dtheta.report import AdaptResults, Packed, PackedTask, adapt_page
from dtheta.score import wilson
from tests.unit.report.examples import results
from tests.unit.report.reading import read


def packed(method: str = "PiSSA") -> Packed:
    rows = [
        PackedTask(task, method, 31.4, 165_000, wilson(570 + i, 600), wilson(560 + i, 600))
        for i, task in enumerate(("BBC", "R8", "sentiment"))
    ]
    return Packed(tuple(rows), 480_000, {"learned on": "240 texts"})


def test_it_is_on_the_page_and_in_the_file(tmp_path: Path) -> None:
    found = replace(results(1, 4), packed=packed())
    assert AdaptResults.load(found.save(tmp_path / "results.json")) == found
    html = adapt_page(found).html()
    read(html)
    text = html.replace("\u202f", " ")
    assert "Smaller, and one for all" in text and "240 texts" in text and "480 kB" in text
    assert f"{100 * 570 / 600:.1f} [" in text and "31.4" in text and "165 kB" in text


def test_results_of_before_have_none(tmp_path: Path) -> None:
    found = results(1, 4)
    assert found.packed is None
    assert "Smaller, and one for all" not in adapt_page(found).html()


def test_a_row_of_no_result_is_refused() -> None:
    with pytest.raises(ConfigError, match="FullRank on BBC was compressed"):
        replace(results(1, 4), packed=packed("FullRank"))
