"""``dtheta scout``: the ranking, its page, the command it proposes, and what it refuses."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def here(dtheta: Run, folders: dict[str, Path], table: Path) -> Path:
    (table.parent / "bert").symlink_to(folders["bert"])
    return table.parent


GIVEN = ("--model", "bert", "--data", "reviews.csv", "--max-length", 16, "--examples", 40)


def test_it_ranks_the_methods_and_proposes_a_command_that_runs(dtheta: Run, here: Path) -> None:
    methods = ["--method", "LoRA(rank=2)", "--method", "BitFit", "--method", "LoRA(rank=2) on @attention#1"]
    done = dtheta("scout", *GIVEN, *methods, "--report", "scout.html", "--json")
    assert done.code == 0, done.err
    record = done.json
    assert {row["name"] for row in record["rows"]} == {"LoRA(rank=2)", "BitFit", "LoRA(rank=2) on @attention#1"}
    losses = [row["loss"] for row in record["rows"]]
    assert losses == sorted(losses) and record["best"] == record["rows"][0]["name"]
    assert record["examples"] == 40 and len(record["checks"]) == 1
    for row in record["rows"]:
        assert sum(row["shares"].values()) == pytest.approx(1.0)
    page = Path("scout.html").read_text()
    assert "Whether to believe it" in page and "LoRA(rank=2) on @attention#1" in page
    told = dtheta("scout", *GIVEN, *methods, "--probe", "none")
    line = next(line for line in told.out.splitlines() if line.startswith("train it:"))
    command = shlex.split(line.removeprefix("train it:"))
    assert dtheta(*command[1:], "--steps", 2).code == 0


def test_the_same_seed_gives_the_same_numbers(dtheta: Run, here: Path) -> None:
    one, two = (dtheta("scout", *GIVEN, "--method", "LoRA(rank=2)", "--seed", 3, "--json").json for _ in range(2))
    assert one["rows"] == two["rows"] and one["checks"] == two["checks"]


def test_a_method_that_cannot_be_had_is_named(dtheta: Run, here: Path) -> None:
    done = dtheta("scout", *GIVEN, "--method", "LoRA(rank=999)", "--method", "BitFit", "--probe", "none")
    assert done.code == 0 and "not scouted: LoRA(rank=999)" in done.out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--method", "LoRA(rank=2"), "is not of the form"),
        (("--method", "Lora2"), "unknown method"),
        (("--method", "LoRA(ranks=2)"), "rank"),
        (("--label", "stars"), "stars"),
        (("--data", "bbb"), "no task 'bbb'"),
        (("--data", "digits"), "pictures"),
        (("--examples", 4), "examples"),
        (("--report", "reviews.csv"), "reviews.csv"),
        (("--method", "BitFit", "--method", "BitFit"), "twice"),
    ],
)
def test_bad_input_is_refused(dtheta: Run, here: Path, given: tuple[object, ...], said: str) -> None:
    done = dtheta("scout", *GIVEN, *given)
    assert done.code == (1 if "--report" in given else 2) and said in done.err and done.out == ""
    assert sorted(p.name for p in here.iterdir()) == ["bert", "reviews.csv"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--data", "missing.csv"), "missing.csv"),
        (("--text", "nope"), "nope"),
        (("--examples", -5), "examples"),
        (("--max-length", 0), "max-length"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(dtheta: Run, here: Path, given: tuple[object, ...], said: str) -> None:
    done = dtheta("scout", *GIVEN, *given, "--dry-run")
    assert done.code == 2 and said in done.err


def test_the_proposed_command_has_the_options_it_was_found_with(dtheta: Run, here: Path, table: Path) -> None:
    (here / "other.csv").write_text(table.read_text().replace("text,label", "body,stars", 1))
    arguments = ("--data", "other.csv", "--text", "body", "--label", "stars", "--method", "BitFit", "--probe", "none")
    told = dtheta("scout", *GIVEN, *arguments, "--seed", 3)
    assert told.code == 0, told.err
    line = next(line for line in told.out.splitlines() if line.startswith("train it:"))
    command = shlex.split(line.removeprefix("train it:"))
    for flag, value in (("--text", "body"), ("--label", "stars"), ("--max-length", "16"), ("--seed", "3")):
        assert command[command.index(flag) + 1] == value
    assert dtheta(*command[1:], "--steps", 2).code == 0


def test_a_dry_run_reads_nothing_and_writes_nothing(dtheta: Run, here: Path) -> None:
    done = dtheta("scout", *GIVEN, "--report", "scout.html", "--dry-run", "--json")
    assert done.code == 0 and done.json["dry_run"] and done.json["memory"] > 0
    assert not Path("scout.html").exists()
