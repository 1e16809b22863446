"""Sketches: the derivatives of every example in k numbers, whose products estimate the tangent kernel.

    z[h(p)] += s(p) J_p,   h(p) in [0, k) and s(p) = +-1 drawn for every entry p of what moves

Charikar, Chen and Farach-Colton 2002. E z.z' = J.J' without any scale; the variance of an entry is at most
(|J|^2 |J'|^2 + (J.J')^2) / k. It costs one addition an entry, where a dense projection (TRAK, arXiv 2303.14186) costs
k.

Shape legend: N examples, O outputs, P entries of a parameter, k width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.core.tangent_grams import contract
from dtheta.core.tangents import Outputs, Rows, Summed, Tangent, ranges
from dtheta.fit.batch import rows
from dtheta.kernels.groups import Portion
from dtheta.kernels.sweeps import Tangents, spans


@dataclass(frozen=True)
class Sketch:
    """A count-sketch.

    Attributes:
        width: k.
        seed: Of the draws, which are the same for every example.
    """

    width: int
    seed: int = 0
    _drawn: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False, repr=False)

    def of(self, tangent: Tangent, name: str) -> Tensor:
        """Return the sketch (N, O, k) of derivatives by the parameter of this name."""
        if isinstance(tangent, Summed):
            return torch.stack([self.of(use, name) for use in tangent.uses]).sum(0)
        bucket, sign = self._draw(name, tangent.size)
        if isinstance(tangent, Rows):
            return self._of_rows(tangent, bucket, sign)
        copies = tangent.examples * tangent.outputs
        found = []
        for start, stop in ranges(tangent.size, tangent.columns, copies):
            values = tangent.entries(start, stop).flatten(0, 1)
            where, weights = bucket[start:stop].to(values.device), sign[start:stop].to(values)
            found.append(values.new_zeros(copies, self.width).index_add_(1, where, values * weights))
        return torch.stack(found).sum(0).view(tangent.examples, tangent.outputs, self.width)

    def _of_rows(self, tangent: Rows, bucket: Tensor, sign: Tensor) -> Tensor:
        """Return the sketch of the rows that an example gathers, and no others."""
        g, index = tangent.gradients, tangent.index.cpu()
        where = bucket.view(tangent.count, -1)[index].flatten(1)[:, None].expand(-1, tangent.outputs, -1)
        values = g * sign.view(tangent.count, -1)[index][:, None].to(g)
        total = g.new_zeros(tangent.examples, tangent.outputs, self.width)
        return total.scatter_add_(2, where.to(g.device), values.flatten(2))

    def _draw(self, name: str, size: int) -> tuple[Tensor, Tensor]:
        if name not in self._drawn:
            draw = generator(self.seed, f"tangent sketch {name}")
            bucket = torch.randint(self.width, (size,), generator=draw, device="cpu")
            sign = torch.randint(2, (size,), generator=draw, dtype=torch.int8, device="cpu") * 2 - 1
            self._drawn[name] = bucket, sign
        return self._drawn[name]


def sketched(
    work: Iterator[tuple[list[Tangents], list[Portion]]], x: Any, x2: Any, outputs: Outputs, chunk: int, sketch: Sketch
) -> Tensor:
    """Return the kernel (N, N2), or (N, N2, O, O), from sketches."""
    sides = [x] if x2 is None else [x, x2]
    found: list[list[Tensor]] = [[] for _ in sides]
    for of, group in work:
        keys = list(dict.fromkeys(portion.key for portion in group))
        for side, (batch, take) in enumerate(zip(sides, of, strict=True)):
            found[side].append(_side(take, batch, chunk, keys, sketch))
    totals = [torch.stack(parts).sum(0).double() for parts in found]
    return contract(totals[0], None if x2 is None else totals[1], outputs)


def _side(take: Tangents, batch: Any, chunk: int, keys: Sequence[str], sketch: Sketch) -> Tensor:
    """Return the sketches (N, O, k) of all examples, by the targets of one group."""
    made: list[Tensor] = []
    for start, stop in spans(rows(batch), chunk):
        tangents = take(batch, start, stop)
        total = [sketch.of(t, f"{key} {i}") for key in keys for i, t in enumerate(tangents[key])]
        made.append(torch.stack(total).sum(0))
    return torch.cat(made)
