"""Layers of a merged checkpoint: their depths, names and files, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dtheta.compose import merge_layout
from dtheta.compose.merge_layout import depths, numbered, sharded, stacked
from dtheta.compose.merge_parts import Part
from dtheta.compose.merge_plan import MergeInput, MergeSlice
from dtheta.core.checkpoints import open_checkpoint
from tests.unit.compose.checkpoints import write


def test_depths_run_from_0_to_1_in_every_stack() -> None:
    names = ["embed", *(f"encoder.{i}.w" for i in range(3)), "decoder.0.w", "head.weight"]
    assert list(depths(names).values()) == [0.0, 0.0, 0.5, 1.0, 1.0, 0.0]


def test_only_the_first_number_of_a_name_is_the_layer() -> None:
    assert numbered("model.layers.3.experts.7.w", 12) == "model.layers.12.experts.7.w"
    assert numbered("embed.weight", 12) == "embed.weight"


def test_layers_are_renumbered_in_the_order_of_slices(tmp_path: Path) -> None:
    names = ["embed.weight", "layers.0.w", "layers.1.w", "layers.2.w", "norm"]
    path = write(tmp_path / "x", {name: torch.ones(1) for name in names})
    slices = [MergeSlice((MergeInput(path, {}, layers),)) for layers in ((1, 3), (0, 2))]
    problems: list[str] = []
    places, layers = stacked(open_checkpoint(path), slices, problems)
    assert not problems
    assert [place.name for place in places] == ["embed.weight", *(f"layers.{i}.w" for i in range(4)), "norm"]
    assert [place.slice for place in places] == [slices[i] for i in (0, 0, 0, 1, 1, 1)]
    assert [place.t for place in places] == [0.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    assert layers == [1, 2, 0, 1]


def test_two_stacks_have_no_ranges(tmp_path: Path) -> None:
    path = write(tmp_path / "x", {"encoder.0.w": torch.ones(1), "decoder.0.w": torch.ones(1)})
    problems: list[str] = []
    stacked(open_checkpoint(path), [MergeSlice((MergeInput(path, {}, (0, 1)),))], problems)
    assert "no single stack of layers" in problems[0]


def test_files_are_filled_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [
        Part(name, torch.float32, (n,), None, (), (), {}, {}) for name, n in {"a": 2, "b": 1, "c": 9, "d": 1}.items()
    ]
    assert list(sharded(parts)) == ["model.safetensors"]
    monkeypatch.setattr(merge_layout, "_SHARD", 12)
    found = {shard: [part.name for part in group] for shard, group in sharded(parts).items()}
    assert found == {
        "model-00001-of-00003.safetensors": ["a", "b"],
        "model-00002-of-00003.safetensors": ["c"],  # larger than a file should be, and whole
        "model-00003-of-00003.safetensors": ["d"],
    }
