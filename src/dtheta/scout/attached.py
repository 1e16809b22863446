"""Derivatives of what is attached: prompts and inserted modules, which displace no weight of the network.

They change what the network computes as soon as they are there, so features and head are taken anew with them.

Shape legend: n examples of a half, O directions of the logits, P entries of a factor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dtheta.adapt.adapter import Adapter
from dtheta.core.selection import layer_index
from dtheta.core.tangents import Direct, Tangent
from dtheta.errors import UnsupportedLayer
from dtheta.fit.batch import rows
from dtheta.kernels.assemble import tangents_of
from dtheta.kernels.jacobians import one_by_one
from dtheta.kernels.outputs import Function
from dtheta.kernels.passes import Found, Problem, Study, uses_of
from dtheta.kernels.study import study
from dtheta.kernels.subject import still, targets_of
from dtheta.scout.derivatives import Derivatives, Glance, piece_of
from dtheta.scout.examples import Examples
from dtheta.scout.head import moved


def derivatives_in(adapter: Adapter, examples: Examples, glances: Sequence[Glance], chunk: int) -> list[Derivatives]:
    """Return the derivatives by everything that an adapter trains, by glance; arguments as ``derivatives_of``."""
    device, known, found = next(adapter.parameters()).device, None, list[Derivatives]()
    for glance in glances:
        values: dict[tuple[str, int], list[Tensor]] = {}
        for some in glance.index.split(chunk):
            parts, known = tangents_in(adapter, glance.function, moved(examples.of(some), device), known=known)
            for key, tangent in parts.items():
                values.setdefault(key, []).append(tangent.values())
        found.append(Derivatives(glance.residual))
        for (key, _), held in values.items():
            number = layer_index(key)
            piece = piece_of(Direct(torch.cat(held)), glance.residual.to(held[0]))
            found[-1].add(piece, "input" if number is None else str(number))
    return found


def tangents_in(
    adapter: Adapter, function: Function, batch: Any, *, head: str | None = None, known: Study | None = None
) -> tuple[dict[tuple[str, int], Tangent], Study]:
    """Return the tangents of what an adapter trains, with a key each; parameters of the head are left out.

    Args:
        adapter: The adapter.
        function: (model, batch) -> outputs (n, O).
        batch: The examples.
        head: Name of the head.
        known: The study that an earlier call returned, for batches alike.

    Raises:
        UnsupportedLayer: If examples mix.
    """
    targets = [t for t in targets_of(adapter, None) if head is None or not t.key.startswith(f"{head}.")]
    problem, count = Problem(function, adapter, targets), rows(batch)
    found: dict[tuple[str, int], Tangent] = {}
    with still(adapter, targets):
        known = known or study(problem, batch)
        held, width = _uses(problem, batch, count, known)
        loose = [t.key for t in targets if t.key not in held]
        alone = one_by_one(problem, loose)(batch, 0, count) if loose else {}
        for target in targets:
            structured = target.key in held
            parts = tangents_of(target, held[target.key], count, width) if structured else []
            for i, tangent in enumerate([one.tangent for one in parts] if structured else alone[target.key]):
                found[target.key, i] = tangent
    return found, known


def _uses(problem: Problem, batch: Any, count: int, known: Study) -> tuple[dict[str, list[Found]], int]:
    """Return the uses by target, and O; none where these examples take another way than those of the study."""
    try:
        f, held = uses_of(problem, batch, count, known)
    except UnsupportedLayer:
        return {}, known.outputs
    return held, f.shape[1]
