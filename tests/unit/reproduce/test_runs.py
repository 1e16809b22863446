"""Runs are kept as they end, and read again."""

from __future__ import annotations

from pathlib import Path

import pytest

from dtheta.errors import FormatError
from dtheta.reproduce.runs import Runs


def test_a_run_is_made_once(tmp_path: Path) -> None:
    path, made = tmp_path / "new" / "runs.jsonl", []

    def make() -> dict[str, int]:
        made.append(1)
        return {"value": len(made)}

    first = Runs(path, ("task", "seed"))
    assert first.get(("bbc", 0), make) == {"task": "bbc", "seed": 0, "value": 1} == first.get(("bbc", 0), make)
    again = Runs(path, ("task", "seed"))
    assert again.get(("bbc", 0), make)["value"] == 1 and again.get(("bbc", 1), make)["value"] == 2
    assert len(path.read_text().splitlines()) == 2


def test_in_memory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Runs(None, ("seed",)).get((0,), lambda: {"a": 1}) == {"seed": 0, "a": 1}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("cut", ['{"seed": 1, "val', '{"seed": 1, "value": 9}'])
def test_a_line_that_was_cut_off_is_run_again(tmp_path: Path, cut: str) -> None:
    """A power cut leaves a last line without its end, whole or not; the next record stands on a line of its own."""
    path = tmp_path / "runs.jsonl"
    path.write_text('{"seed": 0, "value": 5}\n' + cut)
    runs = Runs(path, ("seed",))
    assert runs.get((0,), dict)["value"] == 5 and runs.get((1,), lambda: {"value": 7})["value"] == 7
    assert path.read_text() == '{"seed": 0, "value": 5}\n{"seed": 1, "value": 7}\n'


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"other": 1}'])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(f'{{"seed": 0}}\n{line}\n')
    with pytest.raises(FormatError, match=r"runs\.jsonl, line 2: expected a JSON record with seed"):
        Runs(path, ("seed",))
    assert path.read_text().endswith(line + "\n")
