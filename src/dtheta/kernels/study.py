"""Study: three examples tell how a model uses what moves, before all examples are spent on it.

1. The outputs of each example alone and among the three are the same: examples do not mix, nothing is drawn.
2. The derivative by every watched result is zero at the other examples: where the examples are in it (``layouts``).
3. Random combinations of the examples' tangents equal autograd's gradients of them: nothing is left out, nothing
   counted twice (``verification``).

What fails the second or the third has no structure here, and goes by per-example derivatives; the plan says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dtheta.core.seeds import generator
from dtheta.core.tangents import Direct, Outer
from dtheta.errors import NonFinite, UnsupportedLayer
from dtheta.fit.batch import rows, taken
from dtheta.kernels.assemble import Placed, pattern
from dtheta.kernels.forms import Convolution, Form, Lookup, Product, Scaled
from dtheta.kernels.groups import footprint
from dtheta.kernels.layouts import Layout, find_layout
from dtheta.kernels.outputs import probe_of
from dtheta.kernels.passes import Problem, Study, Use, appearances, forward
from dtheta.kernels.subject import Target
from dtheta.kernels.verification import TOLERANCE, Appearances, Uses, compared
from dtheta.kernels.watch import Call

_PROBES = 3


def study(problem: Problem, batch: Any) -> Study:
    """Find out how a model uses what moves; see the module's docstring.

    Raises:
        NonFinite: If the first outputs are NaN or infinite.
        UnsupportedLayer: If the outputs of an example depend on the others, or are drawn at random.
    """
    probe = probe_of(batch)
    alone = outputs_alone(problem, batch)
    f, calls = forward(problem, probe, _PROBES)
    require_apart(alone, f)
    weights = torch.randn(f.shape[1], generator=generator(0, "tangent study"), dtype=torch.float64, device="cpu").to(f)
    gradients = [_gradients(f[n] @ weights, calls) for n in range(_PROBES)]
    layouts = [find_layout([g[i] for g in gradients]) for i in range(len(calls))]
    unseen = frozenset(i for i in range(len(calls)) if not any(bool(g[i].any()) for g in gradients))
    seen = appearances(calls)
    resolution = _Resolution(calls, seen, layouts, unseen)
    uses: dict[str, list[Use]] = {}
    reasons: dict[str, str] = {}
    for target in problem.targets:
        found = resolution.of(target)
        if isinstance(found, str):
            reasons[target.key] = found
        else:
            uses[target.key] = found
    summed = [torch.stack([g[i] for g in gradients]).sum(0) for i in range(len(calls))]
    placed, unequal = compared(Uses(problem, calls, seen, uses, _PROBES), f, weights, summed)
    reasons |= unequal
    uses = {key: found for key, found in uses.items() if key not in reasons}
    blind = frozenset((source, k) for source, places in seen.items() for k, (i, _) in enumerate(places) if i in unseen)
    return Study(
        uses=uses,
        reasons=reasons,
        names={source: [calls[i].name for i, _ in places] for source, places in seen.items()},
        unseen=blind,
        outputs=f.shape[1],
        footprints={key: footprint([one.tangent for one in placed[key]], _PROBES) for key in uses},
        activations=sum(g.numel() * g.element_size() for g in summed) / _PROBES,
        patterns={key: pattern(placed[key]) for key in uses},
        pairs=_pairs(problem, calls, seen, uses, placed),
    )


def outputs_alone(problem: Problem, batch: Any) -> Tensor:
    """Return the outputs (3, O) of the probes, each in a pass of its own.

    Call it before a pass that is differentiated: a model may write to its buffers in every pass.
    """
    # from the batch itself, since something else in the three may count three
    some = [n % rows(batch) for n in range(_PROBES)]
    return torch.cat([problem.outputs(taken(batch, slice(n, n + 1)), 1).detach() for n in some])


def require_apart(alone: Tensor, f: Tensor) -> None:
    """Raise unless the outputs of each of the first three examples are what the example gives alone.

    The first example tells whether later ones change it, the last one whether earlier ones do.

    Args:
        alone: What ``outputs_alone`` returned.
        f: Of all three at once (3, O).

    Raises:
        NonFinite: If one alone gives NaN or infinity.
        UnsupportedLayer: If those of one are not.
    """
    if not bool(torch.isfinite(alone).all()):
        raise NonFinite(
            "the outputs of the first three examples hold NaN or infinity, so nothing can be differentiated there; "
            "look at these examples and at the model's weights"
        )
    difference = float((alone - f.detach()).abs().max())
    if not difference <= TOLERANCE.get(f.dtype, 1e-3) * (1e-3 + float(f.detach().abs().max())):
        raise UnsupportedLayer(
            f"the outputs of an example change by {difference:.2g} with those beside it, or from one call to the "
            "next: a layer mixes the batch (such as a normalization over it, or an LSTM that takes its first axis for "
            "time: batch_first=True) or draws at random; such outputs have no derivatives of their own"
        )


def _gradients(value: Tensor, calls: Sequence[Call]) -> list[Tensor]:
    edges = [call.edge for call in calls]
    found = torch.autograd.grad(value, edges, retain_graph=True, allow_unused=True) if edges else ()
    return [value.new_zeros(c.shape) if g is None else g for c, g in zip(calls, found, strict=True)]


class _Resolution:
    """Which calls stand for a target's uses."""

    def __init__(
        self, calls: Sequence[Call], seen: Appearances, layouts: Sequence[Layout | None], unseen: frozenset[int]
    ) -> None:
        self.calls, self.seen, self.layouts, self.unseen = calls, seen, layouts, unseen
        # what was made for each example anew is used there, whatever it goes into
        self.makings = {i for i, call in enumerate(calls) if call.making and self._per_example(i)}

    def _per_example(self, i: int) -> bool:
        layout, origin = self.layouts[i], self.calls[i].parts[0].origin
        copied = origin.elements is not None or origin.rows is not None
        return copied and i not in self.unseen and layout == Layout(0)

    def of(self, target: Target) -> list[Use] | str:
        """Return the uses of a target, or why they are not known."""
        found: list[Use] = []
        for number, (i, j) in enumerate(self.seen.get(target.source, [])):
            call = self.calls[i]
            covered = self.makings & set(call.parts[j].origin.chain)
            if covered or (call.making and i not in self.makings):
                continue
            if why := self._why_not(i, j):
                return why
            layout = self.layouts[i]
            assert layout is not None
            found.append(Use(number, layout))
        return found

    def _why_not(self, i: int, j: int) -> str:
        call, layout = self.calls[i], self.layouts[i]
        part = call.parts[j]
        if part.form is None:
            return f"there is no rule for {call.name}"
        if layout is None:
            return f"the examples are not in one place in the result of {call.name}"
        if not _in_front(part.form, layout, len(call.shape)):
            return f"the examples are on another axis of the result of {call.name} than the rule for it knows"
        if isinstance(part.form, Scaled) and not part.form.fits(layout, len(call.shape)):
            return f"{call.name} gives every example entries of its own"
        if isinstance(part.form, Lookup) and not layout.fits(part.form.index.shape, _PROBES):
            return f"the examples are not in one place in the index of {call.name}"
        return ""


def _in_front(form: Form, layout: Layout, ndim: int) -> bool:
    """Tell whether the examples are on an axis that a form does not multiply over."""
    if isinstance(form, Convolution):
        return layout.axis == 0
    return not isinstance(form, (Product, Lookup)) or layout.axis < ndim - 1


def _pairs(
    problem: Problem,
    calls: Sequence[Call],
    seen: Appearances,
    uses: Mapping[str, Sequence[Use]],
    placed: Mapping[str, Sequence[Placed]],
) -> dict[str, str]:
    """Return biases by the weight beside them; see ``Study.pairs``."""
    weights, biases = dict[int, str](), dict[int, str]()
    for target in problem.targets:
        found = uses.get(target.key, [])
        whole = len(found) == len(placed[target.key]) == 1 if found else False
        if not whole or target.term is not None or placed[target.key][0].elements is not None:
            continue
        call, tangent = seen[target.source][found[0].number][0], placed[target.key][0].tangent
        if calls[call].name == "linear":
            if isinstance(tangent, Outer) and tangent.inputs.shape[1] == 1 and not tangent.transposed:
                weights[call] = target.key
            elif isinstance(tangent, Direct):
                biases[call] = target.key
    return {weights[call]: key for call, key in biases.items() if call in weights}
