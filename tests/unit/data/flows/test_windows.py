"""Windows of trajectories: stages, keys, coverage and refusals."""

from __future__ import annotations

import pytest
import torch

from dtheta.data.flows.windows import Windows
from dtheta.errors import ConfigError, ShapeMismatch

#: State 100 m + t of member m at time t.
STATES = (100 * torch.arange(4)[:, None] + torch.arange(9)).float()[..., None, None].expand(4, 9, 2, 3)


def test_stages_follow_one_another_and_windows_are_pieces_of_one_trajectory() -> None:
    windows = Windows(STATES, [(3, 1), (2, 4)], batch_size=5)
    batches = list(windows)
    assert len(windows) == 5 and [b.shape[1] for b in batches] == [2, 2, 2, 5, 5]
    for batch in batches:
        assert batch.shape[0] == 5 and batch.shape[2:] == (2, 3)
        times = batch[..., 0, 0]
        torch.testing.assert_close(times.diff(dim=1), torch.ones_like(times[:, 1:]))
        assert (times.div(100, rounding_mode="floor").diff(dim=1) == 0).all()


def test_passes_are_alike_and_seeds_are_not() -> None:
    windows = Windows(STATES, [(4, 2)], seed=1)
    first, second = list(windows), list(windows)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, Windows(STATES, [(4, 2)], seed=2), strict=True))
    assert torch.equal(first[1], list(Windows(STATES, [(1, 1), (1, 2)], seed=1))[1])  # keyed by update alone


def test_every_start_is_drawn() -> None:
    starts = torch.cat([b[:, 0, 0, 0] for b in Windows(STATES, [(200, 8)], batch_size=8)])
    assert set(starts.tolist()) == {0, 100, 200, 300}
    starts = torch.cat([b[:, 0, 0, 0] for b in Windows(STATES, [(200, 1)], batch_size=8)])
    assert len(set(starts.tolist())) == 4 * 8


@pytest.mark.parametrize(
    ("stages", "more", "message"),
    [
        ([], {}, "stages is empty"),
        ([(1, 9)], {}, "a window over 9 steps needs 10 times, and there are 9"),
        ([(0, 1)], {}, "batches of a stage is 0"),
        ([(1, 0)], {}, "steps is 0"),
        ([(1, 1)], {"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_refusals(stages: list, more: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Windows(STATES, stages, **more)
    with pytest.raises(ShapeMismatch, match="expected \\(members, times"):
        Windows(STATES[:, 0, 0], [(1, 1)])
