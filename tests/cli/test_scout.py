"""``dtheta scout``: the ranking, its page, the command it proposes, and what it refuses."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, sentences, write_table

Run = Callable[..., Outcome]


GIVEN = ("--model", "bert", "--data", "reviews.csv", "--max-length", 16, "--examples", 40)


def _proposed(told: str) -> list[str]:
    """Return the arguments of the command that a scouting proposes."""
    line = next(line for line in told.splitlines() if line.startswith("train it:"))
    return shlex.split(line.removeprefix("train it:"))[1:]


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
    assert dtheta(*_proposed(told.out), "--steps", 2).code == 0


def test_the_same_seed_gives_the_same_numbers(dtheta: Run, here: Path) -> None:
    one, two = (dtheta("scout", *GIVEN, "--method", "LoRA(rank=2)", "--seed", 3, "--json").json for _ in range(2))
    assert one["rows"] == two["rows"] and one["checks"] == two["checks"]


def test_a_method_that_cannot_be_had_is_named(dtheta: Run, here: Path) -> None:
    done = dtheta("scout", *GIVEN, "--method", "LoRA(rank=999)", "--method", "BitFit", "--probe", "none")
    assert done.code == 0 and "not scouted: LoRA(rank=999)" in done.out


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("--method", "LoRA(rank=2"), 2, "is not of the form"),
        (("--method", "Lora2"), 2, "unknown method"),
        (("--method", "LoRA(ranks=2)"), 2, "rank"),
        (("--method", "BitFit", "--method", "BitFit"), 2, "twice"),
        (("--method", "LoRA on nothing"), 2, "none of the methods can be scouted"),
        (("--method", "Full on head.*"), 2, "nothing but the head"),
        (("--method", "LoRA(rank=99)", "--method", "PiSSA(rank=99)"), 2, "rank 99 does not fit"),
        (("--method", "PromptTuning on @attention"), 2, "nothing to select"),
        (("--text", "nope"), 2, "nope"),
        (("--label", "stars"), 2, "stars"),
        (("--data", "bbb"), 2, "no task 'bbb'"),
        (("--data", "missing.csv"), 2, "missing.csv"),
        (("--data", "digits"), 2, "pictures"),
        (("--data", "one.csv"), 1, "at least two classes"),
        (("--examples", 4), 2, "examples"),
        (("--examples", -5), 2, "examples"),
        (("--max-length", 0), 2, "max-length"),
        (("--max-length", 99), 2, "--max-length 99 must lie between 1 and 32"),
        (("--pooling", "max"), 2, "pooling"),
        (("--model", "nowhere"), 2, "nowhere"),
        (("--report", "reviews.csv"), 1, "reviews.csv"),
    ],
)
def test_bad_input_is_refused_by_a_dry_run_too(
    dtheta: Run, here: Path, dry: tuple[str, ...], given: tuple[object, ...], code: int, said: str
) -> None:
    write_table(here / "one.csv", [(text, "good") for text, _ in sentences(40)])
    before = sorted(path.name for path in here.iterdir())
    done = dtheta("scout", *GIVEN, *given, *dry)
    assert (done.code, done.out) == (code, "") and said in done.err, done.err
    assert sorted(path.name for path in here.iterdir()) == before


def test_the_proposed_command_has_the_options_it_was_found_with(dtheta: Run, here: Path, table: Path) -> None:
    (here / "other.csv").write_text(table.read_text().replace("text,label", "body,stars", 1))
    arguments = ("--data", "other.csv", "--text", "body", "--label", "stars", "--method", "BitFit", "--probe", "none")
    told = dtheta("scout", *GIVEN, *arguments, "--seed", 3)
    assert told.code == 0, told.err
    command = _proposed(told.out)
    for flag, value in (("--text", "body"), ("--label", "stars"), ("--max-length", "16"), ("--seed", "3")):
        assert command[command.index(flag) + 1] == value
    assert dtheta(*command, "--steps", 2).code == 0


def test_a_dry_run_loads_no_weights_and_writes_nothing(
    dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtheta.models.load.load_model", lambda *_: pytest.fail("it loaded weights"))
    methods = ("--method", "LoRA(rank=99)", "--method", "BitFit", "--method", "PromptTuning")
    done = dtheta("scout", *GIVEN, *methods, "--report", "scout.html", "--dry-run", "--json")
    assert done.code == 0 and done.json["dry_run"] and done.json["memory"] > 0
    (note,) = done.json["notes"]
    assert note.startswith("not scouted: LoRA(rank=99)") and "does not fit" in note
    assert not Path("scout.html").exists()
