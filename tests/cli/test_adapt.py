"""``dtheta adapt``: from a table to a delta, and every way in which that cannot be meant."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dtheta.cli.workspace import held
from dtheta.core.files import load, read_header
from tests.cli.conftest import Outcome, sentences, spawn, write_table

Run = Callable[..., Outcome]


def arguments(folders: dict[str, Path], table: Path, *more: object) -> list[object]:
    return ["adapt", "--model", folders["bert"], "--data", table, "--rank", 4, "--steps", 6, "--max-length", 16, *more]


def test_a_classifier_of_ones_own_texts(dtheta: Run, folders: dict[str, Path], table: Path) -> None:
    done = dtheta(*arguments(folders, table, "--out", "x.delta", "--report", "x.html", "--json", "--seed", 3))
    assert done.code == 0, done.err
    record = done.json
    assert record["wrote"] == ["x.delta", "x.html", "x.json"]
    assert record["method"] == {"name": "PiSSA", "rank": 4, "alpha": None, "rslora": False, "accuracy": 1e-5}
    assert 0 <= record["accuracy"]["low"] <= record["accuracy"]["estimate"] <= record["accuracy"]["high"] <= 1
    assert record["gain"]["low"] <= record["gain"]["estimate"] <= record["gain"]["high"]
    assert record["steps"] == 6
    made = read_header("x.delta").provenance
    assert made.seed == 3
    assert made.task["classes"] == ["bad", "good"]
    assert (made.task["train"], made.task["test"], made.task["max_length"]) == (48, 12, 16)
    assert made.settings["command"]["data"] == "reviews.csv"
    assert str(table.parent) not in json.dumps(made.to_dict())
    assert Path("x.html").read_text().startswith("<!DOCTYPE html>")
    assert {p.name for p in Path().iterdir()} == {"reviews.csv", "x.delta", "x.html", "x.json"}


def test_it_learns_what_can_be_learned(adapted: Path) -> None:
    task = read_header(adapted).provenance.task
    assert task["accuracy"]["estimate"] == 1.0


def test_the_same_seed_gives_the_same_delta(dtheta: Run, folders: dict[str, Path], table: Path) -> None:
    for name in ("a", "b"):
        assert dtheta(*arguments(folders, table, "--out", f"{name}.delta")).code == 0
    assert load("a.delta").digest == load("b.delta").digest
    assert dtheta(*arguments(folders, table, "--out", "c.delta", "--seed", 1)).code == 0
    assert load("c.delta").digest != load("a.delta").digest


def test_other_methods_and_their_fields(dtheta: Run, folders: dict[str, Path], table: Path) -> None:
    done = dtheta(
        *arguments(folders, table, "--method", "sorsa", "--set", "gamma=1e-3", "--select", "*.query", "--json")
    )
    assert done.code == 0, done.err
    assert done.json["method"]["gamma"] == 1e-3
    assert {name.split(".")[-2] for name in load("adapted.delta")} == {"query", "head"}
    done = dtheta(
        "adapt", "--model", folders["bert"], "--data", table, "--method", "CLIPSVD", "--steps", 2, "--max-length", 16
    )
    assert done.code == 0, done.err


def test_a_validation_part_keeps_the_best_step(dtheta: Run, folders: dict[str, Path], table: Path) -> None:
    done = dtheta(*arguments(folders, table, "--validate", 12, "--json"))
    assert done.code == 0, done.err
    assert done.json["task"]["train"] == 48


def test_a_second_file_to_test_on(dtheta: Run, folders: dict[str, Path], table: Path, tmp_path: Path) -> None:
    other = write_table(tmp_path / "test.csv", [(f"{text} more", label) for text, label in sentences(20)])
    done = dtheta(*arguments(folders, table, "--test", other, "--json"))
    assert done.code == 0, done.err
    assert (done.json["task"]["train"], done.json["task"]["test"]) == (60, 20)


def test_a_language_model_of_ones_own_texts(adapted_language: Path) -> None:
    made = read_header(adapted_language).provenance
    assert made.task["kind"] == "language-modeling"
    assert made.task["loss"]["estimate"] < made.task["baseline"]["estimate"] - 0.1
    assert made.task["gain"]["low"] > 0


def test_a_language_model_with_a_report(dtheta: Run, folders: dict[str, Path], tmp_path: Path) -> None:
    table = tmp_path / "notes.jsonl"
    table.write_text("".join(json.dumps({"body": text}) + "\n" for text, _ in sentences(20)))
    done = dtheta(
        "adapt", "--model", folders["llama"], "--data", table, "--text", "body", "--rank", 2, "--steps", 3,
        "--max-length", 16, "--out", "n.delta", "--report", "n.html", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["loss"]["estimate"] > 0
    assert Path("n.html").is_file()


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_by_bit(
    dtheta: Run, folders: dict[str, Path], table: Path, tmp_path: Path
) -> None:
    """Killed without warning in the middle, resumed: the delta is that of one go."""

    def longer(*more: object) -> list[object]:
        made = arguments(folders, table, *more)
        made[made.index("--steps") + 1] = 200
        return made

    assert dtheta(*longer("--out", "whole.delta")).code == 0
    out = tmp_path / "killed.delta"
    command = longer("--out", out)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "dtheta.cli.main", *map(str, command)], env=environment, stderr=subprocess.DEVNULL
    )
    checkpoint = tmp_path / "killed.delta.run" / "last.safetensors"
    while not checkpoint.exists():
        assert process.poll() is None, "it ended before its first checkpoint"
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()

    refused = dtheta(*command)
    assert refused.code == 1
    assert "--resume" in refused.err
    changed = dtheta(*longer("--out", out, "--resume", "--lr", 0.5))
    assert changed.code == 2
    assert "lr" in changed.err
    done = dtheta(*command, "--resume")
    assert done.code == 0, done.err
    assert load(out).digest == load("whole.delta").digest
    assert not checkpoint.parent.exists()


def test_dry_run_writes_nothing(dtheta: Run, folders: dict[str, Path], table: Path) -> None:
    before = sorted(Path().rglob("*"))
    done = dtheta(*arguments(folders, table, "--out", "x.delta", "--report", "x.html", "--dry-run", "--json"))
    assert done.code == 0, done.err
    assert done.json["dry_run"] is True
    assert set(done.json["writes"]) == {"x.delta", "x.html", "x.json"}
    assert done.json["memory"] > 0
    assert done.json["seconds"] is not None
    assert done.json["settings"]["rank"] == 4
    assert sorted(Path().rglob("*")) == before
    assert "peak memory" in dtheta(*arguments(folders, table, "--dry-run")).out


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--text", "body"], 2, "no column 'body'; there are: text, label"),
        (["--label", "lable"], 2, "did you mean 'label'"),
        (["--method", "PISA"], 2, "unknown method 'PISA'; did you mean 'PiSSA'"),
        (["--set", "gama=1"], 2, "PiSSA has no field 'gama'"),
        (["--set", "gamma"], 2, "--set must be FIELD=VALUE"),
        (["--rank", "4", "--set", "rank=2"], 2, "rank is given twice, '4' and '2'"),
        (["--set", "accuracy=1e-5", "--set", "accuracy=1e-4"], 2, "accuracy is given twice"),
        (["--set", "accuracy=high"], 2, "PiSSA's accuracy must be a number"),
        (["--rank", "1000"], 2, "rank 1000 does not fit"),
        (["--select", "*.qurey"], 2, "takes no parameter"),
        (["--select", "@nothing"], 2, "unknown role"),
        (["--steps", "0"], 2, "--steps must be a whole number of at least 1"),
        (["--n-train", "1000"], 2, "--n-train 1000 must lie between"),
        (["--max-length", "999"], 2, "--max-length 999"),
        (["--validate", "47"], 2, "--validate 47"),
        (["--lr", "1e30"], 1, "Lower --lr"),
        (["--out", "nowhere/x.delta"], 1, "there is no folder"),
        (["--out", "."], 1, "it is a folder"),
        (["--report", "nowhere/x.html"], 1, "there is no folder"),
        (["--test", "gone.csv"], 2, "there is no file gone.csv"),
        (["--method", "BitFit", "--rank", "3"], 2, "BitFit has no field 'rank'"),
    ],
)
def test_bad_input_is_one_clear_error(
    dtheta: Run, folders: dict[str, Path], table: Path, more: list[str], code: int, message: str
) -> None:
    given = [str(a) for a in arguments(folders, table)]
    if more[0] == "--method":
        given = [a for i, a in enumerate(given) if a != "--rank" and given[i - 1] != "--rank"]
    before = {p.name for p in Path().iterdir()}
    done = dtheta(*given, *more)
    assert (done.code, done.out) == (code, ""), done.err
    assert message in done.err
    assert "Traceback" not in done.err
    assert not [p for p in Path().rglob("*") if p.suffix in (".delta", ".part", ".html")]
    left = {p.name for p in Path().iterdir()} - before
    assert left == ({"adapted.delta.run"} if "remove adapted.delta.run" in done.err else set())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("bcc", "there is no task 'bcc' and no such file; packaged tasks: bbc"),
        ("gone.csv", "there is no file gone.csv"),
        ("data.xlsx", "only .csv, .tsv, .jsonl"),
    ],
)
def test_data_that_is_not_there(dtheta: Run, folders: dict[str, Path], data: str, message: str) -> None:
    done = dtheta("adapt", "--model", folders["bert"], "--data", data)
    assert done.code == 2
    assert message in done.err


def test_texts_without_classes_need_a_decoder(dtheta: Run, folders: dict[str, Path], tmp_path: Path) -> None:
    table = tmp_path / "texts.jsonl"
    table.write_text("".join(json.dumps({"text": text}) + "\n" for text, _ in sentences(10)))
    done = dtheta("adapt", "--model", folders["bert"], "--data", table, "--steps", 1)
    assert done.code == 2
    assert "--label" in done.err


def test_a_model_that_is_not_there(dtheta: Run, table: Path) -> None:
    done = dtheta("adapt", "--model", "minlm", "--data", table)
    assert done.code == 2
    assert "did you mean 'minilm'" in done.err
    assert dtheta("adapt", "--model", table.parent, "--data", table).code == 2


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_full_disk_leaves_nothing_half_written(folders: dict[str, Path], table: Path, tmp_path: Path) -> None:
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    out = tmp_path / "x.delta"
    done = spawn(*arguments(folders, table, "--out", out), preexec_fn=limit)
    assert done.returncode == 1, done.stderr
    assert done.stderr.splitlines()[-1].startswith("dtheta adapt: cannot write")
    assert "Traceback" not in done.stderr
    assert not out.exists()
    assert not list(tmp_path.rglob("*.part"))


def test_the_next_step_finds_a_local_model(dtheta: Run, folders: dict[str, Path], table: Path) -> None:
    done = dtheta(*arguments(folders, table, "--steps", 1, "--out", "x.delta", "--report", "x.html"))
    (step,) = [line.split("dtheta ", 1)[1] for line in done.out.splitlines() if line.startswith("try ")]
    assert dtheta(*shlex.split(step)).code == 0
    commands = [step["command"] for step in json.loads(Path("x.json").read_text())["next_steps"]]
    assert 'dtheta apply x.delta --model bert --text "..."' in commands
    assert str(folders["bert"].parent) not in Path("x.json").read_text()


def test_a_table_in_another_encoding(dtheta: Run, folders: dict[str, Path], tmp_path: Path) -> None:
    rows = "".join(f"{text} \u00e9,{label}\n" for text, label in sentences(20))
    (tmp_path / "old.csv").write_bytes(f"text,label\n{rows}".encode("latin-1"))
    done = dtheta(*arguments(folders, tmp_path / "old.csv", "--steps", 1))
    assert done.code == 1
    assert "--encoding 'latin-1'" in done.err
    assert dtheta(*arguments(folders, tmp_path / "old.csv", "--steps", 1, "--encoding", "latin-1")).code == 0


@pytest.mark.parametrize("more", [(), ("--resume",), ("--dry-run",)])
def test_one_process_at_a_time_writes_to_an_output(
    dtheta: Run, folders: dict[str, Path], table: Path, more: tuple[str, ...]
) -> None:
    work = Path("adapted.delta.run")
    work.mkdir()
    with held(work):
        done = dtheta("adapt", "--model", folders["bert"], "--data", table, "--rank", 2, "--steps", 1, *more)
    assert done.code == 1 and "another process is writing to adapted.delta.run" in done.err
    assert work.exists() and not Path("adapted.delta").exists()
