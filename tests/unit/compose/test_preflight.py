"""Preflight: all that is wrong with a merge, from headers alone."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dtheta.compose.merge_plan import MergeInput, MergePlan, MergeSlice, merge_plan
from dtheta.compose.preflight import Preflight, preflight
from dtheta.compose.streaming import merge_checkpoints
from dtheta.core.checkpoints import open_checkpoint
from dtheta.core.extract import extract
from dtheta.core.tensorfile import TensorFile
from dtheta.errors import ConfigError
from tests.unit.compose.checkpoints import family, tensors, write


def _said(found: Preflight) -> str:
    with pytest.raises(ConfigError) as caught:
        found.require()
    return str(caught.value)


def test_headers_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = family(tmp_path, shards=(2, 1, 3, 1))
    monkeypatch.setattr(TensorFile, "read", None)
    monkeypatch.setattr(TensorFile, "open", None)
    found = preflight(merge_plan("ties", folders[1:], folders[0], weight=1, density=0.5, int8_mask=True))
    assert not found.problems
    assert any("int8_mask" in note for note in found.notes)
    weights = sum(t.nbytes for t in tensors(0).values())
    assert (found.writes, found.reads) == (weights, 4 * weights)
    assert found.least < found.most
    assert {shard: [part.name for part in parts] for shard, parts in found.shards.items()} == {
        shard: list(file.entries) for shard, file in open_checkpoint(folders[0]).shards.items()
    }


def test_everything_is_said_at_once(tmp_path: Path) -> None:
    folders = family(tmp_path, count=1)
    wrong = tensors(1)
    wrong["embed.weight"] = torch.zeros(41, 300)
    wrong["layers.1.W"] = wrong.pop("layers.1.w")
    del wrong["layers.2.norm"]
    other = write(tmp_path / "other", wrong)
    plan = merge_plan("ties", [(folders[1], {"weight": 1}), (other, {"density": 2})], folders[0])
    said = _said(preflight(plan))
    for part in (
        "base, first 'layers.1.w'; did you mean 'layers.1.W'",
        "has 1 tensors that",
        "embed.weight: its shapes differ: [40, 300] in",
        "resize the vocabularies",
        "weight is missing",
        "more tensors like it",
    ):
        assert part in said, part


def test_densities_and_weights_are_looked_at(tmp_path: Path) -> None:
    folders = family(tmp_path, count=2)
    said = _said(preflight(merge_plan("ties", folders[1:], folders[0], weight=1, density=[0.5, 1.5])))
    assert "density must be a number in [0, 1], found 1.5 (and 9 more tensors like it)" in said
    models = [(folders[1], {"weight": 1}), (folders[2], {"weight": -1})]
    assert "the weights sum to 0" in _said(preflight(merge_plan("linear", models)))
    models = [(folders[0], {"weight": 0.1}), (folders[1], {"weight": 0.2}), (folders[2], {"weight": -0.3})]
    assert "the weights sum to 0" in _said(preflight(merge_plan("linear", models)))  # what rounding leaves is none


def test_a_parameter_that_changes_nothing_is_noted(tmp_path: Path) -> None:
    folders = family(tmp_path, count=1)
    for method, count in {"task_arithmetic": 1, "ties": 0}.items():
        notes = preflight(merge_plan(method, [folders[1]], folders[0], weight=1, density=0.5)).notes
        assert sum("density changes nothing" in note for note in notes) == count


def test_inputs_that_do_not_go_together(tmp_path: Path) -> None:
    folders = family(tmp_path, count=2)
    base, one, two = folders
    delta = extract(base, one).save(tmp_path / "one.delta")
    cases = {
        "name it as base_model": merge_plan("ties", [one], weight=1),
        "slerp takes 1 inputs beside the base, found 2": merge_plan("slerp", [one, two], base, t=0.5),
        "passthrough takes 1 inputs, found 2": merge_plan("passthrough", [one, two]),
        "is listed twice": merge_plan("ties", [one, one], base, weight=1),
        "a .delta file says what changed": merge_plan("linear", [one, delta], weight=1),
        "the base must be a checkpoint": merge_plan("ties", [one], delta, weight=1),
        "ties has no parameter 'densty'; did you mean 'density'": merge_plan("ties", [one], base, weight=1, densty=1),
        "merge_method 'della' of mergekit is not done here": merge_plan("della", [one], base, weight=1),
        "there is no file": merge_plan("ties", [tmp_path / "three"], base, weight=1),
    }
    for part, plan in cases.items():
        assert part in _said(preflight(plan)), part


def _cut(folder: Path) -> None:
    file = folder / "model-00002-of-00003.safetensors"
    with file.open("r+b") as handle:
        handle.truncate(file.stat().st_size - 100)


def _twice(folder: Path) -> None:
    """Name a tensor twice in a header."""
    file = folder / "model-00002-of-00003.safetensors"
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    name, entry = next(iter(json.loads(data[8 : 8 + length]).items()))
    while name == "__metadata__":
        name, entry = list(json.loads(data[8 : 8 + length]).items())[1]
    head = data[8 : 8 + length].rstrip()[:-1] + f", {json.dumps(name)}: {json.dumps(entry)}}}".encode()
    file.write_bytes(struct.pack("<Q", len(head)) + head + data[8 + length :])


def _elsewhere(folder: Path) -> None:
    """Hold a tensor in two shards."""
    shutil.copy(folder / "model-00001-of-00003.safetensors", folder / "model-00002-of-00003.safetensors")


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: (f / "model-00002-of-00003.safetensors").unlink(), "00002-of-00003.safetensors' is missing"),
    "cut": (_cut, "the file is cut short"),
    "twice": (_twice, "a key occurs twice"),
    "elsewhere": (_elsewhere, "the files do not belong together"),
}


@pytest.mark.parametrize("how", DAMAGED)
def test_damaged_shards_are_named_with_all_else(tmp_path: Path, how: str) -> None:
    folders = family(tmp_path, count=2, shards=(1, 3, 1))
    damage, said = DAMAGED[how]
    damage(folders[1])
    plan = merge_plan("linear", [*folders, tmp_path / "model3"], weight=1)
    found = _said(preflight(plan))
    assert said in found
    assert str(folders[1]) in found
    assert f"there is no file {tmp_path / 'model3'}" in found


def test_ranges_of_layers(tmp_path: Path) -> None:
    folders = family(tmp_path, count=2)

    def stacked(*ranges: tuple[int, int]) -> MergePlan:
        return MergePlan("passthrough", tuple(MergeSlice((MergeInput(folders[1], {}, r),)) for r in ranges))

    assert not preflight(stacked((0, 3), (1, 3))).problems
    assert "there is no layer 3; the last is 2" in _said(preflight(stacked((0, 2), (2, 5))))
    uneven = MergeSlice((MergeInput(folders[1], {"weight": 1}, (0, 2)), MergeInput(folders[2], {"weight": 1}, (0, 3))))
    assert "different numbers of layers" in _said(preflight(MergePlan("linear", (uneven,))))


def test_nothing_is_written_where_something_is_wrong(tmp_path: Path) -> None:
    folders = family(tmp_path, count=1)
    with pytest.raises(ConfigError, match="nothing was read or written"):
        merge_checkpoints(merge_plan("ties", [folders[1]], folders[0]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_rescale_that_changes_nothing_is_noted(tmp_path: Path) -> None:
    folders = family(tmp_path, count=1)
    for method, count in {"task_arithmetic": 1, "ties": 0}.items():
        notes = preflight(merge_plan(method, [folders[1]], folders[0], weight=1, rescale=True)).notes
        assert sum("rescale changes nothing" in note for note in notes) == count


def test_filters_that_fit_no_tensor_are_noted(tmp_path: Path) -> None:
    folders = family(tmp_path, count=1)
    inner = {"filter": "mlp", "value": 1}
    density = [{"filter": "norn", "value": 0.5}, {"filter": "norm", "value": inner}]
    weight = [{"filter": "layers.1", "value": 0.5}, {"filter": "*", "value": 1}]
    notes = preflight(merge_plan("ties", [(folders[1], {"density": density})], folders[0], weight=weight)).notes
    assert notes == [
        "filter 'norn' changes nothing: no tensor has it in its name; did you mean 'norm' or 'nothing'?",
        "filter 'mlp' changes nothing: no tensor has it in its name",
    ]
