"""One tensor of a merge: what it is made of, and what it takes to make it.

    memory = range buffers + the change of a delta that is being read + whole inputs, where they fit

The last term is optional: an input that does not fit is read again from disk for every visit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from dtheta.core.change import matrix_shape, slabs
from dtheta.core.checkpoints import Checkpoint
from dtheta.core.header import Opened
from dtheta.core.stream import SLAB
from dtheta.core.tensorfile import Entry

Model: TypeAlias = Checkpoint | Opened


@dataclass(frozen=True)
class Part:
    """What one tensor of the result is made of.

    Attributes:
        name: In the result.
        dtype: In the result.
        shape: Everywhere.
        base: Checkpoint and name of the base's tensor; None if there is no base.
        inputs: Model and name of each input beside the base in methods of steps; of every input in others. A delta
            that leaves the tensor alone has no name.
        places: Of the inputs in their slice.
        each: Resolved parameters that every input has, one value for each of ``inputs``.
        shared: The other parameters.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    base: tuple[Checkpoint, str] | None
    inputs: tuple[tuple[Model, str | None], ...]
    places: tuple[int, ...]
    each: Mapping[str, tuple[Any, ...]]
    shared: Mapping[str, Any]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes in the result."""
        return self.numel * self.dtype.itemsize

    def stored(self) -> Iterator[tuple[Checkpoint, str]]:
        """Yield checkpoint and name of every stored tensor that is read for it."""
        for model, name in (*self.inputs, *([self.base] if self.base else [])):
            if isinstance(model, Checkpoint) and name is not None:
                yield model, name

    def entries(self) -> Iterator[Entry]:
        """Yield what is known of these tensors without reading them."""
        for model, name in self.stored():
            yield model.info(name)

    def resident(self) -> int:
        """Return the bytes of all of these."""
        return sum(entry.nbytes for entry in self.entries())

    def least(self) -> int:
        """Return the bytes that working on it takes at least."""
        slab = (3 * len(self.inputs) + 8) * 8 * min(SLAB, self.numel)
        return slab + sum(_change_bytes(model, name, self.shape) for model, name in self.inputs)


def _change_bytes(model: Model, name: str | None, shape: tuple[int, ...]) -> int:
    """Return about how many bytes a change of a delta takes while ranges of it are made dense."""
    if not isinstance(model, Opened) or name is None:
        return 0
    rows, columns = matrix_shape(shape)
    stored = sum(model.file.entries[f"{name}:{part}"].nbytes for part in model.parts.get(name, []))
    window = max((stop - start for start, stop in slabs(rows, columns)), default=0) * columns
    singular = 40 * rows * columns if "spectral" in str(model.forms[name].meta) else 0  # its own decomposition
    return 2 * stored + 24 * window + rows * columns // 4 + singular
