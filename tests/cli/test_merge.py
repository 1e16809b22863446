"""``dtheta merge`` and ``dtheta extract``: out of a delta and back into one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dtheta.core.apply import applied
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.fingerprint import fingerprint
from dtheta.models.load import load_model
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]


def test_a_classifier_merged_runs_like_the_delta(dtheta: Run, folders: dict[str, Path], adapted: Path) -> None:
    done = dtheta("merge", folders["bert"], adapted, "--out", "merged", "--check", "--json")
    assert done.code == 0, done.err
    assert done.json["head"] is True
    assert done.json["check"]["difference"] < 1e-5
    text = ["--text", "the film was great", "--json"]
    merged = dtheta("apply", "merged", *text).json["predictions"][0]
    unmerged = dtheta("apply", adapted, "--model", folders["bert"], *text).json["predictions"][0]
    assert merged["probabilities"] == pytest.approx(unmerged["probabilities"], abs=1e-5)
    load_model("merged")  # a plain encoder for everyone else


def test_a_language_model_merged(dtheta: Run, folders: dict[str, Path], adapted_language: Path) -> None:
    done = dtheta("merge", folders["llama"], adapted_language, "--out", "merged", "--check", "--json")
    assert done.code == 0, done.err
    model, merged = load_model(folders["llama"]), load_model("merged")
    ids = torch.arange(10)[None]
    with torch.no_grad(), applied(model, load(adapted_language)):
        assert torch.allclose(merged(ids).logits, model(ids).logits, atol=1e-5)


def test_two_deltas_by_weight(dtheta: Run, folders: dict[str, Path], adapted_language: Path) -> None:
    deltas = [adapted_language, adapted_language, "--weight", 1, "--weight", -0.5]
    assert dtheta("merge", folders["llama"], *deltas, "--out", "merged", "--check").code == 0
    assert dtheta("extract", folders["llama"], "merged", "--out", "back.delta").code == 0
    back, delta = load("back.delta"), load(adapted_language)
    assert (back - 0.5 * delta).norm() < 1e-5 * delta.norm()


def test_narrow_weights_are_checked_as_such(dtheta: Run, folders: dict[str, Path], adapted: Path) -> None:
    done = dtheta("merge", folders["bert"], adapted, "--out", "merged", "--dtype", "bfloat16", "--check", "--json")
    assert done.code == 0, done.err
    assert 0 < done.json["rounding"] < 1


def test_singular_values_alone(dtheta: Run, folders: dict[str, Path], table: Path) -> None:
    """A delta whose basis is the base's own: it is bound wherever it meets its base, and LoRA carries it too."""
    done = dtheta(
        "adapt", "--model", folders["bert"], "--data", table, "--method", "CLIPSVD", "--steps", 5, "--lr", 1e-2,
        "--max-length", 16, "--out", "s.delta",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "spectral" in dtheta("show", "s.delta").out
    assert dtheta("apply", "s.delta", "--model", folders["bert"], "--text", "the film was great").code == 0
    for form in ("full", "peft"):
        done = dtheta("merge", folders["bert"], "s.delta", "--format", form, "--out", form, "--check", "--json")
        assert done.code == 0, done.err
        assert done.json["check"]["difference"] < 1e-4


def test_peft_and_back(dtheta: Run, folders: dict[str, Path], adapted: Path) -> None:
    done = dtheta("merge", folders["bert"], adapted, "--format", "peft", "--out", "adapter", "--check", "--json")
    assert done.code == 0, done.err
    assert done.json["check"]["difference"] < 1e-5
    assert {p.name for p in Path("adapter").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    done = dtheta("extract", folders["bert"], "adapter", "--out", "back.delta")
    assert done.code == 0, done.err
    back, delta = load("back.delta"), load(adapted).restrict("encoder.*").rename(lambda n: n.removeprefix("encoder."))
    assert (back - delta).norm() < 1e-5 * delta.norm()


def test_extract_by_rank_says_what_it_lost(dtheta: Run, folders: dict[str, Path], adapted: Path) -> None:
    assert dtheta("merge", folders["bert"], adapted, "--out", "merged").code == 0
    done = dtheta("extract", folders["bert"], "merged", "--rank", 2, "--out", "small.delta", "--json")
    assert done.code == 0, done.err
    assert 0 < max(done.json["discarded_energy"].values()) < 1
    done = dtheta(
        "extract", folders["bert"], "merged", "--rank", 0.5, "--select", "*query*", "--out", "half.delta", "--json"
    )
    assert done.code == 0, done.err
    assert all(0.0 <= lost <= 0.5 for lost in done.json["discarded_energy"].values())


def test_equal_checkpoints_give_an_empty_delta(dtheta: Run, folders: dict[str, Path]) -> None:
    done = dtheta("extract", folders["bert"], folders["bert"], "--json")
    assert done.code == 0
    assert done.json["tensors"] == 0
    assert "equal in every bit" in done.err


def test_the_wrong_base(dtheta: Run, folders: dict[str, Path], adapted: Path, adapted_language: Path) -> None:
    done = dtheta("merge", folders["llama"], adapted, "--out", "merged")
    assert done.code in (1, 3)
    assert "does not have" in done.err or "another base" in done.err
    moved = dtheta("merge", folders["llama"], adapted_language, "--out", "moved")
    assert moved.code == 0
    done = dtheta("merge", "moved", adapted_language, "--out", "twice")
    assert (done.code, done.out) == (3, "")
    assert "another base" in done.err
    assert not Path("twice").exists()


def test_heads_of_different_tasks(dtheta: Run, folders: dict[str, Path], adapted: Path) -> None:
    from dataclasses import replace

    delta = load(adapted)
    three = {"head.weight": New(torch.randn(3, 16)), "head.bias": New(torch.randn(3))}
    other = replace(delta, changes={**delta.changes, **three}, base=delta.base.restrict([*delta.restrict("encoder.*")]))
    other = replace(other, provenance=delta.provenance.with_task(classes=["up", "down", "level"]))
    other.save("other.delta")
    for more in ([], ["--dry-run"]):
        done = dtheta("merge", folders["bert"], adapted, "other.delta", "--out", "merged", *more)
        assert (done.code, done.out) == (2, "")
        assert "--select 'encoder.*'" in done.err
    done = dtheta(
        "merge", folders["bert"], adapted, "other.delta", "--select", "encoder.*", "--out", "merged", "--check"
    )
    assert done.code == 0, done.err


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--format", "peft"]])
@pytest.mark.parametrize("beside", [False, True])
def test_a_prompt_is_never_left_out_unasked(
    dtheta: Run, folders: dict[str, Path], adapted: Path, table: Path, beside: bool, more: list[str]
) -> None:
    """Beside a delta that moves weights, its prompt was once dropped without a word."""
    done = dtheta(
        "adapt", "--model", folders["bert"], "--data", table, "--method", "DePT", "--set", "length=2", "--steps", 2,
        "--max-length", 16, "--out", "p.delta",
    )  # fmt: skip
    assert done.code == 0, done.err
    given = ["merge", folders["bert"], *([adapted] if beside else []), "p.delta", "--out", "merged", *more]
    done = dtheta(*given)
    assert (done.code, done.out) == (1, "")
    assert "p.delta: prompt.input is a new vector" in done.err
    assert not Path("merged").exists()
    if beside:
        assert dtheta(*given, "--select", "encoder.*|head.*").code == 0


def test_deltas_of_one_task_need_not_have_scored_alike(dtheta: Run, folders: dict[str, Path], adapted: Path) -> None:
    assert dtheta("compress", adapted, "--of", "balanced", "--density", 0.5, "--out", "small.delta").code == 0
    done = dtheta("merge", folders["bert"], adapted, "small.delta", "--out", "merged", "--check", "--json")
    assert done.code == 0, done.err
    assert done.json["head"] is True
    done = dtheta("apply", "merged", "--text", "the film was great", "--json")
    assert set(done.json["predictions"][0]["probabilities"]) == {"good", "bad"}
    assert "accuracy" not in json.loads(Path("merged/dtheta.json").read_text())["task"]


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (["--out", "x"], 2, "no delta to merge"),
        (["DELTA"], 2, "--out is missing"),
        (["DELTA", "--out", "x", "--weight", "1", "--weight", "2"], 2, "1 deltas but 2 weights"),
        (["DELTA", "--out", "nowhere/x"], 1, "there is no folder"),
        (["DELTA", "--out", "full"], 1, "it exists"),
        (["DELTA", "--out", "x", "--format", "peft", "--dtype", "float16"], 2, "--dtype goes with --format full"),
        (["DELTA", "--out", "x", "--select", "nothing.*"], 1, "no change matches"),
        (["gone.delta", "--out", "x"], 2, "there is no file"),
    ],
)
def test_bad_input(
    dtheta: Run, folders: dict[str, Path], adapted: Path, more: list[str], code: int, message: str
) -> None:
    Path("full").mkdir()
    shutil.copy(adapted, "full/x.delta")
    done = dtheta("merge", folders["bert"], *[str(adapted) if a == "DELTA" else a for a in more])
    assert (done.code, done.out) == (code, ""), done.err
    assert message in done.err
    assert not Path("x").exists()


def test_dry_run_writes_nothing(dtheta: Run, folders: dict[str, Path], adapted: Path) -> None:
    for verb in (["merge", folders["bert"], adapted], ["extract", folders["bert"], folders["bert"]]):
        done = dtheta(*verb, "--out", "x", "--dry-run", "--json")
        assert done.code == 0, done.err
        assert done.json["dry_run"] is True
    assert not list(Path().iterdir())


def test_a_check_that_cannot_be_made_is_refused_before_anything_is_written(
    dtheta: Run, folders: dict[str, Path], adapted: Path, tmp_path: Path
) -> None:
    shutil.copy(folders["bert"] / "model.safetensors", tmp_path / "base.safetensors")
    command = ("merge", "base.safetensors", adapted, "--select", "encoder.*", "--check", "--out", "merged.safetensors")
    for more in ((), ("--dry-run",)):
        done = dtheta(*command, *more)
        assert done.code == 2 and "BASE must be a folder" in done.err
        assert not Path("merged.safetensors").exists()


def test_a_delta_of_words_that_the_check_does_not_use(dtheta: Run, folders: dict[str, Path]) -> None:
    model = load_model(folders["llama"])
    (name,) = [n for n in dict(model.named_parameters()) if n.endswith("embed_tokens.weight")]
    change = torch.zeros_like(model.get_parameter(name))
    change[-1] = 1.0  # no word has this number
    Delta({name: Dense(change)}, fingerprint(model).restrict([name])).save("row.delta")
    done = dtheta("merge", folders["llama"], "row.delta", "--out", "merged", "--check", "--json")
    assert done.code == 0, done.err
    assert done.json["check"]["moved"] == 0.0


def test_a_check_without_a_tokenizer_is_refused_before_anything_is_written(
    dtheta: Run, folders: dict[str, Path], adapted_language: Path
) -> None:
    shutil.copytree(folders["llama"], "bare")
    for file in Path("bare").glob("*token*"):
        file.unlink()
    done = dtheta("merge", "bare", adapted_language, "--out", "merged", "--check")
    assert done.code != 0
    assert "tokenizer" in done.err
    assert "leave --check out" in done.err
    assert not Path("merged").exists()
    assert dtheta("merge", "bare", adapted_language, "--out", "merged").code == 0


def test_an_empty_delta_has_no_tensor_to_name(dtheta: Run, folders: dict[str, Path]) -> None:
    assert dtheta("extract", folders["llama"], folders["llama"], "--out", "zero.delta").code == 0
    done = dtheta("merge", folders["llama"], "zero.delta", "--out", "merged")
    assert done.code == 0
    assert "None" not in done.out
