"""``dtheta compose``: given weights, learned coefficients, heads and ranks."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import dtheta as dt
from dtheta.adapt.tasks import task_model
from dtheta.cli.judge import encoded, right
from dtheta.cli.labeled import Source, labeled
from dtheta.cli.main import main
from dtheta.cli.multitask import own_head
from dtheta.compose.coefficients import Coefficients
from dtheta.compose.compose import compose
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.models.classifier import Classifier
from dtheta.models.load import load_model, load_tokenizer
from tests.cli.conftest import Outcome, sentences, write_table

Run = Callable[..., Outcome]


@pytest.fixture(scope="session")
def family(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with b of the task of ``adapted``, and t of another one with three classes; read only."""
    folder = tmp_path_factory.mktemp("family")
    write_table(folder / "reviews.csv", sentences(60))
    words = {"great": "up", "dull": "down", "long": "level"}
    three = [(f"the film {i} was {word} and {'some ' * (i % 3)}", words[word]) for i in range(40) for word in words]
    write_table(folder / "three.csv", three)
    arguments = ["adapt", "--model", folders["bert"], "--max-length", 16, "--rank", 2, "--lr", 1e-2, "--quiet"]
    for data, out, steps, seed in (("reviews.csv", "b.delta", 5, 1), ("three.csv", "t.delta", 20, 0)):
        more = ["--data", folder / data, "--steps", steps, "--seed", seed, "--out", folder / out]
        assert main([str(a) for a in [*arguments, *more]]) == 0
    return folder


@pytest.fixture
def here(family: Path, adapted: Path, adapted_language: Path, folders: dict[str, Path], tmp_path: Path) -> Path:
    """a and b of one task, t of another, all of one base; l of another base; their models and texts."""
    for file in family.iterdir():
        shutil.copy(file, tmp_path / file.name)
    shutil.copy(adapted, tmp_path / "a.delta")
    shutil.copy(adapted_language, tmp_path / "l.delta")
    for name in ("bert", "llama"):
        (tmp_path / name).symlink_to(folders[name])
    return tmp_path


LEARN = ["a.delta", "t.delta", "--learn", "--model", "bert", "--data", "reviews.csv", "--data", "three.csv"]
FEW = ["--texts", "24", "--validate", "12", "--epochs", "3", "--batch-size", "8"]


def test_task_arithmetic_of_one_task_adds_the_heads_too(dtheta: Run, here: Path) -> None:
    weights = ["--weight", 1, "--weight", -0.5]
    done = dtheta("compose", "a.delta", "b.delta", *weights, "--out", "c.delta", "--json")
    assert done.code == 0, done.err
    a, b, c = (load(f"{name}.delta") for name in "abc")
    assert (c - (a - 0.5 * b)).norm() < 1e-5 * c.norm()
    assert set(c) == set(a) and done.json["composed"] == "all" and done.json["heads_left_in"] == []
    assert c.provenance.parents == [a.digest, b.digest] == done.json["parents"]
    assert c.provenance.operation == "compose" and "accuracy" not in c.provenance.task
    shown = dtheta("apply", "c.delta", "--model", "bert", "--text", "the film was great", "--json")
    assert shown.code == 0, shown.err
    assert set(shown.json["predictions"][0]["probabilities"]) == {"good", "bad"}


def test_it_is_made_again_from_its_own_record(dtheta: Run, here: Path) -> None:
    done = dtheta("compose", *LEARN, *FEW, "--out", "m.delta", "--json")
    assert done.code == 0, done.err
    made = load("m.delta")
    settings = made.provenance.settings
    again = Coefficients.from_settings(settings["coefficients"])
    parts = [load(name).restrict(settings["command"]["select"]) for name in ("a.delta", "t.delta")]
    assert compose(parts, again) == made
    assert done.json["coefficients"] == again.to_settings()
    assert dtheta("compose", *LEARN, *FEW, "--out", "n.delta").code == 0
    assert load("n.delta") == made


def test_learned_for_two_tasks_each_with_its_own_head(dtheta: Run, here: Path) -> None:
    done = dtheta("compose", *LEARN, *FEW, "--out", "m.delta", "--json")
    assert done.code == 0, done.err
    record, made = done.json, load("m.delta")
    assert record["composed"] == "encoder.*" and record["heads_left_in"] == ["a.delta", "t.delta"]
    assert all(name.startswith("encoder.") for name in made)
    assert record["epochs"][0]["loss"] is None and len(record["epochs"]) == 4
    scores = [epoch["score"] for epoch in record["epochs"]]
    assert scores[record["best_epoch"]] == max(scores)
    model, tokenizer = load_model("bert"), load_tokenizer("bert")
    for task, file, data in zip(record["tasks"], ("a.delta", "t.delta"), ("reviews.csv", "three.csv"), strict=True):
        delta = load(file)
        texts = encoded(labeled(delta.provenance, Source(data), 0).test, tokenizer, delta.provenance.task)
        net = task_model(delta, model)
        assert isinstance(net, Classifier)
        whole = float(right(net, texts, delta).mean())  # the delta as it is applied anywhere else
        assert task["own"]["estimate"] == whole
        assert task["own"]["estimate"] == delta.provenance.task["accuracy"]["estimate"]
        assert task["composed"]["estimate"] == float(right(own_head(delta, model), texts, made).mean())


def test_a_head_makes_it_run(dtheta: Run, here: Path) -> None:
    assert dtheta("compose", "a.delta", "t.delta", "--out", "m.delta").code == 0
    done = dtheta("compose", "m.delta", "--head", "t.delta", "--out", "mt.delta", "--json")
    assert done.code == 0, done.err
    made, m, t = load("mt.delta"), load("m.delta"), load("t.delta")
    assert made.restrict("encoder.*").digest == m.digest
    assert torch.equal(made["head.weight"].dense(), t["head.weight"].dense())
    assert done.json["parents"] == [m.digest, t.digest]
    shown = dtheta("apply", "mt.delta", "--model", "bert", "--data", "three.csv", "--label", "label", "--json")
    assert shown.code == 0, shown.err
    assert set(shown.json["predictions"][0]["probabilities"]) == {"up", "down", "level"}
    merged = dtheta("merge", "bert", "mt.delta", "--out", "merged", "--check")
    assert merged.code == 0, merged.err


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (["mean"], lambda a, b: dt.uniform_soup([a, b])),
        (["ties", "--density", "0.3"], lambda a, b: dt.ties([a, b], 0.3)),
        (["ties", "--weight", "1", "--weight", "2"], lambda a, b: dt.ties([a, b], 0.2, [1, 2])),
        (["dare", "--seed", "5"], lambda a, b: dt.dare([a, b], 0.1, seed=5)),
        (["breadcrumbs", "--density", "0.5"], lambda a, b: dt.breadcrumbs([a, b], 0.5)),
        (["slerp", "--at", "0.25"], lambda a, b: dt.slerp(a, b, 0.25)),
    ],
)
def test_entry_by_entry(dtheta: Run, here: Path, by: list[str], expected: Callable[[Delta, Delta], Delta]) -> None:
    done = dtheta("compose", "a.delta", "b.delta", "--by", *by, "--out", "c.delta", "--json")
    assert done.code == 0, done.err
    a, b, made = (load(here / f"{name}.delta") for name in "abc")
    assert made.digest == expected(a, b).digest == done.json["digest"]
    assert made.provenance.operation == expected(a, b).provenance.operation
    assert made.provenance.parents == [a.digest, b.digest] and done.json["by"] == by[0]
    assert dtheta("apply", "c.delta", "--model", "bert", "--text", "a great film").code == 0


def test_heads_of_two_tasks_stay_and_it_is_said(dtheta: Run, here: Path) -> None:
    shutil.copy("a.delta", "a b.delta")
    done = dtheta("compose", "a b.delta", "t.delta", "--out", "m n.delta")
    assert done.code == 0, done.err
    assert "composed is encoder.*" in done.out
    (line,) = [line.strip() for line in done.out.splitlines() if line.startswith("  dtheta compose")]
    assert dtheta(*shlex.split(line)[1:]).code == 0


def test_the_rank_comes_down(dtheta: Run, here: Path) -> None:
    done = dtheta("compose", "a.delta", "b.delta", "--recompress", 2, "--out", "c.delta", "--json")
    assert done.code == 0, done.err
    assert done.json["rank"] == 2 and 0 < max(done.json["discarded_energy"].values()) < 1
    exact = load("a.delta") + load("b.delta")
    # 4 of a is a difference of rank 8; all of it is rank 12 at most
    done = dtheta("compose", "a.delta", "b.delta", "--recompress", 12, "--out", "d.delta", "--json")
    assert (load("d.delta") - exact).norm() < 1e-5 * exact.norm()
    assert "coefficients" in load("d.delta").provenance.settings


def test_one_coefficient_a_delta_and_a_compressed_parent(dtheta: Run, here: Path) -> None:
    assert dtheta("compress", "a.delta", "--of", "product", "--out", "s.delta").code == 0
    learn = ["s.delta", *LEARN[1:], *FEW, "--isotropic", "--validate", "0"]
    done = dtheta("compose", *learn, "--out", "m.delta", "--json")
    assert done.code == 0, done.err
    for row in done.json["coefficients"]["values"]:
        assert len({value for value in row if value}) == 1
    assert done.json["best_epoch"] == 3 and "score" not in done.json["epochs"][0]
    assert done.json["learned_on"][0]["seen_in_training"] == 24  # all there are of this file


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "there is no delta to compose"),
        (["a.delta", "nope.delta"], 2, "there is no file nope.delta"),
        (["a.delta", "b.delta", "--weight", "1"], 2, "2 deltas but 1 weights"),
        (["a.delta", "--recompress", "0"], 2, "rank"),
        (["a.delta", "--recompress", "1.5"], 2, "rank"),
        (["a.delta", "l.delta", "--out", "a.delta"], 1, "cannot write a.delta (--out)"),
        (["a.delta", "--head", "b.delta", "--out", "b.delta"], 1, "cannot write b.delta (--out)"),
        (["a.delta", "--select", "nothing"], 1, "no change matches 'nothing'"),
        (["a.delta", "--head", "l.delta"], 2, "--head l.delta: this delta has no classifier's head"),
        (["a.delta", "--recompress", "1.0"], 2, "rank must be a positive integer, or a share"),
        (["a.delta", "--texts", "5"], 2, "--texts goes with --learn"),
        (["a.delta", "--batch-size", "5"], 2, "--batch-size goes with --learn"),
        (["a.delta", "inner.delta"], 3, "a.delta those of a classifier around it"),
        (["a.delta", "--head", "b.delta", "--select", "*"], 2, "--select goes without it"),
        (["a.delta", "--by", "tiess"], 2, "ties"),
        (["a.delta", "--density", "0.2"], 2, "--density goes with --by ties, dare, breadcrumbs"),
        (["a.delta", "b.delta", "--by", "ties", "--density", "2"], 2, "--density must be a share"),
        (["a.delta", "b.delta", "--by", "mean", "--weight", "1", "--weight", "1"], 2, "--weight goes with --by sum"),
        (["a.delta", "b.delta", "--by", "slerp", "--at", "1.5"], 2, "--at must lie between 0"),
        (["a.delta", "--by", "slerp"], 2, "it takes 2, found 1"),
        ([*LEARN, "--by", "ties"], 2, "--by ties goes without it"),
        (["a.delta", "--data", "reviews.csv"], 2, "--data goes with --learn"),
        (["a.delta", "--isotropic"], 2, "--isotropic goes with --learn"),
        ([*LEARN, "--weight", "1", "--weight", "2"], 2, "--weight and --select go without it"),
        ([*LEARN, "--data", "three.csv"], 2, "--data was given 3 times"),
        ([*LEARN, "--epochs", "0"], 2, "--epochs"),
        ([*LEARN, "--lr", "0"], 2, "--lr must be"),
        ([*LEARN, "--batch-size", "0"], 2, "--batch-size must be"),
        ([*LEARN, "--texts", "500"], 2, "reviews has 48 texts that are not test texts"),
        ([*LEARN, "--label", "lable"], 2, "no column 'lable'"),
        (["a.delta", "t.delta", "--learn", "--model", "bert"], 2, "give its labeled texts with --data FILE"),
        (["a.delta", "--learn", "--data", "three.csv", "--model", "bert"], 2, "none that the delta knows"),
        (["a.delta", "--learn", "--data", "reviews.csv"], 2, "give its folder with --model"),
        (["a.delta", "--learn", "--data", "reviews.csv", "--model", "llama"], 3, "another base"),
        (["l.delta", "--learn", "--model", "llama"], 2, "with its head: there is none"),
        (["l.delta", "moved.delta"], 3, "were made on different bases"),
    ],
)
def test_it_fails_alike(
    dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str,
    more: list[str],
) -> None:  # fmt: skip
    if "moved.delta" in arguments:
        assert dtheta("merge", "llama", "l.delta", "--out", "moved").code == 0
        assert dtheta("extract", "moved", "llama", "--out", "moved.delta").code == 0
    if "inner.delta" in arguments:
        assert dtheta("merge", "bert", "a.delta", "--select", "encoder.*", "--out", "inner").code == 0
        assert dtheta("extract", "bert", "inner", "--out", "inner.delta").code == 0
    monkeypatch.setattr("dtheta.compose.atlas.learn_coefficients", lambda *_, **__: pytest.fail("it began to compute"))
    before = {p.name: p.stat().st_mtime_ns for p in here.iterdir()}
    done = dtheta("compose", *arguments, *more)
    assert (done.code, done.out) == (code, ""), done.err
    assert message in done.err
    assert {p.name: p.stat().st_mtime_ns for p in here.iterdir()} == before


def test_a_dry_run_reads_headers_only(dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtheta.core.header.Opened.change", lambda *_: pytest.fail("it read a tensor"))
    for arguments in (["a.delta", "b.delta"], [*LEARN, *FEW]):
        done = dtheta("compose", *arguments, "--out", "m.delta", "--dry-run", "--json")
        assert done.code == 0, done.err
        assert list(done.json["writes"]) == ["m.delta"] and not Path("m.delta").exists()


def test_a_configuration_file(dtheta: Run, here: Path) -> None:
    Path("run.yaml").write_text("weight: [2, 1]\nrecompress: 0.5\n")
    done = dtheta("compose", "a.delta", "b.delta", "--config", "run.yaml", "--out", "c.delta", "--json")
    assert done.code == 0, done.err
    assert done.json["weights"] == [2.0, 1.0]
    assert dtheta("compose", "a.delta", "b.delta", "--config", "run.yaml", "--out", "run.yaml").code == 1


def test_shifts_of_singular_values_meet_other_changes(dtheta: Run, here: Path) -> None:
    """Their sum has a norm only where the singular vectors are at hand; without them nothing may be left behind."""
    done = dtheta(
        "adapt", "--model", "bert", "--data", "reviews.csv", "--method", "CLIPSVD", "--steps", 3, "--lr", 1e-2,
        "--max-length", 16, "--out", "v.delta",
    )  # fmt: skip
    assert done.code == 0, done.err
    done = dtheta("compose", "a.delta", "v.delta", "--out", "c.delta")
    assert (done.code, done.out) == (2, "") and "give its folder with --model" in done.err
    assert not Path("c.delta").exists()
    done = dtheta("compose", "a.delta", "v.delta", "--model", "bert", "--out", "c.delta", "--json")
    assert done.code == 0, done.err
    net = task_model(load("a.delta"), load_model("bert"))
    a, v = (load(name).bind(net) for name in ("a.delta", "v.delta"))
    assert done.json["norm"] == pytest.approx((a + v).norm())
    assert dtheta("compose", "v.delta", "v.delta", "--out", "w.delta").code == 0  # shifts alone need no vectors
    # whatever looks at entries needs them, and a dry run says so as the run does
    for more in ([], ["--dry-run"]):
        assert dtheta("compose", "a.delta", "v.delta", "--by", "ties", "--out", "t.delta", *more).code == 2
    done = dtheta("compose", "a.delta", "v.delta", "--by", "ties", "--model", "bert", "--dry-run", "--json")
    assert "model bert" in done.json["reads"]


def test_coefficients_that_are_all_zero_are_said(dtheta: Run, here: Path) -> None:
    for other in ("b.delta", "t.delta"):  # heads of one task, and of two
        done = dtheta("compose", "a.delta", other, "--weight", 0, "--weight", 0, "--out", "c.delta")
        assert done.code == 0, done.err
        assert "this is the base itself" in done.out and "--head" not in done.out and "None" not in done.out


def test_nothing_composed_is_no_matter_of_coefficients(dtheta: Run, here: Path) -> None:
    Delta({}).save("empty.delta")
    done = dtheta("compose", "empty.delta", "--out", "c.delta")
    assert done.code == 0 and "nothing is left: no delta changes any tensor" in done.out, done.err


def test_a_dry_run_tells_of_dense_entries(dtheta: Run, here: Path) -> None:
    arguments = ["compose", "a.delta", "b.delta", "--by", "ties", "--out", "c.delta", "--json"]
    (said,) = dtheta(*arguments, "--dry-run").json["writes"].values()
    assert said == pytest.approx(dtheta(*arguments).json["bytes"], rel=0.5)
    assert dtheta("compose", "a.delta", "--recompress", 1, "--dry-run", "--json").json["writes"] == {
        "composed.delta": None
    }


def test_a_prompt_of_another_task_is_not_dropped(
    dtheta: Run, folders: dict[str, Path], adapted: Path, tmp_path: Path
) -> None:
    other = write_table(tmp_path / "other.csv", [(text, f"other {label}") for text, label in sentences(60)])
    done = dtheta(
        "adapt", "--model", folders["bert"], "--data", other, "--method", "PromptTuning", "--set", "length=2",
        "--steps", 2, "--max-length", 16, "--out", "p.delta",
    )  # fmt: skip
    assert done.code == 0, done.err
    done = dtheta("compose", adapted, "p.delta", "--out", "c.delta")
    assert (done.code, done.out) == (1, "")
    assert "p.delta: no change matches 'encoder.*' (deltas of different tasks" in done.err
    assert not Path("c.delta").exists()


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_deltas_of_two_models_make_no_delta_of_none(dtheta: Run, here: Path, more: list[str]) -> None:
    """They touch no tensor in common, so that digests alone do not tell them apart."""
    done = dtheta("compose", "a.delta", "b.delta", "l.delta", "--out", "c.delta", *more)
    assert (done.code, done.out) == (3, "")
    assert "a.delta and l.delta have no tensor in common and name different bases, bert and llama" in done.err
    assert not Path("c.delta").exists()


def test_deltas_of_other_layers_and_heads_are_of_one_model(dtheta: Run, here: Path) -> None:
    """Their bases differ by the head of each, and they share no tensor; the model's name is what tells."""
    for name, part in (("a", "*layer.0.*"), ("t", "*layer.1.*")):
        whole = load(f"{name}.delta")
        whole.restrict(f"encoder{part}|head.*").save(f"{name}-part.delta")
    done = dtheta("compose", "a-part.delta", "t-part.delta", "--out", "c.delta")
    assert done.code == 0, done.err
