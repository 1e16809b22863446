"""A folder of peft's, opened: its configuration, its tensors, and which of them have been understood."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from dtheta.core.peft_config import PeftConfig, read_config
from dtheta.core.tensorfile import open_tensors
from dtheta.errors import FormatError

WEIGHTS = "adapter_model.safetensors"
BASE = "dtheta.base"
PREFIX = "base_model.model."


@dataclass
class PeftFolder:
    """A folder's tensors, and which of them have been understood.

    Attributes:
        path: Where it is.
        config: What its configuration says.
        tensors: Of the file, by their names there.
        header: Of the file.
        seen: Names of tensors that were read.
    """

    path: Path
    config: PeftConfig
    tensors: dict[str, Tensor]
    header: Mapping[str, str]
    seen: set[str] = field(default_factory=set)

    def take(self, name: str) -> Tensor | None:
        """Return a tensor and note that it was read."""
        self.seen.add(name)
        return self.tensors.get(name)


def open_folder(path: Path) -> PeftFolder:
    """Read a folder's configuration and tensors.

    Raises:
        FormatError: If it is none, or damaged.
        UnsupportedLayer: If it is not plain LoRA.
    """
    if not path.is_dir():
        raise FormatError(f"{path} is no folder; expected one with adapter_config.json and {WEIGHTS}")
    config = read_config(path)
    weights = path / WEIGHTS
    if not weights.is_file():
        pickled = " (its adapter_model.bin is a pickle, which dtheta never opens: save it again with peft)"
        there = (path / "adapter_model.bin").exists()
        raise FormatError(f"{path} has no {WEIGHTS}{pickled if there else ''}")
    file = open_tensors(weights)
    return PeftFolder(path, config, {name: file.read(name) for name in file.entries}, file.metadata)
