"""The published format of ConceptVectors, as its records are; the texts here are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dtheta.data.concepts import Completion, Concept, Question, load_concepts
from dtheta.errors import ConfigError, FormatError
from dtheta.probe.benchmark import Benchmark

RECORD: dict[str, Any] = {
    "Concept": "Poland",
    "Layer": 23,
    "Dim": 743,
    "QA": [" What is the capital of Poland?\n", " Which sea borders Poland?"],
    "wikipedia_content": "Poland lies in Europe.\n\n\n== History ==\nThe Polans gave it its name.",
    "text_completion": [{"First_half": "The capital of Poland is", "Second_half": "called Warsaw"}],
    "unrelated_QA": [" Who wrote Hamlet?\n"],
}


def written(folder: Path, content: Any) -> Path:
    path = folder / "concepts.json"
    path.write_text(json.dumps(content, indent=4), encoding="utf-8")
    return path


def test_published_concepts_are_read(tmp_path: Path) -> None:
    (concept,) = load_concepts(written(tmp_path, [RECORD]))
    assert (concept.name, concept.vector, concept.kind) == ("Poland", (23, 743), "")
    assert concept.documents == (RECORD["wikipedia_content"],)
    assert concept.questions == (
        Question("Question: What is the capital of Poland?\n Answer:", ""),
        Question("Question: Which sea borders Poland?\n Answer:", ""),
    )
    assert concept.completions == (Completion("The capital of Poland is", "called Warsaw"),)
    assert concept.unrelated == (Question("Question: Who wrote Hamlet?\n Answer:", ""),)


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    """As in the tables beside it."""
    path = written(tmp_path, [RECORD])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_concepts(path)[0].name == "Poland"


def test_a_benchmark_that_was_saved_is_read(tmp_path: Path) -> None:
    """Before, what build_benchmark made could not be given to the commands."""
    chosen = (Concept("France", questions=(Question("Its capital is", "Paris"),), unrelated=(Question("A", "b"),)),)
    Benchmark(chosen, (), "", 0, 0.5).save(tmp_path / "made.json")
    assert load_concepts(tmp_path / "made.json") == chosen
    with pytest.raises(FormatError, match="damaged benchmark: it has no list of concepts"):
        load_concepts(written(tmp_path, {"format": "dtheta-concepts/1"}))


def test_what_is_not_required_may_be_missing_and_more_may_be_there(tmp_path: Path) -> None:
    bare = {key: RECORD[key] for key in ("Concept", "Layer", "Dim", "QA")}
    (concept,) = load_concepts(written(tmp_path, [{**bare, "jailbreak": ["x"]}]))
    assert concept.documents == concept.completions == concept.unrelated == ()


def test_a_name_that_comes_again_has_its_place_added(tmp_path: Path) -> None:
    concepts = load_concepts(written(tmp_path, [RECORD, {**RECORD, "Dim": 8}]))
    assert [concept.name for concept in concepts] == ["Poland", "Poland (23/8)"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"Concept": "x"}, "expected a list of concepts"),
        ([], "expected a list of concepts"),
        (["x"], "concept 1: expected a JSON object"),
        ([{key: value for key, value in RECORD.items() if key != "Layer"}], "concept 1 has no field 'Layer'"),
        ([RECORD, {**RECORD, "Dim": "743"}], "concept 2, Layer and Dim: expected layer and column"),
        ([{**RECORD, "QA": "one"}], "concept 1, QA: expected a list of texts"),
        ([{**RECORD, "text_completion": ["one"]}], "text_completion: expected a list of objects"),
        ([RECORD, RECORD, RECORD], "two concepts 'Poland"),
    ],
)
def test_what_is_not_in_the_format_is_refused(tmp_path: Path, content: Any, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        load_concepts(written(tmp_path, content))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "concepts.json"
    path.write_text('[{"Concept": ')
    with pytest.raises(FormatError, match="not valid JSON"):
        load_concepts(path)
    path.write_bytes('["é"]'.encode("latin-1"))
    with pytest.raises(FormatError, match="is not utf-8"):
        load_concepts(path)
    with pytest.raises(ConfigError, match="unknown encoding"):
        load_concepts(path, encoding="utf-9")
