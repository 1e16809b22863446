"""``dtheta demo --fast``: the main job on the real model, small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dtheta.core.files import load, read_header
from dtheta.report import AdaptResults
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]


@pytest.mark.slow
@pytest.mark.usefixtures("minilm_factory", "bbc_small")
def test_the_folder_is_complete(dtheta: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    done = dtheta("demo", "--fast", "--out", "try", "--json")
    assert done.code == 0, done.err
    record = done.json
    assert record["report"] == "try/report.html"
    deltas = ("bbc-lora", "bbc-pissa", "bbc-sorsa", "bbc-pissa-compressed", "composed")
    names = {"deltas", *(f"deltas/{name}.delta" for name in deltas)}
    assert {p.relative_to("try").as_posix() for p in Path("try").rglob("*")} == {*names, "report.html", "results.json"}
    results = AdaptResults.load("try/results.json")
    (task,) = results.tasks
    assert [method.name for method in task.methods] == ["LoRA", "PiSSA", "SORSA"]
    assert len({read_header(p).base.root for p in Path("try/deltas").iterdir()}) == 1
    assert len({method.settings["steps"] for method in task.methods}) == 1
    assert task.methods[2].orthogonality
    assert all(len(method.layers) == 36 for method in task.methods)
    assert results.packed is not None
    (row,) = results.packed.tasks
    sizes = [Path(f"try/deltas/bbc-pissa{end}.delta").stat().st_size for end in ("", "-compressed")]
    assert (row.file_bytes, row.ratio) == (sizes[1], sizes[0] / sizes[1]) and row.ratio > 20
    made = read_header(Path("try/deltas/composed.delta")).provenance
    small = load("try/deltas/bbc-pissa-compressed.delta")
    assert made.settings["coefficients"]["deltas"] == [small.restrict("encoder.*").digest]
    page = Path("try/report.html").read_text()
    assert "Smaller, and one for all" in page and "A trial: " in page
    assert [p.name for p in Path().iterdir()] == ["try"]
    shown = dtheta("report", "try/results.json", "--out", "again.html")
    assert shown.code == 0
    assert Path("again.html").read_text() == Path("try/report.html").read_text()

    # one that fails leaves it as it is, and another run takes its place as a whole
    before = Path("try/results.json").read_bytes()
    assert dtheta("demo", "--fast", "--out", "try", "--rank", 999).code == 2
    assert Path("try/results.json").read_bytes() == before
    monkeypatch.setattr("dtheta.cli.demo._all_tasks", lambda *_: replace(results, model="another"))
    done = dtheta("demo", "--fast", "--out", "try")
    assert done.code == 0, done.err
    assert "try next:" in done.out and "one encoder composed for all tasks" in done.out
    assert AdaptResults.load("try/results.json").model == "another"
    assert {p.name for p in Path("try").iterdir()} == {"report.html", "results.json"}
    assert [p.name for p in Path().iterdir() if p.name.startswith(".")] == []


def test_a_folder_of_something_else_is_not_touched(dtheta: Run) -> None:
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("years of work")
    done = dtheta("demo", "--fast", "--out", "mine")
    assert (done.code, done.out) == (1, "")
    assert "holds something else" in done.err
    assert Path("mine/thesis.txt").read_text() == "years of work"
    assert dtheta("demo", "--out", "mine/thesis.txt").code == 1
    assert dtheta("demo", "--out", "nowhere/x").code == 1


def test_dry_run_writes_nothing(dtheta: Run) -> None:
    done = dtheta("demo", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert len([name for name in done.json["writes"] if name.endswith(".delta")]) == 9 + 3 + 1
    assert not list(Path().iterdir())
