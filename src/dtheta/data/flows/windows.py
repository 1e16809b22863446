"""Windows of trajectories: what a forecast model trains on, by an update count and with longer windows towards the end.

    stages ((1900, 1), (450, 2), (150, 4))    1,900 batches of windows over 1 step, then 450 over 2, then 150 over 4

Window i of batch t starts at a member and time drawn from ``generator(seed, "windows", t)``, so the batches are a pure
function of the states, the stages and the seed, and an interrupted run goes on with the same ones.

Shape legend: B windows of a batch, M members, T times, S steps of a window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dtheta.core.arguments import whole
from dtheta.core.seeds import generator
from dtheta.errors import ConfigError, ShapeMismatch

Stages = Sequence[tuple[int, int]]


class Windows:
    """An iterable of batches (B, S + 1, ...), as ``fit`` takes it; each pass gives the same ones."""

    def __init__(self, states: Tensor, stages: Stages, batch_size: int = 8, seed: int = 0) -> None:
        """Cut windows out of trajectories (M, T, ...).

        Args:
            states: trajectories, a step apart in time; they may be memory-mapped.
            stages: how many batches, and over how many steps, one stage after the other.
            batch_size: B.
            seed: of the draws.

        Raises:
            ShapeMismatch: states without member and time.
            ConfigError: a number that cannot be meant, or windows longer than the trajectories.
        """
        if states.ndim < 3:
            raise ShapeMismatch(f"states have the shape {tuple(states.shape)}; expected (members, times, ...)")
        self.states, self.seed = states, seed
        self.batch_size = whole(batch_size, "batch_size", least=1)
        self.stages = [(whole(n, "batches of a stage", least=1), whole(s, "steps", least=1)) for n, s in stages]
        if not self.stages:
            raise ConfigError("stages is empty; expected (batches, steps) at least once")
        if (longest := max(steps for _, steps in self.stages)) >= states.shape[1]:
            raise ConfigError(
                f"a window over {longest} steps needs {longest + 1} times, and there are {states.shape[1]}"
            )

    def __len__(self) -> int:
        return sum(count for count, _ in self.stages)

    def __iter__(self) -> Iterator[Tensor]:
        index = 0
        for count, steps in self.stages:
            for _ in range(count):
                yield self._batch(index, steps)
                index += 1

    def _batch(self, index: int, steps: int) -> Tensor:
        draws = generator(self.seed, "windows", index)
        members = torch.randint(self.states.shape[0], (self.batch_size,), generator=draws, device="cpu").tolist()
        starts = torch.randint(self.states.shape[1] - steps, (self.batch_size,), generator=draws, device="cpu").tolist()
        return torch.stack([self.states[m, t : t + steps + 1] for m, t in zip(members, starts, strict=True)])
