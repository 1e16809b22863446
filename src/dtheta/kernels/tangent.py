"""tangent_kernel: the empirical neural tangent kernel of any module.

    K[n, m, o, p] = sum over what moves of  (d f_o(x_n) / d theta) (d f_p(x2_m) / d theta)

Jacot et al. 2018 (arXiv 1806.07572), at the parameters as they are. Nothing is approximated unless ``method="sketch"``.

    structured   one pass forward and O backward a chunk; products layer by layer in the cheapest exact form
    jacobian     vmap(jacrev) and one product
    sketch       count-sketch of the derivatives (Charikar et al. 2002): unbiased, memory for N O k numbers alone

``tangent_operator`` multiplies by the kernel without forming it.

Shape legend: N and N2 examples, O outputs, P parameters, k width of the sketch.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from itertools import repeat
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dtheta.core.arguments import whole
from dtheta.core.tangents import Outputs
from dtheta.errors import ConfigError, DthetaWarning, ShapeMismatch, UnsupportedLayer, did_you_mean
from dtheta.kernels.groups import Portion, grouped
from dtheta.kernels.jacobians import jacrev, one_by_one
from dtheta.kernels.outputs import Function, batch_size, logits
from dtheta.kernels.passes import Footprint, Problem, Study
from dtheta.kernels.sketches import Sketch, sketched
from dtheta.kernels.study import study
from dtheta.kernels.subject import Target, still, targets_of
from dtheta.kernels.sweeps import Tangents, structured, sweep

_METHODS = ("auto", "structured", "jacobian", "sketch")
_OUTPUTS = ("mean", "full", "pseudo")
_PASSES = 0.25  # share of the memory for what passes through the model; the rest is for what is held of all examples


def tangent_kernel(
    model: nn.Module,
    x: Any,
    x2: Any = None,
    outputs: Literal["mean", "full", "pseudo"] = "mean",
    *,
    select: str | None = None,
    method: Literal["auto", "structured", "jacobian", "sketch"] = "auto",
    function: Function | None = None,
    chunk: int | None = None,
    memory: float = 2**30,
    width: int = 4096,
    seed: int = 0,
) -> Tensor:
    """Return the tangent kernel of examples, or between two sets of them, in float64.

    The model runs in eval mode without autocast, whatever mode it is in; modes, flags and ``.grad`` are left as they
    were, and no parameter is written to.

    Args:
        model: Any module; or an adapter, whose trainable parameters are what moves.
        x: N examples: a tensor, or a mapping or tuple of tensors, with the examples along the first axis.
        x2: N2 further ones; None for the kernel of ``x`` with itself, of which only one half is computed.
        outputs: "mean" for the trace over outputs divided by O; "full" for all pairs of outputs; "pseudo" for the
            kernel of sum_o f_o / sqrt(O), O times cheaper and an estimate of the mean one.
        select: Which parameters of a plain model move, as in ``core.selection``; None for all that train.
        method: "auto" goes by structure, and by per-example derivatives for parameters without one, of which it warns;
            "structured" refuses those; "jacobian" is vmap(jacrev); "sketch" is an unbiased estimate.
        function: (model, batch) -> outputs (N, O) or (N,); by default the model's logits, or the tensor it returns.
        chunk: Examples in one pass; None for as many as fit.
        memory: Bytes for the tangents that are held at once and for one pass, beside the model and the kernel; where
            they need more, passes are run again for a part of the parameters at a time.
        width: k, of the sketch.
        seed: Of the sketch.

    Returns:
        (N, N2), or (N, N2, O, O) for "full".

    Raises:
        ConfigError: For an unknown method, no examples, or nothing that moves.
        ShapeMismatch: For outputs that are not (examples, outputs).
        UnsupportedLayer: If examples mix, or a method cannot do with a layer; the message says which.
    """
    _check(outputs, method, chunk, memory, width)
    targets = targets_of(model, select)
    problem = Problem(function or logits, model, targets, outputs == "pseudo")
    count, count2 = batch_size(x, "x"), 0 if x2 is None else batch_size(x2, "x2")
    kept: Outputs = "full" if outputs == "full" else "mean"
    with still(model, targets):
        plans = [study(problem, side) for side in (x, x2) if side is not None]
        if plans[0].outputs != plans[-1].outputs:
            raise ShapeMismatch(f"x has {plans[0].outputs} outputs an example, x2 has {plans[-1].outputs}")
        step = chunk or _chunk(plans, memory)
        # a sketch needs no room but its own, and one sweep
        held = math.inf if method == "sketch" else (1 - _PASSES) * memory
        work = _work(problem, plans, method, count + count2, held)
        if method == "sketch":
            return sketched(work, x, x2, kept, step, Sketch(width, seed))
        K = torch.zeros(_shape(count, count2 or count, plans[0].outputs, kept), dtype=torch.float64)
        K = K.to(targets[0].tensors[0].device)
        for of, group in work:
            left = sweep(of[0], x, step, group)
            right = None if x2 is None else sweep(of[-1], x2, step, group)
            for i, tangents in enumerate(left):
                # one side may be empty: what it does not use at all has no product with the other
                others = repeat(None, len(tangents)) if right is None else right[i]
                for tangent, other in zip(tangents, others, strict=False):
                    K += tangent.gram(other, kept)
    return K


def _work(
    problem: Problem, plans: list[Study], method: str, examples: int, memory: float
) -> Iterator[tuple[list[Tangents], list[Portion]]]:
    """Yield, group by group, the functions that take its tangents, one a side, and what is in it."""
    plain = _unstructured(problem, plans, method)
    loose = _loose(plans)
    shapes = {
        t.key: _flat(t) if t.key in loose else plans[0].footprints[t.key] for t in problem.targets if t.key not in plain
    }
    pairs = dict(plans[0].pairs.items() & plans[-1].pairs.items())
    if shapes:
        for group in grouped(shapes, examples, plans[0].outputs, memory):
            keys = dict.fromkeys(portion.key for portion in group)
            yield [structured(problem, plan.only(keys), pairs, loose) for plan in plans], group
    if plain:
        take = jacrev if method == "jacobian" else one_by_one
        flat = {t.key: _flat(t) for t in problem.targets if t.key in plain}
        for group in grouped(flat, examples, plans[0].outputs, memory):
            yield [take(problem, list(dict.fromkeys(p.key for p in group)))] * len(plans), group


def _loose(plans: list[Study]) -> set[str]:
    """Return the targets of which the two sides use other entries, or the same in other forms."""
    first, last = plans[0].patterns, plans[-1].patterns
    return {key for key in first.keys() & last.keys() if first[key] != last[key]}


def _flat(target: Target) -> Footprint:
    """Return the memory of a target's derivatives as plain arrays."""
    sizes = [target.size] if target.term is None else [p.numel() for p in target.moving.values()]
    return Footprint({}, target.size * max(4, target.tensors[0].element_size()), min(sizes))


def _unstructured(problem: Problem, plans: list[Study], method: str) -> dict[str, str]:
    """Return what goes by per-example derivatives, and why.

    Raises:
        UnsupportedLayer: If there is such a parameter and only structure was asked for.
    """
    if method == "jacobian":
        return {target.key: "asked for" for target in problem.targets}
    reasons = {key: why for plan in plans for key, why in plan.reasons.items()}
    if reasons:
        key, why = next(iter(reasons.items()))
        more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
        if method == "structured":
            raise UnsupportedLayer(f"{key}{more}: no structured derivatives: {why}; pass method='auto'")
        warnings.warn(
            f"{key}{more}: no structured derivatives ({why}); exact per-example derivatives are taken instead, which "
            "is slower",
            DthetaWarning,
            stacklevel=4,
        )
    return reasons


def _shape(n: int, n2: int, outputs: int, kept: Outputs) -> tuple[int, ...]:
    return (n, n2) if kept == "mean" else (n, n2, outputs, outputs)


def _chunk(plans: list[Study], memory: float) -> int:
    """Return how many examples go through the model at once: as many as a quarter of the budget allows, 64 at most.

    A pass holds its watched results, what lies between them, which is about as much, and their gradients by output.
    """
    per_example = max(plan.activations * (4 + 2 * plan.outputs) for plan in plans)
    return max(1, min(64, math.floor(_PASSES * memory / max(1.0, per_example))))


def _check(outputs: str, method: str, chunk: int | None, memory: float, width: int) -> None:
    for name, value, known in (("outputs", outputs, _OUTPUTS), ("method", method, _METHODS)):
        if value not in known:
            raise ConfigError(
                f"{name} is {value!r}; expected one of {', '.join(known)}{did_you_mean(str(value), known)}"
            )
    if chunk is not None:
        whole(chunk, "chunk", 1)
    whole(width, "width", 1)
    if not memory > 0:
        raise ConfigError(f"memory is {memory!r}; expected a number of bytes above 0")
