"""``dtheta apply``: predictions of a model with a delta, and the wrong base."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dtheta.core.files import load
from dtheta.models.load import load_tokenizer
from tests.cli.conftest import Outcome, sentences, write_table

Run = Callable[..., Outcome]


def test_texts(dtheta: Run, folders: dict[str, Path], adapted: Path) -> None:
    texts = [part for text, _ in sentences(2) for part in ("--text", text)]
    done = dtheta("apply", adapted, "--model", folders["bert"], *texts, "--json")
    assert done.code == 0, done.err
    rows = done.json["predictions"]
    assert [row["label"] for row in rows] == ["good", "bad"]
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5) for row in rows)
    assert "good" in dtheta("apply", adapted, "--model", folders["bert"], *texts).out


def test_a_table_to_files_with_accuracy(dtheta: Run, folders: dict[str, Path], adapted: Path, table: Path) -> None:
    common = ["apply", adapted, "--model", folders["bert"], "--data", table]
    done = dtheta(*common, "--label", "label", "--out", "p.jsonl", "--json")
    assert done.code == 0, done.err
    assert done.json["accuracy"]["estimate"] > 0.9
    lines = [json.loads(line) for line in Path("p.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == [text for text, _ in sentences(60)]
    assert dtheta(*common, "--out", "p.csv").code == 0
    with Path("p.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows] == [line["label"] for line in lines]
    assert float(rows[0]["probability of good"]) == pytest.approx(lines[0]["probabilities"]["good"])


def test_weight_zero_is_the_plain_base(dtheta: Run, folders: dict[str, Path], adapted: Path) -> None:
    done = dtheta("apply", adapted, "--model", folders["bert"], "--text", "the film", "--weight", 0, "--json")
    assert done.json["predictions"][0]["probabilities"] == {"bad": 0.5, "good": 0.5}  # a head of zeros


def test_a_language_model_continues(dtheta: Run, folders: dict[str, Path], adapted_language: Path) -> None:
    done = dtheta("apply", adapted_language, "--model", folders["llama"], "--text", "the film", "--tokens", 5, "--json")
    assert done.code == 0, done.err
    assert isinstance(done.json["predictions"][0]["continuation"], str)


def test_the_wrong_base_is_exit_code_3(dtheta: Run, folders: dict[str, Path], adapted: Path, tmp_path: Path) -> None:
    import torch

    from dtheta.models.load import load_model, load_tokenizer

    other = load_model(folders["bert"])
    with torch.no_grad():
        next(other.parameters()).add_(1)
        other.get_parameter("encoder.layer.1.attention.self.query.weight").mul_(1.01)
    other.save_pretrained(tmp_path / "other")  # type: ignore[operator]
    load_tokenizer(folders["bert"]).save_pretrained(tmp_path / "other")
    done = dtheta("apply", adapted, "--model", "other", "--text", "the film")
    assert (done.code, done.out) == (3, "")
    assert "made for another base" in done.err
    assert "layer.1.attention.self.query.weight" in done.err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "nothing to run on"),
        (["--text", "a", "--label", "label"], "--label names a column of --data"),
        (["--text", "a"], "give its folder with --model"),
        (["--data", "gone.csv"], "there is no file"),
        (["--text", "a", "--out", "x.txt"], "--out must end in .jsonl or .csv"),
        (["--text", "a", "--txt", "b"], "did you mean '--text'"),
    ],
)
def test_bad_input(dtheta: Run, adapted: Path, more: list[str], message: str) -> None:
    done = dtheta("apply", adapted, *more)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_unknown_classes_in_the_data(dtheta: Run, folders: dict[str, Path], adapted: Path, tmp_path: Path) -> None:
    table = write_table(tmp_path / "other.csv", [("the film", "goood"), ("the day", "bad")])
    done = dtheta("apply", adapted, "--model", folders["bert"], "--data", table, "--label", "label")
    assert done.code == 2
    assert "did you mean 'good'" in done.err


def test_dry_run_writes_nothing(dtheta: Run, folders: dict[str, Path], adapted: Path, table: Path) -> None:
    done = dtheta(
        "apply", adapted, "--model", folders["bert"], "--data", table, "--out", "p.csv", "--dry-run", "--json"
    )
    assert done.code == 0, done.err
    assert set(done.json["writes"]) == {"p.csv"}
    assert not Path("p.csv").exists()


def test_a_weight_that_leaves_no_numbers(
    dtheta: Run, folders: dict[str, Path], adapted: Path, adapted_language: Path
) -> None:
    for delta, model in ((adapted, "bert"), (adapted_language, "llama")):
        done = dtheta("apply", delta, "--model", folders[model], "--text", "the film", "--weight", "1e30")
        assert (done.code, done.out) == (1, ""), done.out
        assert "NaN or infinity" in done.err or "overflow" in done.err
        done = dtheta("apply", delta, "--model", folders[model], "--text", "the film", "--weight", "-1e-3")
        assert done.code == 0, done.err


def test_a_tokenizer_that_returns_more_than_a_decoder_takes(
    dtheta: Run, folders: dict[str, Path], adapted_language: Path, tmp_path: Path
) -> None:
    model = tmp_path / "typed"
    shutil.copytree(folders["llama"], model)
    file = model / "tokenizer_config.json"
    names = ["input_ids", "token_type_ids", "attention_mask"]
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_input_names": names}))
    assert "token_type_ids" in load_tokenizer(model)("the film")
    done = dtheta("apply", adapted_language, "--model", model, "--text", "the film", "--tokens", 3)
    assert done.code == 0, done.err


def test_files_in_another_encoding(dtheta: Run, folders: dict[str, Path], adapted: Path, tmp_path: Path) -> None:
    file = tmp_path / "old.csv"
    file.write_bytes("text\nthe caf\u00e9\n".encode("latin-1"))
    common = ["apply", adapted, "--model", folders["bert"], "--data", file]
    done = dtheta(*common)
    assert done.code == 1
    assert "--encoding 'latin-1'" in done.err
    done = dtheta(*common, "--encoding", "latin-1", "--json")
    assert done.code == 0, done.err
    assert done.json["predictions"][0]["text"] == "the caf\u00e9"


@pytest.mark.parametrize("option", [("--weight", 0.5), ("--weight", 0), ("--model", "minilm")])
def test_a_merged_folder_has_no_delta_to_weigh(
    dtheta: Run, folders: dict[str, Path], adapted: Path, option: tuple[str, object]
) -> None:
    assert dtheta("merge", folders["bert"], adapted, "--out", "m", "--quiet").code == 0
    done = dtheta("apply", "m", "--text", "a great film", *option)
    assert done.code == 2 and f"{option[0]} does nothing with the folder m" in done.err
    for dry in ((), ("--dry-run",)):
        done = dtheta("apply", "m", "--text", "the film", "--tokens", 3, *dry)
        assert done.code == 2 and "--tokens goes on with a text, and m tells classes" in done.err


def test_a_merged_folder_of_a_delta_that_names_no_length(dtheta: Run, folders: dict[str, Path], adapted: Path) -> None:
    delta = load(adapted)
    task = {name: value for name, value in delta.provenance.task.items() if name != "max_length"}
    replace(delta, provenance=replace(delta.provenance, task=task)).save("bare.delta")
    assert dtheta("merge", folders["bert"], "bare.delta", "--out", "m", "--quiet").code == 0
    done = dtheta("apply", "m", "--text", "a great film", "--json")
    assert done.code == 2 and "max_length=128 must lie between 1 and 32" in done.err  # 128 as for the delta itself


@pytest.mark.parametrize("more", [[], ["--model", "bert"], ["--dry-run"]])
def test_an_adapter_folder_is_no_merged_model(dtheta: Run, stocked: Path, more: list[str]) -> None:
    assert dtheta("merge", "bert", "x.delta", "--format", "peft", "--out", "adapter").code == 0
    done = dtheta("apply", "adapter", "--text", "the film", *more)
    assert (done.code, done.out) == (2, "")
    assert "adapter is a peft adapter: 'dtheta extract BASE adapter --out FILE.delta' makes a delta of it" in done.err
