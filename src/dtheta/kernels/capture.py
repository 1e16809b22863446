"""Capture: what goes into the layers at chosen sites and the gradients of the outputs by what comes out, in one pass.

    inputs     a (N, T, d1)       what the weight multiplies at T places of each example
    gradients  g (N, O, T, d2)    of each output by the layer's result there

From these two follow the derivatives by the weight, sum_t g_t a_t^T, and by the factors of every method that displaces
it (``Term.tangents``): one pass serves all of them. Padding needs no care: where nothing depends on a token, its g is
zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dtheta.core.selection import Site
from dtheta.core.tangents import Outer, Rows, Summed, Tangent, plain_tangent
from dtheta.errors import UnsupportedLayer
from dtheta.kernels.assemble import tangents_of
from dtheta.kernels.outputs import Function, batch_size, logits
from dtheta.kernels.passes import Problem, uses_of
from dtheta.kernels.study import Study, study
from dtheta.kernels.subject import still, targets_at


@dataclass(frozen=True, eq=False)
class Captured:
    """One pass over a batch.

    Attributes:
        inputs: By site, (N, T, d1); for a table, the rows gathered (N, T), whole numbers; for a vector (N, T, 0).
        gradients: By site, (N, O, T, d2); for a vector, of the vector itself.
        logits: The outputs f (N, O); with ``outputs="pseudo"``, (N, 1).
        study: What the first batch told; pass it on with the next ones.
    """

    inputs: dict[str, Tensor]
    gradients: dict[str, Tensor]
    logits: Tensor
    study: Study


def capture(
    function: Function | None,
    model: nn.Module,
    sites: Sequence[Site],
    batch: Any,
    outputs: Literal["full", "pseudo"] = "full",
    *,
    known: Study | None = None,
) -> Captured:
    """Run a batch forward once and backward once for each output, in eval mode; the model is left as it was.

    Args:
        function: (model, batch) -> outputs (N, O); None for the logits.
        model: Any module.
        sites: Where, as ``core.selection.select`` returns them, slices of fused projections included.
        batch: A tensor, or a mapping or tuple of tensors, with the examples along the first axis.
        outputs: "full" for every output, "pseudo" for sum_o f_o / sqrt(O) alone.
        known: The study of an earlier batch with the same sites and shapes; None studies three examples first.

    Raises:
        UnsupportedLayer: If examples mix, or a site has no structure that is known.
    """
    targets = targets_at(model, sites)
    problem = Problem(function or logits, model, targets, outputs == "pseudo")
    examples = batch_size(batch, "the batch")
    with still(model, targets):
        found = known or study(problem, batch)
        _require_structure(found)
        f, held = uses_of(problem, batch, examples, found)
        inputs, gradients = {}, {}
        for target in targets:
            placed = tangents_of(target, held[target.key], examples, f.shape[1])
            if len(placed) != 1 or placed[0].elements is not None:
                raise UnsupportedLayer(
                    f"{target.key}: the model uses it in slices; choose these, as with '{target.key}:qkv'"
                )
            inputs[target.key], gradients[target.key] = seen(target.key, placed[0].tangent)
    return Captured(inputs, gradients, f, found)


def tangents(site: Site, inputs: Tensor, gradients: Tensor) -> list[Tangent]:
    """Return the derivatives by the parameter at a site from what was captured there, as a list of one."""
    return [plain_tangent(inputs, gradients, site.kind == "transposed", site.shape[0])]


def seen(key: str, tangent: Tangent) -> tuple[Tensor, Tensor]:
    """Return the inputs and gradients of a use, of several uses one after the other.

    Raises:
        UnsupportedLayer: If the uses are of different kinds, such as a table and the output head tied to it.
    """
    uses = tangent.uses if isinstance(tangent, Summed) else (tangent,)
    if all(isinstance(use, Outer) for use in uses) and len({use.transposed for use in uses}) == 1:  # type: ignore[attr-defined]
        pairs = [(use.inputs, use.gradients) for use in uses]  # type: ignore[attr-defined]
    elif all(isinstance(use, Rows) for use in uses):
        pairs = [(use.index, use.gradients) for use in uses]  # type: ignore[attr-defined]
    elif not any(isinstance(use, (Outer, Rows)) for use in uses):
        values = tangent.values().unsqueeze(2)
        pairs = [(values.new_empty(len(values), 1, 0), values)]
    else:
        raise UnsupportedLayer(f"{key}: it is a table and an output head at once, whose inputs are not of one kind")
    if len(pairs) == 1:  # on the memory that other sites may share
        return pairs[0]
    return torch.cat([a for a, _ in pairs], 1), torch.cat([g for _, g in pairs], 2)


def _require_structure(found: Study) -> None:
    if found.reasons:
        key, reason = next(iter(found.reasons.items()))
        raise UnsupportedLayer(
            f"{key}: nothing to capture there: {reason}; leave it out of the selection, or take its part of the kernel "
            "by dt.tangent_kernel, which goes by per-example derivatives then"
        )
