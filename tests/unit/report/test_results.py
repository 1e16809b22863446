"""Results survive their file, and a file that is not results is refused with the place named."""

from __future__ import annotations

import json

import pytest

from dtheta.errors import ConfigError, FormatError, OutputError
from dtheta.report.results import AdaptResults
from tests.unit.report.examples import results


def test_load_gives_back_what_was_saved(tmp_path) -> None:
    found = results(seeds=2, steps=10)
    assert AdaptResults.load(found.save(tmp_path / "results.json")) == found


def edited(tmp_path, change) -> str:
    path = results(seeds=1, steps=4).save(tmp_path / "results.json")
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return str(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(modell="x"), "unknown field 'modell'; did you mean 'model'"),
        (lambda d: d.pop("model_bytes"), "'model_bytes' is missing"),
        (lambda d: d["tasks"][1].update(classes="two"), r"tasks\[1\]\.classes: expected int, found str"),
        (lambda d: d["tasks"][0]["methods"][0]["losses"][0].append([1.0]), r"losses\[0\]\[4\]: expected 2 items"),
        (lambda d: d.update(tasks=[]), "at least one task"),
        (lambda d: d["tasks"][0]["methods"][0].update(losses=[]), "at least one loss curve"),
        (lambda d: d["tasks"][0].update(test=True), "found bool"),
    ],
)
def test_a_wrong_document_is_refused(tmp_path, change, message) -> None:
    with pytest.raises(FormatError, match=message):
        AdaptResults.load(edited(tmp_path, change))


def test_no_file_and_no_json(tmp_path) -> None:
    with pytest.raises(FormatError):
        AdaptResults.load(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(FormatError):
        AdaptResults.load(tmp_path / "bad.json")


def test_no_tasks_is_no_job() -> None:
    with pytest.raises(ConfigError):
        AdaptResults("m", 1, 1, ())


def test_saving_where_there_is_no_folder(tmp_path) -> None:
    with pytest.raises(OutputError):
        results(1, 3).save(tmp_path / "no" / "results.json")
