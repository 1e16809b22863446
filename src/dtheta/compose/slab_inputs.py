"""What an input says of one tensor, range by range: its values, or its step from the base.

    checkpoint   x as stored              d = x - x0
    delta        x = x0 + d               d = the change, made dense a window of rows at a time
    absent       x = x0                   d = 0       a delta that leaves the tensor alone

Steps are float32, or float64 where one of the tensors is: exactly the difference of two stored numbers where that is a
number of that type, and rounded once where it is not.

Shape legend: n elements of a range.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from dtheta.compose.merge_parts import Part
from dtheta.core.apply import bound_to
from dtheta.core.assembled import assembled
from dtheta.core.change import Change, matrix_shape, slabs
from dtheta.core.checkpoints import Checkpoint
from dtheta.core.spectral import Spectral
from dtheta.core.stream import TensorStream, ranges
from dtheta.core.tensorfile import TensorFile


class SlabInput(Protocol):
    """One input of one tensor."""

    def values(self, start: int, stop: int, base_n: Tensor | None) -> Tensor:
        """Return its values, (n,) float32 or float64."""
        ...

    def step(self, start: int, stop: int, base_n: Tensor) -> Tensor:
        """Return its step from the base's values, (n,) in their dtype; not to be kept."""
        ...


@dataclass(frozen=True)
class Stored:
    """A tensor of a checkpoint."""

    stream: TensorStream
    dtype: torch.dtype

    def values(self, start: int, stop: int, base_n: Tensor | None) -> Tensor:
        """Return its values."""
        return self.stream.read(start, stop).to(self.dtype)

    def step(self, start: int, stop: int, base_n: Tensor) -> Tensor:
        """Return its step."""
        return self.stream.read(start, stop).to(self.dtype, copy=True).sub_(base_n)


@dataclass
class Moved:
    """The change of a delta, made dense in windows of rows that depend on its shape alone, so that its bits do too."""

    change: Change
    dtype: torch.dtype
    _window: tuple[int, int, Tensor] = field(default_factory=lambda: (0, 0, torch.empty(0)))

    def values(self, start: int, stop: int, base_n: Tensor | None) -> Tensor:
        """Return base and change together."""
        step_n = self._between(start, stop).double()
        return step_n if base_n is None else step_n.add_(base_n)

    def step(self, start: int, stop: int, base_n: Tensor) -> Tensor:
        """Return the change."""
        return self._between(start, stop)

    def _between(self, start: int, stop: int) -> Tensor:
        rows, columns = matrix_shape(self.change.shape)
        if not columns:
            return torch.zeros(0, dtype=self.dtype)
        height = next((high - low for low, high in slabs(rows, columns)), 1)
        found = torch.empty(stop - start, dtype=self.dtype)
        at = start
        while at < stop:
            low = at // columns // height * height
            self._load(low, min(low + height, rows))
            first, last, window = self._window
            end = min(stop, last)
            found[at - start : end - start] = window[at - first : end - first]
            at = end
        return found

    def _load(self, low: int, high: int) -> None:
        """Make a window of rows dense, unless it is the one at hand."""
        columns = matrix_shape(self.change.shape)[1]
        if self._window[:2] == (low * columns, high * columns):
            return
        self._window = (low * columns, high * columns, assembled(self.change, low, high).reshape(-1))


@dataclass(frozen=True)
class Absent:
    """A delta that does not change this tensor."""

    dtype: torch.dtype

    def values(self, start: int, stop: int, base_n: Tensor | None) -> Tensor:
        """Return the base's values."""
        return torch.zeros(stop - start, dtype=self.dtype) if base_n is None else base_n

    def step(self, start: int, stop: int, base_n: Tensor) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(base_n)


@dataclass(frozen=True)
class Opening:
    """The inputs of one tensor, open to be read.

    Attributes:
        base: Of the base's tensor; None if there is no base.
        inputs: One for each input of the part.
        streams: All streams, with the checkpoint each is of: those of the inputs that are stored, then the base's.
        dtype: Of steps.
    """

    base: Stored | None
    inputs: tuple[SlabInput, ...]
    streams: tuple[tuple[Checkpoint, TensorStream], ...]
    dtype: torch.dtype

    def based(self, start: int, stop: int) -> Tensor | None:
        """Return the base's values, (n,), if there is a base."""
        return None if self.base is None else self.base.values(start, stop, None)


@dataclass(frozen=True)
class StepsOf:
    """The steps of one input, range by range; they can be iterated over anew."""

    opening: Opening
    index: int
    total: int

    def __iter__(self) -> Iterator[Tensor]:
        for start, stop in ranges(self.total):
            base_n = self.opening.based(start, stop)
            assert base_n is not None  # methods of steps have a base: preflight saw to it
            yield self.opening.inputs[self.index].step(start, stop, base_n)


@contextmanager
def opened(part: Part, resident: bool) -> Iterator[Opening]:
    """Open the inputs of one tensor; ``resident`` keeps whole tensors in memory once they are read."""
    changes = [
        model.change(name) if not isinstance(model, Checkpoint) and name is not None else None
        for model, name in part.inputs
    ]
    dtype = _step_dtype(part, changes)
    with ExitStack() as stack:
        streams: list[tuple[Checkpoint, TensorStream]] = []

        def stored(model: Checkpoint, name: str) -> Stored:
            stream = stack.enter_context(TensorStream(file_of(model, name), name, resident))
            streams.append((model, stream))
            return Stored(stream, dtype)

        inputs: list[SlabInput] = []
        for (model, name), change in zip(part.inputs, changes, strict=True):
            if change is not None:
                inputs.append(Moved(_bound(change, part), dtype))
            elif isinstance(model, Checkpoint) and name is not None:
                inputs.append(stored(model, name))
            else:
                inputs.append(Absent(dtype))
        base = stored(*part.base) if part.base is not None else None
        yield Opening(base, tuple(inputs), tuple(streams), dtype)


def _step_dtype(part: Part, changes: Sequence[Change | None]) -> torch.dtype:
    wide = any(entry.dtype == torch.float64 for entry in part.entries())
    wide = wide or any(change is not None and change.dtype == torch.float64 for change in changes)
    return torch.float64 if wide else torch.float32


def _bound(change: Change, part: Part) -> Change:
    """Return the change with the singular vectors of the base, where it needs them."""
    if part.base is None or not any(isinstance(leaf, Spectral) and not leaf.bound for leaf in change.leaves()):
        return change
    checkpoint, name = part.base
    return bound_to(name, change, checkpoint[name].reshape(part.shape))


def file_of(checkpoint: Checkpoint, name: str) -> TensorFile:
    """Return the file of a checkpoint that holds a tensor."""
    return next(file for file in checkpoint.shards.values() if name in file.entries)


def is_whole(part: Part) -> bool:
    """Tell whether a tensor holds integers or booleans, which are copied and never mixed."""
    return not all(entry.dtype.is_floating_point for entry in part.entries())
