"""``dtheta compare``: angles and sign conflicts of deltas, as tables, JSON and a page."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dtheta.core.files import load
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def here(dtheta: Run, adapted: Path, adapted_language: Path, folders: dict[str, Path], table: Path) -> Path:
    """Three deltas of one base, the third compressed, and one of another base."""
    folder = table.parent
    shutil.copy(adapted, folder / "a.delta")
    shutil.copy(adapted_language, folder / "l.delta")
    for name in ("bert", "llama"):
        (folder / name).symlink_to(folders[name])
    arguments = [
        "--model",
        "bert",
        "--data",
        "reviews.csv",
        "--max-length",
        16,
        "--rank",
        2,
        "--steps",
        5,
        "--lr",
        1e-2,
    ]
    assert dtheta("adapt", *arguments, "--seed", 1, "--out", "b.delta").code == 0
    assert dtheta("compress", "a.delta", "--of", "product", "--out", "c.delta").code == 0
    return folder


def test_the_numbers_are_those_of_dense_tensors(dtheta: Run, here: Path) -> None:
    done = dtheta("compare", "a.delta", "b.delta", "c.delta", "--json")
    assert done.code == 0, done.err
    record = done.json
    assert record["compared"] == "encoder.*"
    deltas = [load(f"{name}.delta").restrict("encoder.*") for name in "abc"]
    flat = torch.stack([torch.cat([d[name].dense().double().reshape(-1) for name in deltas[0]]) for d in deltas])
    for i in range(3):
        assert record["norms"][i] == pytest.approx(float(flat[i].norm()))
        for j in range(3):
            both = flat[i] * flat[j] != 0
            against = float((flat[i] * flat[j] < 0).sum() / both.sum())
            cosine = float(flat[i] @ flat[j] / flat[i].norm() / flat[j].norm())
            assert record["cosines"][i][j] == pytest.approx(cosine, abs=1e-6)
            assert record["sign_conflicts"][i][j] == pytest.approx(against, abs=2e-3)
            assert record["entries_both_move"][i][j] == pytest.approx(int(both.sum()), rel=2e-3)
    assert [layer["layer"] for layer in record["layers"]] == ["0", "1"]
    assert sum(layer["norms"][0] ** 2 for layer in record["layers"]) == pytest.approx(record["norms"][0] ** 2)
    both = sum(layer["entries_both_move"][0][2] for layer in record["layers"])
    assert both == record["entries_both_move"][0][2]


def test_the_tables_and_the_page(dtheta: Run, here: Path) -> None:
    done = dtheta("compare", "a.delta", "b.delta", "--report", "page.html")
    assert done.code == 0, done.err
    assert "compared is encoder.*" in done.out and "sign conflicts" in done.out and "wrote page.html" in done.out
    html = Path("page.html").read_text()
    assert "Likeness by layer" in html and "Sign conflicts" in html and load("a.delta").digest in html
    assert dtheta("compare", "a.delta", "b.delta", "--select", "*", "--json").json["compared"] == "*"


def test_names_tell_files_apart(dtheta: Run, here: Path) -> None:
    (here / "old").mkdir()
    shutil.copy(here / "a.delta", here / "old/a.delta")
    found = dtheta("compare", "a.delta", "old/a.delta", "a.delta", "--json").json
    assert [each["name"] for each in found["deltas"]] == ["a (1)", "old/a", "a (3)"]
    assert found["cosines"][0][1] == pytest.approx(1.0)
    assert found["sign_conflicts"][0][1] == 0.0


def test_heads_of_two_tasks(dtheta: Run, here: Path) -> None:
    three = [(f"the film {i} was {w}", w) for i in range(20) for w in ("great", "dull", "long")]
    Path("three.csv").write_text("text,label\n" + "".join(f"{t},{c}\n" for t, c in three))
    arguments = ["--model", "bert", "--data", "three.csv", "--max-length", 16, "--rank", 2, "--steps", 2]
    assert dtheta("adapt", *arguments, "--out", "t.delta").code == 0
    done = dtheta("compare", "a.delta", "t.delta", "--json")
    assert done.code == 0, done.err
    assert done.json["compared"] == "encoder.*"


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "at least two deltas"),
        (["a.delta"], 2, "at least two deltas"),
        (["a.delta", "nope.delta"], 2, "there is no file nope.delta"),
        (["a.delta", "b.delta", "--select", "nothing"], 1, "a.delta: no change matches 'nothing'"),
        (["a.delta", "b.delta", "--report", "a.delta"], 1, "cannot write a.delta (--report)"),
        (["a.delta", "b.delta", "--report", "nowhere/x.html"], 1, "there is no folder"),
        (["l.delta", "moved.delta"], 3, "were made on different bases"),
        (["a.delta", "l.delta"], 3, "a.delta and l.delta have no tensor in common and name different bases, bert and"),
    ],
)
def test_it_fails_alike(
    dtheta: Run, here: Path, arguments: list[str], code: int, message: str, more: list[str]
) -> None:
    if "moved.delta" in arguments:
        assert dtheta("merge", "llama", "l.delta", "--out", "moved").code == 0
        assert dtheta("extract", "moved", "llama", "--out", "moved.delta").code == 0
    done = dtheta("compare", *arguments, *more)
    assert (done.code, done.out) == (code, ""), done.err
    assert message in done.err


def test_a_dry_run_reads_headers_only(dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtheta.core.header.Opened.change", lambda *_: pytest.fail("it read a tensor"))
    done = dtheta("compare", "a.delta", "b.delta", "--report", "p.html", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert list(done.json["writes"]) == ["p.html"] and not Path("p.html").exists()


def test_an_erasure_of_nothing_says_so(dtheta: Run) -> None:
    for more in ((), ("--concept", "France")):
        done = dtheta("compare", "--erasure", *more)
        assert done.code == 2 and "there is no delta to look at" in done.err
