"""``methods``, ``models``, ``doctor`` and ``report``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from dtheta.adapt import registry
from dtheta.cli.console import Table
from dtheta.cli.units import part
from dtheta.core.files import load
from tests.cli.conftest import Outcome, spawn

Run = Callable[..., Outcome]


def test_methods(dtheta: Run, folders: dict[str, Path]) -> None:
    done = dtheta("methods", "--for", folders["bert"], "--rank", 4, "--json")
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in done.json["methods"]}
    assert {"LoRA", "PiSSA", "SORSA", "CLIPSVD", "Full", "BitFit"} <= set(rows)
    # two blocks: four square matrices of 16, one 32 x 16 and one 16 x 32
    assert rows["LoRA"]["parameters"] == rows["PiSSA"]["parameters"] == 2 * 4 * (4 * 32 + 2 * 48)
    assert rows["CLIPSVD"]["parameters"] == 2 * 6 * 16
    assert rows["Full"]["share"] == 1.0
    assert "2404.02948" in dtheta("methods", "--for", folders["bert"], "--rank", 4).out


def test_a_rank_that_does_not_fit_is_said_and_not_counted(dtheta: Run, folders: dict[str, Path]) -> None:
    done = dtheta("methods", "--for", folders["bert"], "--rank", 40, "--json")
    assert done.code == 0
    rows = {row["name"]: row for row in done.json["methods"]}
    assert rows["PiSSA"]["parameters"] is None
    assert "rank 40 does not fit" in rows["PiSSA"]["note"]


def test_a_method_that_does_not_load_is_said_and_the_others_are_listed(
    dtheta: Run, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = EntryPoint("Broken", "a_package_that_is_not_there:Broken", "dtheta.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: (broken,))
    done = dtheta("methods", "--for", folders["bert"], "--rank", 4, "--json")
    assert done.code == 0, done.err
    rows = {row["name"]: row for row in done.json["methods"]}
    assert rows["LoRA"]["parameters"] and rows["Broken"]["parameters"] is None
    assert "'Broken' does not load: No module named 'a_package_that_is_not_there'" in rows["Broken"]["note"]


def test_models(dtheta: Run) -> None:
    done = dtheta("models", "--json")
    rows = {row["name"]: row for row in done.json["models"]}
    assert {"minilm", "smollm2"} <= set(rows)
    assert all(row["license"] and isinstance(row["cached"], bool) for row in rows.values())
    assert dtheta("models", "--fetch", "minlm").code == 2


def test_models_dry_run_fetches_nothing(dtheta: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DTHETA_CACHE", str(tmp_path / "cache"))
    done = dtheta("models", "--fetch", "all", "--dry-run", "--json")
    assert done.code == 0
    assert len(done.json["reads"]) >= 2
    assert not (tmp_path / "cache").exists()


def test_doctor(dtheta: Run) -> None:
    done = dtheta("doctor", "--json")
    record = done.json
    assert (done.code == 0) == record["ok"]
    states = {check["check"]: check["state"] for check in record["checks"]}
    assert states["round trip"] == "ok"
    assert states["torch"] == "ok"


def test_doctor_fails_when_something_is_broken(dtheta: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DTHETA_CACHE", str(tmp_path / "file" / "cache"))
    done = dtheta("doctor")
    assert done.code == 1
    assert "cannot be written" in done.out

    def fall(*_: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setattr("dtheta.core.files.load", fall)
    record = dtheta("doctor", "--json").json
    assert {"check": "round trip", "state": "broken", "detail": "RuntimeError: no luck"} in record["checks"]


def test_report_of_deltas(dtheta: Run, adapted: Path) -> None:
    done = dtheta("report", adapted, "--out", "deltas.html", "--json")
    assert done.code == 0, done.err
    assert done.json["kind"] == "deltas"
    assert "PiSSA" in Path("deltas.html").read_text()


@pytest.fixture
def two_runs(dtheta: Run, folders: dict[str, Path], table: Path) -> None:
    for method in ("LoRA", "SORSA"):
        name = method.lower()
        done = dtheta(
            "adapt", "--model", folders["bert"], "--data", table, "--method", method, "--rank", 2, "--steps", 2,
            "--max-length", 16, "--out", f"{name}.delta", "--report", f"{name}.html",
        )  # fmt: skip
        assert done.code == 0, done.err


@pytest.mark.usefixtures("two_runs")
def test_report_of_several_runs(dtheta: Run) -> None:
    done = dtheta("report", "lora.json", "sorsa.json", "--out", "both.html", "--json")
    assert done.code == 0, done.err
    page = Path("both.html").read_text()
    assert "LoRA" in page
    assert "SORSA" in page
    done = dtheta("report", "lora.json", "lora.json")
    assert done.code == 2
    assert "give each method once" in done.err


@pytest.mark.parametrize(
    ("files", "message"),
    [([], "give .delta files"), (["gone.delta"], "there is no file"), (["a.json", "b.delta"], "only one of the two")],
)
def test_report_of_what_is_not_there(dtheta: Run, files: list[str], message: str) -> None:
    for name in ("a.json", "b.delta"):
        Path(name).write_text("{}")
    done = dtheta("report", *files)
    assert done.code == 2
    assert message in done.err
    assert not Path("report.html").exists()


def test_report_of_a_file_that_is_none(dtheta: Run) -> None:
    Path("a.json").write_text("{}")
    done = dtheta("report", "a.json")
    assert done.code == 1
    assert "a.json" in done.err
    assert not Path("report.html").exists()


def test_methods_lists_what_goes_with_quantize(dtheta: Run, folders: dict[str, Path]) -> None:
    done = dtheta("methods", "--for", folders["bert"], "--rank", 4, "--json")
    assert {"QPiSSA", "LoftQ", "BestQ"} <= {row["name"] for row in done.json["quantize"]}
    assert "2310.08659" in dtheta("methods", "--for", folders["bert"], "--rank", 4).out


def test_models_prints_the_license_of_the_data_too(dtheta: Run) -> None:
    from dtheta.data.sources import SOURCES
    from dtheta.data.tasks import TASKS

    done = dtheta("models", "--json")
    assert {task for row in done.json["data"] for task in row["tasks"]} == set(TASKS)
    licenses = {row["license"] for row in [*done.json["models"], *done.json["data"]]}
    assert all(any(package.license in text for text in licenses) for package in SOURCES.values())
    assert all(text in dtheta("models").out for text in licenses)


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals there")
@pytest.mark.parametrize("columns", [40, 60, 79])
def test_a_narrow_terminal_loses_nothing(adapted: Path, columns: int) -> None:
    """On a terminal of so many columns every cell of the table is there in one piece."""
    code = f"""
import pty, sys
sys.exit(pty.spawn([sys.executable, "-m", "dtheta.cli.main", "show", {str(adapted)!r}]) >> 8)
"""
    done = spawn(code=code, env={"COLUMNS": str(columns)}, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    shown = [line.strip() for line in done.stdout.splitlines()]
    for name, change in load(adapted).changes.items():
        assert name in shown
        assert f"norm: {change.norm():.4g}" in shown


def test_a_table_on_top_of_each_other() -> None:
    table = Table(("name", "size>", "note"), [("a", "1", ""), ("b", "22", "x")], "what")
    assert table.stacked() == "what\na\n  size: 1\nb\n  size: 22\n  note: x"
    assert table.width == len("name  size  note")


@pytest.mark.usefixtures("two_runs")
def test_several_runs_say_where_they_differ(dtheta: Run, folders: dict[str, Path]) -> None:
    """The page has one provenance, and it must not be that of the first run alone."""
    shutil.copy("reviews.csv", "other.csv")
    done = dtheta(
        "adapt", "--model", folders["bert"], "--data", "other.csv", "--method", "LoRA", "--rank", 2, "--steps", 2,
        "--max-length", 12, "--seed", 5, "--out", "o.delta", "--report", "o.html",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert dtheta("report", "lora.json", "sorsa.json", "o.json", "--out", "all.html").code == 0
    page = Path("all.html").read_text()
    assert "<dt>seed</dt><dd>0, 5</dd>" in page and "<dt>tokens of a text</dt><dd>16, 12</dd>" in page


@pytest.mark.usefixtures("two_runs")
def test_runs_that_measure_other_things_are_no_one_page(dtheta: Run) -> None:
    record = json.loads(Path("sorsa.json").read_text())
    record["measure"] |= {"name": "loss", "unit": "nats a token", "better": "lower"}
    record["tasks"][0]["name"] = "notes"
    Path("sorsa.json").write_text(json.dumps(record))
    for more in ([], ["--dry-run"]):
        done = dtheta("report", "lora.json", "sorsa.json", "--out", "both.html", *more)
        assert done.code == 2 and "measure accuracy on test examples and loss on test examples" in done.err


def test_doctor_names_every_extra_that_a_user_may_want(dtheta: Run) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    wanted = project["optional-dependencies"]
    checks = {check["check"] for check in dtheta("doctor", "--json").json["checks"]}
    assert {f"extra {name}" for name in wanted if name not in ("docs", "dev", "track")} <= checks


def test_shares_below_a_hundredth_of_a_percent_are_not_none() -> None:
    assert [part(share) for share in (0.0, 1.7e-5, 4e-4, 0.0123, 1.0)] == [
        "0.00 %", "0.0017 %", "0.04 %", "1.23 %", "100.00 %",
    ]  # fmt: skip
