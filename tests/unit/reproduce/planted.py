"""A system whose truth is known, in place of the twelve."""

from __future__ import annotations

from collections.abc import Iterator

from dtheta.reproduce.claim import Claim, Row, exact, over_seeds
from dtheta.reproduce.lab import Lab
from dtheta.reproduce.systems import System

SYSTEM = System("Planted", "Nobody 2020, nowhere", "delta.md")
MADE: list[tuple[str, int]] = []


def rows(lab: Lab) -> Iterator[Row]:
    """Yield a claim that holds, one that does not, one that is open, one of no run."""
    values = [lab.run("draw", "a", seed, lambda s=seed: _draw(lab, s))["value"] for seed in lab.seeds_or(3, 5)]
    here = f"{len(values)} numbers"
    yield Row(Claim("positive", "Numbers are <positive>.", "larger numbers"), here, over_seeds(values), "points")
    yield Row(Claim("negative", "Numbers are negative.", "larger"), here, over_seeds(values), "points", 0.0, "below")
    yield Row(Claim("law", "The law is exact.", "theirs"), here, exact(0.0), "", 1e-6, "below")
    yield Row(Claim("open", "Numbers exceed two.", "theirs"), here, over_seeds(values), "points", 2.0)
    yield Row(Claim("other", "It works for giants.", "seven billion"), note="No package carries a giant.")


def _draw(lab: Lab, seed: int) -> dict[str, float]:
    MADE.append((lab.size, seed))
    return {"value": 1.0 + seed}
