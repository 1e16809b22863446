"""``dtheta merge --plan``: whole models merged as a file in mergekit's form says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from dtheta.cli.merge_plan import parse_size
from dtheta.compose.merge_plan import merge_plan
from dtheta.compose.streaming import merge_checkpoints
from dtheta.core.checkpoints import open_checkpoint
from dtheta.errors import ConfigError
from tests.cli.conftest import Outcome
from tests.unit.compose.checkpoints import family

Run = Callable[..., Outcome]
PLAN = {
    "merge_method": "dare_ties",
    "base_model": "base",
    "models": [{"model": "model1"}, {"model": "model2", "parameters": {"density": 0.3}}],
    "parameters": {"weight": 0.5, "density": [0.2, 0.8]},
}


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    family(tmp_path, count=2, shards=(2, 1, 1))
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(PLAN))
    return tmp_path / "plan.yaml"


def test_a_plan_is_merged(dtheta: Run, plan: Path) -> None:
    done = dtheta("merge", "--plan", plan, "--out", "merged", "--seed", 3, "--max-memory", "3GiB", "--json")
    assert done.code == 0, done.err
    assert done.json["tensors"] == 10
    assert done.json["method"] == "dare_ties"
    models = [("model1", {}), ("model2", {"density": 0.3})]
    wanted = merge_plan("dare_ties", models, "base", weight=0.5, density=[0.2, 0.8], seed=3)
    merge_checkpoints(wanted, "wanted")
    one, two = open_checkpoint("merged"), open_checkpoint("wanted")
    assert all(torch.equal(one[name], two[name]) for name in two)
    record = json.loads(Path("merged/dtheta.json").read_text())
    assert record["seed"] == 3
    assert record["settings"]["base"] == done.json["inputs"]["base"]
    assert dtheta("show", "merged").code == 0


def test_what_would_be_done(dtheta: Run, plan: Path) -> None:
    done = dtheta("merge", "--plan", plan, "--out", "merged", "--dry-run", "--json", "--max-memory", "3GiB")
    assert done.code == 0, done.err
    assert list(done.json["reads"]) == ["base", "model1", "model2"]
    assert done.json["writes"]["merged"] == sum(t.nbytes for t in open_checkpoint("base").values())
    assert not Path("merged").exists()
    assert done.json["memory"] > 100e6  # the program itself counts


def test_heads_that_are_left_out_are_said(dtheta: Run, plan: Path) -> None:
    (plan.parent / "model2" / "classifier.safetensors").write_bytes(b"")
    for more in (["--dry-run"], []):
        done = dtheta("merge", "--plan", plan, "--out", "merged", "--max-memory", "3GiB", "--json", *more)
        assert done.code == 0, done.err
        assert "model2: its classifier's head is left out" in done.json["notes"]


def test_a_wider_dtype(dtheta: Run, plan: Path) -> None:
    done = dtheta("merge", "--plan", plan, "--out", "merged", "--dtype", "float64", "--max-memory", "3GiB")
    assert done.code == 0, done.err
    assert open_checkpoint("merged")["layers.0.w"].dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["base"], 2, "BASE does not go with --plan"),
        (["--check"], 2, "--check does not go with --plan"),
        (["--format", "peft"], 2, "--format does not go with --plan"),
        (["--weight", "1"], 2, "--weight does not go with --plan"),
        (["--max-memory", "much"], 2, "must be a size such as"),
        (["--max-memory", "10MB"], 2, "is not enough: the process itself takes"),
        (["--out", "base"], 1, "it exists"),
        (["--out", "no/where"], 1, "there is no folder"),
        (["--out", "base/inside"], 1, "it is the source, or inside it"),
        (["--out", "base/inside", "--dry-run"], 1, "it is the source, or inside it"),
        (["--plan", "plam.yaml"], 2, "did you mean 'plan.yaml'"),
    ],
)
def test_options_that_cannot_be_meant(dtheta: Run, plan: Path, arguments: list[str], code: int, said: str) -> None:
    out = [] if "--out" in arguments else ["--out", "merged"]
    done = dtheta("merge", "--plan", plan, *out, *arguments)
    assert done.code == code, done.err
    assert said in done.err
    assert not Path("merged").exists()


def test_a_note_is_said_once(dtheta: Run, plan: Path) -> None:
    plan.write_text(yaml.safe_dump({**PLAN, "parameters": {**PLAN["parameters"], "int8_mask": True}}))
    for more in (("--dry-run",), ()):
        done = dtheta("merge", "--plan", plan, "--out", "merged", "--max-memory", "3GiB", *more)
        assert done.code == 0, done.err
        assert (done.out + done.err).count("int8_mask is not needed here") == 1


def test_a_damaged_shard_is_named(dtheta: Run, plan: Path) -> None:
    Path("base/model-00002-of-00002.safetensors").unlink()
    done = dtheta("merge", "--plan", plan, "--out", "merged")
    assert done.code == 2
    assert "shard 'model-00002-of-00002.safetensors' is missing" in done.err
    assert not Path("merged").exists()


def test_without_a_plan(dtheta: Run, plan: Path) -> None:
    done = dtheta("merge", "--out", "merged")
    assert done.code == 2
    assert "BASE is missing" in done.err
    done = dtheta("merge", "base", "x.delta", "--out", "merged", "--max-memory", "1GiB")
    assert done.code == 2
    assert "--max-memory goes with --plan" in done.err


def test_everything_wrong_at_once(dtheta: Run, plan: Path) -> None:
    wrong = {"tokenizer_source": "union", "base_modle": "base"}
    plan.write_text(yaml.safe_dump({**PLAN, "parameters": {"density": 2}, **wrong}))
    done = dtheta("merge", "--plan", plan, "--out", "merged")
    assert done.code == 2
    assert "tokenizer_source" in done.err
    assert "unknown entry 'base_modle'; did you mean 'base_model'" in done.err
    plan.write_text(yaml.safe_dump({**PLAN, "parameters": {"density": 2}}))
    done = dtheta("merge", "--plan", plan, "--out", "merged")
    assert done.code == 2
    assert "weight is missing" in done.err


@pytest.mark.parametrize(
    ("text", "value"), [("800MB", 800_000_000), ("1.5 GiB", 3 << 29), ("2e9", 2_000_000_000), ("7b", 7)]
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value
    with pytest.raises(ConfigError, match="must be a size"):
        parse_size(f"{text} of it")
