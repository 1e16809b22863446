"""``dtheta compress MODEL --method snnk``: the library's replacement of MLPs, its costs and its effect."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import dtheta as dt
from dtheta.adapt.tasks import task_model
from dtheta.cli.judge import encoded, right
from dtheta.cli.labeled import Source, labeled
from dtheta.models.load import load_model, load_tokenizer
from tests.cli.conftest import Outcome, sentences, write_table

Run = Callable[..., Outcome]
SNNK = ("--method", "snnk", "--data", "texts.csv", "--texts", 40, "--max-length", 16)


@pytest.fixture
def here(folders: dict[str, Path], tmp_path: Path) -> Path:
    write_table(tmp_path / "texts.csv", sentences(80))
    for name in ("bert", "llama"):
        (tmp_path / name).symlink_to(folders[name])
    return tmp_path


def test_the_file_replaces_the_mlps_and_the_record_says_what_that_costs(dtheta: Run, here: Path) -> None:
    done = dtheta("compress", "bert", *SNNK, "--width", 8, "--out", "narrow.delta", "--seed", 3, "--json")
    assert done.code == 0, done.err
    record, delta, model = done.json, dt.load("narrow.delta"), load_model("bert")
    assert [row["name"] for row in record["mlps"]] == [f"encoder.layer.{i}.intermediate" for i in range(2)]
    d, h, m = 16, 32, 8
    assert record["parameters"] == [2 * (2 * d * h + d + h), 2 * (2 * d * m + d + m + d * d)]
    assert set(record["latency"]) == {"1", "32", "256"}
    assert 0 < record["output_error"] < 1 and all(0 < row["error"] < 1 for row in record["mlps"])
    assert (record["texts"], record["digest"]) == ({"fit": 40, "measure": 10}, delta.digest)
    command = delta.provenance.settings["command"]
    assert (command["verb"], command["delta"], command["width"], command["seed"]) == ("compress", "bert", 8, 3)
    batch = load_tokenizer("bert")(["the film was great"], return_tensors="pt")
    ids = {"input_ids": batch["input_ids"]}
    before = model(**ids).last_hidden_state
    dt.attach(model, delta)
    assert not torch.equal(model(**ids).last_hidden_state, before)


def test_it_is_the_library_s_own(dtheta: Run, here: Path) -> None:
    for out in ("one.delta", "two.delta"):
        assert dtheta("compress", "bert", *SNNK, "--width", 4, "--out", out, "--quiet").code == 0
    assert dt.load("one.delta").digest == dt.load("two.delta").digest
    options = ("--variant", "random", "--no-skip", "--no-sequential", "--select", "@mlp#1")
    done = dtheta("compress", "bert", *SNNK, "--width", 4, *options, "--out", "random.delta", "--json")
    assert done.code == 0, done.err
    names = list(dt.load("random.delta"))
    assert names[0] == "encoder.layer.1.intermediate.replaced.seal" and len(names) == 3
    assert names[1].startswith("encoder.layer.1.intermediate.replaced.random.relu,count=4")
    assert (done.json["variant"], done.json["skip"], done.json["sequential"]) == ("random", False, False)


def test_of_a_language_model_the_perplexity_is_told(dtheta: Run, here: Path) -> None:
    done = dtheta("compress", "llama", *SNNK, "--width", 32, "--out", "same.delta", "--json")
    assert done.code == 0, done.err
    before, after = done.json["perplexity"]
    assert after == pytest.approx(before, rel=1e-3)  # all neurons
    shown = dtheta("compress", "llama", *SNNK, "--width", 2, "--out", "narrow.delta")
    assert shown.code == 0, shown.err
    assert "perplexity" in shown.out and "model.layers.0.mlp" in shown.out and "inputs at once" in shown.out
    said = dtheta("apply", "same.delta", "--model", "llama", "--text", "the film was", "--json")
    assert said.code == 0, said.err
    assert dtheta("merge", "llama", "same.delta", "--out", "folder").code == 1 and not Path("folder").exists()


def _adapt(dtheta: Run, select: str, out: str) -> None:
    done = dtheta(
        "adapt", "--model", "bert", "--data", "texts.csv", "--select", select, "--rank", 2, "--steps", 12, "--lr", 1e-2,
        "--max-length", 16, "--out", out, "--quiet",
    )  # fmt: skip
    assert done.code == 0, done.err


def test_a_classifier_is_judged_before_and_after_on_its_own_test_texts(dtheta: Run, here: Path) -> None:
    _adapt(dtheta, "@attention", "head.delta")
    command = ("--method", "snnk", "--data", "texts.csv", "--texts", 30, "--max-length", 16, "--judge", "head.delta")
    done = dtheta("compress", "bert", *command, "--width", 3, "--out", "narrow.delta", "--json")
    assert done.code == 0, done.err
    judged = dt.load("head.delta")
    own = labeled(judged.provenance, Source("texts.csv"), 0)
    net = task_model(judged, load_model("bert"))
    texts = encoded(own.test, load_tokenizer("bert"), judged.provenance.task)
    before = right(net, texts, judged)
    dt.attach(net.encoder, dt.load("narrow.delta"))  # type: ignore[arg-type]
    after = right(net, texts, judged)
    for name, of in (("before", before), ("after", after)):
        assert done.json[name]["estimate"] == pytest.approx(float(of.mean()))
    assert done.json["test"] == len(own.test)


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_delta_whose_training_would_be_lost_is_refused(dtheta: Run, here: Path, dry: tuple[str, ...]) -> None:
    _adapt(dtheta, "@mlp", "mlp.delta")
    done = dtheta("compress", "bert", *SNNK, "--width", 6, "--judge", "mlp.delta", "--out", "n.delta", *dry)
    assert done.code == 2 and "its training would be lost" in done.err and "@attention" in done.err


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("bert", *SNNK, "--width", 33), 2, "--width 33 is more than the 32 neurons"),
        (("bert", *SNNK, "--width", 17, "--variant", "low-rank"), 2, "more than the rank 16"),
        (("bert", *SNNK), 2, "--width is missing"),
        (("bert", *SNNK, "--width", 0), 2, "--width 0 must be a whole number of at least 1"),
        (("bert", *SNNK, "--width", 4, "--select", "@attention"), 1, "takes no MLP"),
        (("bert", *SNNK[:-4], "--width", 4), 2, "--texts 128: there are 80 texts"),
        (("bert", *SNNK, "--width", 10**6, "--variant", "random"), 2, "inputs (tokens) are too few"),
        (("bert", *SNNK[:4], "--texts", 8, "--max-length", 2, "--width", 20), 2, "16 inputs (tokens) are too few"),
        (("bert", *SNNK[:-1], 99, "--width", 4), 2, "--max-length 99 must lie between 1 and 32"),
        (("bert", "--method", "snnk", "--width", 4), 2, "--data is missing"),
        (("bert", "--method", "snnk", "--width", 4, "--data", "none.csv"), 2, "none.csv"),
        (("bert", *SNNK, "--width", 4, "--text", "story"), 2, "story"),
        (("bert", *SNNK, "--width", 4, "--density", 0.1), 2, "--density does nothing with --method snnk"),
        (("bert", *SNNK, "--width", 4, "--label", "kind"), 2, "--label is for classes, and without --judge"),
        (("bert", *SNNK, "--data", "bbc", "--width", 4, "--text", "body"), 2, "--text is for a file of one's own"),
        (("x.delta", *SNNK, "--width", 4), 2, "give its name or folder"),
        (("nowhere", *SNNK, "--width", 4), 2, "nowhere"),
        (("x.delta", "--width", 4), 2, "--width does nothing with --method compeft"),
        (("bert", *SNNK, "--width", 4, "--out", "texts.csv"), 1, "it is"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    dtheta: Run, here: Path, dry: tuple[str, ...], arguments: tuple[Any, ...], code: int, said: str
) -> None:
    before = sorted(path.name for path in here.iterdir())
    done = dtheta("compress", *arguments, *dry)
    assert (done.code, done.out) == (code, "") and said in done.err, done.err
    assert sorted(path.name for path in here.iterdir()) == before


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_the_delta_to_judge_by_is_of_this_model(dtheta: Run, stocked: Path, dry: tuple[str, ...]) -> None:
    command = ("--method", "snnk", "--data", "reviews.csv", "--texts", 20, "--max-length", 16, "--judge", "x.delta")
    done = dtheta("compress", "llama", *command, "--width", 4, "--out", "n.delta", *dry)
    assert (done.code, done.out) == (3, "") and "another base" in done.err
    assert not Path("n.delta").exists()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_sums_that_no_memory_holds_are_refused(
    dtheta: Run, here: Path, dry: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtheta.kernels.ridge.physical_memory", lambda: 2 * 8 * (100 + 16) ** 2)
    narrow, wide = (
        dtheta("compress", "bert", *SNNK, "--variant", "random", "--width", width, "--out", "n.delta", *dry)
        for width in (100, 101)
    )
    assert narrow.code == 0, narrow.err
    assert wide.code == 2 and "the sums of a fit on 117 features take" in wide.err, wide.err


def test_the_memory_of_a_dry_run_grows_with_the_sums(dtheta: Run, here: Path) -> None:
    command = ("compress", "bert", *SNNK, "--variant", "random", "--out", "n.delta", "--dry-run", "--json")
    one, two = (dtheta(*command, "--width", width).json["memory"] for width in (10, 200))
    assert two - one == 6 * 8 * ((200 + 16) ** 2 - (10 + 16) ** 2)


def test_the_dry_run_says_what_would_be_read_and_written(dtheta: Run, here: Path) -> None:
    done = dtheta("compress", "bert", *SNNK, "--width", 8, "--out", "n.delta", "--dry-run", "--json")
    assert done.code == 0, done.err
    plan = done.json
    assert set(plan["reads"]) == {"model bert", "texts.csv"} and plan["writes"] == {"n.delta": None}
    assert plan["seconds"] >= 0 and plan["memory"] > 0 and plan["settings"]["width"] == 8
    assert not Path("n.delta").exists()


def test_another_model_is_refused_where_the_file_is_attached(dtheta: Run, here: Path) -> None:
    assert dtheta("compress", "bert", *SNNK, "--width", 4, "--out", "n.delta", "--quiet").code == 0
    with pytest.raises(dt.BaseMismatch):
        dt.attach(load_model("llama"), dt.load("n.delta"))
