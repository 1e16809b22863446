"""A folder of peft's, opened: its configuration, its tensors, and which of them have been understood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from dtheta.core.change import Factors, Shape
from dtheta.core.peft_config import PeftConfig, read_config
from dtheta.core.tensorfile import open_tensors
from dtheta.errors import FormatError

WEIGHTS = "adapter_model.safetensors"
BASE = "dtheta.base"
PREFIX = "base_model.model."
_FACTOR_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)  # peft has no LoRA in eight bits


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


def read_factors(folder: PeftFolder, names: Sequence[str], shapes: Sequence[Shape], rank: int) -> Factors:
    """Return lora_A and lora_B under these names, checked against the shapes that the configured rank gives them.

    Raises:
        FormatError: If one is missing, of another shape or dtype, or not finite.
    """
    found = []
    for name, shape in zip(names, shapes, strict=True):
        tensor = folder.take(name)
        if tensor is None:
            raise FormatError(f"{folder.path / WEIGHTS} lacks the tensor {name!r}")
        if tuple(tensor.shape) != shape or tensor.dtype not in _FACTOR_DTYPES:
            raise FormatError(
                f"{folder.path / WEIGHTS}: {name} is {tuple(tensor.shape)} of {tensor.dtype}; expected {shape} at the "
                f"configured rank {rank}, in float32, float64, bfloat16 or float16"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise FormatError(f"{folder.path / WEIGHTS}: {name} holds NaN or infinity")
        found.append(tensor)
    return found[0], found[1]


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
