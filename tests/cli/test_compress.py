"""``dtheta compress``: signs and scales, and their choice on labeled texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dtheta.adapt.tasks import task_model
from dtheta.cli.judge import encoded, right
from dtheta.cli.labeled import Source, labeled
from dtheta.compress.compeft import compress
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.ternary_factors import TernaryFactors
from dtheta.models.load import load_model, load_tokenizer
from tests.cli.conftest import Outcome, sentences, write_table

Run = Callable[..., Outcome]


@pytest.fixture
def here(stocked: Path) -> Path:
    return stocked


def test_it_is_the_library_s_own_and_says_what_it_cost(dtheta: Run, here: Path) -> None:
    done = dtheta("compress", "x.delta", "--out", "s.delta", "--density", 0.2, "--json")
    assert done.code == 0, done.err
    record, delta, packed = done.json, load("x.delta"), load("s.delta")
    assert packed == compress(delta, 0.2, of="balanced", keep="head.*")
    assert (record["of"], record["keep"], record["density"]) == ("balanced", "head.*", 0.2)
    assert record["file_bytes"] == (here / "s.delta").stat().st_size < record["file_bytes_before"]
    assert record["entropy"] < record["bits"]
    inner, small = (d.restrict("encoder.*") for d in (delta, packed))
    assert record["relative_error"] == pytest.approx((inner - small).norm() / inner.norm())
    assert record["cosine"] == pytest.approx(inner.cosine(small))
    assert torch.equal(packed["head.weight"].dense(), delta["head.weight"].dense())
    assert all(isinstance(change, TernaryFactors) for change in small.changes.values())


def test_what_it_is_made_of_is_in_the_file(dtheta: Run, here: Path) -> None:
    assert dtheta("compress", "x.delta", "--out", "s.delta", "--seed", 7).code == 0
    made = load("s.delta").provenance
    assert made.parents == [load("x.delta").digest]
    command = made.settings["command"]
    assert (command["verb"], command["delta"], command["seed"]) == ("compress", "x.delta", 7)
    assert "accuracy" not in made.task and made.task["classes"] == ["bad", "good"]
    shown = dtheta("apply", "s.delta", "--model", "bert", "--text", "the film was great", "--json")
    assert shown.code == 0, shown.err


def test_auto_is_told_and_factors_are_taken_where_they_can_be(dtheta: Run, here: Path) -> None:
    done = dtheta("compress", "x.delta", "--out", "s.delta")
    assert "balanced: both factors" in done.out and "mean nothing one by one" in done.out
    assert "head.*, left as it is" in done.out
    flat = load("x.delta").restrict("encoder.*").map(lambda _, change: Dense(change.dense()))
    flat.save("dense.delta")
    done = dtheta("compress", "dense.delta", "--out", "s.delta", "--json")
    assert (done.json["of"], done.json["keep"], done.json["why"]) == ("factors", "", "")
    for verb in ([], ["--dry-run"]):
        done = dtheta("compress", "x.delta", "--of", "factors", "--out", "f.delta", *verb)
        assert (done.code, done.out) == (1, "")
        assert "--of 'balanced'" in done.err and "use of=" not in done.err
    assert not Path("f.delta").exists()


def test_lora_by_its_factors_or_not_at_all(dtheta: Run, here: Path) -> None:
    done = dtheta(
        "adapt", "--model", "bert", "--data", "reviews.csv", "--method", "LoRA", "--rank", 4, "--steps", 20, "--lr",
        1e-2, "--max-length", 16, "--out", "lora.delta",
    )  # fmt: skip
    assert done.code == 0, done.err
    done = dtheta("compress", "lora.delta", "--per", "tensor", "--out", "s.delta", "--json")
    assert (done.json["of"], done.json["vanished"]) == ("factors", [])
    # a threshold so high that most products would be zero
    done = dtheta("compress", "lora.delta", "--density", 0.02, "--out", "s.delta", "--json")
    assert done.code == 0, done.err
    assert done.json["of"] == "balanced"
    assert "at density 0.02" in done.json["why"] and "would become zero" in done.json["why"]


def test_a_search_keeps_test_texts_out_of_it(dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_table(here / "more.csv", sentences(60) + [(f"{text} again", label) for text, label in sentences(60)])
    search = ["--search", "--data", "more.csv", "--model", "bert", "--validate", 30, "--density", 0.1, "--density", 0.5]
    done = dtheta("compress", "x.delta", *search, "--alpha", 1, "--alpha", 4, "--out", "s.delta", "--json")
    assert done.code == 0, done.err
    record, packed = done.json, load("s.delta")
    assert len(record["grid"]) == 4
    best = max(record["grid"], key=lambda trial: (trial["score"], -trial["nbytes"]))
    assert (record["density"], record["alpha"]) == (best["density"], best["alpha"])
    assert record["scale"] == "alpha-sigma"
    assert record["searched_on"] == {"data": "more", "texts": 30, "seen_in_training": 0}
    assert packed.provenance.task["accuracy"] == record["after"]
    # by hand: the accuracies before and after, on test texts that did not choose
    made = load("x.delta").provenance
    texts = labeled(made, Source("more.csv"), 0)
    choose, test = texts.held_out(30)
    assert not set(choose.texts) & set(test.texts)
    net = task_model(packed, load_model("bert"))
    found = right(net, encoded(test, load_tokenizer("bert"), made.task), packed)
    assert (record["test"], record["after"]["estimate"]) == (len(test), float(found.mean()))
    own = right(net, encoded(test, load_tokenizer("bert"), made.task), load("x.delta"))
    assert record["before"]["estimate"] == float(own.mean())
    assert record["nbytes_before"] == load("x.delta").restrict("encoder.*").nbytes


def test_the_texts_of_training_choose_nothing(dtheta: Run, here: Path) -> None:
    """All 48 training texts of this file were seen, so the test texts are divided: 5 choose, 7 report."""
    search = ["compress", "x.delta", "--search", "--data", "reviews.csv", "--model", "bert", "--density", 0.3]
    done = dtheta(*search, "--validate", 5, "--alpha", 1, "--out", "s.delta", "--json")
    assert done.code == 0, done.err
    assert done.json["searched_on"]["seen_in_training"] == 0
    assert done.json["test"] == 7
    for more in ([], ["--dry-run"]):
        done = dtheta(*search, "--validate", 12, "--out", "t.delta", *more)
        assert (done.code, done.out) == (2, "")
        assert "--validate 12" in done.err and "0 texts that training has not seen" in done.err


def test_singular_values_and_new_vectors(dtheta: Run, here: Path) -> None:
    done = dtheta(
        "adapt", "--model", "bert", "--data", "reviews.csv", "--method", "CLIPSVD", "--steps", 3, "--lr", 1e-2,
        "--max-length", 16, "--out", "v.delta",
    )  # fmt: skip
    assert done.code == 0, done.err
    for more in ([], ["--dry-run"]):
        done = dtheta("compress", "v.delta", "--out", "s.delta", *more)
        assert (done.code, done.out) == (2, "")  # of a model that nobody knows by name
    done = dtheta("compress", "v.delta", "--model", "bert", "--out", "s.delta")
    assert done.code == 0, done.err
    assert "stored as numbers" in done.out and "nan" not in done.out and "bits" not in done.out
    done = dtheta("compress", "v.delta", "--model", "bert", "--out", "s.delta", "--dry-run", "--json")
    assert "model bert" in done.json["reads"]
    assert dtheta("compress", "v.delta", "--model", "llama", "--out", "t.delta").code in (1, 3)
    Delta({"prompt": New(torch.randn(4, 8)), "w": Dense(torch.randn(8, 8))}).save("p.delta")
    for more in ([], ["--dry-run"]):
        done = dtheta("compress", "p.delta", "--out", "t.delta", *more)
        assert (done.code, done.out) == (1, "")
        assert "--new" in done.err
    assert dtheta("compress", "p.delta", "--new", "--out", "t.delta").code == 0
    assert dtheta("compress", "p.delta", "--keep", "prompt", "--out", "t.delta").code == 0


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nope.delta"], 2, "there is no file nope.delta"),
        (["x.delta", "--density", "2"], 2, "density 2.0 is not in (0, 1]"),
        (["x.delta", "--density", "0.1", "--density", "0.2"], 2, "without --search there is one"),
        (["x.delta", "--alpha", "-1"], 2, "alpha"),
        (["x.delta", "--alpha", "1", "--alpha", "2"], 2, "--alpha was given 2 times"),
        (["x.delta", "--data", "reviews.csv"], 2, "--data goes with --search; add that"),
        (["x.delta", "--validate", "5"], 2, "--validate goes with --search"),
        (["x.delta", "--keep", "nothing.*"], 1, "--keep 'nothing.*' matches no change"),
        (["x.delta", "--keep", "*"], 2, "leaves nothing"),
        (["x.delta", "--search", "--model", "bert"], 2, "give its labeled texts with --data FILE"),
        (["x.delta", "--search", "--data", "reviews.csv"], 2, "give its folder with --model"),
        (["x.delta", "--search", "--data", "reviews.csv", "--model", "llama"], 3, "another base"),
        (["l.delta", "--search", "--data", "reviews.csv", "--model", "llama"], 2, "of no text classifier"),
        (["x.delta", "--search", "--data", "reviews.csv", "--model", "bert", "--label", "lable"], 2, "no column"),
        (["x.delta", "--out", "x.delta"], 1, "cannot write x.delta (--out): it is x.delta (DELTA)"),
        (["x.delta", "--search", "--data", "reviews.csv", "--model", "bert", "--out", "reviews.csv"], 1, "--data"),
    ],
)
def test_it_fails_alike(
    dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str,
    more: list[str],
) -> None:  # fmt: skip
    monkeypatch.setattr("dtheta.compress.compeft.signs", lambda *_, **__: pytest.fail("it began to compute"))
    before = {p.name: p.stat().st_mtime_ns for p in here.iterdir()}
    done = dtheta("compress", *arguments, *more)
    assert (done.code, done.out) == (code, ""), done.err
    assert message in done.err
    assert {p.name: p.stat().st_mtime_ns for p in here.iterdir()} == before


def test_a_plain_dry_run_reads_headers_only(dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtheta.core.header.Opened.change", lambda *_: pytest.fail("it read a tensor"))
    done = dtheta("compress", "x.delta", "--out", "s.delta", "--dry-run", "--json")
    assert done.code == 0, done.err
    assert list(done.json["writes"]) == ["s.delta"] and not Path("s.delta").exists()


def test_texts_that_cannot_be_split_again(dtheta: Run, here: Path) -> None:
    delta = load("x.delta")
    command = {**delta.provenance.settings["command"], "test": "other.csv"}
    made = replace(delta.provenance, settings={**delta.provenance.settings, "command": command})
    replace(delta, provenance=made).save("y.delta")
    done = dtheta("compress", "y.delta", "--search", "--data", "reviews.csv", "--model", "bert", "--validate", 5)
    assert done.code == 2
    assert "tested on another file" in done.err


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_a_file_that_grew_is_not_split_anew(dtheta: Run, here: Path, more: list[str]) -> None:
    """Its texts would be dealt out otherwise, and what was trained on be told as what was not."""
    write_table(here / "reviews.csv", sentences(90))
    search = ["--search", "--model", "bert", "--data", "reviews.csv", "--validate", "10", "--out", "c.delta"]
    done = dtheta("compress", "x.delta", *search, *more)
    assert (done.code, done.out) == (2, "") and "reviews.csv has other texts than when" in done.err


def test_changes_without_factors_are_not_told_of_factors(dtheta: Run, here: Path) -> None:
    """A dense change that vanishes below the threshold has nothing to do with the choice of factors."""
    torch.manual_seed(0)
    Delta({"w": Dense(torch.randn(16, 16)), "b": Dense(1e-6 * torch.randn(16))}).save("d.delta")
    done = dtheta("compress", "d.delta", "--out", "s.delta", "--json")
    assert (done.json["of"], done.json["why"], done.json["vanished"]) == ("factors", "", ["b"])
    done = dtheta("compress", "d.delta", "--out", "s.delta")
    assert "since" not in done.out and "vanished  1 changes" in done.out
