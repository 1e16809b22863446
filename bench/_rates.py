"""The rate of lowest loss, searched on a ladder."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def best_rate(ladder: Sequence[float], first: Sequence[float], loss: Callable[[float], float]) -> float:
    """Return the rate of lowest loss on a ladder: its two neighbors are worse, or it stands at an end.

    Args:
        ladder: Rates, ascending.
        first: The lowest and the highest of those to begin with; the search goes on outwards from there.
        loss: Of a rate; asked once each.
    """
    low, high = ladder.index(first[0]), ladder.index(first[-1])
    losses: dict[int, float] = {}
    while True:
        for i in sorted(set(range(low, high + 1)) - set(losses)):
            losses[i] = loss(ladder[i])
        best = min(losses, key=lambda i: losses[i])
        if low < best < high or best in (0, len(ladder) - 1):
            return ladder[best]
        low, high = min(low, best - 1), max(high, best + 1)
