"""Write the golden files of the current format: ``python -m tests.golden.write``.

A golden file is written once for a version of the format and never again: later versions must go on reading it. What
it holds comes from a hash, not from a random generator that may change, so that a test can always rebuild it.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import torch
from torch import Tensor

from dtheta.core.block import Block
from dtheta.core.change import Dense, New
from dtheta.core.delta import Delta
from dtheta.core.fingerprint import Fingerprint, fingerprint
from dtheta.core.lowrank import LowRank
from dtheta.core.new_lowrank import NewLowRank
from dtheta.core.planes import Planes
from dtheta.core.provenance import Provenance
from dtheta.core.rows import Rows
from dtheta.core.spectral import Spectral
from dtheta.core.stacked import Stacked
from dtheta.core.ternary import Ternary, ternary
from dtheta.core.ternary_factors import TernaryFactors

FOLDER = Path(__file__).parent


def numbers(name: str, *shape: int) -> Tensor:
    """Multiples of 1/8 in [-2, 2): the same on every machine, and exact in every product below."""
    data = hashlib.shake_256(f"golden {name}".encode()).digest(math.prod(shape))
    return torch.tensor([byte % 32 - 16 for byte in data], dtype=torch.float32).reshape(shape) / 8.0


def base() -> dict[str, Tensor]:
    """The base of the golden delta: diagonal weights where singular vectors are needed, so that none can rotate."""
    return {
        "dense": numbers("base dense", 2, 3),
        "plain": numbers("base plain", 4, 3),
        "core": numbers("base core", 4, 2, 2),
        "rows": numbers("base rows", 6, 2),
        "spectral": torch.diag(torch.tensor([4.0, 2.0, 1.0])),
        "fused": torch.cat([torch.eye(3), torch.diag(torch.tensor([3.0, 2.0, 1.0])), torch.ones(3, 3)]),
        "sum": numbers("base sum", 4, 3),
        "counter": torch.tensor(5),
    }


def every_kind() -> Delta:
    """A delta with every kind of change of format version 1."""
    found = base()
    low = LowRank(numbers("left", 4, 2), numbers("right", 2, 3))
    spectral = Spectral(torch.tensor([0.5, -0.25, 0.125]), (3, 3)).bind(found["spectral"])
    window = Spectral(torch.tensor([1.0, 0.5]), (3, 3)).bind(found["fused"][3:6])
    changes = {
        "dense": Dense(numbers("dense", 2, 3)),
        "plain": low,
        "core": LowRank(numbers("left", 4, 2), numbers("wide", 2, 4), torch.tensor([1.0, -0.5]), (4, 2, 2)),
        "rows": Rows(torch.tensor([1, 4]), numbers("rows", 2, 2), (6, 2)),
        "spectral": spectral,
        "fused": Block(window, 0, 3, (9, 3)),
        "sum": 0.5 * low - Block(Dense(numbers("block", 4, 1)), 1, 2, (4, 3)),
        "counter": Dense(torch.tensor(3)),
        "prompt": New(numbers("prompt", 2, 3)),
    }
    made = Provenance(
        "train",
        {"name": "Golden", "rank": 2, "ratio": 0.5},
        ["0" * 64],
        {"select": "*", "unicode": "Ω — ü"},
        seed=7,
        task={"labels": ["a", "b"]},
        versions={"dtheta": "0.1"},
        created="2026-01-01T00:00:00+00:00",
    )
    return Delta(changes, Fingerprint(fingerprint(found).digests, fingerprint(found).root), made)


def signs(name: str, *shape: int) -> Ternary:
    """About a fifth of the entries, of both signs; scales are multiples of 1/8."""
    found = numbers(name, *shape)
    planes = Planes.from_signs((found.sign() * (found.abs() >= 1.625)).to(torch.int8))
    return ternary(planes, numbers(f"{name} scale", shape[0]).abs(), shape)


def ternary_kinds() -> Delta:
    """A delta with the ternary kinds of change: every codec of a chunk, scales of rows and of the whole."""
    sparse = torch.zeros(70_000, dtype=torch.int8)
    sparse[::997], sparse[5::7919] = 1, -1
    changes = {
        "rows": signs("rows", 40, 30),
        "sparse": ternary(Planes.from_signs(sparse), torch.tensor(0.375), (70, 1000)),
        "dense": ternary(Planes.from_signs(numbers("full", 9, 11).sign().to(torch.int8)), torch.tensor(2.0), (9, 11)),
        "empty": ternary(Planes.from_signs(torch.zeros(12, dtype=torch.int8)), torch.tensor(0.0), (3, 4)),
        "factors": TernaryFactors(signs("left", 5, 2), signs("right", 2, 7), (5, 7)),
        "sum": -0.5 * signs("term", 4, 6) + Dense(numbers("rest", 4, 6)),
    }
    made = Provenance(
        "compress", settings={"density": 0.2}, versions={"dtheta": "0.1"}, created="2026-01-01T00:00:00+00:00"
    )
    return Delta(changes, Fingerprint({}), made)


def new_kinds() -> Delta:
    """A delta with a new vector in factored form, with a core and without."""
    left, right = numbers("table left", 5, 2), numbers("table right", 2, 3)
    changes = {
        "prompt.input": New(numbers("prompt", 2, 3)),
        "prompt.input.offset": NewLowRank(left, right),
        "prompt.input.offset.last": NewLowRank(left, right, numbers("table core", 2)),
    }
    made = Provenance("train", {"name": "Golden"}, versions={"dtheta": "0.1"}, created="2026-01-01T00:00:00+00:00")
    return Delta(changes, Fingerprint({}), made)


def stacked_kinds() -> Delta:
    """A delta with products for every slice of a parameter, with a core and without."""
    left, right = numbers("stack left", 3, 4, 2), numbers("stack right", 3, 2, 5)
    changes = {
        "experts.down": Stacked(left, right),
        "experts.up": -0.5 * Stacked(left, right, numbers("stack core", 3, 2)),
    }
    made = Provenance("train", {"name": "Golden"}, versions={"dtheta": "0.1"}, created="2026-01-01T00:00:00+00:00")
    return Delta(changes, Fingerprint({}), made)


GOLDEN = {
    "version-1": every_kind,
    "version-1-ternary": ternary_kinds,
    "version-1-new": new_kinds,
    "version-1-stacked": stacked_kinds,
}


def main() -> None:
    """Write the golden files of this version that are not there; say which are."""
    there = []
    for name, make in GOLDEN.items():
        path = FOLDER / f"{name}.delta"
        if path.exists():
            there.append(path.name)
        else:
            make().save(path)
    if there:
        raise SystemExit(f"{', '.join(there)}: there already; golden files are never written again")


if __name__ == "__main__":
    main()
