"""``--dry-run`` fails where the real run would, and options are looked at before anything is computed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, sentences, write_table

Run = Callable[..., Outcome]


@pytest.fixture
def here(stocked: Path) -> Path:
    write_table(stocked / "plain.csv", [(text, "1") for text, _ in sentences(20)], ("text", "number"))
    return stocked


ADAPT = ["adapt", "--model", "bert", "--data", "reviews.csv", "--max-length", "16", "--rank", "4"]


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([*ADAPT, "--steps", "0"], 2, "--steps must be"),
        ([*ADAPT, "--lr", "0"], 2, "--lr must be a positive number"),
        ([*ADAPT, "--head-lr", "0"], 2, "--head-lr must be a positive number"),
        ([*ADAPT, "--batch-size", "0"], 2, "--batch-size must be"),
        ([*ADAPT, "--rank", "5000"], 2, "rank 5000 does not fit"),
        ([*ADAPT, "--select", "nothing"], 1, "nothing"),
        ([*ADAPT, "--validate", "100"], 2, "--validate 100"),
        ([*ADAPT, "--validate", "-1"], 2, "--validate -1"),
        ([*ADAPT, "--max-length", "999"], 2, "--max-length 999"),
        ([*ADAPT, "--text", "body"], 2, "--text: reviews.csv has no column 'body'; there are: text, label"),
        ([*ADAPT, "--label", "lable"], 2, "--label: reviews.csv has no column 'lable'"),
        ([*ADAPT, "--data", "."], 2, "is a folder"),
        ([*ADAPT, "--data", "plain.csv"], 2, "give the column of the classes with --label"),
        ([*ADAPT, "--model", "llama", "--data", "plain.csv", "--max-length", "999"], 2, "--max-length 999"),
        ([*ADAPT, "--model", "llama", "--data", "plain.csv", "--rank", "999"], 2, "rank 999 does not fit"),
        (["apply", "nope.delta", "--text", "a"], 2, "there is no file nope.delta"),
        (["apply", "x.delta", "--model", "bert", "--data", "reviews.csv", "--column", "body"], 2, "--column: reviews"),
        (["apply", "x.delta", "--model", "llama", "--text", "a"], 3, "another base"),
        (["apply", "x.delta", "--model", "bert", "--text", ""], 2, "--text number 1 is empty"),
        (["apply", "l.delta", "--model", "llama", "--text", "a", "--tokens", "0"], 2, "--tokens must be at least 1"),
        (["apply", "l.delta", "--model", "llama", "--text", "a", "--tokens", "-1"], 2, "--tokens must be at least 1"),
        (["merge", "bert", "nope.delta", "--out", "m"], 2, "there is no file nope.delta"),
        (["merge", "bert", "--out", "m"], 2, "there is no delta to merge"),
        (["merge", "bert", "x.delta", "--weight", "1", "--weight", "2", "--out", "m"], 2, "1 deltas but 2 weights"),
        (["merge", "llama", "x.delta", "--out", "m"], 3, "another base"),
        (["merge", "bert", "x.delta", "l.delta", "--out", "m"], 3, "another base"),
        (["merge", "llama", "x.delta", "l.delta", "--out", "m"], 3, "another base"),
        (["methods", "--for", "nope"], 2, "nope"),
        (["methods", "--for", "bert", "--rank", "0"], 2, "--rank is 0"),
        (["report", "plain.json"], 2, "there is no file"),
        (["report", ".", "--serve", "--port", "70000"], 2, "--port must be a number from 1 to 65535, or 0"),
        (["apply", "x.delta", "--model", "bert", "--data", "reviews.csv", "--label", "text"], 2, "knows bad, good"),
        (["merge", "bert", "x.delta", "l.delta", "--select", "encoder.*", "--out", "m"], 1, "l.delta: no change match"),
        (["extract", "bert", "llama", "--out", "e.delta"], 1, "39 tensors of the base are not in the tuned checkpoint"),
        (["extract", "bert", "llama", "--partial", "--out", "e.delta"], 1, "no tensor of the base has a partner"),
        (["extract", "bert", "bert", "--rank", "0", "--out", "e.delta"], 2, "--rank must be a positive integer"),
        (["extract", "bert", "bert", "--rank", "1.5", "--out", "e.delta"], 2, "--rank must be a positive integer"),
        (["extract", "bert", "bert", "--select", "nothing", "--out", "e.delta"], 1, "no tensor of the base matches"),
    ],
)
def test_it_fails_alike(
    dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str,
    more: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("dtheta.adapt.text_problem.frozen_baseline", lambda *_: pytest.fail("it began to compute"))
    monkeypatch.setattr("dtheta.adapt.language.text_losses", lambda *_: pytest.fail("it began to compute"))
    before = sorted(here.iterdir())
    done = dtheta(*arguments, *more)
    assert (done.code, done.out) == (code, ""), done.err
    assert message in done.err
    assert "strict=" not in done.err
    assert sorted(here.iterdir()) == before


def test_deltas_of_two_versions_of_a_base_meet_in_no_merge(dtheta: Run, here: Path) -> None:
    """Same names, same shapes, other numbers: the digests in the headers differ."""
    assert dtheta("merge", "llama", "l.delta", "--out", "moved").code == 0
    assert dtheta("extract", "moved", "llama", "--out", "back.delta").code == 0
    for more in ([], ["--dry-run"]):
        done = dtheta("merge", "llama", "l.delta", "back.delta", "--out", "m", *more)
        assert (done.code, done.out) == (3, "")
        assert "l.delta and back.delta were made on different bases" in done.err
        done = dtheta("merge", "moved", "l.delta", "--out", "m", *more)
        assert (done.code, done.out) == (3, "")
        assert "made for another base" in done.err
        done = dtheta("apply", "l.delta", "--model", "moved", "--text", "the film", *more)
        assert (done.code, done.out) == (3, "")
    assert not Path("m").exists()


def test_the_time_is_that_of_the_texts(dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short texts cost what they hold, however many tokens would be kept of longer ones."""
    monkeypatch.setattr("dtheta.cli.cost.product_rate", lambda: 1e6)
    short, long = (dtheta(*ADAPT, "--max-length", n, "--dry-run", "--json").json["seconds"] for n in (16, 32))
    assert short == long > 0
    assert dtheta(*ADAPT, "--max-length", 2, "--dry-run", "--json").json["seconds"] < short


def test_the_lengths_of_a_sample() -> None:
    from dtheta.adapt.lora import LoRA
    from dtheta.adapt.recipe import Recipe
    from dtheta.cli.rehearsal import lengths

    def words(texts: list[str], truncation: bool, max_length: int) -> dict[str, list[list[str]]]:
        assert truncation
        return {"input_ids": [text.split()[:max_length] for text in texts]}

    found = lengths(["a", "a b c", "a b", "a b c d e f"], words, Recipe(LoRA(), batch_size=2, max_length=5))
    assert found.alone == (1 + 3 + 2 + 5) / 4
    assert found.padded == (3 + 5) / 2


def test_a_plain_dry_run_of_a_language_model(dtheta: Run, here: Path) -> None:
    done = dtheta(*ADAPT, "--model", "llama", "--data", "plain.csv", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert done.json["seconds"] is not None
    assert json.loads(done.out)["settings"]["model"] == "llama"
