"""The folder of a merged checkpoint: what stands beside the weights, and where it may not be written."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from dtheta.compose.merge_folder import require_place
from dtheta.compose.merge_plan import merge_plan
from dtheta.compose.preflight import preflight
from dtheta.compose.streaming import merge_checkpoints
from dtheta.core.checkpoints import open_checkpoint
from dtheta.core.fingerprint import fingerprint
from dtheta.core.tensorfile import TensorFile
from dtheta.errors import OutputError
from tests.unit.compose.checkpoints import family, read


def test_what_stands_beside_the_weights(tmp_path: Path) -> None:
    folders = family(tmp_path, shards=(2, 1, 1, 1))
    plan = merge_plan("ties", folders[1:], folders[0], weight=1, density=0.5, dtype=torch.bfloat16, seed=9)
    out = merge_checkpoints(plan, tmp_path / "out")
    assert json.loads((out.path / "config.json").read_text()) == {"num_hidden_layers": 3, "torch_dtype": "bfloat16"}
    assert (out.path / "tokenizer.json").read_text() == "{}"
    index = json.loads((out.path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in read(out.path).values())
    assert read(out.path)["layers.0.w"].dtype == torch.bfloat16
    assert read(out.path)["positions"].dtype == torch.int64
    record = json.loads((out.path / "dtheta.json").read_text())
    assert record["operation"] == "merge"
    assert record["seed"] == 9
    assert record["settings"]["plan"]["method"] == "ties"
    assert record["settings"]["base"] == fingerprint(open_checkpoint(folders[0])).root
    assert record["parents"] == [fingerprint(open_checkpoint(folder)).root for folder in folders[1:]]
    assert record["versions"]["torch"]


@pytest.mark.parametrize("place", ["model1", "base", "base/inside", "link"])
def test_inputs_are_never_written_to(tmp_path: Path, place: str) -> None:
    folders = family(tmp_path, count=1)
    (tmp_path / "link").symlink_to(folders[1])
    before = {path: path.read_bytes() for folder in folders for path in folder.iterdir()}
    with pytest.raises(OutputError, match="it is the source, or inside it"):
        merge_checkpoints(merge_plan("ties", [folders[1]], folders[0], weight=1), tmp_path / place)
    assert {path: path.read_bytes() for folder in folders for path in folder.iterdir()} == before


def test_a_disk_that_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = family(tmp_path, count=1)
    found = preflight(merge_plan("ties", [folders[1]], folders[0], weight=1))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(TensorFile, "read", None)
    monkeypatch.setattr(TensorFile, "open", None)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, found.writes))
    with pytest.raises(OutputError, match=f"the disk has {found.writes:,} left"):
        merge_checkpoints(found, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, found.writes + (1 << 20)))
    require_place(found, tmp_path / "out")
