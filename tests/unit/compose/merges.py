"""The merges as their papers state them, on dense float64 vectors of all deltas: what the fast ones must equal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dtheta.compose.coefficients import blocks
from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.core.seeds import key
from tests.unit.compose.examples import delta

_WORD = (1 << 64) - 1


def dense_of(one: Delta) -> Delta:
    """The same numbers, every change dense."""
    return one.map(lambda _, change: Dense(change.dense()))


def entries(one: Delta) -> dict[str, Tensor]:
    return {name: one[name].dense().double() for name in sorted(one)}


def ranked(vectors: Mapping[str, Tensor], k: int, top: int = 0) -> dict[str, Tensor]:
    """The entries of ranks top + 1 ... top + k by magnitude, the first of equals first; zeros never."""
    flat = [(name, e, float(x)) for name, v in vectors.items() for e, x in enumerate(v.reshape(-1).tolist())]
    order = sorted(flat, key=lambda entry: -abs(entry[2]))[top : top + k]  # a stable sort
    kept = {name: torch.zeros(v.numel(), dtype=torch.float64) for name, v in vectors.items()}
    for name, e, x in order:
        kept[name][e] = x
    return {name: kept[name].reshape(v.shape) for name, v in vectors.items()}


def windowed(one: Delta, density: float, gamma: float, per: str) -> dict[str, Tensor]:
    def cut(vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        n = sum(v.numel() for v in vectors.values())
        return ranked(vectors, min(n, max(1, math.floor(density * n + 0.5))), math.floor(gamma * n + 0.5))

    whole = entries(one)
    return cut(whole) if per == "delta" else {n: cut({n: v})[n] for n, v in whole.items()}


def drawn(one: Delta, keep: float, seed: int) -> dict[str, Tensor]:
    """What DARE keeps, by splitmix64 in whole numbers."""
    found = {}
    for name, v in entries(one).items():
        start = key(seed, f"dare/{one.digest}/{name}")
        mask = [
            mixed(start + (e + 1) * 0x9E3779B97F4A7C15) >> 11 < math.floor(keep * 2**53 + 0.5) for e in range(v.numel())
        ]
        found[name] = v * torch.tensor(mask, dtype=torch.bool).reshape(v.shape)
    return found


def mixed(z: int) -> int:
    z &= _WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _WORD
    return z ^ (z >> 31)


def elected(
    x: Sequence[Tensor], weights: Sequence[float], elect: str = "total", divide: str | None = "count",
    factor: float = 1.0,
) -> Tensor:  # fmt: skip
    """Elected mean of vectors that are weighted here, in float64, in order."""
    if len(set(weights)) == 1:  # what all share is taken out
        shared = abs(weights[0])
        factor, weights = factor if divide == "weights" else factor * shared, [math.copysign(1, w) for w in weights]
    x = [w * one for w, one in zip(weights, x, strict=True)]
    sign, total, parts = torch.zeros_like(x[0]), torch.zeros_like(x[0]), torch.zeros_like(x[0])
    for one in x:
        sign = sign + (one.sign() if elect == "count" else one)
    sign = torch.where(sign >= 0, 1.0, -1.0).double()
    for one, w in zip(x, weights, strict=True):
        agrees = one * sign > 0
        total = total + torch.where(agrees, one, 0.0)
        parts = parts + {"count": 1.0, "weights": w, None: 0.0}[divide] * agrees.double()
    return factor * (total / torch.where(parts.abs() >= 1e-8, parts, 1.0))


def merged(
    deltas: Sequence[Delta], kept: Sequence[Mapping[str, Tensor]], join: Callable[[list[int], list[Tensor]], Tensor]
) -> dict[str, Tensor]:
    """The joined vectors of every parameter, rounded once to its dtype."""
    found = {}
    for name in blocks(deltas):
        members = [i for i, one in enumerate(deltas) if name in one]
        wide = any(deltas[i][name].dtype == torch.float64 for i in members)
        whole = join(members, [kept[i][name] for i in members])
        found[name] = whole if wide else whole.float()
    return found


def equal(found: Delta, expected: Mapping[str, Tensor]) -> bool:
    """Whether a delta has exactly these entries; a zero's sign does not count."""
    return set(found) == set(expected) and all(torch.equal(found[n].dense(), expected[n]) for n in expected)


def arguments(found: Delta) -> dict[str, object]:
    """The settings as a file gives them back, without what is no argument."""
    stored = json.loads(json.dumps(found.provenance.settings))
    return {name: value for name, value in stored.items() if name != "uses"}


def of_every_kind(model: nn.Module) -> list[Delta]:
    """Three deltas of all kinds, the last of one parameter only."""
    return [delta(model, "every", 0), delta(model, "every", 3), delta(model, "dense", 2, ["0.weight"])]
