"""``dtheta show``: what any file or folder is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.files import load
from dtheta.core.fingerprint import Fingerprint
from dtheta.core.provenance import Provenance
from tests.cli.conftest import Outcome

Run = Callable[..., Outcome]


def test_a_delta(dtheta: Run, adapted: Path) -> None:
    done = dtheta("show", adapted)
    assert done.code == 0, done.err
    for part in (
        "a delta",
        "PiSSA(rank=4",
        "base",
        "norm",
        "bad, good",
        "accuracy",
        "attention.self.query",
        "low-rank",
    ):
        assert part in done.out
    record = dtheta("show", adapted, "--json").json
    delta = load(adapted)
    assert record["digest"] == delta.digest
    assert record["base"]["digest"] == delta.base.root
    assert record["norm"] == pytest.approx(delta.norm())
    assert [row["parameter"] for row in record["changes"]] == list(delta)


def test_a_long_table_is_cut_and_says_so(dtheta: Run, adapted: Path) -> None:
    done = dtheta("show", adapted, "--rows", 2)
    assert "more; --rows 0 shows all" in done.out
    assert "more;" not in dtheta("show", adapted, "--rows", 0).out


def test_a_negative_number_of_rows_is_refused(dtheta: Run, adapted: Path) -> None:
    done = dtheta("show", adapted, "--rows", -1)
    assert done.code == 2
    assert "0 for all of them, found -1" in done.err


def test_the_family(dtheta: Run, adapted: Path, tmp_path: Path) -> None:
    shutil.copy(adapted, "first.delta")
    first = load("first.delta")
    (0.5 * first).save("half.delta")
    (first + 0.5 * first).save("sum.delta")
    done = dtheta("show", "sum.delta", "--tree", "--json")
    tree = done.json["tree"]
    assert {parent["file"] for parent in tree["parents"]} == {"first.delta", "half.delta"}
    text = dtheta("show", "sum.delta", "--tree").out
    assert text.count("first.delta") == 2  # of the sum, and of the half
    assert text.count("first.delta  (above)") == 1
    Path("first.delta").unlink()
    assert "not in this folder" in dtheta("show", "sum.delta", "--tree").out


def test_a_family_of_sums_of_sums_is_as_long_as_it_has_deltas(dtheta: Run) -> None:
    """Each is of the two before it: spelled out every time, the last would have 10^8 lines."""
    parents: list[str] = []
    for i in range(40):
        made = Delta({"w": Dense(torch.full((2,), float(i)))}, provenance=Provenance("add", parents=parents[-2:]))
        made.save(f"{i}.delta")
        parents.append(made.digest)
    told = [line for line in dtheta("show", "39.delta", "--tree").out.splitlines() if ".delta  (" in line]
    assert len({line for line in told if "(above)" not in line}) == 40
    assert len(told) == 2 + 2 * 38  # itself, and every parent of every one
    nodes, left = 0, [dtheta("show", "39.delta", "--tree", "--json").json["tree"]]
    while left:
        node = left.pop()
        nodes, left = nodes + 1, [*left, *node["parents"]]
        assert not (node["above"] and node["parents"])
    assert nodes == len(told)


def test_a_checkpoint_and_a_model_folder(dtheta: Run, folders: dict[str, Path]) -> None:
    done = dtheta("show", folders["bert"])
    assert done.code == 0, done.err
    assert "BertModel" in done.out
    file = dtheta("show", folders["bert"] / "model.safetensors", "--json").json
    folder = dtheta("show", folders["bert"], "--json").json
    assert file["type"] == folder["type"] == "checkpoint"
    assert file["digest"] == folder["digest"]


def test_a_peft_folder(dtheta: Run, folders: dict[str, Path], adapted: Path) -> None:
    assert dtheta("merge", folders["bert"], adapted, "--format", "peft", "--out", "adapter").code == 0
    done = dtheta("show", "adapter")
    assert done.code == 0, done.err
    assert "peft LoRA adapter" in done.out


def test_a_delta_by_another_name(dtheta: Run, adapted: Path) -> None:
    shutil.copy(adapted, "x.safetensors")
    assert dtheta("show", "x.safetensors", "--json").json["type"] == "delta"


def test_what_is_not_there_or_damaged(dtheta: Run, adapted: Path) -> None:
    done = dtheta("show", "gone.delta")
    assert done.code == 2
    data = bytearray(adapted.read_bytes())
    data[-3] ^= 1
    Path("edited.delta").write_bytes(data)
    done = dtheta("show", "edited.delta")
    assert (done.code, done.out) == (1, "")
    assert "damaged" in done.err
    Path("cut.delta").write_bytes(data[:1000])
    assert dtheta("show", "cut.delta").code == 1
    Path("empty").mkdir()
    assert dtheta("show", "empty").code == 1
    Path("notes.txt").write_text("hello")
    assert dtheta("show", "notes.txt").code == 1


def test_dry_run(dtheta: Run, adapted: Path) -> None:
    assert dtheta("show", adapted, "--dry-run", "--json").json["reads"] == {str(adapted): adapted.stat().st_size}


def test_a_language_model_is_measured_in_nats(dtheta: Run, adapted: Path, adapted_language: Path) -> None:
    lines = dtheta("show", adapted_language).out.splitlines()
    (baseline,) = [line for line in lines if line.strip().startswith("baseline")]
    assert "nats a token" in baseline
    assert "%" not in baseline
    assert float(baseline.split()[1]) < 20
    assert " % [" in next(line for line in dtheta("show", adapted).out.splitlines() if "baseline" in line)


@pytest.mark.parametrize("name", ["x.bin", "x.pt", "x.txt", "x"])
def test_a_delta_is_known_by_its_bytes(dtheta: Run, adapted: Path, name: str) -> None:
    shutil.copy(adapted, name)
    assert dtheta("show", name, "--json").json["type"] == "delta"


@pytest.mark.parametrize("form", ["full", "peft"])
def test_a_merged_folder_says_what_it_was_made_of(
    dtheta: Run, folders: dict[str, Path], adapted: Path, form: str
) -> None:
    shutil.copy(adapted, "a.delta")
    command = ["merge", folders["bert"], "a.delta", "a.delta", "--weight", 0.5, "--weight", "-1e-1"]
    assert dtheta(*command, "--format", form, "--seed", 7, "--out", "m").code == 0
    record = dtheta("show", "m", "--json").json["provenance"]
    digest = load("a.delta").digest
    assert record["operation"] == "merge"
    assert record["parents"] == [digest, digest]
    assert record["settings"]["weights"] == [0.5, -0.1]
    assert record["settings"]["command"]["format"] == form
    assert (record["seed"], record["settings"]["base"]) == (7, load("a.delta").base.root)
    assert set(record["versions"]) >= {"dtheta", "torch"}
    assert str(folders["bert"].parent) not in Path("m/dtheta.json").read_text()
    assert f"0.5 * a.delta ({digest[:12]}), -0.1 * a.delta" in dtheta("show", "m").out
    Path("m/dtheta.json").write_text("[]")
    assert dtheta("show", "m").code == 1


def test_what_extract_was_asked_is_in_the_delta(dtheta: Run, folders: dict[str, Path], adapted: Path) -> None:
    assert dtheta("merge", folders["bert"], adapted, "--out", "m").code == 0
    command = ["extract", folders["bert"], "m", "--rank", 2, "--select", "*query*", "--seed", 5, "--out", "e.delta"]
    assert dtheta(*command).code == 0
    made = load("e.delta").provenance
    assert made.seed == 5
    asked = {"verb": "extract", "base": "bert", "tuned": "m", "rank": 2, "select": "*query*"}
    assert asked.items() <= made.settings["command"].items()


@pytest.mark.parametrize("settings", [{"weights": ["x"]}, {"weights": 1}, {"command": 5}, {"command": {"deltas": 1}}])
def test_a_record_that_was_edited_is_refused(
    dtheta: Run, folders: dict[str, Path], settings: dict[str, object], tmp_path: Path
) -> None:
    shutil.copytree(folders["bert"], tmp_path / "m")
    record = Provenance(
        "merge", {}, ["a" * 64], {"weights": [1.0], "command": {"deltas": ["d"]}} | settings, 0
    ).to_dict()
    (tmp_path / "m" / "dtheta.json").write_text(json.dumps(record))
    done = dtheta("show", "m")
    assert done.code == 1 and "does not say how the folder was made" in done.err


@pytest.mark.parametrize("value", [{"estimate": 1}, {"estimate": "a", "low": 0, "high": 1}, {"x": 1}])
def test_a_score_that_is_none_is_refused(dtheta: Run, value: dict[str, object]) -> None:
    made = Provenance("x", {}, [], {}, 0, {"kind": "text-classification", "accuracy": value})
    Delta({"w": Dense(torch.ones(2, 2))}, Fingerprint({}), made).save("odd.delta")
    done = dtheta("show", "odd.delta")
    assert done.code == 1 and "expected estimate, low and high" in done.err
