"""``dtheta probe``, ``unlearn`` and ``compare --erasure`` on a network whose facts are planted."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from dtheta.cli.concepts import concept_called, read_concepts
from dtheta.cli.cost import Cost
from dtheta.cli.decoders import scanned_tokens
from dtheta.cli.options import fields_of
from dtheta.cli.unlearn import Options
from dtheta.core.files import load
from dtheta.data.concepts import Concept
from dtheta.errors import ConfigError
from dtheta.probe.trace import load_traces
from dtheta.probe.unlearning.train import Training
from tests.cli.conftest import Outcome
from tests.cli.knowing import knowing
from tests.unit.probe.planted import EMPTY, FEATURES, PLANTED, VOCABULARY, vectors

Run = Callable[..., Outcome]
GIVEN = ("--model", "model", "--concepts", "own.jsonl")
UNHEEDED = (*GIVEN, "--concept", "japan", "--out", "x.delta", "--method")
ABLATE = ("--method", "Ablate(counts=[5])", "--traces", "traces.json")


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the model and its concepts; read only."""
    folder = tmp_path_factory.mktemp("known")
    knowing(folder)
    return folder


@pytest.fixture
def here(dtheta: Run, known: Path, tmp_path: Path) -> Path:
    """The folder that commands run in."""
    (tmp_path / "model").symlink_to(known / "model")
    shutil.copy(known / "own.jsonl", tmp_path)
    return tmp_path


@pytest.fixture
def unlearned(dtheta: Run, here: Path) -> Path:
    """That folder with traces of japan and two deltas without it."""
    assert dtheta("probe", *GIVEN, "--concept", "japan", "--count", 5, "--draws", 1, "--out", "traces.json").code == 0
    trained = ("--method", "GradDiff", "--lr", 1e-2, "--steps", 9, "--every", 3)
    for name, method in (("cut", ABLATE), ("trained", trained)):
        done = dtheta("unlearn", *GIVEN, "--concept", "japan", *method, "--out", f"{name}.delta")
        assert done.code == 0, done.err
    return here


def test_a_concept_is_taken_as_it_is_written() -> None:
    """Before, "turkey" was Turkey where both are there."""
    both = (Concept("Turkey"), Concept("turkey"), Concept("Japan"))
    assert [concept_called(both, name, "own").name for name in ("turkey", "Turkey", "japan")] == [
        "turkey", "Turkey", "Japan"
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="own has 'Turkey', 'turkey'; write the one that is meant so"):
        concept_called(both, "TURKEY", "own")


def test_published_concepts_have_no_answers_and_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps([{"Concept": "X", "Layer": 0, "Dim": 5, "QA": ["Who?"] * 10}]))
    with pytest.raises(ConfigError, match=r"none of the 1 concepts.*published ConceptVectors have none: .*validate"):
        read_concepts(str(tmp_path / "p.json"))


def test_probe_finds_the_planted_vectors(dtheta: Run, here: Path) -> None:
    done = dtheta(
        "probe", *GIVEN, "--concept", "Japan", "--concept", "atlantis", "--count", 5, "--out", "t.json", "--json"
    )
    assert done.code == 0, done.err
    (trace,) = done.json["traces"]
    assert trace["concept"] == "japan" and {row["vector"][:-1] for row in trace["candidates"]} == {
        str(vector)[:-1] for vector in vectors("japan")
    }
    assert len(trace["effect"]["null"]) == 9 and trace["effect"]["target"]["estimate"] > 1.0
    (note,) = done.json["notes"]
    assert note.startswith("the model answers 0 of 3 questions about atlantis") and note.endswith("left out")
    assert load_traces("t.json")["japan"].vectors
    told = dtheta("probe", *GIVEN, "--concept", "japan", "--count", 5, "--quiet")
    assert told.err == "" and "without any random set" in told.out and "japfood" in told.out
    alone = dtheta("probe", *GIVEN, "--concept", "japan", "--count", 5, "--draws", 0)
    assert "no random set was drawn" in alone.out and "without any random set" not in alone.out


def test_a_corpus_tells_how_well_words_belong_together(dtheta: Run, here: Path) -> None:
    Path("texts.csv").write_text("saying\n" + "\n".join(f"japan japfood number {i}" for i in range(3)) + "\nmusic\n")
    arguments = ("probe", *GIVEN, "--concept", "japan", "--count", 5, "--draws", 1, "--corpus", "texts.csv")
    done = dtheta(*arguments, "--column", "saying", "--json")
    assert done.code == 0, done.err
    (trace,) = done.json["traces"]
    assert max(row["npmi"] for row in trace["candidates"]) > 0.0
    assert "NPMI" in dtheta(*arguments, "--column", "saying").out
    plain = dtheta("probe", *GIVEN, "--concept", "japan", "--count", 5, "--draws", 1, "--json").json["traces"][0]
    assert all(row["npmi"] is None for row in plain["candidates"])


def test_probe_lists_sharp_vectors(dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtheta.cli.probe._SHARP", (1.0, 99.0))
    monkeypatch.setattr("dtheta.models.load.load_model", lambda *_: pytest.fail("it loaded the model"))
    done = dtheta("probe", *GIVEN[:2], "--scan", 3, "--json")
    assert done.code == 0, done.err
    peaks = [row["peak"]["value"] for row in done.json["vectors"]]
    assert len(peaks) == 3 and peaks == sorted(peaks, reverse=True) and done.json["value_vectors"] == 70
    assert len(done.json["vectors"][0]["tokens"]) == 20


def test_sharp_vectors_are_scored_against_chance(dtheta: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtheta.cli.probe._SHARP", (1.0, 99.0))
    Path("texts.csv").write_text("text\n" + "\n".join(f"japan japfood number {i}" for i in range(3)) + "\nmusic\n")
    done = dtheta("probe", *GIVEN, "--scan", 40, "--corpus", "texts.csv", "--json")
    assert done.code == 0, done.err
    for row in done.json["vectors"]:
        assert all(0.0 < row[name]["p"] <= 1.0 for name in ("peak", "coherence", "npmi", "projection"))
    assert {"japan", "music"} <= {row["concept"] for row in done.json["vectors"]}
    told = dtheta("probe", *GIVEN, "--scan", 40, "--corpus", "texts.csv")
    assert "NPMI" in told.out and "nearest concept" in told.out and "shuffled directions" in told.out
    assert "NPMI" not in dtheta("probe", *GIVEN, "--scan", 3).out


def test_unlearn_writes_a_delta_that_says_what_it_is(dtheta: Run, unlearned: Path) -> None:
    done = dtheta("unlearn", *GIVEN, "--concept", "japan", *ABLATE, "--out", "again.delta", "--json")
    assert done.code == 0, done.err
    assert done.json["found"]["target"] == 0.0 and done.json["changed"] and len(done.json["retained"]) == 4
    assert done.json["digest"] == load("cut.delta").digest  # the same seed, the same delta
    delta = load("again.delta")
    command = delta.provenance.settings["command"]
    assert command["concepts"] == "own.jsonl" and command["model"] == "model" and "japan" not in command["retained"]
    assert command["seen"][0] == {"target": 1.0, "unrelated": 1.0, "probability": 1.0, "unrelated_logprob": 0.0}
    assert delta.provenance.task["kind"] == "language-modeling"
    assert dtheta("apply", "again.delta", "--model", "model", "--text", "food of japan is", "--tokens", 2).code == 0


def test_the_defaults_that_the_help_tells_are_those_of_training() -> None:
    told = {name: field.said.text for name, field in fields_of(Options).items()}
    for name in ("lr", "steps", "every"):
        assert float(told[name].partition("default: ")[2].rstrip(")")) == getattr(Training(), name)


def test_the_command_that_unlearn_proposes_runs(dtheta: Run, unlearned: Path) -> None:
    told = dtheta("unlearn", *GIVEN, "--concept", "japan", *ABLATE, "--out", "again.delta")
    line = next(line for line in told.out.splitlines() if line.startswith("whether it is gone:"))
    command = shlex.split(line.removeprefix("whether it is gone:"))[1:]
    assert dtheta(*command, "--attack", "Paraphrase", "--traces", "traces.json").code == 0
    assert "japan" in Path("again.html").read_text()


def test_compare_tells_what_is_gone_and_what_is_hidden(dtheta: Run, unlearned: Path) -> None:
    attacks = ("--attack", "Relearning(steps=2)", "--attack", "Quantization(bits=8)", "--attack", "paraphrase")
    arguments = ("compare", "cut.delta", "trained.delta", "--erasure", *GIVEN, "--traces", "traces.json", *attacks)
    done = dtheta(*arguments, "--report", "e.html", "--json")
    assert done.code == 0, done.err
    found = done.json["erasures"]
    assert list(found) == ["cut", "trained"] and done.json["concept"] == "japan" and done.json["notes"] == []
    cut, trained = found.values()
    assert cut["intrinsic"]["jaccard"] == 0.0 and cut["behavior"]["target"]["kept"]["estimate"] == 0.0
    assert trained["intrinsic"]["jaccard"] > 0.5
    assert [one["name"] for one in cut["attacks"]] == ["relearning", "8-bit weights", "paraphrase"]
    assert cut["attacks"][0]["settings"]["steps"] == 2 and cut["attacks"][2]["note"] != ""
    assert len(trained["checkups"]) > 1 and "Along the way" in Path("e.html").read_text()
    told = dtheta(*arguments)
    assert "part of what went that comes back" in told.out and "cut: japan is gone" in told.out


def test_one_delta_is_enough_and_vectors_are_found(dtheta: Run, unlearned: Path) -> None:
    done = dtheta("compare", "cut.delta", "--erasure", *GIVEN, "--attack", "none", "--json")
    assert done.code == 0, done.err
    (found,) = done.json["erasures"].values()
    assert len(found["intrinsic"]["vectors"]) == 16 and found["attacks"] == []


def test_where_all_others_were_retained_it_is_said(dtheta: Run, unlearned: Path) -> None:
    arguments = ("--concept", "japan", *ABLATE, "--retain", 5, "--out", "all.delta")
    assert dtheta("unlearn", *GIVEN, *arguments).code == 0
    compared = ("compare", "all.delta", "--erasure", *GIVEN, "--traces", "traces.json", "--attack", "none")
    (note,) = dtheta(*compared, "--json").json["notes"]
    assert "overrated" in note and "overrated" in dtheta(*compared).out


def test_concepts_that_changed_since_are_told(dtheta: Run, unlearned: Path) -> None:
    arguments = ("compare", "cut.delta", "--erasure", *GIVEN, "--traces", "traces.json", "--attack", "none")
    own = Path("own.jsonl").read_text()
    Path("own.jsonl").write_text(own.replace(": ", ":"))  # the same concepts, written otherwise
    assert dtheta(*arguments, "--json").json["notes"] == []
    Path("own.jsonl").write_text(own.replace("food of atlantis", "color of atlantis, again,"))
    (note,) = dtheta(*arguments, "--json").json["notes"]
    assert "cut.delta was unlearned with other concepts than are in own.jsonl now" in note
    assert note in " ".join(dtheta(*arguments, "--dry-run").out.split())


def test_a_concept_that_is_not_known_is_refused_by_unlearn_and_told_by_compare(dtheta: Run, unlearned: Path) -> None:
    done = dtheta("unlearn", *GIVEN, "--concept", "atlantis", "--out", "x.delta")
    assert done.code == 2 and "answers 0 of 3 questions about atlantis" in done.err and not Path("x.delta").exists()
    arguments = ("--erasure", *GIVEN, "--concept", "atlantis", "--attack", "none")
    done = dtheta("compare", "cut.delta", *arguments, "--report", "e.html")
    assert done.code == 0 and "did not know atlantis to begin with" in done.out, done.err
    assert "did not know atlantis" in Path("e.html").read_text()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        (("probe", *GIVEN, "--concept", "jappan"), 2, "did you mean 'japan'"),
        (("probe", *GIVEN, "--concept", "silent"), 2, "no concept 'silent'"),
        (("probe", "--model", "model", "--concepts", "nope.jsonl"), 2, "nope.jsonl"),
        (("probe", "--model", "model", "--concepts", "fact"), 2, "did you mean 'facts'"),
        (("probe", "--model", "bert", "--concepts", "own.jsonl"), 1, "probing reads decoders"),
        (("probe", *GIVEN, "--norm", "folder"), 2, "norm"),
        (("probe", *GIVEN, "--out", "own.jsonl"), 1, "own.jsonl"),
        (("probe", *GIVEN, "--scan", -1), 2, "scan"),
        (("probe", *GIVEN[:2], "--scan", 3, "--out", "x.json"), 2, "--out does not go with --scan"),
        (("probe", *GIVEN[:2], "--scan", 3, "--concept", "japan"), 2, "--concept does not go with --scan"),
        (("probe", *GIVEN, "--column", "body"), 2, "--column names a column of --corpus, which is not given"),
        (("probe", *GIVEN, "--others", 3), 2, "--others contrasts each --concept"),
        (("probe", *GIVEN, "--count", 0), 2, "--count is 0"),
        (("probe", *GIVEN, "--draws", -1), 2, "--draws is -1"),
        (("probe", *GIVEN, "--others", -1, "--concept", "japan"), 2, "--others is -1"),
        (("probe", *GIVEN, "--corpus", "nope.csv"), 2, "nope.csv"),
        (("probe", *GIVEN, "--corpus", "own.jsonl", "--column", "texts"), 2, "own.jsonl has no column 'texts'"),
        (("unlearn", *GIVEN, "--concept", "japan", "--out", "x.delta", "--steps", 0), 2, "--steps is 0"),
        (("unlearn", *GIVEN, "--concept", "japan", "--out", "x.delta", "--method", "Ablate(counts=[])"), 2, "counts"),
        (("unlearn", *GIVEN, "--out", "x.delta"), 2, "--concept is missing"),
        (("unlearn", *GIVEN, "--concept", "japan"), 2, "--out is missing"),
        (("unlearn", *GIVEN, "--concept", "japan", "--out", "x.delta", "--method", "Forget"), 2, "Forget"),
        (("unlearn", *GIVEN, "--concept", "japan", "--out", "x.delta", "--method", "NPO(beta=0)"), 2, "beta"),
        (("unlearn", *GIVEN, "--concept", "japan", "--out", "x.delta", "--adapter", "LoRa2"), 2, "unknown method"),
        (("unlearn", *GIVEN, "--concept", "japan", "--out", "x.delta", "--adapter", "Full on x"), 2, "--select"),
        (("unlearn", *GIVEN, "--concept", "japan", "--out", "x.delta", "--keep", 1.5), 2, "keep"),
        (("unlearn", *GIVEN, "--concept", "japan", "--out", "x.delta", "--lr", 0), 2, "lr"),
        (("unlearn", *UNHEEDED, "Ablate", "--lr", 1e-3), 2, "--lr does nothing with --method Ablate"),
        (("unlearn", *UNHEEDED, "Needle", "--select", "*"), 2, "--select does nothing with --method Needle"),
        (("unlearn", *UNHEEDED, "Memit", "--batch", 4), 2, "--batch does nothing with --method Memit"),
        (("unlearn", *UNHEEDED, "Negate", "--goal", 0.2), 2, "--goal does nothing with --method Negate"),
        (("unlearn", *UNHEEDED, "NPO", "--traces", "traces.json"), 2, "--method NPO does not ask"),
        (("unlearn", *GIVEN, "--concept", "japan", "--out", "x.delta", "--retain", 1), 2, "retain"),
        (("unlearn", *GIVEN, "--concept", "japan", "--out", "x.delta", "--traces", "nope.json"), 2, "nope.json"),
        (
            ("unlearn", *GIVEN, "--concept", "dogs", "--out", "x.delta", "--traces", "traces.json"),
            2,
            "no trace of 'dogs'",
        ),
        (("compare", "cut.delta", "--erasure", *GIVEN, "--attack", "Bribe"), 2, "Bribe"),
        (("compare", "cut.delta", "--erasure", *GIVEN, "--attack", "none", "--attack", "Persona"), 2, "none"),
        (("compare", "cut.delta", "--erasure", *GIVEN, "--select", "x"), 2, "--select"),
        (("compare", "cut.delta", "--erasure", "--model", "model", "--concepts", "nope.json"), 2, "nope.json"),
        (("compare", "cut.delta", "--erasure", "--concepts", "own.jsonl"), 2, "give its folder with --model"),
        (("compare", "cut.delta", "--erasure", *GIVEN, "--report", "cut.delta"), 1, "cut.delta"),
        (("compare", "cut.delta", "trained.delta", "--attack", "Persona"), 2, "--attack goes with --erasure"),
        (("compare", "--erasure"), 2, "there is no delta to look at"),
    ],
)
def test_bad_input_is_refused_by_a_dry_run_too(
    dtheta: Run, refusing: Path, dry: tuple[str, ...], given: tuple[object, ...], code: int, said: str
) -> None:
    before = sorted(path.name for path in refusing.iterdir())
    done = dtheta(*given, *dry)
    assert (done.code, done.out) == (code, "") and said in done.err, done.err
    assert sorted(path.name for path in refusing.iterdir()) == before


@pytest.fixture(scope="session")
def stock(known: Path, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that bad commands name: models, concepts, traces and deltas; read only."""
    import os

    from dtheta.cli.main import main

    folder = tmp_path_factory.mktemp("stock")
    (folder / "model").symlink_to(known / "model")
    (folder / "bert").symlink_to(folders["bert"])
    shutil.copy(known / "own.jsonl", folder)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert (
            main(["probe", *GIVEN, "--concept", "japan", "--count", "5", "--draws", "0", "--out", "traces.json"]) == 0
        )
        assert main(["unlearn", *GIVEN, "--concept", "japan", *ABLATE, "--out", "cut.delta"]) == 0
        shutil.copy("cut.delta", "trained.delta")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def refusing(dtheta: Run, stock: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, in which commands run."""
    monkeypatch.chdir(stock)
    return stock


def test_a_delta_of_another_model_is_refused(dtheta: Run, refusing: Path, tmp_path: Path) -> None:
    import torch

    from tests.unit.probe.planted import network

    shutil.copytree(refusing / "model", tmp_path / "other")
    model = network()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(2.0)
    model.save_pretrained(tmp_path / "other")
    done = dtheta("compare", "cut.delta", "--erasure", "--concepts", "own.jsonl", "--model", tmp_path / "other")
    assert done.code == 3 and done.out == ""


def test_reading_all_value_vectors_counts_as_tokens_that_are_run_on(here: Path) -> None:
    cost = Cost.of_model(str(GIVEN[1]))
    matrices = (4 * FEATURES + 3 * (PLANTED + EMPTY)) * FEATURES
    assert cost.weights == matrices
    assert scanned_tokens(str(GIVEN[1]), cost) == (PLANTED + EMPTY) * len(VOCABULARY) * FEATURES // matrices


def test_a_dry_run_loads_no_weights(dtheta: Run, refusing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtheta.models.load.load_model", lambda *_: pytest.fail("it loaded weights"))
    for given in (
        ("probe", *GIVEN),
        ("probe", *GIVEN[:2], "--scan", 3),
        ("unlearn", *GIVEN, "--concept", "japan", "--out", "x.delta"),
        ("compare", "cut.delta", "--erasure", *GIVEN, "--report", "x.html"),
    ):
        done = dtheta(*given, "--dry-run", "--json")
        assert done.code == 0 and done.json["dry_run"] and done.json["memory"] > 0, done.err
    assert not Path("x.delta").exists() and not Path("x.html").exists()
    assert json.loads(done.out)["notes"][0].startswith("6 attacks")
